"""TurnQueue: the turns of one session that wait behind its head. The only place that keeps their order and timers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from agentpb import agent_pb2 as pb

from agent_service.ledger.journal import Journal, now_us
from agent_service.session import outcomes
from agent_service.session.outcomes import Outcome, StopCause
from agent_service.session.turn import QueuedTurn, record_end, seconds


class TurnQueue:
    """What waits, in order. The session's record always says how many they are; the caller commits."""

    def __init__(self, journal: Journal, timeout: float, on_timeout: Callable[[QueuedTurn, Outcome], None]) -> None:
        """Call `on_timeout` with a turn that has waited too long: as long as it asked for, or `timeout` seconds."""
        self._journal = journal
        self._timeout = timeout
        self._on_timeout = on_timeout
        self._waiting: deque[QueuedTurn] = deque()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def __iter__(self) -> Iterator[QueuedTurn]:
        """Go through them in their order."""
        return iter(self._waiting)

    def put(self, work: QueuedTurn, *, next_up: bool) -> None:
        """Let a turn wait as the last one, or as the next."""
        if next_up:
            self._waiting.appendleft(work)
        else:
            self._waiting.append(work)
        self.count()

    def restore(self, works: Iterable[QueuedTurn]) -> None:
        """Let turns wait that waited in an earlier run of the service."""
        for work in works:
            self._waiting.append(work)
            self.arm(work)

    def take(self) -> QueuedTurn:
        """The next one, which waits no longer."""
        work = self._waiting.popleft()
        self.count()
        return work

    def remove(self, work: QueuedTurn) -> None:
        """Take out one, wherever it is."""
        self._waiting.remove(work)
        self.count()

    def drop(self, reason: str) -> list[QueuedTurn]:
        """Cancel all of them."""
        outcome = outcomes.of_stop(StopCause.CANCEL, reason)
        dropped, self._waiting = list(self._waiting), deque()
        for work in dropped:
            record_end(self._journal, work, outcome)
        if dropped:
            self.count()
        return dropped

    def count(self) -> None:
        """Say in the session's record how many wait."""
        self._journal.record.queued_turn_count = len(self._waiting)
        self._journal.changed()

    def arm(self, work: QueuedTurn) -> None:
        """Start a turn's queue timeout; what is at the head of its session may have to wait as well, for a place."""
        timeout = seconds(work.request, "queue_timeout", self._timeout)
        if timeout:
            left = max(0.0, timeout - (now_us() - work.turn.create_time.ToMicroseconds()) / 1e6)
            work.timer = asyncio.get_running_loop().call_later(left, self._time_out, work, timeout)

    def _time_out(self, work: QueuedTurn, timeout: float) -> None:
        failure = outcomes.error(
            "QUEUE_TIMEOUT", f"the turn waited longer than its queue_timeout of {timeout:g} s", retryable=True
        )
        self._on_timeout(work, outcomes.failed(pb.SESSION_PHASE_TIMED_OUT, failure))
