"""The real service for tests: real server, real CLI, SQLite on disk, offline model; one per test, on a free port."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from agentpb import agent_pb2 as pb
from agentpb import agent_pb2_grpc

from agent_service.__main__ import agent_environment, runtime_directory
from agent_service.agents import walls
from agent_service.config import Config
from agent_service.processes.guards import ProcessGuard
from agent_service.processes.hidden import Hidden
from agent_service.processes.sandbox_choice import SandboxChoice, choose_sandbox
from agent_service.server import Running, running
from tests.rpc import Carrying


@dataclass
class Service:
    """A running service and a raw stub of it."""

    running: Running
    channel: grpc.aio.Channel
    stub: Any
    data_dir: Path

    async def execute(self, prompt: str, **fields: Any) -> pb.ExecuteResponse:
        """Execute, without waiting."""
        return await self.stub.Execute(pb.ExecuteRequest(prompt=prompt, **fields))

    async def run(self, prompt: str, **fields: Any) -> pb.ExecuteResponse:
        """Execute and wait until the turn is at rest."""
        request = pb.ExecuteRequest(prompt=prompt, **fields)
        request.wait.FromSeconds(60)
        response = await self.stub.Execute(request)
        assert not response.wait_expired
        return response

    async def status(self, session_id: str, **fields: Any) -> pb.GetStatusResponse:
        """GetStatus."""
        return await self.stub.GetStatus(pb.GetStatusRequest(session_id=session_id, **fields))

    async def rest(self, session_id: str, seconds: int = 60) -> pb.GetStatusResponse:
        """Wait until the session is at rest."""
        request = pb.GetStatusRequest(session_id=session_id)
        request.wait.FromSeconds(seconds)
        response = await self.stub.GetStatus(request)
        assert not response.wait_expired
        return response

    async def until(self, session_id: str, phase: pb.SessionPhase, seconds: int = 30) -> pb.Session:
        """Wait until the session is in a phase."""
        after = 0
        for _ in range(1000):
            request = pb.GetStatusRequest(
                session_id=session_id, history_limit=0, wait_for=pb.WAIT_FOR_NEW_EVENT, after_sequence=after
            )
            request.wait.FromSeconds(seconds)
            response = await self.stub.GetStatus(request)
            if response.session.phase == phase:
                return response.session
            assert not response.wait_expired, f"still {pb.SessionPhase.Name(response.session.phase)}"
            after = response.session.last_sequence
        raise AssertionError("too many events")

    async def until_event(self, session_id: str, wanted: Callable[[pb.SessionEvent], bool], seconds: int = 30) -> None:
        """Wait until such an event is in the log."""
        request = pb.WatchSessionRequest(session_id=session_id, follow=True, skip_partials=True)
        stream = self.stub.WatchSession(request, timeout=seconds)
        async for response in stream:
            if any(wanted(event) for event in response.events):
                stream.cancel()
                return

    async def until_begun(self, session_id: str, turn_id: str) -> None:
        """Wait until the agent has taken the turn's prompt up.

        What is interrupted before that is no part of the conversation.
        """
        await self.until_event(
            session_id, lambda event: event.turn_id == turn_id and event.system_message.subtype == "init"
        )

    async def events(self, session_id: str, **fields: Any) -> list[pb.SessionEvent]:
        """Watch to the end; the events."""
        request = pb.WatchSessionRequest(session_id=session_id, **fields)
        return [event async for response in self.stub.WatchSession(request) for event in response.events]


@pytest.fixture(scope="session", autouse=True)
def runtime_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Services leave their tokens in a directory of this run's, where clients look for them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))
        patch.delenv("AGENT_TOKEN", raising=False)
        patch.delenv("AGENT_TOKEN_FILE", raising=False)
        yield


@pytest.fixture(autouse=True, scope="session")
def _sandboxes_are_tried_once() -> Iterator[None]:
    """Try this host's sandboxes once for all services: a trial takes as long as the start of the rest."""
    known: dict[tuple[str, type, bool], SandboxChoice] = {}

    async def choose(
        wished: str, *, guard: ProcessGuard, hidden: Hidden, directory: Path, others: bool = False
    ) -> SandboxChoice:
        key = (wished, type(guard), others)
        if key not in known:
            known[key] = await choose_sandbox(wished, guard=guard, hidden=hidden, directory=directory, others=others)
        passed = [(level, replace(sandbox, hidden=hidden)) for level, sandbox in known[key].passed]  # type: ignore[type-var]
        return replace(known[key], passed=tuple(passed))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walls, "choose_sandbox", choose)
        yield


@pytest.fixture
def options() -> Callable[..., pb.AgentOptions]:
    """Make AgentOptions; every tool named is allowed."""

    def make(*allowed: str, **fields: Any) -> pb.AgentOptions:
        return pb.AgentOptions(allowed_tools=allowed, **fields)

    return make


def make_config(data_dir: Path, **settings: Any) -> Config:
    """A Config for tests: the offline model, short patience."""
    defaults: dict[str, Any] = {
        "listen": ("127.0.0.1:0",),
        "data_dir": data_dir,
        "model": "offline",
        "drain_timeout": 0.0,
        "warm_agents": 0,
        "api_retries": 0,
        "agent_environment": agent_environment({"PATH": os.environ["PATH"]}),
        "runtime_dir": runtime_directory(os.environ),
    }
    return Config(**{**defaults, **settings})


@asynccontextmanager
async def start_service(data_dir: Path, **settings: Any) -> AsyncIterator[Service]:
    """Run a service while the block lasts."""
    async with (
        running(make_config(data_dir, **settings)) as service,
        grpc.aio.insecure_channel(service.address) as bare,
    ):
        channel: Any = Carrying(bare, service.token.text if service.token else "")
        yield Service(service, channel, agent_pb2_grpc.AgentServiceStub(channel), data_dir)


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Start services with settings of one's own; they end with the test."""
    async with AsyncExitStack() as stack:

        async def begin(**settings: Any) -> Service:
            return await stack.enter_async_context(start_service(tmp_path / "data", **settings))

        yield begin


@pytest.fixture
async def service(start: Callable[..., Any]) -> Service:
    """A service with the usual settings."""
    return await start()
