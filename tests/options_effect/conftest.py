"""One service for all tests of options: the real CLI, and a witness of the headers it sends to the API."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest_asyncio
from agentpb import agent_pb2 as pb

from agent_service.__main__ import agent_environment
from agent_service.offline import OfflineModel
from tests.conftest import Service, start_service
from tests.interactions.conftest import results, texts

HEADER = re.compile(rb"^([a-z-]+): (.*?)\r$", re.MULTILINE | re.IGNORECASE)


@dataclass
class Wire:
    """Passes the CLI's bytes on to the offline model, and keeps the values of the headers among them."""

    model_url: str
    headers: dict[str, set[str]] = field(default_factory=dict)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on until either side ends it."""
        host, port = self.model_url.removeprefix("http://").split(":")
        back_reader, back_writer = await asyncio.open_connection(host, int(port))
        back = asyncio.create_task(self._pass_on(back_reader, writer))
        await self._pass_on(reader, back_writer, seen=True)
        await back

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, seen: bool = False) -> None:
        try:
            while data := await reader.read(1 << 16):
                if seen:
                    for name, value in HEADER.findall(data):
                        self.headers.setdefault(name.decode().lower(), set()).add(value.decode("latin-1"))
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def a_wire(model_url: str) -> AsyncIterator[Wire]:
    """A wire that lasts as long as the block."""
    wire = Wire(model_url)
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    wire.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield wire
    finally:
        server.close()


@dataclass
class Run:
    """A run that has ended, and its log."""

    response: pb.ExecuteResponse
    events: list[pb.SessionEvent]

    @property
    def text(self) -> str:
        """The final text."""
        return self.response.turn.result.result

    @property
    def texts(self) -> list[str]:
        """What the model said, in parts."""
        return texts(self.events)

    @property
    def results(self) -> list[str]:
        """What tools gave back."""
        return results(self.events)

    @property
    def cwd(self) -> Path:
        """Where the agent worked."""
        return Path(self.response.session.cwd)


@dataclass
class Lab:
    """A service to try options on, and a directory for what they name."""

    service: Service
    wire: Wire
    folder: Path

    async def run(self, prompt: str, options: pb.AgentOptions | None = None, **fields: Any) -> Run:
        """Run a prompt to its end."""
        response = await self.service.run(prompt, options=options, **fields)
        events = await self.service.events(response.session_id, after_sequence=response.watch_after_sequence)
        return Run(response, events)

    async def said(self, prompt: str, **options: Any) -> str:
        """The final text of a run with these options."""
        return (await self.run(prompt, pb.AgentOptions(**options))).text

    def file(self, path: str, text: str) -> Path:
        """Write a file into the lab's directory."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: Any) -> AsyncIterator[tuple[Service, Wire]]:
    """The one service of the module; its API is the offline model, behind the wire."""
    async with OfflineModel() as model, a_wire(model.url) as wire:
        environment = agent_environment(
            {"PATH": os.environ["PATH"], "ANTHROPIC_BASE_URL": wire.url, "ANTHROPIC_API_KEY": "offline"}
        )
        settings: dict[str, Any] = {"model": "claude", "default_model": "offline", "idle_timeout": 0.0}
        data = tmp_path_factory.mktemp("data")
        async with start_service(data, agent_environment=environment, **settings) as service:
            yield service, wire
