"""Ledger: sessions, turns, events and request ids on disk, and the one way to them. SQLite lives here and nowhere else.

One thread writes. It takes whatever waits, writes it in one transaction, and tells the event loop once; only then is it
visible. Readers have threads and read-only connections of their own. The ledger stores what it is given: sequences and
records are made by the one owner of each session.

What goes wrong with the disk is the end of the ledger: all that waits fails, all that comes fails, and `wait_failed`
returns. A commit that does not fit its log is a bug of its owner: it is refused alone, and with it whatever that
session sends later, because a gap would be worse; the sessions of others go on.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import sqlite3
import threading
import time
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, field, replace
from itertools import accumulate, chain, pairwise
from operator import add
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Generic, NamedTuple, Self, TypeVar
from weakref import WeakValueDictionary

from agentpb import agent_pb2 as pb
from google.protobuf.message import DecodeError

from agent_service import schema
from agent_service.errors import StoreUnavailable
from agent_service.tail import BATCH_BYTES, BATCH_EVENTS, Event, Position, Tail, weight

__all__ = [
    "Commit",
    "Event",
    "Ledger",
    "LedgerUnusable",
    "Messages",
    "PageCursor",
    "Position",
    "RequestId",
    "Tail",
    "fsck",
]

log = logging.getLogger(__name__)

FILE = "ledger.db"
LOCK = "lock"
READERS = 4
GROUP = 1024
"""Commits in one transaction, at most."""
REQUEST_ID_SECONDS = 24 * 3600
SWEEP_ROWS = 500
SWEEP_PAUSE = 0.02
PURGE_PAUSE = 3600.0
NO_LIMIT = 2**62
NULL = "-1"
"""The size of what is not there."""

MESSAGES = ("message.user", "message.assistant")
AT_REST = frozenset({pb.SESSION_STATE_COMPLETED, pb.SESSION_STATE_ERROR, pb.SESSION_STATE_CANCELLED})
FINISHED = frozenset({pb.TURN_STATE_COMPLETED, pb.TURN_STATE_ERROR, pb.TURN_STATE_CANCELLED})

PageCursor = tuple[int, str]
"""Where a page of sessions ended: a time, and what decides between equal times. Opaque to callers."""

T = TypeVar("T")


class LedgerUnusable(Exception):
    """The ledger's directory cannot be used: it is taken, damaged, or of a newer version. The text says what to do."""


@dataclass(frozen=True, slots=True)
class RequestId:
    """What a request id was used for. `create_time` (microseconds) is filled in when it is stored."""

    owner: str
    request_id: str
    fingerprint: str
    session_id: str
    turn_id: str
    method: str
    response: bytes
    create_time: int = 0


