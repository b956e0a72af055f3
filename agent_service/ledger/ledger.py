"""Ledger, what the service calls: it hands commits to the writer, questions to the readers, and wakes who watches."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from weakref import WeakValueDictionary

from agentpb import agent_pb2 as pb

from agent_service.errors import StoreUnavailable
from agent_service.ledger.commits import MESSAGES, Append, Commit, Job, RequestId, fail
from agent_service.ledger.sqlite import schema
from agent_service.ledger.sqlite.check import fsck
from agent_service.ledger.sqlite.file import FILE, backup, open_directory, unusable, value
from agent_service.ledger.sqlite.listing import Listing
from agent_service.ledger.sqlite.reader import (
    PageCursor,
    Readers,
    Stretch,
    read_events,
    read_page,
    read_responses,
    read_session,
)
from agent_service.ledger.sqlite.status_reader import StatusReader, StoredStatus, read_turn_at
from agent_service.ledger.sqlite.writer import REQUEST_ID_SECONDS, Writer
from agent_service.ledger.tail import BATCH_BYTES, BATCH_EVENTS, Event, Position, Tail

NO_LIMIT = 2**62

T = TypeVar("T")


class Messages(NamedTuple):
    """The newest messages of a session, oldest first, and whether there are older ones."""

    events: list[Event]
    truncated: bool


class Ledger:
    """The ledger of one service; the directory is its own while it is open."""

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Use `directory`, which is made when it is missing."""
        self._directory = directory
        self._clock = clock
        self._tails: WeakValueDictionary[str, Tail] = WeakValueDictionary()
        self._failed = asyncio.Event()
        self._closed = True
        self._lock: int
        self._writer: Writer
        self._readers: Readers
        self._standings: StatusReader

    async def __aenter__(self) -> Self:
        """Open the ledger. Raises LedgerUnusable."""
        await asyncio.to_thread(self._open)
        self._closed = False
        self._writer.start(asyncio.get_running_loop(), self._committed)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what waits, then close."""
        self._closed = True
        await self._standings.finished()
        await asyncio.to_thread(self._close)

    # ------------------------------------------------------------------------------------------------------- writing

    def append(self, commit: Commit) -> asyncio.Future[None]:
        """Hand a commit to the writer; the future is done when it is durable, or has StoreUnavailable.

        The order of calls is the order in the log. Records are serialized at once. Raises ValueError when the events do
        not continue the session's log.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        tail = self.tail(commit.session_id)
        item = Append.of(commit, tail, future, self._now())
        if self.failure is not None or tail.broken is not None:
            fail(future, tail.broken or self._unavailable())
            return future
        tail.append(commit.events)
        self._put(item)
        return future

    def publish(self, session_id: str, event: Event) -> None:
        """Show an ephemeral event to those who watch, behind everything appended before it."""
        self.tail(session_id).publish(event)

    async def delete(self, session_id: str) -> int | None:
        """Delete a session and wake its watchers; the bytes its events took, or None when there is none.

        It is gone at once and as a whole; its rows are swept little by little. Its request ids stay.
        """
        size = await self._readers.run(lambda db: value(db, schema.SIZE, session_id, session_id))
        tail = self.tail(session_id)
        if not await self._job(lambda: self._writer.bury(tail)):
            return None
        self._tails.pop(session_id, None)
        tail.delete()
        return size or 0

    def _put(self, item: Append | Job[Any]) -> None:
        if self._closed:
            raise RuntimeError("the ledger is not open")
        self._writer.queue.put(item)

    async def _job(self, run: Callable[[], T]) -> T:
        if self.failure is not None:
            raise self._unavailable()
        job: Job[T] = Job(run, asyncio.get_running_loop().create_future())
        self._put(job)
        return await job.future

    def _committed(self, group: Sequence[Append | Job[Any]], failure: Exception | None) -> None:
        """Show a group that is durable, or fail it. Called once per group, on the loop."""
        if failure is not None:
            self._failed.set()
            for item in group:
                fail(item.future, self._unavailable())
            return
        ends = {item.tail: item.last for item in group if isinstance(item, Append) and item.last and not item.refused}
        for tail, last in ends.items():
            tail.settle(last)
        for item in group:
            item.resolve()

    # --------------------------------------------------------------------------------------------------- the live end

    def tail(self, session_id: str) -> Tail:
        """The live end of a session's log, for its writer and its watchers; it lasts while somebody holds it."""
        tail = self._tails.get(session_id)
        if tail is None:
            tail = self._tails[session_id] = Tail(session_id)
        return tail

    def cursor(self, session_id: str, after_sequence: int) -> Position:
        """Where a reader begins that knows the log up to `after_sequence`."""
        return Position(after_sequence)

    async def follow(
        self,
        session_id: str,
        position: Position,
        *,
        types: Sequence[str] = (),
        partials: bool = True,
        limit: int = BATCH_EVENTS,
        max_bytes: int = BATCH_BYTES,
        with_raw: bool = False,
    ) -> tuple[list[bytes], Position]:
        """Return what is visible past a position as contents of responses, and the position behind them.

        At the live end it answers from memory with one response. From the table come several, since a read of it is two
        hops between threads; all of them have `max_bytes` at most. None means there is nothing yet: wait for the tail's
        `changed`, fetched before this call.
        """
        tail = self.tail(session_id)
        while True:
            if tail.last_sequence is None and not tail.deleted:
                tail.learn(await self.last_sequence(session_id))
            found = tail.batch(
                position, types=types, partials=partials, limit=limit, max_bytes=max_bytes, with_raw=with_raw
            )
            if found is not None:
                return [found[0]] if found[0] else [], found[1]
            end = tail.last_sequence or 0
            if position.sequence >= end:
                return [], position
            stretch = Stretch(session_id, position.sequence, end, tuple(types), with_raw)
            responses, last = await self._responses(stretch, limit, max_bytes)
            position = Position(last)
            if responses:
                return responses, position

    def wake_all(self) -> None:
        """Wake every watcher, so that it looks whether to go on."""
        for tail in list(self._tails.values()):
            tail.wake()

    # ------------------------------------------------------------------------------------------------------- reading

    async def read(
        self,
        session_id: str,
        after_sequence: int,
        *,
        limit: int = BATCH_EVENTS,
        max_bytes: int = BATCH_BYTES,
        types: Sequence[str] = (),
        newest_first: bool = False,
        before_sequence: int | None = None,
        with_raw: bool = False,
    ) -> list[Event]:
        """Stored events past `after_sequence` and before `before_sequence`; at least one if there is any.

        `types` are exact ones such as "rate_limit", or families such as "task.*".
        """
        query = schema.events_query(
            session_id,
            after=after_sequence,
            before=before_sequence,
            types=types,
            newest_first=newest_first,
            with_raw=with_raw,
        )
        events, _ = await self._stored(query, limit, max_bytes)
        return events

    async def messages(self, session_id: str, limit: int, max_bytes: int = BATCH_BYTES) -> Messages:
        """The newest messages of user and assistant, oldest first."""
        query = schema.events_query(session_id, types=MESSAGES, newest_first=True)
        events, whole = await self._stored(query, limit, max_bytes)
        return Messages(events[::-1], not whole)

    async def last_sequence(self, session_id: str) -> int:
        """The last durable event's sequence; 0 when there is none."""
        return await self._readers.run(lambda db: value(db, schema.LAST_SEQUENCE, session_id)) or 0

    async def log_counts(self, session_id: str) -> tuple[int, int]:
        """The last sequence and how many messages there are, counted in the log itself."""
        row = await self._readers.run(lambda db: db.execute(schema.LOG_COUNTS, (session_id,)).fetchone())
        return row[0], row[1]

    async def session(self, session_id: str) -> pb.Session | None:
        """A session as it is stored, secrets included."""
        rows = await self._rows(schema.SESSION, session_id)
        return read_session(*rows[0]) if rows else None

    async def turn(self, turn_id: str) -> pb.Turn | None:
        """A turn as it is stored."""
        rows = await self._rows(schema.TURN, turn_id)
        return pb.Turn.FromString(rows[0][0]) if rows else None

    async def turns(self, session_id: str, states: Sequence[pb.TurnState.ValueType] = ()) -> list[pb.Turn]:
        """A session's turns by number; only those in one of `states`, if any are given."""
        rows = await self._rows(schema.TURNS, session_id)
        return [pb.Turn.FromString(record) for state, record in rows if not states or state in states]

    async def turn_request(self, turn_id: str) -> pb.ExecuteRequest | None:
        """What an unfinished turn was asked for; it is not kept longer than that."""
        rows = await self._rows(schema.TURN_REQUEST, turn_id)
        return pb.ExecuteRequest.FromString(rows[0][0]) if rows else None

    async def standing(self, session_id: str) -> StoredStatus | None:
        """A session as it is stored, and its turn: at rest the one that brought it there. Made to be asked often."""
        return await self._standings.ask(session_id)

    async def turn_at(self, session_id: str, sequence: int) -> pb.Turn | None:
        """The turn in which a session was, or that had brought it to rest, right after an event."""
        return await self._readers.run(lambda db: read_turn_at(db, session_id, sequence))

    async def sessions(
        self,
        wanted: pb.SessionFilter,
        order: pb.SessionOrder.ValueType,
        *,
        owner: str | None,
        after: PageCursor | None = None,
        limit: int = 50,
        max_bytes: int = BATCH_BYTES,
    ) -> tuple[list[pb.Session], PageCursor | None]:
        """A page of sessions and where the next one begins; of every owner when `owner` is None.

        Pages by time of creation neither repeat nor leave out a session that is there all the while. Pages by time of
        update leave out what moves to the front meanwhile.
        """
        listing = Listing(wanted, owner, order)
        place = (after[0], int(after[1])) if after is not None else None
        return await self._readers.run(lambda db: read_page(db, listing, place, limit, max_bytes))

    async def at_rest_since(
        self, cutoff: int, wanted: pb.SessionFilter, owner: str | None, limit: int | None = None
    ) -> list[str]:
        """Ids of sessions at rest since `cutoff` (microseconds) or longer, longest first."""
        query = Listing(wanted, owner).at_rest(cutoff, limit or NO_LIMIT)
        return [row[0] for row in await self._rows(query.sql, *query.parameters)]

    async def expired(self, now: int, cutoff: int | None, limit: int) -> list[tuple[str, str]]:
        """Id and owner of sessions past their own expire_time, and of those without one at rest since `cutoff`."""
        rows = await self._rows(schema.EXPIRED, now, limit)
        if cutoff is not None and len(rows) < limit:
            rows += await self._rows(schema.OUTSTAYED, cutoff, limit - len(rows))
        return [(session_id, owner) for session_id, owner in rows]

    async def unfinished(self) -> list[pb.Session]:
        """Sessions in state PENDING or RUNNING, and warm ones (phase IDLE), oldest first: what a crash left."""
        return [read_session(*row) for row in await self._rows(schema.UNFINISHED)]

    async def request(self, owner: str, request_id: str) -> RequestId | None:
        """What a request id was used for in the last 24 hours."""
        oldest = self._now() - REQUEST_ID_SECONDS * 1_000_000
        rows = await self._rows(schema.REQUEST_ID, owner, request_id, oldest)
        return RequestId(*rows[0]) if rows else None

    async def count(self) -> int:
        """How many sessions are stored."""
        known = self._writer.sessions
        return known if known is not None else await self._job(self._writer.count)

    async def _stored(self, query: schema.BatchQuery, limit: int, max_bytes: int) -> tuple[list[Event], bool]:
        return await self._readers.run(lambda db: read_events(db, query, limit, max_bytes))

    async def _responses(self, stretch: Stretch, limit: int, max_bytes: int) -> tuple[list[bytes], int]:
        return await self._readers.run(lambda db: read_responses(db, stretch, limit, max_bytes))

    async def _rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        return await self._readers.run(lambda db: db.execute(sql, parameters).fetchall())

    # -------------------------------------------------------------------------------------------------------- health

    @property
    def failure(self) -> Exception | None:
        """Why nothing can be written any more; None while all is well."""
        return self._writer.failure

    async def wait_failed(self) -> None:
        """Return when the ledger has failed: it is time to go down."""
        await self._failed.wait()

    def statistics(self) -> dict[str, int]:
        """What was written since the start, and what waits."""
        writer = self._writer
        return {
            "commits": writer.commits,
            "groups": writer.groups,
            "events": writer.events,
            "bytes": writer.bytes,
            "queued": writer.queue.qsize(),
            "tails": len(self._tails),
            "deletions": len(writer.dead),
            "failed": int(writer.failure is not None),
        }

    async def backup(self, path: Path) -> None:
        """Copy the ledger as it is now into a new file, while it is in use."""
        await asyncio.to_thread(backup, self._directory / FILE, path)

    async def check(self) -> list[str]:
        """Look for contradictions, as `fsck` does, while it is in use."""
        return await asyncio.to_thread(fsck, self._directory)

    def _unavailable(self) -> StoreUnavailable:
        return StoreUnavailable(f"the ledger cannot be written: {self.failure}")

    def _now(self) -> int:
        return round(self._clock() * 1_000_000)

    # ---------------------------------------------------------------------------------------------- opening and closing

    def _open(self) -> None:
        self._lock, db = open_directory(self._directory)
        try:
            self._writer = Writer(db, self._clock)
        except sqlite3.Error as error:
            db.close()
            os.close(self._lock)
            raise unusable(self._directory / FILE, error) from error
        self._readers = Readers(self._directory / FILE)
        self._standings = StatusReader(self._readers)

    def _close(self) -> None:
        self._writer.stop()
        self._readers.close()
        os.close(self._lock)
