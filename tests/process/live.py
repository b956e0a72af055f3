"""A real server process to be killed, and the witnesses of what it leaves behind."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
from agentpb import agent_pb2 as pb
from agentpb import agent_pb2_grpc

from agent_service.processes.guards import GroupGuard
from agent_service.processes.tags import owner_id
from agent_service.processes.tree import ProcessTree
from tests.conftest import Service
from tests.rpc import Carrying, token_in

PROGRAM = Path(sys.executable).with_name("agent-service")
SLEEPER = "python3 -c 'import time; time.sleep(600)'"
"""A tool call that takes for ever; the CLI itself refuses a plain long sleep."""

BASH = pb.AgentOptions(allowed_tools=["Bash"])


@dataclass
class Live(Service):
    """A server process, a stub of it, and its stderr."""

    process: asyncio.subprocess.Process
    log: Path
    address: str = ""

    async def kill(self) -> None:
        """SIGKILL: the instant of its death."""
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()

    async def terminate(self, patience: float = 60) -> int:
        """SIGTERM, and wait for the end; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), patience)

    def processes(self) -> list[str]:
        """What lives of its agents."""
        return living(self.data_dir)


@asynccontextmanager
async def serve(
    data_dir: Path, *flags: str, model_url: str = "", through: tuple[str, ...] = (), **environment: str
) -> AsyncIterator[Live]:
    """Run a server process while the block lasts; with `model_url`, that is its API.

    `through` is a command that executes its arguments, such as a shell that has changed something before.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    log = data_dir.parent / f"{data_dir.name}.log"
    with log.open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(*through, PROGRAM, "serve", "--listen", "127.0.0.1:0", "--data-dir", data_dir),
            *("--model", "claude" if model_url else "offline", "--api-retries", "0", "--warm-agents", "0", *flags),
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env={**inherited(), **_credentials(model_url), **environment},
        )
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
        assert "listening on" in line, log.read_text()[-2000:]
        address = line.split()[-1]
        async with grpc.aio.insecure_channel(address) as bare:
            channel: Any = Carrying(bare, token_in(data_dir))
            stub = agent_pb2_grpc.AgentServiceStub(channel)
            yield Live(None, channel, stub, data_dir, process, log, address)  # type: ignore[arg-type]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def refused(data_dir: Path, *flags: str) -> tuple[int, str]:
    """Start a server that cannot serve; its exit code and what it says."""
    process = await asyncio.create_subprocess_exec(
        *(PROGRAM, "serve", "--listen", "127.0.0.1:0", "--data-dir", data_dir, "--model", "offline", *flags),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=inherited(),
    )
    _, stderr = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return process.returncode, stderr.decode().splitlines()[-1]


def inherited() -> dict[str, str]:
    """The variables that a server process needs of this one."""
    return {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "XDG_RUNTIME_DIR") if name in os.environ}


def _credentials(model_url: str) -> dict[str, str]:
    return {"ANTHROPIC_BASE_URL": model_url, "ANTHROPIC_API_KEY": "offline"} if model_url else {}


def living(data_dir: Path) -> list[str]:
    """Every process that belongs to the service of this data directory, whatever it did to hide."""
    return [f"{each.pid} {each.name}" for each in ProcessTree(GroupGuard(), None, owner_id(data_dir)).processes()]


async def until(condition: Callable[[], Any], patience: float = 10, what: str = "") -> None:
    """Wait until a condition holds."""
    deadline = asyncio.get_running_loop().time() + patience
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, what or "it did not come true in time"
        await asyncio.sleep(0.02)


def private_bytes(pid: int) -> int:
    """Memory of a process that is its own."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")
