"""What is appended is durable before it is visible, in the order of the calls, and whole."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from agentpb import agent_pb2 as pb

from agent_service.ledger import Commit, Ledger, RequestId, key_of
from tests.ledger.logs import begin, event, events, key, numbers, read_on, rows, session, until


async def test_an_event_is_visible_only_when_it_is_durable(ledger: Ledger) -> None:
    session_id = await begin(ledger, session())
    durable = ledger.append(Commit(session_id, events=events(session_id, 1, 1)))
    assert await read_on(ledger, session_id) == []
    await durable
    assert numbers(await read_on(ledger, session_id)) == [1]


async def test_what_was_appended_is_there_after_the_next_start(tmp_path: Path) -> None:
    async with Ledger(tmp_path) as ledger:
        session_id = await begin(ledger, session(title="Ünder", labels={"app": "x"}), 3)
    async with Ledger(tmp_path) as ledger:
        assert await read_on(ledger, session_id) == events(session_id, 1, 3)
        stored = await ledger.session(session_id)
        assert stored is not None
        assert (stored.title, stored.last_sequence) == ("Ünder", 3)
        assert await ledger.count() == 1


async def test_what_waits_is_written_when_the_ledger_closes(tmp_path: Path) -> None:
    async with Ledger(tmp_path) as ledger:
        record = session()
        ledger.append(Commit(key_of(record), session=record))
        last = [ledger.append(Commit(key_of(record), events=[event(record.session_id, n)])) for n in range(1, 50)]
    assert all(future.done() and future.exception() is None for future in last)
    async with Ledger(tmp_path) as ledger:
        assert await ledger.last_sequence(key_of(record)) == 49


async def test_fifty_sessions_share_transactions_and_lose_nothing(ledger: Ledger) -> None:
    ids = [await begin(ledger, session()) for _ in range(50)]
    groups = ledger.statistics()["groups"]

    async def produce(session_id: str) -> None:
        for number in range(1, 41):
            await ledger.append(Commit(session_id, events=[event(session_id, number)]))

    await asyncio.gather(*map(produce, ids))
    assert ledger.statistics()["groups"] - groups < 50 * 40 / 4
    for session_id in ids:
        assert await read_on(ledger, session_id) == await ledger.read(session_id, 0) == events(session_id, 1, 40)


async def test_a_group_wakes_each_session_once(ledger: Ledger) -> None:
    session_id = await begin(ledger, session())
    tail = ledger.tail(session_id)
    woken = 0

    async def count() -> None:
        nonlocal woken
        while True:
            await tail.changed.wait()
            woken += 1

    counting = asyncio.create_task(count())
    await asyncio.sleep(0)
    groups = ledger.statistics()["groups"]
    await asyncio.gather(*(ledger.append(Commit(session_id, events=[event(session_id, n)])) for n in range(1, 201)))
    await asyncio.sleep(0)
    assert 1 <= woken <= ledger.statistics()["groups"] - groups < 200
    counting.cancel()


async def test_a_record_may_change_once_it_is_handed_over(ledger: Ledger) -> None:
    record = session(title="before")
    turn = pb.Turn(turn_id="t1", number=1, state=pb.TURN_STATE_QUEUED)
    durable = ledger.append(Commit(key_of(record), session=record, turns=[turn]))
    record.title = "after"
    turn.number = 9
    await durable
    assert (await ledger.session(key_of(record))).title == "before"
    assert [each.number for each in await ledger.turns(key_of(record))] == [1]


async def test_a_session_counts_what_came_without_its_record(ledger: Ledger) -> None:
    record = session(last_sequence=2, message_count=2)
    session_id = await begin(ledger, record, 2)
    await ledger.append(Commit(session_id, events=[event(session_id, 3), event(session_id, 4, "stderr")]))
    stored = await ledger.session(session_id)
    assert (stored.last_sequence, stored.message_count) == (4, 3)
    assert await ledger.log_counts(session_id) == (4, 3)


async def test_the_last_of_many_records_in_a_group_is_kept(ledger: Ledger) -> None:
    record = session(labels={"a": "1"})
    futures = []
    for number in range(10):
        record.title = str(number)
        record.labels["a"] = str(number)
        futures.append(ledger.append(Commit(key_of(record), session=record)))
    await asyncio.gather(*futures)
    assert (await ledger.session(key_of(record))).title == "9"
    nine = await ledger.sessions(pb.SessionFilter(labels={"a": "9"}), pb.SESSION_ORDER_UNSPECIFIED, owner="")
    zero = await ledger.sessions(pb.SessionFilter(labels={"a": "0"}), pb.SESSION_ORDER_UNSPECIFIED, owner="")
    assert (len(nine[0]), len(zero[0])) == (1, 0)


async def test_a_turn_keeps_its_request_until_it_has_ended(ledger: Ledger) -> None:
    record = session()
    turn = pb.Turn(turn_id="t1", number=1, state=pb.TURN_STATE_QUEUED, prompt="hello")
    request = pb.ExecuteRequest(prompt="hello", request_id="r")
    await ledger.append(Commit(key_of(record), session=record, turns=[turn], requests={"t1": request}))
    assert await ledger.turn_request("t1") == request
    turn.state = pb.TURN_STATE_COMPLETED
    await ledger.append(Commit(key_of(record), turns=[turn]))
    assert await ledger.turn_request("t1") is None
    assert await ledger.turn("t1") == await ledger.turn_at(key_of(record), 0) == turn
    assert await ledger.turns(key_of(record), states=[pb.TURN_STATE_QUEUED]) == []


async def test_a_gap_is_the_callers_error_and_leaves_no_trace(ledger: Ledger) -> None:
    session_id = await begin(ledger, session(), 2)
    tail = ledger.tail(session_id)
    await read_on(ledger, session_id)
    for wrong in (events(session_id, 4, 1), events(session_id, 2, 1), [event(session_id, 3), event(session_id, 5)]):
        with pytest.raises(ValueError, match="is due"):
            ledger.append(Commit(session_id, events=wrong))
    await ledger.append(Commit(session_id, events=events(session_id, 3, 1)))
    assert tail.last_sequence == 3


async def test_a_commit_that_does_not_fit_the_file_harms_its_own_session_only(ledger: Ledger) -> None:
    good, bad = await begin(ledger, session(), 1), await begin(ledger, session(), 1)
    await until(lambda: ledger.statistics()["tails"] == 0)  # so that nobody but the file knows what the logs hold
    wrong = ledger.append(Commit(bad, events=events(bad, 7, 1)))
    behind = ledger.append(Commit(bad, events=events(bad, 8, 1)))
    right = ledger.append(Commit(good, events=events(good, 2, 1)))
    await right
    for future in (wrong, behind):
        with pytest.raises(ValueError, match="where 2 is due"):
            await future
    assert ledger.failure is None
    assert numbers(await ledger.read(bad, 0)) == [1]


async def test_a_session_begins_with_its_record(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        await ledger.append(Commit(key("unknown"), events=events("unknown", 1, 1)))
    assert await ledger.count() == 0


async def test_a_request_id_is_remembered_for_a_day(tmp_path: Path) -> None:
    now = 1_700_000_000.0
    async with Ledger(tmp_path, clock=lambda: now) as ledger:
        record = session()
        used = RequestId("alice", "r1", "f", record.session_id, "t1", "Execute", b"\x00\xff")
        await ledger.append(Commit(key_of(record), session=record, request_id=used))
        found = await ledger.request("alice", "r1")
        assert found is not None
        assert (found.fingerprint, found.response, found.create_time) == ("f", b"\x00\xff", round(now * 1e6))
        assert await ledger.request("bob", "r1") is None
        now += 86_399
        assert await ledger.request("alice", "r1") is not None
        now += 2
        assert await ledger.request("alice", "r1") is None


async def test_old_request_ids_are_swept(tmp_path: Path) -> None:
    now = 1_700_000_000.0
    async with Ledger(tmp_path, clock=lambda: now) as ledger:
        record = session()
        for number in range(3):
            used = RequestId("", str(number), "f", record.session_id, "", "Execute", b"")
            await ledger.append(Commit(key_of(record), session=record, request_id=used))
    async with Ledger(tmp_path, clock=lambda: now + 50_000):
        assert rows(tmp_path, "request_ids") == 3
    async with Ledger(tmp_path, clock=lambda: now + 90_000) as ledger:
        await until(lambda: rows(tmp_path, "request_ids") == 0)
        assert await ledger.count() == 1


async def test_a_cancelled_wait_does_not_undo_the_commit(ledger: Ledger) -> None:
    record = session()
    ledger.append(Commit(key_of(record), session=record)).cancel()
    await ledger.append(Commit(key_of(record), events=events(record.session_id, 1, 1)))
    assert await ledger.session(key_of(record)) is not None
