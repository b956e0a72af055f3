"""Tail, the live end of one session's log: the only place where a writer and its watchers meet.

It belongs to the event loop. Durable events and ephemeral partials lie in it in the order of emission, and whatever
lies behind an event that is not yet durable is hidden. A watcher is a position: who leaves leaves nothing behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import count, islice
from typing import NamedTuple

from agent_service.events import response_bytes, with_raw

MAX_ENTRIES = 512
MAX_BYTES = 1 << 20
BATCH_EVENTS = 256
BATCH_BYTES = 1 << 20
SHARED_BATCHES = 8
SHARED_BYTES = 64 << 10

_ordinals = count(1)


class SessionKey(NamedTuple):
    """What names a session: ids are a tenant's own, so another tenant may have the same one."""

    owner: str
    session_id: str


class Event(NamedTuple):
    """One entry of a log; `sequence` is 0 when it is ephemeral, `body` is what is sent, `raw` the agent's own JSON."""

    sequence: int
    type: str
    body: bytes
    raw: bytes | None

    def sent(self, with_its_raw: bool) -> bytes:
        """The bytes that are sent, with the agent's own JSON or without."""
        return with_raw(self.body, self.raw) if with_its_raw else self.body


class Position(NamedTuple):
    """A reader's place: behind event `sequence` and, if it was given by a tail, before that tail's entry `ordinal`."""

    sequence: int
    ordinal: int = -1


class Change:
    """The next news of a log: fetched *before* reading, then waited for. It comes once.

    asyncio's own ways to wait with a timeout cost a task, or several times the wait; there may be many watchers.
    """

    __slots__ = ("_came", "_waiting")

    def __init__(self) -> None:
        """Not yet come."""
        self._came = False
        self._waiting: dict[asyncio.Future[None], None] = {}

    def is_set(self) -> bool:
        """Return whether it has come."""
        return self._came

    def set(self) -> None:
        """Let it come."""
        self._came = True
        for waiting in self._waiting:
            _resume(waiting)

    async def wait(self, until: float | None = None) -> bool:
        """Wait for it, or until the loop's clock says `until`; whether it has come."""
        if self._came:
            return True
        loop = asyncio.get_running_loop()
        waiting = loop.create_future()
        self._waiting[waiting] = None
        timer = loop.call_at(until, _resume, waiting) if until is not None else None
        try:
            await waiting
        finally:
            del self._waiting[waiting]
            if timer is not None:
                timer.cancel()
        return self._came