@dataclass(frozen=True, slots=True)
class Commit:
    """One atomic unit of one session: durable events with the next sequences, and the records they change."""

    session_id: str
    events: Sequence[Event] = ()
    session: pb.Session | None = None
    turns: Sequence[pb.Turn] = ()
    requests: Mapping[str, pb.ExecuteRequest] = field(default_factory=dict)
    request_id: RequestId | None = None


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
        self._lock: int | None = None
        self._closed = True
        self._writer: _Writer
        self._readers: _Readers

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
        await asyncio.to_thread(self._close)

    # ------------------------------------------------------------------------------------------------------- writing

    def append(self, commit: Commit) -> asyncio.Future[None]:
        """Hand a commit to the writer; the future is done when it is durable, or has StoreUnavailable.

        The order of calls is the order in the log. Records are serialized at once. Raises ValueError when the events do
        not continue the session's log.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        tail = self.tail(commit.session_id)
        item = _Append.of(commit, tail, future, self._now())
        if self.failure is not None or tail.broken is not None:
            _fail(future, tail.broken or self._unavailable())
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
        size = await self._readers.run(lambda db: _value(db, schema.SIZE, session_id))
        tail = self.tail(session_id)
        if not await self._job(lambda: self._writer.bury(tail)):
            return None
        self._tails.pop(session_id, None)
        tail.delete()
        return size or 0

    def _put(self, item: _Append | _Job[Any]) -> None:
        if self._closed:
            raise RuntimeError("the ledger is not open")
        self._writer.queue.put(item)

    async def _job(self, run: Callable[[], T]) -> T:
        if self.failure is not None:
            raise self._unavailable()
        job: _Job[T] = _Job(run, asyncio.get_running_loop().create_future())
        self._put(job)
        return await job.future

    def _committed(self, group: Sequence[_Append | _Job[Any]], failure: Exception | None) -> None:
        """Show a group that is durable, or fail it. Called once per group, on the loop."""
        if failure is not None:
            self._failed.set()
            for item in group:
                _fail(item.future, self._unavailable())
            return
        ends = {item.tail: item.last for item in group if isinstance(item, _Append) and item.last and not item.refused}
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
    ) -> tuple[list[Event], Position]:
        """Return what is visible past a position, at most one batch, and the position behind it.

        At the live end it answers from memory. An empty list means there is nothing yet: wait for the tail's `changed`,
        fetched before this call. Without `with_raw`, an event may or may not have its `raw`.
        """
        tail = self.tail(session_id)
        while True:
            if tail.last_sequence is None and not tail.deleted:
                tail.learn(await self.last_sequence(session_id))
            found = tail.after(
                position, types=types, partials=partials, limit=limit, max_bytes=max_bytes, with_raw=with_raw
            )
            if found is not None:
                return found
            end = tail.last_sequence or 0
            if position.sequence >= end:
                return [], position
            query = schema.events_query(
                session_id, after=position.sequence, before=end + 1, types=types, with_raw=with_raw
            )
            events, whole = await self._stored(query, limit, max_bytes)
            position = Position(end if whole else events[-1].sequence)
            if events:
                return events, position

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
        return await self._readers.run(lambda db: _value(db, schema.LAST_SEQUENCE, session_id)) or 0

    async def log_counts(self, session_id: str) -> tuple[int, int]:
        """The last sequence and how many messages there are, counted in the log itself."""
        row = await self._readers.run(lambda db: db.execute(schema.LOG_COUNTS, (session_id,)).fetchone())
        return row[0], row[1]

    async def session(self, session_id: str) -> pb.Session | None:
        """A session as it is stored, secrets included."""
        rows = await self._rows(schema.SESSION, session_id)
        return _session(*rows[0]) if rows else None

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

    async def last_turn(self, session_id: str) -> pb.Turn | None:
        """The turn with the highest number."""
        rows = await self._rows(schema.LAST_TURN, session_id)
        return pb.Turn.FromString(rows[0][0]) if rows else None

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
        listing = schema.Listing(wanted, owner, order)
        place = (after[0], int(after[1])) if after is not None else None
        return await self._readers.run(lambda db: _page(db, listing, place, limit, max_bytes))

    async def at_rest_since(
        self, cutoff: int, wanted: pb.SessionFilter, owner: str | None, limit: int | None = None
    ) -> list[str]:
        """Ids of sessions at rest since `cutoff` (microseconds) or longer, longest first."""
        query = schema.Listing(wanted, owner).at_rest(cutoff, limit or NO_LIMIT)
        return [row[0] for row in await self._rows(query.sql, *query.parameters)]

    async def expired(self, now: int, cutoff: int | None, limit: int) -> list[tuple[str, str]]:
        """Id and owner of sessions past their own expire_time, and of those without one at rest since `cutoff`."""
        rows = await self._rows(schema.EXPIRED, now, limit)
        if cutoff is not None and len(rows) < limit:
            rows += await self._rows(schema.OUTSTAYED, cutoff, limit - len(rows))
        return [(session_id, owner) for session_id, owner in rows]

    async def unfinished(self) -> list[pb.Session]:
        """Sessions in state PENDING or RUNNING, and warm ones (phase IDLE), oldest first: what a crash left."""
        return [_session(*row) for row in await self._rows(schema.UNFINISHED)]

    async def request(self, owner: str, request_id: str) -> RequestId | None:
        """What a request id was used for in the last 24 hours."""
        oldest = self._now() - REQUEST_ID_SECONDS * 1_000_000
        rows = await self._rows(schema.REQUEST_ID, owner, request_id, oldest)
        return RequestId(*rows[0]) if rows else None

    async def count(self) -> int:
        """How many sessions are stored."""
        return self._writer.sessions

    async def _stored(self, query: schema.BatchQuery, limit: int, max_bytes: int) -> tuple[list[Event], bool]:
        return await self._readers.run(lambda db: _events(db, query, limit, max_bytes))

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
            "sessions": writer.sessions,
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
        await asyncio.to_thread(_backup, self._directory / FILE, path)

    async def check(self) -> list[str]:
        """Look for contradictions, as `fsck` does, while it is in use."""
        return await asyncio.to_thread(fsck, self._directory)

    def _unavailable(self) -> StoreUnavailable:
        return StoreUnavailable(f"the ledger cannot be written: {self.failure}")

    def _now(self) -> int:
        return round(self._clock() * 1_000_000)

    # ---------------------------------------------------------------------------------------------- opening and closing

    def _open(self) -> None:
        path = self._directory / FILE
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _lock(self._directory / LOCK)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            db = _connect(path)
        except OSError as error:
            self._release()
            raise LedgerUnusable(f"{self._directory} cannot be used: {error}") from error
        except LedgerUnusable:
            self._release()
            raise
        try:
            _prepare(db, path)
            self._writer = _Writer(db, self._clock)
            self._readers = _Readers(path)
        except BaseException as error:
            db.close()
            self._release()
            if isinstance(error, sqlite3.OperationalError):
                raise LedgerUnusable(f"{path} cannot be used: {error}.") from error
            if isinstance(error, sqlite3.Error):
                raise LedgerUnusable(f"{path} is damaged, or no ledger: {error}. Put a backup in its place.") from error
            raise

    def _close(self) -> None:
        self._writer.stop()
        self._readers.close()
        self._release()

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


# -------------------------------------------------------------------------------------------------------------- writing


class _Record(NamedTuple):
    """A session's row: what is searched, and the rest."""

    owner: str
    state: int
    phase: int
    title: str
    create_time: int
    rest_time: int | None
    expire_time: int | None
    labels: tuple[tuple[str, str], ...]
    update_time: int
    last_sequence: int
    body: bytes

    @classmethod
    def of(cls, session: pb.Session) -> _Record:
        return cls(
            session.owner,
            session.state,
            session.phase,
            schema.folded(session.title),
            schema.micros(session.create_time),
            schema.micros(session.rest_time) if session.HasField("rest_time") else None,
            schema.micros(session.expire_time) if session.HasField("expire_time") else None,
            tuple(sorted(session.labels.items())),
            schema.micros(session.update_time),
            session.last_sequence,
            session.SerializeToString(),
        )

    @property
    def searched(self) -> tuple[object, ...]:
        return self[:8]


