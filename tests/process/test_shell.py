"""What the operator's shell did to the service is not its agents', and output that nobody reads stops nothing."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import socket
import sys
import termios
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from agentpb import agent_pb2 as pb
from agentpb import agent_pb2_grpc

from agent_service import maintenance
from tests.process.live import BASH, PROGRAM, Live, inherited, serve
from tests.rpc import Carrying, token_in

pytestmark = pytest.mark.process

SIGNALS = "grep -E '^Sig(Blk|Ign)' /proc/self/status"
HANDLED = signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1, signal.SIGTSTP
EVERYTHING_IGNORED = (
    sys.executable,
    "-c",
    "import os, signal, sys\n"
    "for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}: signal.signal(number, signal.SIG_IGN)\n"
    "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
    "os.execv(sys.argv[1], sys.argv[1:])",
)
IN_THE_BACKGROUND = ("sh", "-c", 'nohup "$@" & pid=$!; trap "kill $pid; wait $pid; exit \\$?" TERM; wait $pid', "sh")
NO_STREAMS = ("sh", "-c", 'exec "$@" <&- 2>&-', "sh")


def shown(signals: str) -> dict[str, int]:
    """The masks of signals that a process was started with."""
    return {name: int(mask, 16) for name, mask in re.findall(r"(Sig\w+):\s*([0-9a-f]+)", signals)}


async def tool_output(live: Live, command: str) -> str:
    """What a command prints that an agent runs."""
    done = await live.run(f"bash: {command}", options=BASH)
    events = await live.events(done.session_id)
    return "".join(block.tool_result.text for event in events for block in event.user_message.content)


@pytest.mark.parametrize("through", [EVERYTHING_IGNORED, IN_THE_BACKGROUND], ids=["everything", "nohup in a script"])
async def test_tools_start_with_the_signals_of_a_fresh_process(tmp_path: Path, through: tuple[str, ...]) -> None:
    async with serve(tmp_path / "fresh") as live:
        fresh = shown(await tool_output(live, SIGNALS))
    async with serve(tmp_path / "data", through=through) as live:
        inherited = shown(await tool_output(live, SIGNALS))
        live.process.terminate()
        assert await asyncio.wait_for(live.process.wait(), 30) == 0
    assert fresh
    assert {name: mask & own() for name, mask in inherited.items()} == {
        name: mask & own() for name, mask in fresh.items()
    }


def own() -> int:
    """The signals that matter to programs."""
    return sum(1 << number - 1 for number in HANDLED)


async def test_sighup_drains_as_sigterm_does(tmp_path: Path) -> None:
    async with serve(tmp_path / "data") as live:
        await live.run("say: hello")
        live.process.send_signal(signal.SIGHUP)
        assert await asyncio.wait_for(live.process.wait(), 30) == 0
        assert "first signal" in live.log.read_text()


async def test_a_sighup_that_is_ignored_at_the_start_stays_ignored(tmp_path: Path) -> None:
    async with serve(tmp_path / "data", through=("sh", "-c", "trap '' HUP QUIT; exec \"$@\"", "sh")) as live:
        for number in (signal.SIGHUP, signal.SIGQUIT):
            live.process.send_signal(number)
        assert (await live.run("say: still here")).turn.result.result == "still here"
        assert await live.terminate() == 0


async def test_a_service_without_standard_streams_keeps_its_ledger_clean(tmp_path: Path) -> None:
    async with serve(tmp_path / "data", "--log-level", "debug", through=NO_STREAMS) as live:
        assert (await live.run("say: hello")).turn.result.result == "hello"
        assert await live.terminate() == 0
    assert maintenance.check(tmp_path / "data").problems == ()


async def test_a_service_starts_in_a_directory_that_was_removed(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    through = ("sh", "-c", f'cd {tmp_path}/gone && rmdir ../gone && exec "$@"', "sh")
    async with serve(tmp_path / "data", through=through) as live:
        assert (await live.run("say: hello")).turn.result.result == "hello"


# ------------------------------------------------------------------------------------------- output that nobody reads


@contextmanager
def full_pipe() -> Iterator[tuple[int, int]]:
    """A pipe that has no room left: its reading and its writing end."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for size in (1 << 16, 1):
        try:
            while True:
                os.write(writing, b"x" * size)
        except BlockingIOError:
            continue
    os.set_blocking(writing, True)
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


