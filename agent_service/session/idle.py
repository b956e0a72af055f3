"""IdlePolicy: what follows a session's last turn: background work, rest with a warm process, or rest without one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from agentpb import agent_pb2 as pb

from agent_service.ledger import Journal
from agent_service.session.agent_lease import AgentLease
from agent_service.session.interactions import Interactions
from agent_service.session.outcomes import Outcome
from agent_service.session.states import move
from agent_service.session.turn import set_expiry


class IdlePolicy:
    """The only place that keeps a process for the next turn (parks it), and gives it up again (releases it)."""

    def __init__(
        self,
        *,
        journal: Journal,
        lease: AgentLease,
        interactions: Interactions,
        idle_timeout: float,
        has_work: Callable[[], bool],
        on_release: Callable[[], None],
    ) -> None:
        """Keep a process for `idle_timeout` seconds, 0 for none at all; tell `on_release` when it is given up.

        A process is not given up while the session `has_work`.
        """
        self._journal = journal
        self._lease = lease
        self._interactions = interactions
        self._idle_timeout = idle_timeout
        self._has_work = has_work
        self._on_release = on_release
        self._timer: asyncio.TimerHandle | None = None
        self.draining = False
        """Whether nothing is kept and nothing goes on any more: the service shuts down."""
        self.ttl_of = pb.ExecuteRequest()
        """The request whose time to live holds."""

    def goes_on(self, outcome: Outcome) -> bool:
        """Return whether the agent works on in the background after a turn that ended like this, and may still ask."""
        completed = outcome.state == pb.SESSION_STATE_COMPLETED
        return completed and self._lease.alive and bool(self._lease.activity.tasks) and not self.draining

    def come_to_rest(self, outcome: Outcome, turn_id: str) -> None:
        """Record where the session goes, and keep its process or give it back; the caller commits."""
        with self._journal.update() as record:
            record.ClearField("current_turn")
        goes_on, phase = self.goes_on(outcome), outcome.phase
        if goes_on:
            phase = self._interactions.phase or pb.SESSION_PHASE_BACKGROUND
        elif outcome.state == pb.SESSION_STATE_COMPLETED and self._lease.alive and self._idle_timeout:
            phase = phase if self.draining else pb.SESSION_PHASE_IDLE
        move(self._journal, phase, turn_id=turn_id, reason=outcome.reason, error=outcome.error)
        set_expiry(self._journal, self.ttl_of)
        if phase == pb.SESSION_PHASE_IDLE:
            self._park()
        elif not goes_on:
            self._lease.close(at_once=outcome.state != pb.SESSION_STATE_COMPLETED)

    def release(self) -> None:
        """Give up the warm process of a session at rest."""
        self.unpark()
        if self._lease.agent is None or self._has_work():
            return
        if self._journal.record.phase == pb.SESSION_PHASE_IDLE:
            move(self._journal, pb.SESSION_PHASE_DORMANT)
            self._journal.commit()
        self._lease.close()
        self._on_release()

    def _park(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._idle_timeout, self.release)
        self._lease.pool.park(self.release)

    def unpark(self) -> None:
        """Stop the countdown of a parked process: a turn needs it, or it is being given up."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._lease.pool.unpark(self.release)
