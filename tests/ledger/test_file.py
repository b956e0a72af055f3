"""The file is private, taken by one service at a time, and refused with a clear text when it cannot be used."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from agentpb import agent_pb2 as pb

from agent_service.ledger import Ledger, LedgerUnusable, fsck
from agent_service.ledger.commits import Record
from agent_service.ledger.sqlite import migrations, schema
from agent_service.ledger.sqlite.file import connect
from tests.ledger.logs import DORMANT, START_US, begin, read_on, rows, session


async def refusal(directory: Path) -> str:
    """What is said when a ledger is refused."""
    with pytest.raises(LedgerUnusable) as refused:
        await Ledger(directory).__aenter__()
    return str(refused.value)


def change(directory: Path, sql: str) -> None:
    """Change the file behind the ledger's back."""
    with closing(sqlite3.connect(directory / "ledger.db")) as db, db:
        db.execute(sql)


async def test_only_its_user_can_read_it(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "data"
    async with Ledger(directory) as ledger:
        await begin(ledger, session(), 1)
        modes = {path.name: path.stat().st_mode & 0o777 for path in [directory, *directory.iterdir()]}
    assert modes == {
        "data": 0o700,
        "ledger.db": 0o600,
        "ledger.db-wal": 0o600,
        "ledger.db-shm": 0o600,
        "lock": 0o600,
        "generation": 0o600,
    }


async def test_a_second_service_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    async with Ledger(tmp_path):
        assert "is in use by another agent-service (process " in await refusal(tmp_path)
    async with Ledger(tmp_path):
        pass


async def test_a_newer_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    async with Ledger(tmp_path):
        pass
    change(tmp_path, f"PRAGMA user_version = {migrations.VERSION + 1}")
    before = (tmp_path / "ledger.db").read_bytes()
    assert "newer version" in await refusal(tmp_path)
    assert (tmp_path / "ledger.db").read_bytes() == before


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"this is no database at all" * 400)
    assert "damaged" in await refusal(tmp_path)
    assert "damaged" in fsck(tmp_path)[0]


async def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    async with Ledger(tmp_path) as ledger:
        for number in range(50):
            await begin(ledger, session(f"s{number}", title="x" * 500))
    file = tmp_path / "ledger.db"
    content = bytearray(file.read_bytes())
    content[100 : len(content)] = b"\xa5" * (len(content) - 100)
    file.write_bytes(content)
    assert "damaged" in await refusal(tmp_path)


async def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    change(tmp_path, "CREATE TABLE things (x)")
    assert "something else" in await refusal(tmp_path)


async def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot be used" in await refusal(tmp_path / "file" / "data")


async def test_a_refused_ledger_lets_go_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"no database" * 1000)
    await refusal(tmp_path)
    (tmp_path / "ledger.db").unlink()
    async with Ledger(tmp_path):
        pass


def test_a_damaged_file_leaves_no_connection_open(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"no database" * 1000)
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(sqlite3.DatabaseError) as caught:
        connect(tmp_path / "ledger.db")
    assert caught.value.__traceback__ is not None, "it holds the frames, and so what they have not closed"
    assert set(os.listdir("/proc/self/fd")) == before


async def test_each_version_is_reached_by_one_migration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Ledger(tmp_path) as ledger:
        session_id = await begin(ledger, session(), 2)
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, ("CREATE TABLE more (x INTEGER)",)))
    monkeypatch.setattr(migrations, "VERSION", migrations.VERSION + 1)
    for _ in range(2):
        async with Ledger(tmp_path) as ledger:
            assert len(await read_on(ledger, session_id)) == 2
            assert rows(tmp_path, "more") == 0


async def test_labels_of_the_first_version_are_listed_by_time(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as db, db:
        for sql in (
            *migrations.MIGRATIONS[0],
            f"PRAGMA application_id = {migrations.APPLICATION_ID}",
            "PRAGMA user_version = 1",
        ):
            db.execute(sql)
        for key, name in enumerate("abc", 1):
            made = Record.of(session(name, place=DORMANT, created=START_US - key, labels={"k": "v"}))
            times = (made.create_time, made.update_time, made.rest_time, made.expire_time)
            row = (key, name, made.owner, made.state, made.phase, made.title, *times, made.last_sequence, made.body)
            db.execute(f"INSERT INTO sessions VALUES ({schema.marks(row)})", row)
        db.executemany("INSERT INTO labels VALUES (?, 'k', 'v', '')", [(1,), (2,), (3,), (77,)])
        db.execute("INSERT INTO deletions VALUES (77)")
    async with Ledger(tmp_path) as ledger:
        wanted = pb.SessionFilter(labels={"k": "v"})
        page, _ = await ledger.sessions(wanted, pb.SESSION_ORDER_CREATE_TIME_ASC, owner="")
        assert [each.session_id for each in page] == ["c", "b", "a"]
        assert await ledger.check() == []


async def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Ledger(tmp_path) as ledger:
        await begin(ledger, session(), 2)
    with monkeypatch.context() as patched:
        patched.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, ("CREATE TABLE more (x)", "nonsense")))
        patched.setattr(migrations, "VERSION", migrations.VERSION + 1)
        assert "cannot be used" in await refusal(tmp_path)
    async with Ledger(tmp_path) as ledger:
        assert await ledger.count() == 1


async def test_a_backup_is_a_ledger(tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    async with Ledger(tmp_path / "data") as ledger:
        session_id = await begin(ledger, session(), 300)
        await ledger.backup(copies / "ledger.db")
        await begin(ledger, session())
        with pytest.raises(FileExistsError):
            await ledger.backup(copies / "ledger.db")
    assert (copies / "ledger.db").stat().st_mode & 0o777 == 0o600
    async with Ledger(copies) as copy:
        assert await copy.count() == 1
        assert len(await read_on(copy, session_id)) == 300


async def test_a_closed_ledger_takes_nothing(tmp_path: Path) -> None:
    async with Ledger(tmp_path) as ledger:
        pass
    with pytest.raises(RuntimeError, match="not open"):
        await begin(ledger, session())
