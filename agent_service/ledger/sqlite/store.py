"""SqliteStore: the ledger's store in one file of SQLite. One thread writes; a few threads read."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from agentpb import agent_pb2 as pb

from agent_service.ledger import directory as directories
from agent_service.ledger.commits import Append, Job, RequestId, fail
from agent_service.ledger.sqlite import schema
from agent_service.ledger.sqlite.check import fsck
from agent_service.ledger.sqlite.counting import read_counts
from agent_service.ledger.sqlite.file import FILE, backup, open_file, unusable, value
from agent_service.ledger.sqlite.generation import Generation
from agent_service.ledger.sqlite.listing import Listing
from agent_service.ledger.sqlite.reader import (
    Readers,
    read_changes,
    read_events,
    read_page,
    read_responses,
    read_session,
)
from agent_service.ledger.sqlite.status_reader import StatusReader, read_turn_at
from agent_service.ledger.sqlite.writer import Writer
from agent_service.ledger.store import (
    Counted,
    EventQuery,
    GroupBy,
    LedgerUnusable,
    OnGroup,
    OnObstruction,
    PageCursor,
    StoredStatus,
    Stretch,
    unavailable,
)
from agent_service.ledger.tail import Event, SessionKey, Tail

T = TypeVar("T")


class SqliteStore:
    """The store of one service, in a directory of its own. Implements Store."""

    def __init__(self, directory: Path, *, clock: Callable[[], float]) -> None:
        """Use `directory`, which is made when it is missing; `clock` gives seconds since 1970."""
        self._directory = directory
        self._clock = clock
        self._closed = True
        self._lock: int
        self._writer: Writer
        self._readers: Readers
        self._standings: StatusReader

    # ---------------------------------------------------------------------------------------------- opening and closing

    async def open(self, on_group: OnGroup, on_obstruction: OnObstruction = lambda obstructed: None) -> None:
        """Lock the directory, open the file and bring it to this version. Raises LedgerUnusable."""
        await asyncio.to_thread(self._open)
        self._closed = False
        self._writer.start(asyncio.get_running_loop(), on_group, on_obstruction)

    def _open(self) -> None:
        self._lock = directories.take(self._directory)
        try:
            self._open_file(self._directory / FILE)
        except BaseException:
            os.close(self._lock)
            raise

    def _open_file(self, path: Path) -> None:
        generation = Generation(self._directory)
        db = open_file(path)
        try:
            self._writer = Writer(db, self._clock, generation)
        except (OSError, sqlite3.Error) as error:
            db.close()
            raise unusable(path, error) from error
        except LedgerUnusable:
            db.close()
            raise
        self._readers = Readers(path)
        self._standings = StatusReader(self._readers)

    async def close(self) -> None:
        """Write all commits that were put, then close."""
        self._closed = True
        await self._standings.finished()
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._writer.stop()
        self._readers.close()
        self._writer.close()
        os.close(self._lock)

    # ------------------------------------------------------------------------------------------------------- writing

    def put(self, item: Append) -> None:
        """Write a commit in the order of the calls. Raises RuntimeError when the store is not open."""
        self._put(item)

    def remember(self, request_id: RequestId) -> asyncio.Future[None]:
        """Write a request id in its place among the commits."""
        return self._submit(lambda: self._writer.remember(request_id))

    async def bury(self, tail: Tail, request_id: RequestId | None = None) -> bool:
        """Delete a session's record at once, and its other rows little by little; False when there is none."""
        return await self._job(lambda: self._writer.bury(tail, request_id))

    @property
    def failure(self) -> Exception | None:
        """The error that ended all writing; None while the store works."""
        return self._writer.failure

    @property
    def last_written(self) -> int:
        """The time until which the file was open before, in microseconds; 0 when that is not known."""
        return self._writer.last_written

    def _put(self, item: Append | Job[Any]) -> None:
        if self._closed:
            raise RuntimeError("the ledger is not open")
        self._writer.queue.put(item)

    async def _job(self, run: Callable[[], T]) -> T:
        return await self._submit(run)

    def _submit(self, run: Callable[[], T]) -> asyncio.Future[T]:
        job: Job[T] = Job(run, asyncio.get_running_loop().create_future())
        if self.failure is not None:
            fail(job.future, unavailable(self.failure))
        else:
            self._put(job)
        return job.future

    # -------------------------------------------------------------------------------------------------- one session

    async def session(self, key: SessionKey) -> pb.Session | None:
        """A session as it is stored, secrets included."""
        rows = await self._rows(schema.SESSION, *key)
        return read_session(*rows[0]) if rows else None

    async def standing(self, key: SessionKey) -> StoredStatus | None:
        """A session and its turn; questions of one moment share a read."""
        return await self._standings.ask(key)

    async def size(self, key: SessionKey) -> int:
        """Bytes of a session's events and of what was cut in its records."""
        return await self._value(schema.SIZE, *key, *key) or 0

    async def last_sequence(self, key: SessionKey) -> int:
        """The sequence of a session's last event; 0 without events."""
        return await self._value(schema.LAST_SEQUENCE, *key) or 0

    async def log_counts(self, key: SessionKey) -> tuple[int, int]:
        """The last sequence and the number of messages, counted in the log itself."""
        last, messages = (await self._rows(schema.LOG_COUNTS, *key))[0]
        return last, messages

    async def events(self, query: EventQuery, limit: int, max_bytes: int) -> tuple[list[Event], bool]:
        """Events, at least one if there is any, and whether these are all."""
        return await self._readers.run(lambda db: read_events(db, query, limit, max_bytes))

    async def responses(self, stretch: Stretch, limit: int, max_bytes: int) -> tuple[list[bytes], int]:
        """Events as contents of responses of at most `limit` each, and the sequence up to which that is all."""
        return await self._readers.run(lambda db: read_responses(db, stretch, limit, max_bytes))

    async def turn(self, turn_id: str) -> pb.Turn | None:
        """A turn as it is stored."""
        record = await self._value(schema.TURN, turn_id)
        return pb.Turn.FromString(record) if record is not None else None

    async def turns(self, key: SessionKey, states: Sequence[pb.TurnState.ValueType]) -> list[pb.Turn]:
        """A session's turns by number; only those in one of `states`, if any are given."""
        rows = await self._rows(schema.TURNS, *key)
        return [pb.Turn.FromString(record) for state, record in rows if not states or state in states]

    async def turn_of(self, key: SessionKey, turn_id: str) -> pb.Turn | None:
        """A turn of this session as it is stored."""
        record = await self._value(schema.TURN_OF, *key, turn_id)
        return pb.Turn.FromString(record) if record is not None else None

    async def whole(self, key: SessionKey, record: str, field: str) -> bytes | None:
        """A field that was cut in a record; None when it was not."""
        body: bytes | None = await self._value(schema.WHOLE, *key, record, field)
        return body

    async def raw(self, key: SessionKey, sequence: int) -> bytes | None:
        """The agent's own message of an event, whole."""
        raw: bytes | None = await self._value(schema.RAW, *key, sequence)
        return raw

    async def turn_at(self, key: SessionKey, sequence: int) -> pb.Turn | None:
        """The turn in which a session was, or that had brought it to rest, right after an event."""
        return await self._readers.run(lambda db: read_turn_at(db, key, sequence))

    async def turn_request(self, turn_id: str) -> pb.ExecuteRequest | None:
        """The request of an unfinished turn."""
        request = await self._value(schema.TURN_REQUEST, turn_id)
        return pb.ExecuteRequest.FromString(request) if request is not None else None

    # -------------------------------------------------------------------------------------------------- all sessions

    async def page(
        self,
        wanted: pb.SessionFilter,
        order: pb.SessionOrder.ValueType,
        *,
        owner: str | None,
        after: PageCursor | None,
        limit: int,
        max_bytes: int,
    ) -> tuple[list[pb.Session], PageCursor | None]:
        """A page of sessions and where the next one begins; of every owner when `owner` is None."""
        listing = Listing(wanted, owner, order)
        place = (after[0], int(after[1])) if after is not None else None
        return await self._readers.run(lambda db: read_page(db, listing, place, limit, max_bytes))

    async def counts(self, wanted: pb.SessionFilter, owner: str, group_by: GroupBy, limit: int) -> Counted:
        """How many sessions meet a filter, and how many of them have each value of a property."""
        listing = Listing(wanted, owner)
        return await self._readers.run(lambda db: read_counts(db, listing, group_by, limit))

    async def at_rest_since(self, cutoff: int, wanted: pb.SessionFilter, owner: str | None, limit: int) -> list[str]:
        """Ids of sessions at rest since `cutoff` (microseconds) or longer, longest first."""
        query = Listing(wanted, owner).at_rest(cutoff, limit)
        return [row[0] for row in await self._rows(query.sql, *query.parameters)]

    async def expired(self, now: int, limit: int) -> list[SessionKey]:
        """Sessions at rest past their own expire_time, the earliest first."""
        return [SessionKey(*row) for row in await self._rows(schema.EXPIRED, now, limit)]

    async def outstayed(self, owner: str, cutoff: int, limit: int) -> list[SessionKey]:
        """An owner's sessions without an expire_time that are at rest since `cutoff` or longer, longest first."""
        return [SessionKey(*row) for row in await self._rows(schema.OUTSTAYED, owner, cutoff, limit)]

    async def owners(self) -> list[str]:
        """Everybody who has sessions."""
        return [owner for (owner,) in await self._rows(schema.OWNERS)]

    async def unfinished(self) -> list[pb.Session]:
        """Sessions in state PENDING or RUNNING, and those in phase IDLE, oldest first."""
        return [read_session(*row) for row in await self._rows(schema.UNFINISHED)]

    async def request(self, owner: str, request_id: str, since: int) -> RequestId | None:
        """The use of a request id, unless that was before `since` (microseconds)."""
        rows = await self._rows(schema.REQUEST_ID, owner, request_id, since)
        return RequestId(*rows[0]) if rows else None

    async def count(self, owner: str | None = None) -> int:
        """The number of sessions of an owner, or of all."""
        known = self._writer.counts.get(owner)
        return known if known is not None else await self._job(lambda: self._writer.count(owner))

    async def changes(self, after: int, limit: int, max_bytes: int) -> list[pb.Session]:
        """Sessions with a change number greater than `after`, by number; at least one if there is any."""
        return await self._readers.run(lambda db: read_changes(db, after, limit, max_bytes))

    async def last_change(self) -> int:
        """The last change number that was given."""
        return int(await self._value(schema.LAST_CHANGE))

    async def _rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        return await self._readers.run(lambda db: db.execute(sql, parameters).fetchall())

    async def _value(self, sql: str, *parameters: object) -> Any:
        return await self._readers.run(lambda db: value(db, sql, *parameters))

    # --------------------------------------------------------------------------------------------------------- upkeep

    async def backup(self, path: Path) -> None:
        """Copy the file as it is now into a new one, while it is in use."""
        await asyncio.to_thread(backup, self._directory / FILE, path)

    async def check(self) -> list[str]:
        """Contradictions in the file, while it is in use."""
        return await asyncio.to_thread(fsck, self._directory)

    def statistics(self) -> dict[str, int]:
        """Counts since the start, and what waits."""
        writer = self._writer
        return {
            "commits": writer.commits,
            "groups": writer.groups,
            "events": writer.events,
            "bytes": writer.bytes,
            "queued": writer.queue.qsize(),
            "deletions": len(writer.dead),
        }
