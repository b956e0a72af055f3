"""Journal: one session's record and the writing end of its log. Nothing is shown before it is durable.

Every change is a commit: events with the next sequences, and the records they change. `snapshot` shows the last
durable one.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from agentpb import agent_pb2 as pb

from agent_service import events
from agent_service.ledger.clock import now_us
from agent_service.ledger.commits import Commit, RequestId, Whole, key_of
from agent_service.ledger.ledger import Ledger
from agent_service.ledger.tail import Event

AT_REST = frozenset({pb.SESSION_STATE_COMPLETED, pb.SESSION_STATE_ERROR, pb.SESSION_STATE_CANCELLED})
COUNTED = frozenset({"message.user", "message.assistant"})
MAX_BEHIND = 1024
"""Events that may wait for the disk before the agent has to."""


_versions = itertools.count(1)


def is_at_rest(session: pb.Session) -> bool:
    """Return whether no turn of the session runs or waits."""
    return session.state in AT_REST


class _Shown(NamedTuple):
    """The state that a commit makes visible when it is durable."""

    record: pb.Session | None
    last_sequence: int
    message_count: int


class Journal:
    """The record of one session and the writing end of its log. There is one per session at a time."""

    def __init__(self, record: pb.Session, ledger: Ledger, *, new: bool) -> None:
        """Take over `record`; `new` when nothing of the session is stored yet."""
        self._record = record
        self.key = key_of(record)
        self.tail = ledger.tail(self.key)
        self._ledger = ledger
        self._visible: pb.Session | None = None
        self._pending_events: list[Event] = []
        self._pending_turns: dict[str, pb.Turn] = {}
        self._pending_wholes: list[Whole] = []
        self._record_changed = False
        self._last_commit: asyncio.Future[int] | None = None
        self._behind = 0
        self.version = next(_versions)
        """Another one whenever `snapshot` shows something else, and never the same for two journals."""
        if not new:
            self._visible = _copy(record)

    @property
    def session_id(self) -> str:
        """The session's id."""
        return self._record.session_id

    @property
    def at_rest(self) -> bool:
        """Whether the session is at rest, durable or not."""
        return is_at_rest(self._record)

    def snapshot(self) -> pb.Session | None:
        """The session as of its last durable commit, a copy; None when nothing of it is durable yet."""
        return _copy(self._visible) if self._visible is not None else None

    @property
    def record(self) -> pb.Session:
        """The session's record as it is now, durable or not. To be read only: `update` is the way to write it."""
        return self._record

    @contextmanager
    def update(self) -> Iterator[pb.Session]:
        """The record to write to, within the block; it is stored by the next `commit`."""
        self._record_changed = True
        yield self._record

    def add(self, event: pb.SessionEvent, *, turn_id: str = "", raw: bytes | None = None) -> None:
        """Put an event behind the last one; it is written by the next `commit`.

        What is too long for an event is kept beside it, unless the agent's own message or another record has it.
        """
        record = self._record
        record.last_sequence += 1
        if raw is None and event.WhichOneof("payload") not in events.OF_RECORDS:
            self.keep(f"event {record.last_sequence}", events.fit_keeping(event, events.MAX_EVENT))
        record.message_count += event.type in COUNTED
        body = events.seal(
            event, session_id=record.session_id, sequence=record.last_sequence, time_us=now_us(), turn_id=turn_id
        )
        self._pending_events.append(Event(record.last_sequence, event.type, body, raw))

    def turn_changed(self, turn: pb.Turn) -> None:
        """Write the turn's record with the next `commit`; what is too long is cut in place and kept beside it."""
        self.keep(f"turn {turn.turn_id}", events.fit_keeping(turn, events.MAX_TURN))
        self._pending_turns[turn.turn_id] = turn

    def keep(self, record: str, fields: Mapping[str, bytes]) -> None:
        """Store the whole of fields that were cut in a record (see events.fit_keeping) with the next `commit`."""
        self._pending_wholes += [Whole(record, name, body) for name, body in fields.items()]

    def publish(self, event: pb.SessionEvent, *, turn_id: str) -> None:
        """Show an ephemeral event to those who watch now."""
        body = events.seal(event, session_id=self.session_id, sequence=0, time_us=now_us(), turn_id=turn_id)
        self._ledger.publish(self.key, Event(0, event.type, body, None))

    def commit(
        self,
        *,
        requests: Mapping[str, pb.ExecuteRequest] | None = None,
        request_id: RequestId | None = None,
    ) -> asyncio.Future[Any]:
        """Hand over all that was added since the last commit, as one unit; the future is done when it is durable."""
        record = self._record
        shown: pb.Session | None = None
        if self._record_changed:
            record.update_time.FromMicroseconds(now_us())
            shown = _copy(record)
        future = self._ledger.append(
            Commit(
                self.key,
                events=self._pending_events,
                session=shown,
                turns=list(self._pending_turns.values()),
                requests=requests or {},
                wholes=self._pending_wholes,
                request_id=request_id,
            )
        )
        made = _Shown(shown, record.last_sequence, record.message_count)
        self._behind += len(self._pending_events)
        count = len(self._pending_events)
        future.add_done_callback(lambda done: self._on_durable(done, made, count))
        self._pending_events, self._pending_turns, self._record_changed = [], {}, False
        self._pending_wholes = []
        self._last_commit = future
        return future

    def _on_durable(self, done: asyncio.Future[int], made: _Shown, count: int) -> None:
        self._behind -= count
        if done.cancelled() or done.exception() is not None:
            return
        if made.record is not None:
            self._visible = made.record
            self._visible.change = done.result()
        if self._visible is not None:
            self._visible.last_sequence = made.last_sequence
            self._visible.message_count = made.message_count
        self.version = next(_versions)

    @property
    def is_behind(self) -> bool:
        """Whether watchers have seen what `snapshot` will only show in the loop's next step."""
        seen = self.tail.last_sequence
        return self._visible is not None and seen is not None and self._visible.last_sequence < seen

    @property
    def is_flushed(self) -> bool:
        """Whether all that was committed so far is durable."""
        return self._last_commit is None or self._last_commit.done()

    def when_flushed(self, call: Callable[[], None]) -> None:
        """Call once all that was committed so far is durable, or has been refused."""
        if self._last_commit is not None:
            self._last_commit.add_done_callback(lambda _: call())

    async def flushed(self) -> None:
        """Wait until all that was committed so far is durable. Raises StoreUnavailable when it cannot be."""
        if self._last_commit is not None and not self._last_commit.done():
            await asyncio.shield(self._last_commit)

    async def keep_up(self) -> None:
        """Wait for the disk when too much waits for it already."""
        if self._behind > MAX_BEHIND:
            await self.flushed()


def _copy(record: pb.Session) -> pb.Session:
    copy = pb.Session()
    copy.CopyFrom(record)
    return copy
