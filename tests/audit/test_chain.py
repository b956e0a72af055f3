"""The chain of the audit log: whatever is done to its files, `verify` finds it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_service.audit import AuditLog, AuditUnwritable, verify

RECORDS = 12


async def write(file, records, **arguments):
    """Write an audit log of so many records; return its head."""
    async with AuditLog(file, **arguments) as log:
        for number in range(records):
            log.append({"method": "Execute", "session": f"s-{number}", "principal": "cï"})
    return log.head


def _made(folder):
    file = Path(folder) / "audit.log"
    head = asyncio.run(write(file, RECORDS))
    return file, head


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The bytes of an audit log, and its head."""
    file, head = _made(tmp_path_factory.mktemp("audit"))
    return file.read_bytes(), head


def problems(data, head=""):
    with TemporaryDirectory() as folder:
        file = Path(folder) / "audit.log"
        file.write_bytes(data)
        return verify([file], head).problems


def test_what_was_written_is_whole(written):
    data, head = written
    assert problems(data) == problems(data, head) == []
    assert data.count(b"\n") == RECORDS + 2, "the records, and those of the opening and the stop"
    assert b"time" in data
    assert data.isascii()


@settings(max_examples=300, deadline=None)
@given(chance=st.data())
def test_any_flipped_byte_is_found(written, chance):
    data, _ = written
    at = chance.draw(st.integers(0, len(data) - 1))
    flipped = data[at] ^ chance.draw(st.integers(1, 255))
    assert problems(data[:at] + bytes([flipped]) + data[at + 1 :])


@settings(max_examples=100, deadline=None)
@given(chance=st.data())
def test_dropped_swapped_and_repeated_lines_are_found(written, chance):
    lines = written[0].splitlines(keepends=True)
    one, other = sorted(chance.draw(st.lists(st.integers(0, len(lines) - 1), min_size=2, max_size=2, unique=True)))
    swapped = [*lines]
    swapped[one], swapped[other] = lines[other], lines[one]
    assert problems(b"".join(swapped))
    assert problems(b"".join(lines[:one] + lines[other:])), "lines in the middle, or the first"
    assert problems(b"".join([*lines[: one + 1], *lines[one:]]))
    assert problems(b"".join([*lines[:one], b"\n", *lines[one:]]))


@settings(max_examples=50, deadline=None)
@given(chance=st.data())
def test_a_tail_that_was_cut_is_found_with_the_head(written, chance):
    data, head = written
    lines = data.splitlines(keepends=True)
    kept = b"".join(lines[: chance.draw(st.integers(1, len(lines) - 1))])
    assert problems(kept) == []
    assert problems(kept, head)


async def test_a_head_of_the_past_is_found_in_a_log_that_went_on(tmp_path):
    head = await write(tmp_path / "audit.log", 3)
    await write(tmp_path / "audit.log", 3)
    found = verify([tmp_path / "audit.log"], head)
    assert (found.problems, found.anchored_at, found.records) == ([], 5, 10)


async def test_a_file_that_was_moved_away_is_continued_in_another(tmp_path):
    file, now = tmp_path / "audit.log", 0.0
    async with AuditLog(file, clock=lambda: now) as log:
        log.append({"session": "a"})
        file.rename(tmp_path / "audit.log.1")
        now = 5.0
        log.append({"session": "b"})
    found = verify([tmp_path / "audit.log.1", file])
    assert (found.problems, found.records, found.head) == ([], 5, log.head)
    alone = verify([file])
    assert (alone.problems, alone.first) == ([], 3)
    assert verify([file, tmp_path / "audit.log.1"]).problems
    assert b'"b"' in file.read_bytes()


async def test_a_file_that_was_moved_goes_on_there_while_no_other_can_be_opened(tmp_path, caplog):
    folder = tmp_path / "logs"
    folder.mkdir()
    now = 0.0
    async with AuditLog(folder / "audit.log", clock=lambda: now) as log:
        folder.rename(tmp_path / "moved")
        for now in (5.0, 10.0):
            log.append({"session": f"s-{now}"})
            assert log.failure is None
        assert caplog.text.count("no other can be opened") == 1
        folder.mkdir()
        now = 15.0
        log.append({"session": "b"})
    found = verify([tmp_path / "moved" / "audit.log", folder / "audit.log"])
    assert (found.problems, found.records) == ([], 6)