@dataclass(slots=True, eq=False)
class _Append:
    """A commit on its way to the disk, serialized."""

    tail: Tail
    future: asyncio.Future[None]
    events: Sequence[Event]
    record: _Record | None
    turns: list[tuple[str, int, int, bytes]]
    requests: list[tuple[str, bytes]]
    request_id: RequestId | None
    refused: Exception | None = None

    @classmethod
    def of(cls, commit: Commit, tail: Tail, future: asyncio.Future[None], now: int) -> _Append:
        used = commit.request_id
        return cls(
            tail,
            future,
            tuple(commit.events),
            _Record.of(commit.session) if commit.session is not None else None,
            [(turn.turn_id, turn.number, turn.state, turn.SerializeToString()) for turn in commit.turns],
            [(turn_id, request.SerializeToString()) for turn_id, request in commit.requests.items()],
            replace(used, create_time=now) if used is not None and not used.create_time else used,
        )

    @property
    def last(self) -> int:
        return self.events[-1].sequence if self.events else 0

    def resolve(self) -> None:
        if self.refused is not None:
            _fail(self.future, self.refused)
        elif not self.future.done():
            self.future.set_result(None)


@dataclass(slots=True, eq=False)
class _Job(Generic[T]):
    """Something else to do within a group's transaction, in its place among the commits."""

    run: Callable[[], T]
    future: asyncio.Future[T]
    result: list[T] = field(default_factory=list)

    def resolve(self) -> None:
        if not self.future.done():
            self.future.set_result(self.result[0])


Committed = Callable[[Sequence["_Append | _Job[Any]"], Exception | None], None]
_NEW = object()


