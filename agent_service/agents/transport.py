"""ProcessTransport: the pipe to one CLI process, spawned under the process guard with a clean environment.

It implements the SDK's public Transport class. The SDK's own transport gives the CLI this process's whole environment,
waits five seconds in close, and can leak the process when it is cancelled twice. Here the owner of the process ends it
(processes/tree.py), and close only closes pipes.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from claude_agent_sdk import ProcessError, Transport

from agent_service.agents.walls import Wall
from agent_service.processes.guards import ProcessGuard, Spawn
from agent_service.processes.tree import ProcessTree

MAX_FRAME_BYTES = 256 << 20
"""Longest line the CLI may write: a 20 MB tool result becomes six times as long when JSON has to escape all of it."""


LARGE_FRAME = 256 << 10
"""Bytes of a line that is parsed in a thread: 20 MB take 50 to 500 ms."""


class LargeFrame(dict[str, Any]):
    """A frame above LARGE_FRAME bytes: what takes time in proportion to its size is better done in a thread."""


async def parse_frame(line: bytes) -> dict[str, Any]:
    """Parse a line; off the event loop when it is long. Raises ValueError."""
    if len(line) <= LARGE_FRAME:
        return dict(json.loads(line))
    return LargeFrame(await asyncio.to_thread(json.loads, line))


class ProcessTransport(Transport):
    """Newline-delimited JSON over the stdin and stdout of one CLI process."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str],
        variables: Mapping[str, str],
        cwd: Path,
        guard: ProcessGuard,
        wall: Wall,
        marker: str,
        on_stderr: Callable[[str], None],
    ) -> None:
        """Prepare to run `argv` behind `wall` in `cwd` with exactly `environment`, and the caller's `variables` on top.

        The guard sees nothing of the latter. `marker` names the tree for `end_leftovers`.
        """
        self._argv = argv
        self._environment = environment
        self._variables = variables
        self._cwd = cwd
        self._guard = guard
        self._wall = wall
        self._marker = marker
        self._on_stderr = on_stderr
        self._process: asyncio.subprocess.Process | None = None
        self._spawn_held: Spawn | None = None
        self._spawning: asyncio.Task[None] | None = None
        self._stderr_task: asyncio.Task[None] | None = None
        self._write_lock = asyncio.Lock()
        self._closing = False
        self.tree: ProcessTree | None = None

    @property
    def exit_code(self) -> int | None:
        """The CLI's exit code; for signal n it is 128+n, or -n under the process-group guard. None while it lives."""
        return self._process.returncode if self._process else None

    async def connect(self) -> None:
        """Start the process. Raises OSError when the host cannot. A cancelled start goes on: see `settled`."""
        self._spawning = asyncio.create_task(self._spawn(), name=f"spawn {self._marker}")
        await asyncio.shield(self._spawning)

    async def settled(self) -> None:
        """Wait until a running start has made a process or has failed."""
        if self._spawning is not None:
            await asyncio.wait([self._spawning])

    async def _spawn(self) -> None:
        with self._wall.wrap(self._argv) as wrapped:
            self._spawn_held = spawn = self._guard.spawn(
                wrapped.argv,
                marker=self._marker,
                environment=self._environment,
                variables=self._variables,
                descriptors=wrapped.descriptors,
            )
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *self._wall.enter(spawn.command),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    cwd=self._cwd,
                    limit=MAX_FRAME_BYTES,
                    **spawn.keywords,
                )
            finally:
                spawn.started()
        self.tree = ProcessTree(self._guard, self._process.pid, self._marker, between=self._wall.sandbox.wrapper)
        self._stderr_task = asyncio.create_task(self._read_stderr(), name=f"stderr of {self._process.pid}")

    async def wait(self) -> int:
        """Wait for the process to exit, and return its exit code."""
        assert self._process is not None
        return await self._process.wait()

    async def write(self, data: str) -> None:
        """Send one frame. Raises ConnectionError when the process no longer reads."""
        stdin = self._process.stdin if self._process else None
        if stdin is None or self._closing:
            raise ConnectionError("the agent's process is not connected")
        async with self._write_lock:
            stdin.write(data.encode("utf-8", "replace"))
            await stdin.drain()

    async def read_messages(self) -> AsyncIterator[dict[str, Any]]:
        """Yield each frame. Raises ProcessError at an unexpected end, so that no request waits for ever."""
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            if line.startswith(b"{"):
                yield await parse_frame(line)
        exit_code = await self._process.wait()
        if not self._closing:
            raise ProcessError("the agent's process ended", exit_code=exit_code)

    async def _read_stderr(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        with suppress(ValueError):
            while line := await self._process.stderr.readline():
                if text := line.decode("utf-8", "replace").rstrip():
                    self._on_stderr(text)

    async def end_input(self) -> None:
        """Close stdin, which asks the CLI to exit."""
        self._closing = True
        if self._process and self._process.stdin:
            self._process.stdin.close()

    async def close(self) -> None:
        """Close the pipes. The owner ends the process."""
        await self.end_input()
        if self._stderr_task:
            self._stderr_task.cancel()
            with suppress(asyncio.CancelledError):
                await self._stderr_task
        if self._process is not None:
            transport = getattr(self._process, "_transport", None)
            if transport is not None:
                transport.close()
        if self._spawn_held is not None:
            self._spawn_held.close()

    def is_ready(self) -> bool:
        """Return whether frames can be sent."""
        return self._process is not None and self._process.returncode is None and not self._closing
