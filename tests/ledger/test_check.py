"""`fsck` is silent about a sound ledger and names each contradiction in another."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from agentpb import agent_pb2 as pb

from agent_service.ledger import Commit, Event, Ledger, Whole, fsck
from tests.ledger.logs import DORMANT, key, session


def sealed(payloads: list[pb.SessionEvent]) -> list[Event]:
    """A log of these events."""
    log = []
    for sequence, each in enumerate(payloads, 1):
        each.session_id, each.sequence = "s", sequence
        log.append(Event(sequence, each.type, each.SerializeToString(), None))
    return log


def moved(*places: tuple[int, int]) -> list[pb.SessionEvent]:
    """The events of a session that went from place to place."""
    found, before = [], (0, 0)
    for place in places:
        change = pb.StateChanged()
        change.from_state, change.from_phase = before  # type: ignore[assignment]
        change.state, change.phase = place  # type: ignore[assignment]
        found.append(pb.SessionEvent(type="state.changed", state_changed=change))
        before = place
    return found


@pytest.fixture
async def sound(tmp_path: Path) -> Path:
    """A ledger with one finished session and its turn."""
    turn = pb.Turn(turn_id="t", number=1, state=pb.TURN_STATE_COMPLETED, truncated_fields=["prompt"])
    whole = Whole("turn t", "prompt", pb.Turn(prompt="a long one").SerializeToString())
    record = session("s", place=DORMANT, turn_count=1, labels={"a": "b"}, message_count=1, last_sequence=5)
    log = [pb.SessionEvent(type="message.user"), *moved((1, 2), (2, 4), DORMANT)]
    log.append(pb.SessionEvent(type="turn.completed", turn_completed=pb.TurnCompleted(turn=turn)))
    async with Ledger(tmp_path) as ledger:
        await ledger.append(Commit(key("s"), sealed(log), record, [turn], wholes=[whole]))
        assert await ledger.check() == []
    return tmp_path


async def test_a_sound_ledger_has_no_problems(sound: Path) -> None:
    assert fsck(sound) == fsck(sound / "ledger.db") == []


RECORD = "UPDATE sessions SET record = ?"


def recorded(change: str) -> bytes:
    """The session's record with a contradiction."""
    record = session("s", place=DORMANT, turn_count=1, labels={"a": "b"}, message_count=1, last_sequence=5)
    if change == "rest":
        record.ClearField("rest_time")
    elif change == "error":
        record.error.message = "x"
    elif change == "pending":
        record.pending_interactions.add()
    elif change == "current":
        record.current_turn.number = 1
    elif change == "ahead":
        record.last_sequence = 9
    elif change == "turns":
        record.turn_count = 2
    elif change == "messages":
        record.message_count = 0
    return record.SerializeToString()


@pytest.mark.parametrize(
    ("sql", "parameters", "problem"),
    [
        ("DELETE FROM events WHERE sequence = 1", (), "event 2 follows event 0"),
        ("DELETE FROM events WHERE sequence = 3", (), "not in the state it is said to leave"),
        ("DELETE FROM events WHERE sequence = 4", (), "its last state.changed is not the state of its record"),
        ("DELETE FROM events WHERE sequence = 5", (), "0 events turn.completed"),
        ("UPDATE events SET body = x'ff' WHERE sequence = 1", (), "event 1 cannot be parsed"),
        ("UPDATE events SET type = 'stderr' WHERE sequence = 1", (), "says it is event 1, message.user"),
        ("DELETE FROM turns", (), "turn t has ended and is not stored"),
        ("UPDATE turns SET number = 2", (), "is number 2 where 1 is due"),
        ("DELETE FROM sessions", (), "5 rows of events belong to no session"),
        ("UPDATE sessions SET title = 'x'", (), "its columns differ"),
        ("DELETE FROM labels", (), "its labels differ"),
        ("DELETE FROM wholes", (), "prompt of turn t was cut, and its whole is missing"),
        ("UPDATE wholes SET body = x'ff'", (), "the whole of prompt of turn t cannot be parsed"),
        ("UPDATE wholes SET record = 'odd'", (), "the whole of prompt of odd cannot be parsed"),
        (RECORD, (recorded("rest"),), "at rest without a rest_time"),
        (RECORD, (recorded("error"),), "ERROR without an error"),
        (RECORD, (recorded("pending"),), "at rest with pending interactions"),
        (RECORD, (recorded("current"),), "at rest with a running turn"),
        (RECORD, (recorded("ahead"),), "knows event 9, the log ends at 5"),
        (RECORD, (recorded("turns"),), "counts 2 turns, 1 are stored"),
        (RECORD, (recorded("messages"),), "counts 0 messages, the log has 1"),
    ],
)
async def test_each_contradiction_is_named(sound: Path, sql: str, parameters: tuple[object, ...], problem: str) -> None:
    with closing(sqlite3.connect(sound / "ledger.db")) as db, db:
        db.execute(sql, parameters)
    assert any(problem in each for each in fsck(sound)), fsck(sound)
