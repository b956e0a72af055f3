"""Capacity: the bounds of what waits and of what is kept: of the service, of one session, and of each tenant."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

from agent_service.ledger import Ledger
from agent_service.policy import SessionQuota
from agent_service.registry import refusals
from agent_service.registry.live import LiveSessions
from agent_service.session.admission import Admission
from agent_service.session.session import Session
from agent_service.session.turn import QueuedTurn

MAX_PENDING_TURNS = 100
"""Turns that may wait in one session."""


class Capacity:
    """Says whether there is room for a turn, and for a new session. Tenants without a quota cost nothing."""

    def __init__(
        self,
        live: LiveSessions,
        ledger: Ledger,
        admission: Admission,
        *,
        max_queued: int,
        quota: Callable[[str], SessionQuota],
    ) -> None:
        """Let `max_queued` turns wait for the places of `admission`; `quota` gives a tenant's own bounds."""
        self._live = live
        self._ledger = ledger
        self._admission = admission
        self._max_queued = max_queued
        self._quota = quota
        self._open_turns: Counter[str] = Counter()
        self._kept: dict[str, int] = {}
        self._counting: dict[str, asyncio.Task[int]] = {}

    async def prepare(self, owner: str) -> None:
        """Learn how many sessions a tenant has that may have only so many. Once; from then on it is counted here."""
        if self._quota(owner).kept is None or owner in self._kept:
            return
        counting = self._counting.get(owner)
        if counting is None:
            counting = self._counting[owner] = asyncio.create_task(self._ledger.count(owner), name=f"count {owner}")
            counting.add_done_callback(lambda done: self._counted(owner, done))
        await asyncio.shield(counting)

    def _counted(self, owner: str, counting: asyncio.Task[int]) -> None:
        del self._counting[owner]
        if not counting.cancelled() and counting.exception() is None:
            self._kept[owner] = counting.result()

    def check(self, session: Session, *, new: bool) -> None:
        """Raise QueueFull or QuotaExceeded when there is no room for a turn of the session."""
        owner = session.key.owner
        quota = self._quota(owner)
        if new and quota.kept is not None and self._kept.get(owner, 0) >= quota.kept:
            raise refusals.too_many_kept(owner, self._kept[owner], quota.kept)
        if quota.queued is not None:
            self._check_tenant(session, owner, quota.queued)
        self._check_service()
        if session.waiting >= MAX_PENDING_TURNS:
            raise refusals.session_queue_full(session.journal.record, session.waiting, MAX_PENDING_TURNS)

    def _check_service(self) -> None:
        # Places are taken a moment after a turn was accepted: whoever is on the way to one is counted too.
        limit = self._admission.places + self._max_queued
        # All sessions are asked only when it may be too much: an admission must not take longer the more wait.
        most = self._open_turns.total() + self._admission.running
        if most >= limit and sum(each.load for each in self._live.sessions.values()) >= limit:
            waiting = sum(each.waiting for each in self._live.sessions.values())
            raise refusals.queue_full(
                waiting, self._max_queued, running=self._admission.running, places=self._admission.places
            )

    def _check_tenant(self, session: Session, owner: str, queued: int) -> None:
        # A turn that can begin at once does not wait, and those on the way to a place do not either.
        limit = queued + (self._admission.room(owner) if session.journal.at_rest else 0)
        if self._open_turns[owner] < limit:
            return
        waiting = sum(each.waiting for each in self._live.sessions.values() if each.key.owner == owner)
        if waiting >= limit:
            raise refusals.too_many_queued(owner, waiting, queued)

    def note_turn(self, queued: QueuedTurn, owner: str) -> None:
        """Count a turn as open until it has ended."""
        self._open_turns[owner] += 1
        queued.done.add_done_callback(lambda _: self._turn_closed(owner))

    def _turn_closed(self, owner: str) -> None:
        self._open_turns[owner] -= 1
        if not self._open_turns[owner]:
            del self._open_turns[owner]

    def note_session(self, owner: str, change: int) -> None:
        """Take note of a session that is new (1), or is gone (-1)."""
        if owner in self._kept:
            self._kept[owner] += change