class _Writer:
    """The thread that writes. Everything but `queue` and the counters is its own."""

    def __init__(self, db: sqlite3.Connection, clock: Callable[[], float]) -> None:
        self.queue: SimpleQueue[_Append | _Job[Any] | None] = SimpleQueue()
        self.failure: Exception | None = None
        self.sessions: int = _value(db, schema.COUNT)
        self.commits = self.groups = self.events = self.bytes = 0
        self.dead = deque(key for (key,) in db.execute(schema.DELETIONS))
        self._db = db
        self._clock = clock
        self._next_key: int = 1 + max(key or 0 for (key,) in db.execute(schema.LAST_KEYS))
        self._swept = 0.0
        self._purged = 0.0
        self._purging = True
        self._open = True
        self._pending = _Pending()
        self._thread: threading.Thread | None = None

    def start(self, loop: asyncio.AbstractEventLoop, committed: Committed) -> None:
        self._thread = threading.Thread(target=self._run, args=(loop, committed), name="ledger-writer")
        self._thread.start()

    def stop(self) -> None:
        self.queue.put(None)
        if self._thread is not None:
            self._thread.join()
        self._db.close()

    def bury(self, tail: Tail) -> bool:
        """Take a session's row away and leave a note of what is to be swept. A job."""
        self._pending.flush(self._db)
        row = self._db.execute(schema.FIND_SESSION, (tail.session_id,)).fetchone()
        if row is None:
            return False
        tail.broken = ValueError(f"session {tail.session_id} has been deleted")
        self._db.execute(schema.DELETE_SESSION, row[:1])
        self._db.execute(schema.INSERT_DELETION, row[:1])
        self.dead.append(row[0])
        self.sessions -= 1
        return True

    def _run(self, loop: asyncio.AbstractEventLoop, committed: Committed) -> None:
        while self._open:
            group = self._take()
            if group:
                self._guarded(self._write, group)
                loop.call_soon_threadsafe(committed, group, self.failure)
                del group  # or the last tail would live until the next commit comes
            had = self.failure
            self._guarded(self._sweep)
            if self.failure is not had:
                loop.call_soon_threadsafe(committed, (), self.failure)

    def _take(self) -> list[_Append | _Job[Any]]:
        """Whatever waits; without unfinished sweeping, wait for the first."""
        group: list[_Append | _Job[Any]] = []
        idle = (self.dead or self._purging) and self.failure is None
        try:
            item = self.queue.get(timeout=SWEEP_PAUSE / 10) if idle else self.queue.get()
            while item is not None:
                group.append(item)
                if len(group) == GROUP:
                    return group
                item = self.queue.get_nowait()
            self._open = False
        except Empty:
            pass
        return group

    def _guarded(self, do: Callable[..., None], *arguments: object) -> None:
        """Do something in a transaction; what goes wrong there is the ledger's end."""
        if self.failure is not None:
            return
        try:
            do(*arguments)
        except Exception as error:
            log.critical("the ledger cannot be written: %s", error, exc_info=error)
            self.failure = error
            self._pending = _Pending()
            if self._db.in_transaction:
                _rollback(self._db)

    def _write(self, group: Sequence[_Append | _Job[Any]]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        for item in group:
            if isinstance(item, _Job):
                item.result.append(item.run())
            else:
                self._add(item)
        self._pending.flush(self._db)
        self._db.execute("COMMIT")
        self.groups += 1

    def _add(self, item: _Append) -> None:
        item.refused = self._refusal(item)
        if item.refused is not None:
            item.tail.broken = item.refused
            log.error("%s", item.refused)
            return
        item.tail.stored += len(item.events)
        self._pending.add(item)
        self.commits += 1
        self.events += len(item.events)
        self.bytes += sum(weight(event, True) for event in item.events)

    def _refusal(self, item: _Append) -> Exception | None:
        """Why a commit does not fit the file; learns what the file holds of its session."""
        tail = item.tail
        if tail.broken is not None:
            return tail.broken
        if tail.key is None:
            row = self._db.execute(schema.FIND_SESSION, (tail.session_id,)).fetchone()
            if row is not None:
                tail.key, tail.stored = row
            elif item.record is None:
                return ValueError(f"session {tail.session_id} does not exist")
        if item.events and item.events[0].sequence != tail.stored + 1:
            return ValueError(
                f"session {tail.session_id}: event {item.events[0].sequence} where {tail.stored + 1} is due"
            )
        if tail.key is None:
            tail.key, tail.searched = self._next_key, _NEW
            self._next_key += 1
            self.sessions += 1
        return None

    def _sweep(self) -> None:
        """Delete a few rows of what is gone; rarely enough that commits hardly notice."""
        now = time.monotonic()
        if now - self._purged > PURGE_PAUSE:
            self._purging = True
        if not (self.dead or self._purging) or (now - self._swept < SWEEP_PAUSE and not self.queue.empty()):
            return
        self._db.execute("BEGIN IMMEDIATE")
        swept = self._sweep_session(self.dead[0]) if self.dead else False
        if self._purging:
            self._purge(now)
        self._db.execute("COMMIT")
        if swept:
            self.dead.popleft()
        self._swept = time.monotonic()

    def _sweep_session(self, key: int) -> bool:
        if self._db.execute(schema.SWEEP_EVENTS, (key, key, SWEEP_ROWS)).rowcount:
            return False
        for sql in (*schema.SWEEP_REST, schema.DELETE_DELETION):
            self._db.execute(sql, (key,))
        return True

    def _purge(self, now: float) -> None:
        oldest = round((self._clock() - REQUEST_ID_SECONDS) * 1_000_000)
        self._purging = self._db.execute(schema.SWEEP_REQUEST_IDS, (oldest, SWEEP_ROWS)).rowcount == SWEEP_ROWS
        self._purged = now


class _Pending:
    """What a group writes: of a record that changed often, only its last state."""

    def __init__(self) -> None:
        self._records: dict[Tail, _Record] = {}
        self._events: list[tuple[object, ...]] = []
        self._turns: dict[str, tuple[object, ...]] = {}
        self._requests: dict[str, tuple[object, ...]] = {}
        self._finished: list[tuple[str]] = []
        self._request_ids: list[tuple[object, ...]] = []

    def add(self, item: _Append) -> None:
        key = item.tail.key
        if item.record is not None:
            self._records[item.tail] = item.record
        self._events += [(key, *event) for event in item.events]
        for turn_id, number, state, body in item.turns:
            self._turns[turn_id] = (turn_id, key, number, state, body)
            if state in FINISHED:
                self._finished.append((turn_id,))
        for turn_id, body in item.requests:
            self._requests[turn_id] = (turn_id, key, body)
        if item.request_id is not None:
            self._request_ids.append(astuple(item.request_id))

    def flush(self, db: sqlite3.Connection) -> None:
        """Write it all, and be empty."""
        for tail, record in self._records.items():
            _write_record(db, tail, record)
        _write_events(db, self._events)
        db.executemany(schema.UPSERT_TURN, self._turns.values())
        db.executemany(schema.UPSERT_TURN_REQUEST, self._requests.values())
        db.executemany(schema.DELETE_TURN_REQUEST, self._finished)
        db.executemany(schema.UPSERT_REQUEST_ID, self._request_ids)
        for rows in (self._records, self._events, self._turns, self._requests, self._finished, self._request_ids):
            rows.clear()


def _write_record(db: sqlite3.Connection, tail: Tail, record: _Record) -> None:
    if tail.searched == record.searched:
        db.execute(schema.TOUCH_SESSION, (record.update_time, record.last_sequence, record.body, tail.key))
        return
    row = (*record[:5], record.update_time, record.rest_time, record.expire_time, record.last_sequence, record.body)
    if tail.searched is _NEW:
        db.execute(schema.INSERT_SESSION, (tail.key, tail.session_id, *row))
    else:
        db.execute(schema.UPDATE_SESSION, (*row, tail.key))
        db.execute(schema.DELETE_LABELS, (tail.key,))
    db.executemany(schema.INSERT_LABEL, [(tail.key, *label, record.owner) for label in record.labels])
    tail.searched = record.searched


def _write_events(db: sqlite3.Connection, rows: Sequence[tuple[object, ...]]) -> None:
    start = 0
    for count, sql in schema.INSERT_EVENTS.items():
        while len(rows) - start >= count:
            db.execute(sql, tuple(chain.from_iterable(rows[start : start + count])))
            start += count


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # nobody has to look: the ledger's failure is told otherwise too


def _rollback(db: sqlite3.Connection) -> None:
    try:
        db.execute("ROLLBACK")
    except sqlite3.Error as error:
        log.critical("rollback failed: %s", error)


# -------------------------------------------------------------------------------------------------------------- reading


class _Readers:
    """A few threads, each with a read-only connection of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="ledger-reader")

    async def run(self, read: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, read)

    def close(self) -> None:
        self._threads.shutdown()
        for db in self._connections:
            db.close()

    def _read(self, read: Callable[[sqlite3.Connection], T]) -> T:
        try:
            db: sqlite3.Connection | None = getattr(self._local, "db", None)
            if db is None:
                db = self._local.db = _connect(self._path, read_only=True)
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
    with _snapshot(db):
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


@contextmanager
def _snapshot(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN")
    try:
        yield
    finally:
        db.execute("COMMIT")


def _events(db: sqlite3.Connection, query: schema.BatchQuery, limit: int, max_bytes: int) -> tuple[list[Event], bool]:
    (sequences, types), bodies, raws, whole = _batch(db, query, limit, max_bytes)
    return list(map(Event, map(int, sequences), types, bodies, raws)), whole


def _page(
    db: sqlite3.Connection, listing: schema.Listing, after: tuple[int, int] | None, limit: int, max_bytes: int
) -> tuple[list[pb.Session], PageCursor | None]:
    notes, bodies, _, whole = _batch(db, listing.page(_narrowest(db, listing), after), limit, max_bytes)
    times, keys, lasts, counts = notes
    sessions = list(map(_session, bodies, map(int, lasts), map(int, counts)))
    return sessions, None if whole else (int(times[-1]), keys[-1])


def _narrowest(db: sqlite3.Connection, listing: schema.Listing) -> schema.Query | None:
    best, fewest = None, schema.FEW
    for query in listing.narrow():
        count = _value(db, f"SELECT COUNT(*) FROM ({query.sql} LIMIT {fewest}) AS n", *query.parameters)
        if count < fewest:
            best, fewest = query, count
    return best


def _session(record: bytes, last_sequence: int, messages_since: int) -> pb.Session:
    session = pb.Session.FromString(record)
    session.last_sequence = last_sequence
    session.message_count += messages_since
    return session


def _value(db: sqlite3.Connection, sql: str, *parameters: object) -> Any:
    row = db.execute(sql, parameters).fetchone()
    return row[0] if row is not None else None


# ------------------------------------------------------------------------------------------------------------- the file


def _connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    db = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={'ro' if read_only else 'rw'}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=10,
    )
    db.execute("PRAGMA cache_size = -16384")
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    """Bring the file to this version. Raises LedgerUnusable."""
    version = _value(db, "PRAGMA user_version")
    if version > schema.VERSION:
        raise LedgerUnusable(
            f"{path} was written by a newer version of agent-service (schema {version}, this one knows "
            f"{schema.VERSION}). Use that version, or another directory."
        )
    known = _value(db, "PRAGMA application_id") == schema.APPLICATION_ID
    if not known and (version or _value(db, "SELECT COUNT(*) FROM sqlite_master")):
        raise LedgerUnusable(f"{path} is a database of something else. Use another directory.")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA wal_autocheckpoint = 4000")
    db.execute("PRAGMA journal_size_limit = 67108864")
    for number in range(version, schema.VERSION):
        _migrate(db, number)


def _migrate(db: sqlite3.Connection, number: int) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        for statement in schema.MIGRATIONS[number]:
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {number + 1}")
        db.execute("COMMIT")
    except sqlite3.Error:
        _rollback(db)
        raise


def _lock(path: Path) -> int:
    """Take the directory's lock, for as long as the descriptor is open. Raises LedgerUnusable."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise LedgerUnusable(
            f"{path.parent} is in use by another agent-service (process {holder}). "
            "Stop that one, or use another directory."
        ) from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def _backup(source: Path, path: Path) -> None:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    with closing(_connect(source, read_only=True)) as db, closing(_connect(path)) as copy:
        db.backup(copy)


