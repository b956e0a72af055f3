"""A deleted session is gone at once and as a whole; its rows follow, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from agentpb import agent_pb2 as pb

from agent_service.ledger import Commit, Ledger, RequestId, SessionKey, key_of
from tests.ledger.logs import begin, event, events, numbers, read_on, rows, session, until

TABLES = ("sessions", "events", "turns", "turn_requests", "labels", "deletions")


async def full(ledger: Ledger, count: int) -> SessionKey:
    """A session with a row in every table."""
    record = session(labels={"a": "b"})
    turn = pb.Turn(turn_id=f"turn of {record.session_id}", number=1, state=pb.TURN_STATE_QUEUED)
    used = RequestId("", "r1", "f", record.session_id, turn.turn_id, "Execute", b"")
    requests = {turn.turn_id: pb.ExecuteRequest(prompt="p")}
    log = events(record.session_id, 1, count)
    await ledger.append(Commit(key_of(record), log, record, [turn], requests, used))
    return key_of(record)


async def test_nothing_of_it_can_be_read_any_more(ledger: Ledger) -> None:
    session_id = await full(ledger, 3)
    size = sum(len(each.body) for each in events(session_id, 1, 3))
    assert await ledger.delete(session_id) == size
    assert await ledger.session(session_id) is None
    assert await ledger.turn(f"turn of {session_id.session_id}") is None
    assert await ledger.turn_request(f"turn of {session_id.session_id}") is None
    assert await ledger.turns(session_id) == await ledger.read(session_id, 0) == []
    assert await ledger.standing(session_id) is await ledger.turn_at(session_id, 3) is None
    assert await ledger.sessions(pb.SessionFilter(labels={"a": "b"}), 0, owner="") == ([], None)  # type: ignore[arg-type]
    assert await ledger.count() == 0
    assert await ledger.delete(session_id) is None


async def test_request_ids_outlive_it(ledger: Ledger) -> None:
    session_id = await full(ledger, 1)
    await ledger.delete(session_id)
    used = await ledger.request("", "r1")
    assert used is not None
    assert used.session_id == session_id.session_id


async def test_its_watchers_wake_and_see_it_deleted(ledger: Ledger) -> None:
    session_id = await begin(ledger, session(), 3)
    tail = ledger.tail(session_id)
    await read_on(ledger, session_id)
    changed = tail.changed
    await ledger.delete(session_id)
    assert changed.is_set()
    assert tail.deleted
    assert not ledger.tail(session_id).deleted


async def test_its_rows_are_swept(ledger: Ledger, tmp_path: Path) -> None:
    await ledger.delete(await full(ledger, 1700))
    await until(lambda: not any(rows(tmp_path / "data", table) for table in TABLES))
    await until(lambda: ledger.statistics()["deletions"] == 0)


async def test_sweeping_goes_on_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("agent_service.ledger.sqlite.writer.Writer._sweep", lambda self: None)
        async with Ledger(tmp_path) as ledger:
            await ledger.delete(await full(ledger, 800))
    assert rows(tmp_path, "events") == 800
    async with Ledger(tmp_path) as ledger:
        assert await ledger.count() == 0
        await until(lambda: not any(rows(tmp_path, table) for table in TABLES))


async def test_the_same_id_may_begin_anew_while_the_old_rows_are_still_there(tmp_path: Path) -> None:
    async with Ledger(tmp_path) as ledger:
        session_id = await full(ledger, 3000)
        await ledger.delete(session_id)
        await begin(ledger, session(session_id.session_id), 2)
        assert numbers(await read_on(ledger, session_id)) == [1, 2]
        await until(lambda: rows(tmp_path, "events") == 2)
        assert numbers(await ledger.read(session_id, 0)) == [1, 2]
        assert await ledger.check() != []  # no payloads in these events, but no orphans either
        assert not any("belong to no session" in each for each in await ledger.check())


async def test_commits_before_it_are_written_and_commits_after_it_refused(ledger: Ledger) -> None:
    session_id = await begin(ledger, session(), 1)
    tail = ledger.tail(session_id)
    before = ledger.append(Commit(session_id, events=[event(session_id, 2)]))
    deleting = asyncio.create_task(ledger.delete(session_id))
    await before
    assert await deleting is not None
    with pytest.raises(ValueError, match="does not exist"):
        await ledger.append(Commit(session_id, events=[event(session_id, 3)]))
    assert tail.deleted
    assert ledger.failure is None


async def test_a_large_one_does_not_hold_up_others(ledger: Ledger) -> None:
    large, other = await begin(ledger, session(), 30_000), await begin(ledger, session())
    deleting = asyncio.create_task(ledger.delete(large))
    slowest = 0.0
    for number in range(1, 101):
        start = time.perf_counter()
        await ledger.append(Commit(other, events=[event(other, number)]))
        slowest = max(slowest, time.perf_counter() - start)
    await deleting
    assert slowest < 0.5
