"""Where a session stands is its record and the turn that brought it there, however many ask at once."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from agentpb import agent_pb2 as pb

from agent_service.errors import StoreUnavailable
from agent_service.ledger import Commit, Event, Ledger, SessionKey
from agent_service.ledger.sqlite import status_reader
from agent_service.ledger.sqlite.status_reader import StoredStatus, read_standings
from tests.ledger.logs import DORMANT, WORKING, begin, event, key, session


def move(session_id: str, sequence: int, turn_id: str = "") -> Event:
    """A change of state, with the turn that brought it about, if any did."""
    body = pb.SessionEvent(session_id=session_id, sequence=sequence, type="state.changed", turn_id=turn_id)
    return Event(sequence, "state.changed", body.SerializeToString(), None)


async def stored(ledger: Ledger, log: Sequence[str], turns: Sequence[str], session_id: str = "s") -> SessionKey:
    """Store a session at rest: its moves, by the turns they name, "…" for another event; its turns in order."""
    events = [
        event(session_id, number) if turn == "…" else move(session_id, number, turn and f"{turn} of {session_id}")
        for number, turn in enumerate(log, 1)
    ]
    records = [
        pb.Turn(turn_id=f"{turn} of {session_id}", number=number, state=pb.TURN_STATE_COMPLETED, prompt=turn)
        for number, turn in enumerate(turns, 1)
    ]
    await ledger.append(Commit(key(session_id), events, session(session_id, place=DORMANT), records))
    return key(session_id)


@pytest.mark.parametrize(
    ("log", "turns", "shown"),
    [
        (["a", "…", "a"], ["a"], "a"),
        (["a", "…", "a"], ["a", "b"], "a"),  # b was cancelled in the queue
        (["a", "…", "b"], ["a", "b"], "b"),
        (["a", "b", ""], ["a", "b", "c"], "b"),  # it gave up its process, which no turn did
        (["a", "b", "…", "…", ""], ["a", "b", "c"], "b"),  # the process said something more
        (["a", "gone"], ["a"], None),
        (["", ""], ["a", "b"], "b"),
        ([], ["a"], "a"),
        (["a"], [], None),
        ([], [], None),
    ],
)
async def test_the_turn_is_the_one_that_brought_it_there(
    ledger: Ledger, log: list[str], turns: list[str], shown: str | None
) -> None:
    session_id = await stored(ledger, log, turns)
    standing = await ledger.standing(session_id)
    assert standing is not None
    assert standing.session == await ledger.session(session_id)
    assert (standing.turn.prompt if standing.turn is not None else None) == shown
    assert standing.turn == await ledger.turn_at(session_id, len(log))


async def test_a_session_at_work_stands_in_its_current_turn(ledger: Ledger) -> None:
    record = session("s", place=WORKING)
    record.current_turn.turn_id = "now"
    await begin(ledger, record)
    standing = await ledger.standing(key("s"))
    assert standing is not None
    assert standing.turn == record.current_turn


async def test_the_past_has_its_own_turn(ledger: Ledger) -> None:
    await stored(ledger, ["a", "…", "a", "b", "…", ""], ["a", "b"])
    for sequence, turn in ((1, "a"), (3, "a"), (4, "b"), (6, "b")):
        found = await ledger.turn_at(key("s"), sequence)
        assert found is not None
        assert found.prompt == turn


async def test_many_who_ask_at_once_get_each_their_own(ledger: Ledger) -> None:
    names = [await stored(ledger, ["t"], ["t"], str(n)) for n in range(100)]
    others = [key(name) for name in ("nobody", "no\0body", "no body", "")]
    wanted = [*names, *others, *names[:50], key("1", owner="another")]
    found = await asyncio.gather(*(ledger.standing(name) for name in wanted))
    shown = [(each.session.session_id, each.turn and each.turn.turn_id) if each else None for each in found]
    assert shown == [(name.session_id, f"t of {name.session_id}") if name in names else None for name in wanted]


async def test_a_crowd_is_answered_together(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []

    def counting(db: sqlite3.Connection, ids: Sequence[SessionKey]) -> dict[SessionKey, StoredStatus]:
        reads.append(len(ids))
        return read_standings(db, ids)

    async def ask_often(number: int) -> None:
        for _ in range(20):
            await asyncio.sleep(number / 16_000)
            assert await ledger.standing(key(str(number))) is not None

    monkeypatch.setattr(status_reader, "read_standings", counting)
    for number in range(32):
        await stored(ledger, [], [], str(number))
    await asyncio.gather(*map(ask_often, range(32)))
    assert sum(reads) == 32 * 20
    assert len(reads) <= 32 * 20 / 8


async def test_who_asks_alone_waits_for_nobody(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    await stored(ledger, [], [])
    monkeypatch.setattr(status_reader, "LINGER", 3600.0)
    for _ in range(3):
        assert await asyncio.gather(ledger.standing(key("s")), ledger.standing(key("s")), ledger.standing(key("s")))


async def test_what_was_acknowledged_is_shown_to_whoever_asks_after_that(ledger: Ledger) -> None:
    async def write_and_ask(name: str) -> None:
        record = session(name)
        for number in range(1, 30):
            record.message_count = number
            await ledger.append(Commit(key(name), [event(name, number)], record))
            standing = await ledger.standing(key(name))
            assert standing is not None
            assert standing.session.last_sequence == number

    await asyncio.gather(*(write_and_ask(f"s{number}") for number in range(20)))


async def test_who_gives_up_asking_does_not_keep_others_from_their_answer(ledger: Ledger) -> None:
    names = [await stored(ledger, [], [], str(n)) for n in range(50)]
    asking = [asyncio.create_task(ledger.standing(name)) for name in names]
    await asyncio.sleep(0)
    for task in asking[::2]:
        task.cancel()
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert [isinstance(each, asyncio.CancelledError) for each in found] == [True, False] * 25
    assert await ledger.standing(key("0")) is not None


async def test_all_who_ask_learn_that_it_cannot_be_read(ledger: Ledger, tmp_path: Path) -> None:
    await stored(ledger, [], [])
    os.truncate(tmp_path / "data" / "ledger.db-wal", 0)
    os.truncate(tmp_path / "data" / "ledger.db", 0)
    for _ in range(2):
        found = await asyncio.gather(*(ledger.standing(key("s")) for _ in range(50)), return_exceptions=True)
        assert [type(each) for each in found] == [StoreUnavailable] * 50
