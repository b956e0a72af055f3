"""StatusReader: reads a session's record together with its turn, many sessions in one query.

A hop to another thread costs more than the reading, so all questions that come during a read share the next one.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from itertools import chain
from operator import add
from typing import NamedTuple

from agentpb import agent_pb2 as pb

from agent_service.ledger.commits import fail
from agent_service.ledger.sqlite import schema
from agent_service.ledger.sqlite.file import snapshot, value
from agent_service.ledger.sqlite.reader import Readers, read_session
from agent_service.ledger.store import StoredStatus
from agent_service.ledger.tail import SessionKey

MOST = max(schema.STANDINGS)
"""Sessions in one read, at most."""
CROWD = 4
"""Batch size from which more questions are assumed to be about to arrive."""
LINGER = 0.002
"""Seconds that a crowd is waited for: two hops between threads for each of four cost more than two for all of them."""


class _Question(NamedTuple):
    session: SessionKey
    answer: asyncio.Future[StoredStatus | None]


class StatusReader:
    """Answers questions for the status of sessions, in batches."""

    def __init__(self, readers: Readers) -> None:
        """Read by `readers`."""
        self._readers = readers
        self._asked: list[_Question] = []
        self._answering: asyncio.Task[None] | None = None
        self._crowded = False

    async def ask(self, session: SessionKey) -> StoredStatus | None:
        """A session and its turn, as of some moment after the call. Raises StoreUnavailable."""
        answer: asyncio.Future[StoredStatus | None] = asyncio.get_running_loop().create_future()
        self._asked.append(_Question(session, answer))
        if self._answering is None:
            self._answering = asyncio.create_task(self._answer_all(), name="ledger standings")
        return await answer

    async def finished(self) -> None:
        """Wait until all who asked have been answered."""
        if self._answering is not None:
            await self._answering

    async def _answer_all(self) -> None:
        try:
            while self._asked:
                if self._crowded and len(self._asked) < MOST:
                    await asyncio.sleep(LINGER)
                asked, self._asked = self._asked[:MOST], self._asked[MOST:]
                self._crowded = len(asked) >= CROWD
                await self._answer([each for each in asked if not each.answer.done()])
        finally:
            self._answering = None

    async def _answer(self, asked: Sequence[_Question]) -> None:
        keys = [each.session for each in asked]
        try:
            found = await self._readers.run(lambda db: read_standings(db, keys)) if keys else {}
        except Exception as error:  # noqa: BLE001 - whatever it is, those who asked must hear of it
            for each in asked:
                fail(each.answer, error)
            return
        for each in asked:
            if not each.answer.done():
                each.answer.set_result(found.get(each.session))


def read_standings(db: sqlite3.Connection, keys: Sequence[SessionKey]) -> dict[SessionKey, StoredStatus]:
    """Read where sessions stand, up to `MOST` of them."""
    wanted = next(count for count in schema.STANDINGS if count >= len(keys))
    named = (*chain.from_iterable(keys), *("", "") * (wanted - len(keys)))  # no session has an empty id
    with snapshot(db):
        notes, *blobs = db.execute(schema.STANDINGS[wanted], named).fetchone()
        fields = iter(notes.split(" ") if notes is not None else ())
        ends = [0] * len(blobs)
        found = {}
        for noted in zip(*[fields] * 10, strict=True):
            place, key, last, since, change, moved, *sizes = map(int, noted)
            ends = list(map(add, ends, sizes))
            record, *rest = (blob[end - size : end] for blob, end, size in zip(blobs, ends, sizes, strict=True))
            session = read_session(record, last, since, change)
            at_work = session.HasField("current_turn")
            turn = session.current_turn if at_work else _turn(db, key, moved, *rest)
            found[keys[place]] = StoredStatus(session, turn)
    return found


def read_turn_at(db: sqlite3.Connection, session: SessionKey, sequence: int) -> pb.Turn | None:
    """Read the turn of a session as it stood right after an event."""
    with snapshot(db):
        key = value(db, schema.KEY, *session)
        moved, move = _move_before(db, key, sequence + 1)
        return _turn(db, key, moved, move, b"", value(db, schema.LAST_TURN, *session) or b"")


def _turn(db: sqlite3.Connection, key: int, moved: int, move: bytes, before: bytes, newest: bytes) -> pb.Turn | None:
    """The turn that the last move names, or the one before: a move to where no turn brought it names none."""
    turn_id = _turn_id(move) or _turn_id(before)
    if not turn_id and moved:
        turn_id = _turn_id(_move_before(db, key, moved)[1])
    turn = pb.Turn.FromString(newest) if newest else None
    if turn is None or turn_id in ("", turn.turn_id):
        return turn
    named = value(db, schema.TURN, turn_id)
    return pb.Turn.FromString(named) if named is not None else None


def _move_before(db: sqlite3.Connection, key: int | None, sequence: int) -> tuple[int, bytes]:
    found: tuple[int, bytes] | None = db.execute(schema.MOVE_BEFORE, (key, sequence)).fetchone()
    return found or (0, b"")


def _turn_id(move: bytes) -> str:
    return pb.SessionEvent.FromString(move).turn_id