async def test_lines_for_a_file_that_was_deleted_wait_for_another(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    now = 0.0
    async with AuditLog(folder / "audit.log", clock=lambda: now) as log:
        (folder / "audit.log").unlink()
        folder.rmdir()
        now = 5.0
        log.append({"session": "a"})
        with pytest.raises(AuditUnwritable, match="cannot be written"):
            log.retry()
        folder.mkdir()
        now = 10.0
        log.append({"session": "b"})
        assert log.failure is None
    data = (folder / "audit.log").read_bytes()
    assert verify([folder / "audit.log"]).problems == []
    assert data.index(b'"a"') < data.index(b'"b"')


async def test_a_last_line_that_is_no_record_is_told_at_the_start(tmp_path):
    file = tmp_path / "audit.log"
    await write(file, 1)
    file.write_bytes(file.read_bytes().replace(b'"seq":3', b'"seq":x').replace(b'"seq":2', b'"seq":x'))
    with pytest.raises(AuditUnwritable, match="audit verify"):
        await AuditLog(file).__aenter__()


async def test_a_file_that_logrotate_copied_and_cut_is_continued(tmp_path):
    file, now = tmp_path / "audit.log", 0.0
    async with AuditLog(file, clock=lambda: now) as log:
        log.append({"session": "a"})
        (tmp_path / "audit.log.1").write_bytes(file.read_bytes())
        os.truncate(file, 0)
        now = 5.0
        log.append({"session": "b"})
    assert verify([tmp_path / "audit.log.1", file]).problems == []


@pytest.mark.parametrize("cut", [1, 2, 70, 100])
async def test_a_line_that_a_crash_tore_is_known_as_such(tmp_path, cut):
    file = tmp_path / "audit.log"
    await write(file, 3)
    os.truncate(file, file.stat().st_size - cut)
    assert verify([file]).problems
    await write(file, 3)
    assert verify([file]).problems == []
    data = file.read_bytes()
    torn = next(line for line in data.splitlines() if not line.endswith(b"}") or b"stopped" in line)
    if cut > 1:
        assert problems(data.replace(torn, torn[:-1]))


async def test_a_first_line_that_a_crash_tore_is_written_anew(tmp_path):
    (tmp_path / "audit.log").write_bytes(b'{"time":"20')
    await write(tmp_path / "audit.log", 1)
    assert verify([tmp_path / "audit.log"]).problems == []


async def test_a_service_is_ended_at_any_moment_and_the_chain_goes_on(tmp_path):
    program = f"""
import asyncio, os
from pathlib import Path
from agent_service.audit import AuditLog
async def main():
    async with AuditLog(Path({str(tmp_path / "audit.log")!r})) as log:
        for number in range(20): log.append({{"session": str(number)}})
        os.kill(os.getpid(), 9)
asyncio.run(main())
"""
    for _ in range(2):
        await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], check=False)
    found = verify([tmp_path / "audit.log"])
    assert (found.problems, found.records) == ([], 42), "what was appended was handed to the kernel"


async def test_two_services_do_not_write_one_file(tmp_path):
    async with AuditLog(tmp_path / "audit.log"):
        with pytest.raises(AuditUnwritable, match="another service writes it"):
            await AuditLog(tmp_path / "audit.log").__aenter__()


@pytest.mark.parametrize("content", ["hello\n", "hello\nyou\n", '{"time": 1}\n{"b": 2}\n', "x" * 300_000])
async def test_a_file_that_is_something_else_is_left_as_it_is(tmp_path, content):
    (tmp_path / "notes").write_text(content)
    with pytest.raises(AuditUnwritable, match="something else than an audit log"):
        await AuditLog(tmp_path / "notes").__aenter__()
    assert (tmp_path / "notes").read_text() == content


async def test_the_file_is_its_owners_alone(tmp_path):
    await write(tmp_path / "audit.log", 1)
    assert (tmp_path / "audit.log").stat().st_mode & 0o777 == 0o600
