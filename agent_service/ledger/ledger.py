"""Ledger, what the service calls: it hands commits to the writer, questions to the readers, and wakes who watches."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from weakref import WeakValueDictionary

from agentpb import agent_pb2 as pb

from agent_service.ledger.clock import CLOCK, DAY_US, Ages
from agent_service.ledger.commits import MESSAGES, REQUEST_ID_SECONDS, Append, Commit, Job, RequestId, fail
from agent_service.ledger.feed import Feed
from agent_service.ledger.obstruction import Obstruction
from agent_service.ledger.sqlite.store import SqliteStore
from agent_service.ledger.store import (
    Counted,
    EventQuery,
    GroupBy,
    PageCursor,
    Store,
    StoredStatus,
    Stretch,
    unavailable,
)
from agent_service.ledger.tail import BATCH_BYTES, BATCH_EVENTS, Event, Position, SessionKey, Tail

log = logging.getLogger(__name__)

NO_LIMIT = 2**62


class Messages(NamedTuple):
    """The newest messages of a session, oldest first, and whether there are older ones."""

    events: list[Event]
    truncated: bool


class Ledger:
    """The ledger of one service; the directory is its own while it is open."""

    def __init__(self, directory: Path, *, clock: Callable[[], float] = CLOCK, store: Store | None = None) -> None:
        """Use `store`, or a file in `directory`, which is made when it is missing."""
        self._clock = clock
        self._store: Store = store or SqliteStore(directory, clock=clock)
        self.feed = Feed(self._store)
        """The changes of all sessions' records."""
        self._tails: WeakValueDictionary[SessionKey, Tail] = WeakValueDictionary()
        self._failed = asyncio.Event()
        self._ages = Ages(clock, 0)
        self.obstruction = Obstruction()
        """A lock of another process that keeps the ledger from writing."""

    async def __aenter__(self) -> Self:
        """Open the ledger. Raises LedgerUnusable."""
        await self._store.open(self._committed, self.obstruction.note)
        self.feed.last = await self._store.last_change()
        self._ages = Ages(self._clock, self._store.last_written)
        if self._ages.away:
            log.warning(
                "the service was last seen %.1f days ago by the host's clock; if that is wrong, set the clock and "
                "start again: what is stored ages by that time in a day",
                self._ages.away / DAY_US,
            )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what waits, then close."""
        await self._store.close()

    # ------------------------------------------------------------------------------------------------------- writing

    def append(self, commit: Commit) -> asyncio.Future[int]:
        """Hand a commit to the writer; the future is done when it is durable, or has StoreUnavailable.

        Its result is the change number of the session's record, 0 when the commit has none.
        The order of calls is the order in the log. Records are serialized at once. Raises ValueError when the events do
        not continue the session's log.
        """
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        tail = self.tail(commit.key)
        item = Append.of(commit, tail, future, self._now())
        if self.failure is not None or tail.broken is not None:
            fail(future, tail.broken or unavailable(self.failure))
            return future
        tail.append(commit.events)
        self._store.put(item)
        return future

    def publish(self, key: SessionKey, event: Event) -> None:
        """Show an ephemeral event to those who watch, behind everything appended before it."""
        self.tail(key).publish(event)

    def remember(self, request_id: RequestId) -> asyncio.Future[None]:
        """Store a request id by itself; in the log's order it stands between the commits before and after this call."""
        stamped = replace(request_id, create_time=self._now())
        return self._store.remember(stamped)

    async def delete(self, key: SessionKey, *, request_id: RequestId | None = None) -> int | None:
        """Delete a session and wake its watchers; the bytes its events took, or None when there is none.

        It is gone at once and as a whole, `request_id` is stored in the same commit, and its rows are swept little by
        little. Its request ids stay.
        """
        size = await self._store.size(key)
        tail = self.tail(key)
        stamped = replace(request_id, create_time=self._now()) if request_id is not None else None
        if not await self._store.bury(tail, stamped):
            return None
        self._tails.pop(key, None)
        tail.delete()
        return size

    def _committed(self, group: Sequence[Append | Job[Any]], failure: Exception | None) -> None:
        """Show a group that is durable, or fail it. Called once per group, on the loop."""
        if failure is not None:
            self._failed.set()
            for item in group:
                fail(item.future, unavailable(self.failure))
            return
        ends = {item.tail: item.last for item in group if isinstance(item, Append) and item.last and not item.refused}
        for tail, last in ends.items():
            tail.reveal(last)
        change = max((item.change for item in group if isinstance(item, Append)), default=0)
        if change:
            self.feed.note(change)
        for item in group:
            item.resolve()

    # --------------------------------------------------------------------------------------------------- the live end

    def tail(self, key: SessionKey) -> Tail:
        """The live end of a session's log, for its writer and its watchers; it lasts while somebody holds it."""
        tail = self._tails.get(key)
        if tail is None:
            tail = self._tails[key] = Tail(key)
        return tail

    def forget_broken(self, key: SessionKey) -> None:
        """Give up the live end of a log whose commits are refused: whoever writes next begins at what is stored."""
        if (tail := self._tails.get(key)) is not None and tail.broken is not None:
            del self._tails[key]

    def cursor(self, key: SessionKey, after_sequence: int) -> Position:
        """The position behind event `after_sequence`."""
        return Position(after_sequence)

    async def follow(
        self,
        key: SessionKey,
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
        tail = self.tail(key)
        while True:
            if tail.last_sequence is None and not tail.deleted:
                tail.learn(await self.last_sequence(key))
            found = tail.batch(
                position, types=types, partials=partials, limit=limit, max_bytes=max_bytes, with_raw=with_raw
            )
            if found is not None:
                return [found[0]] if found[0] else [], found[1]
            end = tail.last_sequence or 0
            if position.sequence >= end:
                return [], position
            stretch = Stretch(key, position.sequence, end, tuple(types), with_raw)
            responses, last = await self._store.responses(stretch, limit, max_bytes)
            position = Position(last)
            if responses:
                return responses, position

    def wake_all(self) -> None:
        """Wake every watcher, so that it looks whether to go on."""
        for tail in list(self._tails.values()):
            tail.wake()
        self.feed.wake()

    # ------------------------------------------------------------------------------------------------------- reading

    async def read(
        self,
        key: SessionKey,
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
        query = EventQuery(key, after_sequence, before_sequence, tuple(types), newest_first, with_raw)
        events, _ = await self._store.events(query, limit, max_bytes)
        return events

    async def messages(self, key: SessionKey, limit: int, max_bytes: int = BATCH_BYTES) -> Messages:
        """The newest messages of user and assistant, oldest first."""
        query = EventQuery(key, types=MESSAGES, newest_first=True)
        events, whole = await self._store.events(query, limit, max_bytes)
        return Messages(events[::-1], not whole)

    async def last_sequence(self, key: SessionKey) -> int:
        """The last durable event's sequence; 0 when there is none."""
        return await self._store.last_sequence(key)

    async def log_counts(self, key: SessionKey) -> tuple[int, int]:
        """The last sequence and the number of messages, counted in the log itself."""
        return await self._store.log_counts(key)

    async def session(self, key: SessionKey) -> pb.Session | None:
        """A session as it is stored, secrets included."""
        return await self._store.session(key)

    async def turn(self, turn_id: str) -> pb.Turn | None:
        """A turn as it is stored."""
        return await self._store.turn(turn_id)

    async def turn_of(self, key: SessionKey, turn_id: str) -> pb.Turn | None:
        """A turn of this session as it is stored."""
        return await self._store.turn_of(key, turn_id)

    async def whole(self, key: SessionKey, record: str, field: str) -> bytes | None:
        """A field that was cut in a record (see commits.Whole); None when it was not."""
        return await self._store.whole(key, record, field)

    async def raw(self, key: SessionKey, sequence: int) -> bytes | None:
        """The agent's own message of an event, whole."""
        return await self._store.raw(key, sequence)

    async def turns(self, key: SessionKey, states: Sequence[pb.TurnState.ValueType] = ()) -> list[pb.Turn]:
        """A session's turns by number; only those in one of `states`, if any are given."""
        return await self._store.turns(key, states)

    async def turn_request(self, turn_id: str) -> pb.ExecuteRequest | None:
        """The request of an unfinished turn; it is not kept longer than that."""
        return await self._store.turn_request(turn_id)

    async def standing(self, key: SessionKey) -> StoredStatus | None:
        """A session as it is stored, and its turn: at rest the one that brought it there. Made to be asked often."""
        return await self._store.standing(key)

    async def turn_at(self, key: SessionKey, sequence: int) -> pb.Turn | None:
        """The turn in which a session was, or that had brought it to rest, right after an event."""
        return await self._store.turn_at(key, sequence)

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
        return await self._store.page(wanted, order, owner=owner, after=after, limit=limit, max_bytes=max_bytes)

    async def counts(self, wanted: pb.SessionFilter, owner: str, group_by: GroupBy, limit: int) -> Counted:
        """How many sessions meet a filter, and how many of them have each value of a property, at most `limit` values.

        Columns have their numbers as text. Sessions without the label are in the total alone.
        """
        return await self._store.counts(wanted, owner, group_by, limit)

    async def at_rest_since(
        self, cutoff: int, wanted: pb.SessionFilter, owner: str | None, limit: int | None = None
    ) -> list[str]:
        """Ids of sessions at rest since `cutoff` (microseconds) or longer, longest first."""
        return await self._store.at_rest_since(cutoff, wanted, owner, limit or NO_LIMIT)

    async def expired(self, now: int, limit: int) -> list[SessionKey]:
        """Sessions at rest past their own expire_time, the earliest first."""
        return await self._store.expired(now, limit)

    async def outstayed(self, owner: str, cutoff: int, limit: int) -> list[SessionKey]:
        """An owner's sessions without an expire_time that are at rest since `cutoff` or longer, longest first."""
        return await self._store.outstayed(owner, cutoff, limit)

    async def owners(self) -> list[str]:
        """Everybody who has sessions."""
        return await self._store.owners()

    async def unfinished(self) -> list[pb.Session]:
        """Sessions in state PENDING or RUNNING, and warm ones (phase IDLE), oldest first: what a crash left."""
        return await self._store.unfinished()

    async def request(self, owner: str, request_id: str) -> RequestId | None:
        """The use of a request id in the last 24 hours; None when there was none."""
        return await self._store.request(owner, request_id, self.ages_now() - REQUEST_ID_SECONDS * 1_000_000)

    def ages_now(self) -> int:
        """The time by which ages are told, in microseconds: for a day it leaves out a long time before the start."""
        return self._ages.now()

    async def count(self, owner: str | None = None) -> int:
        """The number of sessions of an owner, or of all."""
        return await self._store.count(owner)

    # -------------------------------------------------------------------------------------------------------- health

    @property
    def failure(self) -> Exception | None:
        """The error that ended all writing; None while the ledger works."""
        return self._store.failure

    async def wait_failed(self) -> None:
        """Return when the ledger has failed: it is time to go down."""
        await self._failed.wait()

    def statistics(self) -> dict[str, int]:
        """Counts since the start, and the numbers of waiting commits and deletions."""
        return {**self._store.statistics(), "tails": len(self._tails), "failed": int(self.failure is not None)}

    async def backup(self, path: Path) -> None:
        """Copy the ledger as it is now into a new file, while it is in use."""
        await self._store.backup(path)

    async def check(self) -> list[str]:
        """Look for contradictions, as `fsck` does, while it is in use."""
        return await self._store.check()

    def _now(self) -> int:
        return round(self._clock() * 1_000_000)