# ----------------------------------------------------------------------------------------------------- contradictions


def fsck(path: Path) -> list[str]:
    """Name every contradiction in a ledger: a file, or the directory it lies in. It may be in use."""
    file = path / FILE if path.is_dir() else path
    try:
        with closing(_connect(file, read_only=True)) as db, _snapshot(db):
            problems = [text for (text,) in db.execute("PRAGMA quick_check") if text != "ok"]
            for sql in schema.ORPHANS:
                table, count = db.execute(sql).fetchone()
                problems += [f"{count} rows of {table} belong to no session"] if count else []
            with closing(db.execute(schema.ALL_SESSIONS)) as rows:
                for row in rows:
                    problems += [f"session {row[1]}: {text}" for text in _session_problems(db, row)]
            return problems
    except sqlite3.Error as error:
        return [f"{file} is damaged, or no ledger: {error}"]


def _session_problems(db: sqlite3.Connection, row: Sequence[Any]) -> Iterator[str]:
    key, session_id, *columns, body, last, since = row
    stored = _Record.of(session := pb.Session.FromString(body))
    if (session.session_id, *stored[:5], stored.update_time, *stored[5:7]) != (session_id, *columns):
        yield "its columns differ from its record"
    labels = db.execute(schema.ALL_LABELS, (key,)).fetchall()
    if labels != [(*label, session.owner) for label in stored.labels]:
        yield "its labels differ from its record"
    if session.last_sequence > last:
        yield f"its record knows event {session.last_sequence}, the log ends at {last}"
    yield from _rest_problems(session)
    log_ = _Log(session_id)
    with closing(db.execute(schema.ALL_EVENTS, (key,))) as rows:
        for sequence, kind, event in rows:
            yield from log_.problems(sequence, kind, event)
    yield from log_.end_problems(session, since)
    yield from _turn_problems(db.execute(schema.ALL_TURNS, (key,)).fetchall(), session, log_.completed)