def _resume(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


class Tail:
    """The newest entries of one session's log, at most 512 and 1 MiB of them."""

    __slots__ = (
        "__weakref__",
        "_base",
        "_changed",
        "_end",
        "_entries",
        "_shared",
        "_size",
        "_start",
        "appended",
        "broken",
        "chain",
        "deleted",
        "key",
        "last_sequence",
        "moved",
        "searched",
        "session",
        "stored",
    )

    def __init__(self, session: SessionKey) -> None:
        """Know nothing of the session yet but its name."""
        self.session = session
        self.last_sequence: int | None = None
        """The last durable, visible event; None until somebody learned it."""
        self.appended: int | None = None
        """The last event handed over for writing."""
        self.moved = 0
        """The last change of the session's state that was handed over for writing; 0 when there was none meanwhile."""
        self.deleted = False
        self.broken: Exception | None = None
        """The error of all further appends; None while appending works."""
        self.key: int | None = None  # this and the next three are the writer thread's notes of what the file holds
        self.stored = 0
        self.chain = 0
        self.searched: object = None
        # Ordinals are never used twice, so that a position of an earlier tail of this session means nothing here.
        self._start = self._end = next(_ordinals) << 40
        self._entries: list[Event] = []
        self._base: int | None = None  # the last durable event before the first entry
        self._size = 0
        self._changed: Change | None = None
        self._shared: dict[tuple[object, ...], tuple[bytes, Position]] = {}

    @property
    def changed(self) -> Change:
        """The next news. Fetch it *before* reading, then wait for it."""
        if self._changed is None:
            self._changed = Change()
        return self._changed

    def wake(self) -> None:
        """Wake whoever waits; without watchers this costs nothing."""
        self._shared.clear()
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()

    def append(self, events: Sequence[Event]) -> None:
        """Take durable events which continue the log; they stay hidden until `reveal`."""
        if not events:
            return
        self.check(events)
        self.learn(events[0].sequence - 1)
        self.appended = events[-1].sequence
        for event in events:
            self._add(event)
            if event.type == "state.changed":
                self.moved = event.sequence

    def check(self, events: Sequence[Event]) -> None:
        """Raise ValueError unless the events continue the log without a gap."""
        expected = events[0].sequence if self.appended is None else self.appended + 1
        for number, event in enumerate(events, expected):
            if event.sequence != number or number < 1:
                raise ValueError(f"session {self.session.session_id}: event {event.sequence} where {number} is due")

    def publish(self, event: Event) -> None:
        """Take an ephemeral event; it is visible once everything appended before it is durable."""
        visible = self.appended == self.last_sequence
        self._add(event)
        if visible:
            self._end = self._start + len(self._entries)
            self.wake()

    def reveal(self, sequence: int) -> None:
        """Show what is durable up to `sequence`, and wake."""
        self.last_sequence = sequence
        if self._base is not None and self._base <= sequence:
            index = max(0, self._end - self._start)
            for event in islice(self._entries, index, None):
                if event.sequence > sequence:
                    break
                index += 1
            self._end = self._start + index
        self.wake()

    def learn(self, sequence: int) -> None:
        """Set the log's last sequence as the table has it, unless an append has set it meanwhile."""
        if self._base is None:
            self._base = self.appended = self.last_sequence = sequence

    def delete(self) -> None:
        """Mark the session as deleted and wake its watchers."""
        self.deleted = True
        self.wake()

    def batch(
        self,
        position: Position,
        *,
        types: Sequence[str] = (),
        partials: bool = True,
        limit: int = BATCH_EVENTS,
        max_bytes: int = BATCH_BYTES,
        with_raw: bool = False,
    ) -> tuple[bytes, Position] | None:
        """Return what `after` finds as the content of a response; whoever is at the same place gets the same bytes."""
        asked = (position, tuple(types), partials, limit, max_bytes, with_raw)
        known = self._shared.get(asked)
        if known is not None:
            return known
        found = self.after(
            position, types=types, partials=partials, limit=limit, max_bytes=max_bytes, with_raw=with_raw
        )
        if found is None:
            return None
        events, behind = found
        batch = response_bytes(event.sent(with_raw) for event in events), behind
        if len(batch[0]) <= SHARED_BYTES and len(self._shared) < SHARED_BATCHES:
            self._shared[asked] = batch
        return batch

    def after(
        self,
        position: Position,
        *,
        types: Sequence[str] = (),
        partials: bool = True,
        limit: int = BATCH_EVENTS,
        max_bytes: int = BATCH_BYTES,
        with_raw: bool = False,
    ) -> tuple[list[Event], Position] | None:
        """Return the visible entries past a position and the position behind them; None if they are no longer here.

        Who comes by sequence gets of the partials only those behind the last durable event: the others have become
        messages, which hold it all.
        """
        if self._start <= position.ordinal <= self._end:
            index = position.ordinal - self._start
            fresh = index
        elif self._base is not None and self._base <= position.sequence:
            index = self._index(position.sequence)
            fresh = self._index(self.last_sequence or 0)
        else:
            return None
        return self._collect(
            position.sequence, index, fresh, _wanted(tuple(types), partials), limit, max_bytes, with_raw
        )

    def _collect(
        self,
        sequence: int,
        index: int,
        fresh: int,
        wanted: Callable[[str, int], bool],
        limit: int,
        max_bytes: int,
        with_raw: bool,
    ) -> tuple[list[Event], Position]:
        events: list[Event] = []
        size = 0
        for event in islice(self._entries, index, max(index, self._end - self._start)):
            if wanted(event.type, event.sequence) and (event.sequence or index >= fresh):
                size += weight(event, with_raw)
                if len(events) == limit or (events and size > max_bytes):
                    break
                events.append(event)
            index += 1
            sequence = event.sequence or sequence
        # Behind the visible end (the table may be ahead of us by one group) only the sequence tells the place.
        ordinal = self._start + index
        return events, Position(sequence, ordinal if ordinal <= self._end else -1)

    def _index(self, sequence: int) -> int:
        """Index of the first entry behind a durable event."""
        for index in range(len(self._entries) - 1, -1, -1):
            if 0 < self._entries[index].sequence <= sequence:
                return index + 1
        return 0

    def _add(self, event: Event) -> None:
        self._entries.append(event)
        self._size += weight(event, True)
        if len(self._entries) > MAX_ENTRIES or self._size > MAX_BYTES:
            self._trim()

    def _trim(self) -> None:
        gone = 0
        while len(self._entries) - gone > MAX_ENTRIES or self._size > MAX_BYTES:
            event = self._entries[gone]
            self._size -= weight(event, True)
            self._base = event.sequence or self._base
            gone += 1
        del self._entries[:gone]
        self._start += gone


def weight(event: Event, with_raw: bool) -> int:
    """Bytes that an event takes in a batch."""
    return len(event.body) + (len(event.raw) if with_raw and event.raw else 0)


@lru_cache(maxsize=256)
def _wanted(types: tuple[str, ...], partials: bool) -> Callable[[str, int], bool]:
    exact = frozenset(types)
    prefixes = tuple(entry[:-1] for entry in types if entry.endswith(".*"))

    def wanted(kind: str, sequence: int) -> bool:
        return (partials or sequence > 0) and (not types or kind in exact or kind.startswith(prefixes))

    return wanted
