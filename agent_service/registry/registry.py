"""SessionRegistry: admission, task ownership, cancel, watch, drain. The core behind every RPC, knowing nothing of gRPC.

It holds only sessions that are at work or keep a warm process. All others are rows in the ledger and cost nothing.
Decisions are synchronous: whatever must be read is read first, then decided and handed to the ledger without a pause.
"""

from __future__ import annotations

import asyncio
import logging
from types import TracebackType
from typing import Self

from agentpb import agent_pb2 as pb

from agent_service.agents.pool import AgentPool
from agent_service.agents.workspace import Workspaces
from agent_service.ledger import Ledger, SessionKey
from agent_service.policy import Policy
from agent_service.registry.cancel import Cancellation
from agent_service.registry.cancel_many import MassCancellation
from agent_service.registry.capacity import Capacity
from agent_service.registry.control import Control
from agent_service.registry.deletion import Deletion
from agent_service.registry.drain import Drain
from agent_service.registry.execute import Execution
from agent_service.registry.idempotency import InFlightRequests
from agent_service.registry.live import LiveSessions
from agent_service.registry.prepare import Preparation
from agent_service.registry.queries import Queries
from agent_service.registry.recovery import recover
from agent_service.session.admission import Admission
from agent_service.session.limits import Limits
from agent_service.session.session import Session
from agent_service.session.states import is_at_work

log = logging.getLogger(__name__)

USUAL_SESSIONS = 4
"""How many of the latest sessions tell, at a start, what will be asked for."""


class SessionRegistry:
    """All sessions of one data directory, and whatever may be done with them."""

    def __init__(
        self,
        ledger: Ledger,
        pool: AgentPool,
        workspaces: Workspaces,
        *,
        limits: Limits,
        max_sessions: int,
        max_queued: int,
        policy: Policy | None = None,
    ) -> None:
        """Run at most `max_sessions` at once; let `max_queued` turns wait."""
        self.ledger = ledger
        self._pool = pool
        policy = policy or Policy()
        self._admission = admission = Admission(max_sessions, lambda owner: policy.grant(owner).sessions.at_work)
        self._drain = Drain()
        in_flight = InFlightRequests(ledger)
        self.live_sessions = LiveSessions(
            ledger,
            lambda journal, on_release: Session(
                journal, pool=pool, admission=admission, limits=limits, on_release=on_release
            ),
        )
        self._capacity = Capacity(
            self.live_sessions,
            ledger,
            admission,
            max_queued=max_queued,
            quota=lambda owner: policy.grant(owner).sessions,
        )
        self.live_sessions.on_removed = lambda key: self._capacity.note_session(key.owner, -1)
        self.execution = Execution(
            self.live_sessions,
            ledger=ledger,
            pool=pool,
            workspaces=workspaces,
            admission=admission,
            in_flight=in_flight,
            drain=self._drain,
            capacity=self._capacity,
            policy=policy,
        )
        self.preparation = Preparation(self.execution, pool, policy)
        self.queries = Queries(self.live_sessions, ledger, self._drain)
        self.control = Control(self.live_sessions, ledger, in_flight)
        self.cancellation = Cancellation(self.live_sessions, ledger, in_flight)
        self.mass_cancellation = MassCancellation(ledger, self.cancellation)
        self.deletion = Deletion(self.live_sessions, ledger, workspaces, in_flight, self.cancellation)

    @property
    def draining(self) -> bool:
        """Whether a shutdown has begun."""
        return self._drain.begun

    async def __aenter__(self) -> Self:
        """End what a crash left unfinished, and go on with what it left waiting."""
        for journal, turns in await recover(self.ledger):
            session = self.live_sessions.adopt(journal)
            for queued in turns:
                self._capacity.note_turn(queued, session.key.owner)
            session.restore(turns)
        await self._expect_the_usual()
        return self

    async def _expect_the_usual(self) -> None:
        """Have the pool prepare for sessions like the last ones; without any, for one that sets no options."""
        latest, _ = await self.ledger.sessions(
            pb.SessionFilter(), pb.SESSION_ORDER_CREATE_TIME_DESC, owner=None, limit=USUAL_SESSIONS
        )
        for record in reversed(latest):
            self._pool.expect(record.options, record.owner)
        if not latest:
            self._pool.expect(pb.AgentOptions(), "")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop whatever still runs; its end is recorded when the ledger still can."""
        await self.drain(0)

    def live(self, session_id: str, owner: str = "") -> Session | None:
        """The session's object while it is at work or keeps a warm process."""
        return self.live_sessions.find(SessionKey(owner, session_id))

    def quotas_changed(self) -> None:
        """Give the places that tenants may have now, after their quotas have changed."""
        self._admission.admit()

    async def drain(self, seconds: float) -> None:
        """Let running turns go on for `seconds`, then end them; the queue is left for the next start."""
        self._drain.begun = True
        self._pool.prepare_no_more()
        for session in list(self.live_sessions.sessions.values()):
            session.hold_queue()
        tasks = [task for session in self.live_sessions.sessions.values() if (task := session.task) is not None]
        if tasks and seconds > 0:
            await asyncio.wait(tasks, timeout=seconds)
        for session in list(self.live_sessions.sessions.values()):
            session.halt(grace=1.0)
        held = list(self.live_sessions.sessions.values())
        await asyncio.gather(*(session.finished() for session in held))
        await self.mass_cancellation.finished()
        await self.cancellation.finished()
        # Watches end next, and must have seen the last word; where it cannot be written, the service goes down anyway.
        await asyncio.gather(*(session.journal.flushed() for session in held), return_exceptions=True)
        self._drain.finish()
        self.ledger.wake_all()

    def statistics(self, owner: str) -> dict[str, int]:
        """Return a tenant's load: running, queued, warm, watchers, pending interactions."""
        sessions = [session for session in self.live_sessions.sessions.values() if session.key.owner == owner]
        return {
            "running": sum(is_at_work(session.journal.record) for session in sessions),
            "queued": sum(session.waiting for session in sessions),
            "warm": sum(session.warm for session in sessions),
            "watchers": self.queries.watchers[owner],
            "pending_interactions": sum(len(session.interactions) for session in sessions),
        }
