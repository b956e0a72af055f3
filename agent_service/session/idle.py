"""IdlePolicy: what becomes of a session without turns: background work, rest with a warm process, or rest without."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from agentpb import agent_pb2 as pb

from agent_service.session.outcomes import Outcome
from agent_service.session.run import Run
from agent_service.session.timers import Activity
from agent_service.session.turn import set_expiry


class IdlePolicy:
    """The only place that keeps a process for the next turn, and gives it up again."""

    def __init__(self, course: Run, activity: Activity, *, idle_timeout: float, on_rest: Callable[[], None]) -> None:
        """Keep a process for `idle_timeout` seconds, 0 for none at all; tell `on_rest` when it is given up."""
        self._course = course
        self._activity = activity
        self._idle_timeout = idle_timeout
        self._on_rest = on_rest
        self._journal = course.journal
        self._keeper = course.keeper
        self._idle_timer: asyncio.TimerHandle | None = None
        self.ttl_of = pb.ExecuteRequest()
        """The request whose time to live holds."""

    def goes_on(self, outcome: Outcome) -> bool:
        """Whether the agent works on in the background after a turn that ended like this, and may still ask."""
        completed = outcome.state == pb.SESSION_STATE_COMPLETED
        return completed and self._keeper.alive and bool(self._activity.tasks) and not self._course.halted

    def come_to_rest(self, outcome: Outcome, turn_id: str) -> None:
        """Record where the session goes, and keep its process or give it back; the caller commits."""
        record = self._journal.record
        record.ClearField("current_turn")
        self._journal.changed()
        state, phase = outcome.state, outcome.phase
        if self.goes_on(outcome):
            state, phase = pb.SESSION_STATE_RUNNING, self._course.interactions.phase or pb.SESSION_PHASE_BACKGROUND
        elif outcome.state == pb.SESSION_STATE_COMPLETED and self._keeper.alive and self._idle_timeout:
            phase = phase if self._course.halted else pb.SESSION_PHASE_IDLE
        self._journal.move(state, phase, turn_id=turn_id, reason=outcome.reason, error=outcome.error)
        set_expiry(record, self.ttl_of)
        if phase == pb.SESSION_PHASE_IDLE:
            self._arm()
        elif state != pb.SESSION_STATE_RUNNING:
            self._keeper.close(at_once=outcome.state != pb.SESSION_STATE_COMPLETED)

    def cool_down(self) -> None:
        """Give up the warm process of a session at rest."""
        self.disarm()
        if self._keeper.agent is None or self._course.head is not None or self._course.ended is not None:
            return
        if self._journal.record.phase == pb.SESSION_PHASE_IDLE:
            self._journal.move(pb.SESSION_STATE_COMPLETED, pb.SESSION_PHASE_DORMANT)
            self._journal.commit()
        self._keeper.close()
        self._on_rest()

    def _arm(self) -> None:
        self._idle_timer = asyncio.get_running_loop().call_later(self._idle_timeout, self.cool_down)
        self._keeper.pool.rests(self.cool_down)

    def disarm(self) -> None:
        """Keep the process: there is work for it, or somebody else decides."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
            self._keeper.pool.stirs(self.cool_down)
