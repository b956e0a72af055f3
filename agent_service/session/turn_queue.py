"""TurnQueue: the turns of one session that wait behind its next one; the only place of their order and timers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from agentpb import agent_pb2 as pb

from agent_service.ledger import Journal, now_us
from agent_service.session import outcomes
from agent_service.session.outcomes import Outcome, StopCause
from agent_service.session.turn import QueuedTurn, record_end, seconds


class TurnQueue:
    """The waiting turns in their order. The session's record always has their number; the caller commits."""

    def __init__(self, journal: Journal, timeout: float, on_timeout: Callable[[QueuedTurn, Outcome], None]) -> None:
        """Call `on_timeout` with a turn that has waited too long: as long as it asked for, or `timeout` seconds."""
        self._journal = journal
        self._timeout = timeout
        self._on_timeout = on_timeout
        self._waiting: deque[QueuedTurn] = deque()

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[QueuedTurn]:
        """Go through them in their order."""
        return iter(self._waiting)

    def put(self, queued: QueuedTurn, *, next_up: bool) -> None:
        """Let a turn wait as the last one, or as the next."""
        if next_up:
            self._waiting.appendleft(queued)
        else:
            self._waiting.append(queued)
        self._record_length()

    def restore(self, turns: Iterable[QueuedTurn]) -> None:
        """Let turns wait that waited in an earlier run of the service."""
        for queued in turns:
            self._waiting.append(queued)
            self.arm(queued)
        self._record_length()

    def take(self) -> QueuedTurn:
        """Take out the next turn."""
        queued = self._waiting.popleft()
        self._record_length()
        return queued

    def remove(self, queued: QueuedTurn) -> None:
        """Take out one turn, wherever it is."""
        self._waiting.remove(queued)
        self._record_length()

    def drop(self, reason: str) -> list[QueuedTurn]:
        """Cancel all of them."""
        outcome = outcomes.of_stop(StopCause.CANCEL, reason)
        dropped, self._waiting = list(self._waiting), deque()
        for queued in dropped:
            record_end(self._journal, queued, outcome)
        if dropped:
            self._record_length()
        return dropped

    def _record_length(self) -> None:
        with self._journal.update() as record:
            record.queued_turn_count = len(self._waiting)

    def arm(self, queued: QueuedTurn) -> None:
        """Start a turn's queue timeout; the next turn of its session has one as well, as it may wait for a place."""
        timeout = seconds(queued.request, "queue_timeout", self._timeout)
        if timeout:
            left = max(0.0, timeout - (now_us() - queued.turn.create_time.ToMicroseconds()) / 1e6)
            queued.timer = asyncio.get_running_loop().call_later(left, self._time_out, queued, timeout)

    def _time_out(self, queued: QueuedTurn, timeout: float) -> None:
        failure = outcomes.error(
            "QUEUE_TIMEOUT", f"the turn waited longer than its queue_timeout of {timeout:g} s", retryable=True
        )
        self._on_timeout(queued, outcomes.failed(pb.SESSION_PHASE_TIMED_OUT, failure))
