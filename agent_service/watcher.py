"""Watcher: one reader's place in one session's log. A cursor and nothing else: leaving it needs no clean-up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from agentpb import agent_pb2 as pb

from agent_service import errors
from agent_service.journal import is_at_rest
from agent_service.ledger import Event
from agent_service.tail import Position

if TYPE_CHECKING:
    from agent_service.registry import SessionRegistry


@dataclass(frozen=True)
class Wanted:
    """What a long poll waits for."""

    wait_for: pb.WaitFor.ValueType
    after_sequence: int = 0

    def met(self, session: pb.Session) -> bool:
        """Whether it is true of the session."""
        if self.wait_for == pb.WAIT_FOR_NEW_EVENT:
            return session.last_sequence > self.after_sequence
        settled = self.wait_for == pb.WAIT_FOR_SETTLED and bool(session.pending_interactions)
        return settled or is_at_rest(session)


class Batch(NamedTuple):
    """What a watcher reads at once: events, and the reason and session when that was all."""

    events: Sequence[Event]
    end: pb.WatchEndReason.ValueType | None
    session: pb.Session | None


class Watcher:
    """Reads a session's log from a cursor on: first what is stored, then what comes."""

    def __init__(
        self,
        registry: SessionRegistry,
        session: pb.Session,
        after_sequence: int,
        *,
        follow: bool,
        types: tuple[str, ...] = (),
        partials: bool = True,
        with_raw: bool = False,
    ) -> None:
        """Begin behind `after_sequence`, with what `types` names. Raises SequenceInFuture, SequenceCompacted."""
        check_sequence(session, after_sequence)
        self.session = session
        self._registry = registry
        self._follow = follow
        self._types = types
        self._partials = partials
        self._with_raw = with_raw
        self._tail = registry.ledger.tail(session.session_id)
        self._position = Position(after_sequence)
        self._ahead: asyncio.Task[tuple[list[Event], Position]] | None = None

    @property
    def last_sequence(self) -> int:
        """The sequence the watcher has read up to."""
        return self._position.sequence

    async def read(self, timeout: float) -> Batch | None:
        """Everything past the cursor, at most one response's worth; None when nothing came within `timeout` seconds."""
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            changed = self._tail.changed
            events, self._position = await (self._ahead or self._next())
            self._ahead = self._read_ahead() if events else None
            end = None if events else await self._ending()
            if events or end is not None:
                return Batch(events, end, self.session if end is not None else None)
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return None
            try:
                await asyncio.wait_for(changed.wait(), left)
            except TimeoutError:
                return None

    async def _next(self) -> tuple[list[Event], Position]:
        return await self._registry.ledger.follow(
            self.session.session_id,
            self._position,
            types=self._types,
            partials=self._partials,
            with_raw=self._with_raw,
        )

    def _read_ahead(self) -> asyncio.Task[tuple[list[Event], Position]] | None:
        """In a replay, read the next batch while this one is being sent. If nobody comes for it, it is dropped."""
        if self._position.sequence < (self._tail.last_sequence or 0):
            return asyncio.create_task(self._next(), name=f"read ahead {self.session.session_id}")
        return None

    async def _ending(self) -> pb.WatchEndReason.ValueType | None:
        """Why there will be nothing more; None when there may be."""
        if self._tail.deleted:
            return pb.WATCH_END_REASON_DELETED
        try:
            self.session = await self._registry.get(self.session.session_id, self.session.owner)
        except errors.SessionNotFound:
            return pb.WATCH_END_REASON_DELETED if self._tail.deleted else None
        if self.session.last_sequence > self._position.sequence:
            return None
        if is_at_rest(self.session) and not self._follow and not self._cut_short:
            return pb.WATCH_END_REASON_AT_REST
        if self._registry.drained or self._cut_short:
            return pb.WATCH_END_REASON_DRAINING
        return None

    @property
    def _cut_short(self) -> bool:
        """Whether the shutdown that is under way has ended the session's turn."""
        return self._registry.draining and self.session.phase == pb.SESSION_PHASE_INTERRUPTED


def check_sequence(session: pb.Session, after_sequence: int) -> None:
    """Raise SequenceInFuture or SequenceCompacted when a cursor is outside the session's log."""
    if after_sequence > session.last_sequence:
        raise errors.SequenceInFuture(
            f"after_sequence {after_sequence} is past the log's end; the last sequence is {session.last_sequence}",
            metadata={"last_sequence": str(session.last_sequence)},
        )
    if after_sequence + 1 < session.first_available_sequence:
        raise errors.SequenceCompacted(
            f"events up to {session.first_available_sequence - 1} are no longer stored",
            metadata={"first_available_sequence": str(session.first_available_sequence)},
        )
