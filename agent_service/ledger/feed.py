"""Feed: the committed changes of all sessions' records, as a cursor over one number.

Each write of a session's record gets the next number of one counter, in the same commit; an append of events alone does
not. A follower reads the sessions behind the last number it has seen, as they stand: a slow one misses states in
between, never the last one. Deletions are not in the feed yet: they come with tombstones.
"""

from __future__ import annotations

import asyncio

from agentpb import agent_pb2 as pb

from agent_service.ledger.store import Store
from agent_service.ledger.tail import BATCH_BYTES, Change

PAUSE = 0.05
"""Seconds between two wake-ups, at least: followers of a busy service read many changes at once."""
BATCH = 256


class Feed:
    """The feed of one open ledger. It belongs to the event loop; without followers it costs one comparison a group."""

    def __init__(self, store: Store) -> None:
        """Read from `store`."""
        self.last = 0
        """The number of the last durable change; 0 before the first one."""
        self._store = store
        self._changed: Change | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._woken = 0.0

    @property
    def changed(self) -> Change:
        """The next wake-up. Fetch it *before* reading, then wait for it."""
        if self._changed is None:
            self._changed = Change()
        return self._changed

    async def changes(self, after: int, *, limit: int = BATCH, max_bytes: int = BATCH_BYTES) -> list[pb.Session]:
        """Sessions whose record has changed behind the number `after`, by number; at least one if there is any.

        They are as stored, secrets included, and of every owner. Raises StoreUnavailable.
        """
        return await self._store.changes(after, limit, max_bytes)

    def note(self, change: int) -> None:
        """Take note of a durable change, and wake followers, at most every `PAUSE` seconds."""
        self.last = max(self.last, change)
        if self._changed is None or self._timer is not None:
            return
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(max(loop.time(), self._woken + PAUSE), self.wake)

    def wake(self) -> None:
        """Wake all followers."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._woken = asyncio.get_running_loop().time()
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()