@asynccontextmanager
async def unread(data_dir: Path, *flags: str, stdout: int, stderr: int) -> AsyncIterator[Live]:
    """A service whose output goes where the caller says; it is ready once it answers."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{found.getsockname()[1]}"
    process = await asyncio.create_subprocess_exec(
        *(PROGRAM, "serve", "--listen", address, "--data-dir", data_dir, "--model", "offline", "--warm-agents", "0"),
        *flags,
        stdout=stdout,
        stderr=stderr,
        env=inherited(),
    )
    try:
        async with grpc.aio.insecure_channel(address, options=[("grpc.max_reconnect_backoff_ms", 100)]) as bare:
            stub: Any = agent_pb2_grpc.AgentServiceStub(bare)
            await stub.GetServerInfo(pb.GetServerInfoRequest(), wait_for_ready=True, timeout=30)
            channel: Any = Carrying(bare, token_in(data_dir))
            stub = agent_pb2_grpc.AgentServiceStub(channel)
            yield Live(None, channel, stub, data_dir, process, data_dir)  # type: ignore[arg-type]
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def works(live: Live) -> None:
    """The service does its work, and leaves in good order."""
    answers = await asyncio.gather(*(live.run(f"say: {number}") for number in range(8)))
    assert [answer.turn.result.result for answer in answers] == [str(number) for number in range(8)]
    assert await live.terminate(patience=30) == 0


@pytest.mark.parametrize("level", ["debug", "info", "error"])
async def test_a_stderr_that_nobody_reads_stops_nothing(tmp_path: Path, level: str) -> None:
    with full_pipe() as (_, writing):
        async with unread(tmp_path / "data", "--log-level", level, stdout=-3, stderr=writing) as live:
            await works(live)


async def test_a_stdout_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
    with full_pipe() as (_, writing):
        async with unread(tmp_path / "data", stdout=writing, stderr=writing) as live:
            await works(live)


async def test_a_service_whose_reader_has_gone_works_on(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    async with unread(tmp_path / "data", "--log-level", "debug", stdout=writing, stderr=writing) as live:
        os.close(writing)
        await works(live)


async def test_a_paused_terminal_stops_nothing(tmp_path: Path) -> None:
    master, terminal = pty.openpty()
    termios.tcflow(terminal, termios.TCOOFF)  # as Ctrl-S does
    async with unread(tmp_path / "data", "--log-level", "debug", stdout=terminal, stderr=terminal) as live:
        await works(live)
    os.close(master)
    os.close(terminal)


BEHIND_ANOTHER_JOB = """
import fcntl, os, sys, termios, time
terminal = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
os.setsid()
fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
if (job := os.fork()) == 0:
    time.sleep(600)
os.setpgid(job, job)
os.tcsetpgrp(terminal, job)
os.dup2(terminal, 2)
os.execv(sys.argv[2], sys.argv[2:])
"""
"""Executes a command on a terminal whose foreground belongs to another job; that one ends with the session."""


async def test_a_background_job_on_a_terminal_that_stops_writers_works_on(tmp_path: Path) -> None:
    master, terminal = pty.openpty()
    settings = termios.tcgetattr(terminal)
    settings[3] |= termios.TOSTOP
    termios.tcsetattr(terminal, termios.TCSANOW, settings)
    os.set_blocking(master, False)
    through = (sys.executable, "-c", BEHIND_ANOTHER_JOB, os.ttyname(terminal))
    async with serve(tmp_path / "data", "--log-level", "debug", through=through) as live:
        assert (await live.run("say: hello")).turn.result.result == "hello"
        assert b"process guard" in os.read(master, 1 << 16)
        assert await live.terminate() == 0
    os.close(master)
    os.close(terminal)
