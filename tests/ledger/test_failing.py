"""When the disk gives out, nothing half-written is seen, everybody is told, and what was acknowledged is kept."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent_service.errors import StoreUnavailable
from agent_service.ledger import Commit, Ledger, RequestId, fsck
from tests.ledger.logs import begin, event, events, key, numbers, read_on, session

CRASHING = """
import asyncio, sys
from pathlib import Path
from agent_service.ledger import Commit, Ledger
from tests.ledger.logs import begin, event, key, session

async def produce(ledger, name):
    await begin(ledger, session(name))
    for number in range(1, 10**9):
        await ledger.append(Commit(key(name), events=[event(name, number)]))
        print(name, number, flush=True)

async def main():
    async with Ledger(Path(sys.argv[1])) as ledger:
        await asyncio.gather(*(produce(ledger, f"s{number}") for number in range(8)))

asyncio.run(main())
"""


@contextlib.contextmanager
def limited_files(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond a size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no small file system can be mounted: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


async def fill(ledger: Ledger) -> int:
    """Append until it fails; the last number that was acknowledged."""
    await begin(ledger, session("s"))
    for number in range(1, 10_000):
        try:
            await ledger.append(Commit(key("s"), events=[event("s", number, text="x" * 20_000)]))
        except StoreUnavailable:
            return number - 1
    pytest.fail("the disk has no end")


async def test_nothing_acknowledged_is_missing_after_a_kill(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CRASHING, tmp_path, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    acknowledged: dict[str, int] = {}
    async with asyncio.timeout(30):
        while sum(acknowledged.values()) < 2000:
            name, number = (await process.stdout.readline()).split()
            acknowledged[name.decode()] = int(number)
        process.kill()
        for line in (await process.stdout.read()).splitlines(keepends=True):
            if line.endswith(b"\n"):
                name, number = line.split()
                acknowledged[name.decode()] = int(number)
        await process.wait()
    async with Ledger(tmp_path) as ledger:
        for name, number in acknowledged.items():
            stored = numbers(await read_on(ledger, key(name)))
            assert stored == list(range(1, len(stored) + 1))
            assert len(stored) >= number
    assert not any("follows" in problem or "malformed" in problem for problem in fsck(tmp_path))


async def test_a_full_disk_ends_the_ledger_and_keeps_what_was_acknowledged(small_disk: Path) -> None:
    async with Ledger(small_disk / "data") as ledger:
        last = await fill(ledger)
        assert ledger.failure is not None
    assert last > 50
    await asyncio.to_thread(subprocess.run, ["mount", "-o", "remount,size=64m", small_disk], check=True)
    async with Ledger(small_disk / "data") as ledger:
        assert await ledger.last_sequence(key("s")) == last
        await ledger.append(Commit(key("s"), events=[event("s", last + 1)]))


async def test_a_file_that_cannot_grow_ends_the_ledger(tmp_path: Path) -> None:
    async with Ledger(tmp_path) as ledger:
        with limited_files(2 << 20):
            last = await fill(ledger)
            async with asyncio.timeout(5):
                await ledger.wait_failed()
    async with Ledger(tmp_path) as ledger:
        assert numbers(await read_on(ledger, key("s"))) == list(range(1, last + 1))


async def test_all_that_wait_are_told_and_none_of_it_is_seen(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [await begin(ledger, session(), 1) for _ in range(5)]
    tails = [ledger.tail(session_id) for session_id in ids]
    seen = [await read_on(ledger, session_id) for session_id in ids]

    def broken(*_: object) -> None:
        raise OSError("input/output error")

    monkeypatch.setattr("agent_service.ledger.sqlite.writer._write_events", broken)
    waiting = [ledger.append(Commit(session_id, events=events(session_id, 2, 3))) for session_id in ids]
    for session_id in ids:
        ledger.publish(session_id, event(session_id, 1)._replace(sequence=0))
    for answer in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(answer, StoreUnavailable)
        assert "input/output error" in str(answer)
    monkeypatch.undo()
    assert [await read_on(ledger, session_id) for session_id in ids] == seen
    assert {tail.last_sequence for tail in tails} == {1}


async def test_all_that_come_later_are_refused(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    session_id = await begin(ledger, session(), 1)

    def broken(*_: object) -> None:
        raise OSError("input/output error")

    monkeypatch.setattr("agent_service.ledger.sqlite.writer._write_events", broken)
    unheeded = ledger.append(Commit(session_id, events=events(session_id, 2, 1)))
    await asyncio.wait([unheeded])
    monkeypatch.undo()
    used = RequestId("", "r", "f", session_id, "", "Execute", b"")
    for commit in (Commit(session_id, request_id=used), Commit(key("new"), session=session("new"))):
        with pytest.raises(StoreUnavailable):
            await ledger.append(commit)
    with pytest.raises(StoreUnavailable):
        await ledger.delete(session_id)
    await asyncio.wait_for(ledger.wait_failed(), 1)
    assert ledger.statistics()["failed"] == 1
    assert numbers(await ledger.read(session_id, 0)) == [1]


async def test_what_cannot_be_read_is_unavailable(ledger: Ledger, tmp_path: Path) -> None:
    file = tmp_path / "data" / "ledger.db"
    await begin(ledger, session("s"), 1)
    os.truncate(f"{file}-wal", 0)
    os.truncate(file, 0)
    with pytest.raises(StoreUnavailable):
        await ledger.session(key("s"))
