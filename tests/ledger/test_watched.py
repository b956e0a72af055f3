"""What is deleted, exchanged, lost or rewritten in a ledger is noticed, and a lock of somebody else is waited for."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agent_service.errors import StoreUnavailable
from agent_service.ledger import Commit, Ledger, LedgerUnusable, accept, fsck
from agent_service.ledger.sqlite import generation, writer
from tests.ledger.logs import begin, event, events, key, numbers, read_on, session, until

LEDGER, LOG = "ledger.db", "ledger.db-wal"


async def refusal(directory: Path) -> str:
    """What is said when a ledger is refused; it names the way out."""
    with pytest.raises(LedgerUnusable) as refused:
        await Ledger(directory).__aenter__()
    assert "agent-service accept-ledger" in str(refused.value)
    return str(refused.value)


@pytest.fixture
async def directory(tmp_path: Path) -> Path:
    """A directory with a ledger of two sessions."""
    async with Ledger(tmp_path) as ledger:
        await begin(ledger, session("a"), 3)
        await begin(ledger, session("b"), 3)
    return tmp_path


@pytest.mark.parametrize("name", [LEDGER, LOG])
@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_nothing_is_acknowledged_into_a_file_that_is_gone(tmp_path: Path, name: str, how: str) -> None:
    async with Ledger(tmp_path) as ledger:
        await begin(ledger, session("s"), 2)
        (tmp_path / name).rename(tmp_path / "elsewhere")
        if how == "replaced":
            (tmp_path / name).write_bytes(b"")
        with pytest.raises(StoreUnavailable, match=f"{name} has been {how} while it was in use; its content was saved"):
            await ledger.append(Commit(key("s"), [event("s", 3)]))
        await asyncio.wait_for(ledger.wait_failed(), 10)
    for left in (LEDGER, LOG):
        (tmp_path / left).unlink(missing_ok=True)
    assert "is missing, and this directory had a ledger" in await refusal(tmp_path)
    (tmp_path / "ledger.db.rescued").rename(tmp_path / LEDGER)
    async with Ledger(tmp_path) as ledger:
        assert numbers(await read_on(ledger, key("s"))) == [1, 2, 3]


async def test_a_ledger_that_is_missing_is_not_made_anew(directory: Path) -> None:
    (directory / LEDGER).unlink()
    assert "is missing" in await refusal(directory)
    assert not (directory / LEDGER).exists()
    accept(directory)
    async with Ledger(directory) as ledger:
        assert await ledger.count() == 0
    async with Ledger(directory):
        pass


async def test_directories_of_sessions_without_a_ledger_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "sessions" / "one").mkdir(parents=True)
    assert "sessions has directories of sessions" in await refusal(tmp_path)


async def test_another_ledger_in_its_place_is_refused(
    directory: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other")
    async with Ledger(other) as ledger:
        for name in "abcdef":
            await begin(ledger, session(name), 9)
    shutil.copy(other / LEDGER, directory / LEDGER)
    assert "is another ledger" in await refusal(directory)


async def test_an_older_copy_in_its_place_is_refused_until_it_is_accepted(directory: Path) -> None:
    shutil.copy(directory / LEDGER, directory / "older")
    async with Ledger(directory) as ledger:
        await ledger.delete(key("b"))
    shutil.copy(directory / "older", directory / LEDGER)
    assert "is older than it was: its last change is number 2, and there was number 3" in await refusal(directory)
    accept(directory)
    async with Ledger(directory) as ledger:
        assert await ledger.count() == 2


async def test_a_log_that_lost_events_is_noticed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "INTERVAL", 0.0)
    shutil.copytree(directory, directory / "copy")
    async with Ledger(directory) as ledger:
        await ledger.append(Commit(key("a"), [event("a", 4)]))
        await until(lambda: "event 4 " in (directory / "generation").read_text())
        shutil.copy(directory / "generation", directory / "copy" / "generation")  # the copy's log is lost
    assert "a session's last event is number 3, and there was number 4" in await refusal(directory / "copy")


async def test_a_copy_of_an_older_version_needs_no_stamp(directory: Path) -> None:
    (directory / "generation").unlink()
    (directory / "sessions").mkdir()
    async with Ledger(directory) as ledger:
        assert await ledger.count() == 2
    assert (directory / "generation").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ("UPDATE events SET body = CAST(REPLACE(body, 'old', 'new') AS BLOB) WHERE sequence = 2", "event 2 is not as"),
        ("UPDATE events SET raw = x'7b7d' WHERE sequence = 3", "event 3 is not as"),
        ("UPDATE events SET type = 'stderr' WHERE sequence = 1", "event 1 says it is event 1, message.assistant"),
        ("UPDATE events SET chain = NULL", "event 1 has no checksum"),
        (
            "UPDATE events SET sequence = 106 - sequence; UPDATE events SET sequence = sequence - 100",
            "event 1 is not as",
        ),
    ],
)
async def test_events_that_were_rewritten_are_found(tmp_path: Path, change: str, found: str) -> None:
    async with Ledger(tmp_path) as ledger:
        await begin(ledger, session("s"))
        await ledger.append(Commit(key("s"), events("s", 1, 2, text="old")))
        await ledger.append(Commit(key("s"), events("s", 3, 2, text="old", raw=b"{ }")))
        await until(lambda: ledger.statistics()["tails"] == 0)  # the chain goes on from what is stored
        await ledger.append(Commit(key("s"), events("s", 5, 1)))
    chain = ("checksum", "as it was written")
    assert not [each for each in fsck(tmp_path) if any(word in each for word in chain)]
    with closing(sqlite3.connect(tmp_path / LEDGER)) as db, db:
        db.executescript(change)
    assert any(found in each for each in fsck(tmp_path))


async def test_events_of_earlier_versions_have_no_checksums_and_the_next_ones_have(tmp_path: Path) -> None:
    async with Ledger(tmp_path) as ledger:
        await begin(ledger, session("s"), 2)
    with closing(sqlite3.connect(tmp_path / LEDGER)) as db, db:
        db.execute("UPDATE events SET chain = NULL")
        db.execute("UPDATE counters SET value = 1 WHERE name = 'unchained'")
    async with Ledger(tmp_path) as ledger:
        await ledger.append(Commit(key("s"), events("s", 3, 2)))
    assert not [each for each in fsck(tmp_path) if "event 3 " in each or "checksum" in each]
    with closing(sqlite3.connect(tmp_path / LEDGER)) as db, db:
        db.execute("UPDATE events SET chain = NULL WHERE sequence = 4")
    assert any("event 4 has no checksum" in each for each in fsck(tmp_path))


async def test_a_lock_of_another_process_is_waited_for_and_calls_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_service.ledger.sqlite.file.BUSY_TIMEOUT", 50)
    monkeypatch.setattr(writer, "BUSY_TIMEOUT", 50)
    async with Ledger(tmp_path) as ledger:
        await begin(ledger, session("s"), 1)

        async def call() -> None:
            async with ledger.obstruction.bounded():
                await asyncio.shield(waiting)

        with closing(sqlite3.connect(tmp_path / LEDGER, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            waiting = ledger.append(Commit(key("s"), [event("s", 2)]))
            with pytest.raises(StoreUnavailable, match="another process holds a lock") as told:
                await call()
            assert told.value.retry_after
            with pytest.raises(StoreUnavailable):  # at once, as it lasts
                await call()
            assert numbers(await ledger.read(key("s"), 0)) == [1]
            other.execute("COMMIT")
        await asyncio.wait_for(waiting, 10)
        await call()
        assert numbers(await ledger.read(key("s"), 0)) == [1, 2]
        assert ledger.failure is None
