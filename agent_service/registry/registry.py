"""SessionRegistry: admission, task ownership, cancel, watch, drain. The core behind every RPC, knowing nothing of gRPC.

It holds only sessions that are at work or keep a warm process. All others are rows in the ledger and cost nothing.
Decisions are synchronous: whatever must be read is read first, then decided and handed to the ledger without a pause.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from agentpb import agent_pb2 as pb

from agent_service.agents.pool import AgentPool
from agent_service.agents.workspace import Workspaces
from agent_service.ledger import Event, Ledger
from agent_service.registry.cancel import Cancellation
from agent_service.registry.control import Control
from agent_service.registry.deletion import Deletion
from agent_service.registry.drain import Drain
from agent_service.registry.execute import Execution, Started
from agent_service.registry.fields import FieldReader
from agent_service.registry.idempotency import InFlightRequests
from agent_service.registry.live import LiveSessions
from agent_service.registry.recovery import recover
from agent_service.registry.status_cache import CachedMessages, CachedStatus
from agent_service.registry.watcher import Wanted, Watcher
from agent_service.session.admission import Admission
from agent_service.session.limits import Limits
from agent_service.session.session import Session

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
    ) -> None:
        """Run at most `max_sessions` at once; let `max_queued` turns wait."""
        self.ledger = ledger
        self._pool = pool
        self._admission = admission = Admission(max_sessions)
        self._drain = Drain()
        self._watchers = 0
        claims = InFlightRequests(ledger)
        self.roster = LiveSessions(
            ledger,
            lambda journal, on_release: Session(
                journal, pool=pool, admission=admission, limits=limits, on_release=on_release
            ),
        )
        self.execution = Execution(
            self.roster,
            ledger=ledger,
            pool=pool,
            workspaces=workspaces,
            admission=admission,
            claims=claims,
            drain=self._drain,
            max_queued=max_queued,
        )
        self.fields = FieldReader(ledger)
        self.control = Control(self.roster, ledger, claims)
        self.cancellation = Cancellation(self.roster, ledger, claims)
        self.deletion = Deletion(self.roster, ledger, workspaces, claims, self.cancellation)

    @property
    def draining(self) -> bool:
        """Whether a shutdown has begun."""
        return self._drain.begun

    @property
    def drained(self) -> bool:
        """Whether a shutdown has written every ending."""
        return self._drain.is_over

    async def __aenter__(self) -> Self:
        """End what a crash left unfinished, and go on with what it left waiting."""
        for journal, works in await recover(self.ledger):
            session = self.roster.adopt(journal)
            for work in works:
                self.execution.count(work)
            session.restore(works)
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

    async def start(self, request: pb.ExecuteRequest, owner: str) -> Started:
        """Give a session, new or existing, its next turn. Raises what the contract's table says of Execute."""
        return await self.execution.start(request, owner)

    async def get(self, session_id: str, owner: str) -> pb.Session:
        """A session as of its last durable commit. Raises SessionNotFound."""
        return await self.roster.get(session_id, owner)

    def live(self, session_id: str) -> Session | None:
        """The session's object while it is at work or keeps a warm process."""
        return self.roster.live(session_id)

    # ---------------------------------------------------------------------------------------------------------- reading

    async def head(
        self, session_id: str, owner: str, encode: Callable[[pb.Session, pb.Turn | None], bytes]
    ) -> CachedStatus:
        """What `encode` makes of the session and its turn, made once for as long as both stay the same."""
        session = self.roster.sessions.get(session_id)
        if session is not None and session.journal.is_behind:
            await asyncio.sleep(0)
        version = session.journal.version if session is not None else 0
        known = self.roster.status_cache.get(session_id, owner, version)
        if known is not None and session_id not in self.roster.deleting:
            return known
        changes = self.roster.status_cache.changes
        shown, turn = await self.roster.standing(session_id, owner)
        head = CachedStatus(owner, version, encode(shown, turn), shown.message_count > 0)
        if changes == self.roster.status_cache.changes and (session is None or session.journal.version == version):
            self.roster.status_cache.put(session_id, head)
        return head

    async def newest_messages(
        self,
        session_id: str,
        head: CachedStatus,
        limit: int,
        max_bytes: int,
        encode: Callable[[Sequence[Event]], bytes],
    ) -> CachedMessages:
        """What `encode` makes of the newest messages of a session, oldest first; made once for as long as `head` is."""
        if head.page is not None and head.page.limit == limit:
            return head.page
        found, truncated = await self.ledger.messages(session_id, limit, max_bytes)
        page = CachedMessages(limit, encode(found), truncated)
        session = self.roster.sessions.get(session_id)
        if session is None or session.journal.version == head.version:
            self.roster.status_cache.put_page(session_id, head, page)
        return page

    async def turn_of(self, session: pb.Session) -> pb.Turn | None:
        """The session's current turn; at rest the one that brought it to this state, which need not be the newest."""
        return await self.roster.turn_of(session)

    async def wait_until(self, session_id: str, owner: str, seconds: float, wanted: Wanted) -> tuple[pb.Session, bool]:
        """The session once `wanted` is true of it, and whether it became so within `seconds`."""
        deadline = asyncio.get_running_loop().time() + seconds
        tail = self.ledger.tail(session_id)
        while True:
            changed = tail.changed
            session = await self.get(session_id, owner)
            if wanted.met(session):
                return session, True
            if asyncio.get_running_loop().time() >= deadline or self.drained:
                return session, False
            await changed.wait(deadline)

    async def watch(
        self,
        session_id: str,
        owner: str,
        after_sequence: int,
        *,
        follow: bool,
        types: tuple[str, ...] = (),
        partials: bool = True,
        with_raw: bool = False,
    ) -> Watcher:
        """Begin to watch. Raises SessionNotFound, SequenceInFuture, SequenceCompacted."""
        session = await self.get(session_id, owner)
        return Watcher(self, session, after_sequence, follow=follow, types=types, partials=partials, with_raw=with_raw)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count a watcher while the block lasts."""
        self._watchers += 1
        try:
            yield
        finally:
            self._watchers -= 1

    async def list(
        self, request: pb.ListSessionsRequest, owner: str, *, after: tuple[int, str] | None, limit: int
    ) -> tuple[Sequence[pb.Session], tuple[int, str] | None]:
        """A page of sessions, as they are stored."""
        rows, cursor = await self.ledger.sessions(
            request.filter, request.order_by, owner=owner, after=after, limit=limit, max_bytes=1 << 20
        )
        return [row for row in rows if row.session_id not in self.roster.deleting], cursor

    # ------------------------------------------------------------------------------------------------------------ drain

    async def drain(self, seconds: float) -> None:
        """Let running turns go on for `seconds`, then end them; the queue is left for the next start."""
        self._drain.begun = True
        for session in list(self.roster.sessions.values()):
            session.hold_queue()
        tasks = [task for session in self.roster.sessions.values() if (task := session.task) is not None]
        if tasks and seconds > 0:
            await asyncio.wait(tasks, timeout=seconds)
        for session in list(self.roster.sessions.values()):
            session.halt(grace=1.0)
        held = list(self.roster.sessions.values())
        await asyncio.gather(*(session.finished() for session in held))
        await self.cancellation.finished()
        # Watches end next, and must have seen the last word; where it cannot be written, the service goes down anyway.
        await asyncio.gather(*(session.journal.flushed() for session in held), return_exceptions=True)
        self._drain.finish()
        self.ledger.wake_all()

    def statistics(self) -> dict[str, int]:
        """How busy it is."""
        return {
            "running": self._admission.running,
            "queued": sum(session.waiting for session in self.roster.sessions.values()),
            "warm": sum(session.warm for session in self.roster.sessions.values()),
            "watchers": self._watchers,
            "pending_interactions": sum(len(session.interactions) for session in self.roster.sessions.values()),
        }
