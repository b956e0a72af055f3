"""Watcher: one reader's place in one session's log. A cursor and nothing else: leaving it needs no clean-up."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from agentpb import agent_pb2 as pb

from agent_service import errors
from agent_service.ledger import Ledger, Position, is_at_rest, key_of
from agent_service.registry.drain import Drain
from agent_service.registry.live import LiveSessions


@dataclass(frozen=True)
class Wanted:
    """The condition that a long poll waits for."""

    wait_for: pb.WaitFor.ValueType
    after_sequence: int = 0

    def met(self, session: pb.Session) -> bool:
        """Return whether it is true of the session."""
        if self.wait_for == pb.WAIT_FOR_NEW_EVENT:
            return session.last_sequence > self.after_sequence
        settled = self.wait_for == pb.WAIT_FOR_SETTLED and bool(session.pending_interactions)
        return settled or is_at_rest(session)


class Watcher:
    """Reads a session's log from a cursor on: first what is stored, then what comes."""

    def __init__(
        self,
        ledger: Ledger,
        live: LiveSessions,
        drain: Drain,
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
        """The session as it was when the watcher last looked."""
        self.end: pb.WatchEndReason.ValueType | None = None
        """Why there will be nothing more; None while there may be."""
        self._ledger = ledger
        self._live = live
        self._drain = drain
        self._follow = follow
        self._types = types
        self._partials = partials
        self._with_raw = with_raw
        self._key = key_of(session)
        self._tail = ledger.tail(self._key)
        self._position = Position(after_sequence)
        self._looked_at = -1  # the end of the log when the watcher last looked whether it ends there
        self._ahead: asyncio.Task[tuple[list[bytes], Position]] | None = None

    @property
    def last_sequence(self) -> int:
        """The sequence the watcher has read up to."""
        return self._position.sequence

    async def read(self, timeout: float) -> list[bytes]:
        """Return the events past the cursor as contents of responses; none at the end, or after `timeout` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while True:
            changed = self._tail.changed
            responses, self._position = await (self._ahead or self._next())
            self._ahead = self._read_ahead() if responses else None
            if responses:
                return responses
            late = loop.time() >= deadline
            if late or self._may_have_ended:
                self.end = await self._ending()
            if late or self.end is not None:
                return []
            await changed.wait(deadline)

    async def _next(self) -> tuple[list[bytes], Position]:
        return await self._ledger.follow(
            self._key,
            self._position,
            types=self._types,
            partials=self._partials,
            with_raw=self._with_raw,
        )

    def _read_ahead(self) -> asyncio.Task[tuple[list[bytes], Position]] | None:
        """In a replay, read what comes next while this is being sent. If nobody comes for it, it is dropped."""
        if self._position.sequence < (self._tail.last_sequence or 0):
            return asyncio.create_task(self._next(), name=f"read ahead {self.session.session_id}")
        return None

    @property
    def _may_have_ended(self) -> bool:
        """Whether to look at the session: it has moved since the last look. A look costs as much as a response."""
        return self._looked_at < self._tail.moved or self._tail.deleted or self._drain.begun

    async def _ending(self) -> pb.WatchEndReason.ValueType | None:
        """Why there will be nothing more; None when there may be."""
        if self._tail.deleted:
            return pb.WATCH_END_REASON_DELETED
        try:
            self.session = await self._live.get(self._key)
        except errors.SessionNotFound:
            return pb.WATCH_END_REASON_DELETED if self._tail.deleted else None
        if self.session.last_sequence > self._position.sequence:
            return None
        self._looked_at = self.session.last_sequence
        if is_at_rest(self.session) and not self._follow and not self._cut_short:
            return pb.WATCH_END_REASON_AT_REST
        if self._drain.is_over or self._cut_short:
            return pb.WATCH_END_REASON_DRAINING
        return None

    @property
    def _cut_short(self) -> bool:
        """Whether the shutdown that is under way has ended the session's turn."""
        return self._drain.begun and self.session.phase == pb.SESSION_PHASE_INTERRUPTED


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