def _rest_problems(session: pb.Session) -> Iterator[str]:
    at_rest = session.state in AT_REST
    if at_rest != session.HasField("rest_time"):
        yield "it is at rest without a rest_time, or the other way round"
    if at_rest and session.pending_interactions:
        yield "it is at rest with pending interactions"
    if at_rest and session.HasField("current_turn"):
        yield "it is at rest with a running turn"
    if (session.state == pb.SESSION_STATE_ERROR) != session.HasField("error"):
        yield "it is in state ERROR without an error, or the other way round"


class _Log:
    """What is seen on a walk through one session's events."""

    def __init__(self, session_id: str) -> None:
        self.completed: Counter[str] = Counter()
        self._session_id = session_id
        self._place: tuple[int, int] = (pb.SESSION_STATE_UNSPECIFIED, pb.SESSION_PHASE_UNSPECIFIED)
        self._last = 0
        self._messages = 0

    def problems(self, sequence: int, kind: str, body: bytes) -> Iterator[str]:
        if sequence != self._last + 1:
            yield f"event {sequence} follows event {self._last}"
        self._last = sequence
        self._messages += kind in MESSAGES
        try:
            event = pb.SessionEvent.FromString(body)
        except DecodeError:
            yield f"event {sequence} cannot be parsed"
            return
        if (event.session_id, event.sequence, event.type) != (self._session_id, sequence, kind):
            yield f"event {sequence} says it is event {event.sequence}, {event.type}, of session {event.session_id}"
        if kind == "turn.completed":
            self.completed[event.turn_completed.turn.turn_id] += 1
        if kind == "state.changed":
            yield from self._move(sequence, event.state_changed)

    def _move(self, sequence: int, change: pb.StateChanged) -> Iterator[str]:
        if (change.from_state, change.from_phase) != self._place:
            yield f"event {sequence}: the session was not in the state it is said to leave"
        self._place = (change.state, change.phase)

    def end_problems(self, session: pb.Session, messages_since: int) -> Iterator[str]:
        if self._last and self._place != (session.state, session.phase):
            yield "its last state.changed is not the state of its record"
        if session.message_count + messages_since != self._messages:
            yield f"it counts {session.message_count + messages_since} messages, the log has {self._messages}"


def _turn_problems(rows: Sequence[Sequence[Any]], session: pb.Session, completed: Mapping[str, int]) -> Iterator[str]:
    for expected, (turn_id, number, state, body) in enumerate(rows, 1):
        turn = pb.Turn.FromString(body)
        if number != expected or (turn.turn_id, turn.number, turn.state) != (turn_id, number, state):
            yield f"turn {turn_id} is number {number} where {expected} is due, or differs from its record"
        if completed.get(turn_id, 0) != (state in FINISHED):
            yield f"turn {turn_id} is in state {state} and has {completed.get(turn_id, 0)} events turn.completed"
        if session.state in AT_REST and state == pb.TURN_STATE_RUNNING:
            yield f"turn {turn_id} runs while the session is at rest"
    if len(rows) != session.turn_count:
        yield f"it counts {session.turn_count} turns, {len(rows)} are stored"
    for turn_id in completed.keys() - {row[0] for row in rows}:
        yield f"turn {turn_id} has ended and is not stored"
