"""Reading the ledger's file: threads with connections of their own, and batches of rows."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from operator import add
from pathlib import Path
from typing import NamedTuple, TypeVar

from agentpb import agent_pb2 as pb

from agent_service.errors import StoreUnavailable
from agent_service.events import heads, response_bytes
from agent_service.ledger.sqlite import schema
from agent_service.ledger.sqlite.file import connect, snapshot, value
from agent_service.ledger.sqlite.listing import Condition, Listing
from agent_service.ledger.store import EventQuery, PageCursor, Stretch
from agent_service.ledger.tail import Event

log = logging.getLogger(__name__)

READERS = 4
RESPONSES = 4
"""Responses in one read, at most: a read is two hops between threads."""
SMALL = (1 << 14) - 1
"""Bytes of an event that SQLite joins to others, at most: their length takes two bytes."""
FEW = 2000
"""Number of sessions below which a page is made by looking at each that meets a condition."""
NULL = "-1"
"""The size that stands for NULL."""

T = TypeVar("T")


class Readers:
    """A few threads, each with a read-only connection of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="ledger-reader")

    async def run(self, read: Callable[[sqlite3.Connection], T]) -> T:
        """Read in a thread. Raises StoreUnavailable."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, read)

    def close(self) -> None:
        """Wait for the threads and close their connections."""
        self._threads.shutdown()
        for db in self._connections:
            db.close()

    def _read(self, read: Callable[[sqlite3.Connection], T]) -> T:
        try:
            db: sqlite3.Connection | None = getattr(self._local, "db", None)
            if db is None:
                db = self._local.db = connect(self._path, read_only=True)
                self._connections.append(db)
            return read(db)
        except sqlite3.Error as error:
            log.exception("the ledger cannot be read")
            raise StoreUnavailable(f"the ledger cannot be read: {error}") from error


class _Batch(NamedTuple):
    """Rows of a query, column by column, and whether that was all there is."""

    notes: list[list[str]]
    bodies: list[bytes]
    raws: list[bytes | None]
    whole: bool


def _batch(db: sqlite3.Connection, query: schema.BatchQuery, limit: int, max_bytes: int) -> _Batch:
    """Read the rows of a query up to `limit` and `max_bytes`, at least one if there is any.

    Every step of a statement gives up the interpreter's lock, and under load waits 5 ms to get it back; for 256 rows
    that is a second. So rows are not stepped through: SQLite joins them into one. Their sizes come first.
    """
    with snapshot(db):
        columns = db.execute(query.notes, (*query.parameters, limit + 1)).fetchone()
        if columns[0] is None:
            return _Batch([[] for _ in columns[2:]], [], [], True)
        body_sizes, raw_sizes, *notes = (column.split(" ") for column in columns)
        body_ends = list(accumulate(map(int, body_sizes)))
        raw_ends = list(accumulate(0 if size == NULL else int(size) for size in raw_sizes))
        fitting = max(1, bisect_right(list(map(add, body_ends, raw_ends)), max_bytes))
        fitting = min(fitting, limit)
        bodies, raws = db.execute(query.blobs, (*query.parameters, fitting)).fetchone()
    return _Batch(
        [note[:fitting] for note in notes],
        _sliced(bodies, body_ends[:fitting]),
        [
            None if size == NULL else raw
            for size, raw in zip(raw_sizes, _sliced(raws, raw_ends[:fitting]), strict=False)
        ],
        fitting == len(body_ends),
    )


def _sliced(joined: bytes, ends: Sequence[int]) -> list[bytes]:
    return [joined[start:end] for start, end in pairwise((0, *ends))]


def read_events(db: sqlite3.Connection, query: EventQuery, limit: int, max_bytes: int) -> tuple[list[Event], bool]:
    """Read a batch of events, and whether that was all there is."""
    (sequences, types), bodies, raws, whole = _batch(db, schema.events_query(query), limit, max_bytes)
    return list(map(Event, map(int, sequences), types, bodies, raws)), whole


def read_responses(db: sqlite3.Connection, asked: Stretch, limit: int, max_bytes: int) -> tuple[list[bytes], int]:
    """Read a stretch as contents of responses, each of at most `limit` events, all of at most `max_bytes`.

    Then the sequence up to which that is all there is. There is at least one event if the stretch has any.
    """
    if not asked.types and not asked.with_raw:
        responses, after = _read_joined(db, asked, limit, max_bytes)
        if responses:
            return responses, after
    query = EventQuery(asked.session, asked.after, asked.last + 1, asked.types, with_raw=asked.with_raw)
    events, whole = read_events(db, query, limit, max_bytes)
    response = response_bytes(event.sent(asked.with_raw) for event in events)
    return [response] if events else [], asked.last if whole else events[-1].sequence


def _read_joined(db: sqlite3.Connection, asked: Stretch, limit: int, max_bytes: int) -> tuple[list[bytes], int]:
    """Let SQLite join responses, which gives up the interpreter's lock, up to the first one with too large an event."""
    responses: list[bytes] = []
    after = asked.after
    while after < asked.last and len(responses) < RESPONSES:
        last = min(after + limit, asked.last)
        place = {"after": after, "last": last, "most": SMALL, "heads": heads(SMALL), **asked.session._asdict()}
        count, size, largest, joined = db.execute(schema.JOINED, place).fetchone()
        if count != last - after or largest > SMALL or size > max_bytes:
            break
        responses.append(joined)
        after, max_bytes = last, max_bytes - size
    return responses, after


def read_page(
    db: sqlite3.Connection, listing: Listing, after: tuple[int, int] | None, limit: int, max_bytes: int
) -> tuple[list[pb.Session], PageCursor | None]:
    """Read a page of sessions, and where the next one begins."""
    query = listing.page(narrowest(db, listing), after, limit)
    (times, keys, *counts), bodies, _, whole = _batch(db, query, limit, max_bytes)
    sessions = _sessions(bodies, counts)
    return sessions, None if whole else (int(times[-1]), keys[-1])


def narrowest(db: sqlite3.Connection, listing: Listing) -> Condition | None:
    """The condition to begin with: the one that fewest sessions meet, or whose index has them in order."""
    conditions = listing.conditions()
    in_order = next((each for each in conditions if listing.follows(each)), None)
    if len(conditions) == 1 and in_order is not None:
        return in_order
    fewest, best = FEW, in_order
    for condition in conditions:
        keys = condition.keys()
        count = value(db, f"SELECT COUNT(*) FROM ({keys.sql} LIMIT {FEW}) AS n", *keys.parameters)
        if count < fewest:
            fewest, best = count, condition
    return best


def read_changes(db: sqlite3.Connection, after: int, limit: int, max_bytes: int) -> list[pb.Session]:
    """Read the sessions with a change number greater than `after`, by number."""
    counts, bodies, _, _ = _batch(db, schema.changes_query(after), limit, max_bytes)
    return _sessions(bodies, counts)


def _sessions(bodies: Sequence[bytes], counts: Sequence[Sequence[str]]) -> list[pb.Session]:
    return list(map(read_session, bodies, *(map(int, column) for column in counts)))


def read_session(record: bytes, last_sequence: int, messages_since: int, change: int) -> pb.Session:
    """Make a session of its row. Its body was serialized before it was written, so columns go before its fields."""
    session = pb.Session.FromString(record)
    session.last_sequence = last_sequence
    session.message_count += messages_since
    session.change = change
    if not session.workspace_id:  # stored before there was such a field
        session.workspace_id = session.agent_session_id
    return session
