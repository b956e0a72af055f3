"""Queries: what any process can answer that has the record: get, list, wait, watch, events, messages."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from agentpb import agent_pb2 as pb

from agent_service.ledger import Counted, Event, GroupBy, Ledger, PageCursor, SessionKey, key_of
from agent_service.registry.drain import Drain
from agent_service.registry.fields import FieldReader
from agent_service.registry.live import LiveSessions
from agent_service.registry.status_cache import CachedMessages, CachedStatus
from agent_service.registry.watcher import Wanted, Watcher, check_sequence

PAGE_BYTES = 1 << 20
"""Bytes of a page of sessions or events, unless one of them has more."""

EncodeStatus = Callable[[pb.Session, pb.Turn | None], bytes]
EncodeMessages = Callable[[Sequence[Event]], bytes]


class Queries:
    """Answers from the sessions that are live here, and from the ledger for all others. Sessions have their secrets."""

    def __init__(self, live: LiveSessions, ledger: Ledger, drain: Drain) -> None:
        """Read sessions of `live` and logs of `ledger`; watches and waits end with `drain`."""
        self.fields = FieldReader(ledger)
        self._live = live
        self._ledger = ledger
        self._drain = drain
        self.watchers: Counter[str] = Counter()
        """Open watches by tenant."""
        """Watches that are open."""

    async def get(self, key: SessionKey) -> pb.Session:
        """A session as of its last durable commit. Raises SessionNotFound."""
        return await self._live.get(key)

    async def list(
        self, request: pb.ListSessionsRequest, owner: str, *, after: PageCursor | None, limit: int
    ) -> tuple[Sequence[pb.Session], PageCursor | None]:
        """A page of sessions, as they are stored."""
        rows, cursor = await self._ledger.sessions(
            request.filter, request.order_by, owner=owner, after=after, limit=limit, max_bytes=PAGE_BYTES
        )
        return [row for row in rows if key_of(row) not in self._live.deleting], cursor

    async def counts(self, wanted: pb.SessionFilter, owner: str, group_by: GroupBy, limit: int) -> Counted:
        """How many sessions meet a filter, and how many of them have each value of a property."""
        return await self._ledger.counts(wanted, owner, group_by, limit)

    async def count(self, owner: str) -> int:
        """Return how many sessions of an owner are stored."""
        return await self._ledger.count(owner)

    # ----------------------------------------------------------------------------------------------------------- status

    async def turn(self, turn_id: str) -> pb.Turn | None:
        """A turn as it is stored."""
        return await self._ledger.turn(turn_id)

    async def turn_of(self, session: pb.Session) -> pb.Turn | None:
        """The session's current turn; at rest the one that brought it to this state, which need not be the newest."""
        return await self._live.turn_of(session)

    async def status(self, key: SessionKey, encode: EncodeStatus) -> CachedStatus:
        """Return the session and its turn as `encode` makes them; encoded once while both stay the same."""
        session = self._live.sessions.get(key)
        if session is not None and session.journal.is_behind:
            await asyncio.sleep(0)
        version = session.journal.version if session is not None else 0
        known = self._live.status_cache.get(key, version)
        if known is not None and key not in self._live.deleting:
            return known
        changes = self._live.status_cache.changes
        shown, turn = await self._live.standing(key)
        status = CachedStatus(version, encode(shown, turn), shown.message_count > 0)
        if changes == self._live.status_cache.changes and (session is None or session.journal.version == version):
            self._live.status_cache.put(key, status)
        return status

    async def newest_messages(
        self, key: SessionKey, status: CachedStatus, limit: int, encode: EncodeMessages
    ) -> CachedMessages:
        """The newest messages, oldest first, as `encode` makes them; made once for as long as `status` is valid."""
        if status.page is not None and status.page.limit == limit:
            return status.page
        found, truncated = await self._ledger.messages(key, limit, PAGE_BYTES)
        page = CachedMessages(limit, encode(found), truncated)
        session = self._live.sessions.get(key)
        if session is None or session.journal.version == status.version:
            self._live.status_cache.put_page(key, status, page)
        return page

    async def wait_until(self, key: SessionKey, seconds: float, wanted: Wanted) -> tuple[pb.Session, bool]:
        """The session once `wanted` is true of it, and whether it became so within `seconds`.

        Raises SessionNotFound, and SequenceInFuture or SequenceCompacted for a cursor outside the log.
        """
        if wanted.wait_for == pb.WAIT_FOR_NEW_EVENT:
            check_sequence(await self.get(key), wanted.after_sequence)
        deadline = asyncio.get_running_loop().time() + seconds
        tail = self._ledger.tail(key)
        while True:
            changed = tail.changed
            session = await self.get(key)
            if wanted.met(session):
                return session, True
            if asyncio.get_running_loop().time() >= deadline or self._drain.is_over:
                return session, False
            await changed.wait(deadline)

    # ----------------------------------------------------------------------------------------------------------- events

    async def watch(self, request: pb.WatchSessionRequest, owner: str) -> Watcher:
        """Begin to watch. Raises SessionNotFound, SequenceInFuture, SequenceCompacted."""
        session = await self.get(SessionKey(owner, request.session_id))
        check_sequence(session, request.after_sequence)
        return Watcher(
            self._ledger,
            self._live,
            self._drain,
            session,
            request.after_sequence,
            follow=request.follow,
            types=tuple(request.event_types),
            partials=not request.skip_partials,
            with_raw=request.include_raw,
        )

    @contextmanager
    def watching(self, owner: str) -> Iterator[None]:
        """Count a tenant's watch while the block lasts."""
        self.watchers[owner] += 1
        try:
            yield
        finally:
            self.watchers[owner] -= 1
            if not self.watchers[owner]:
                del self.watchers[owner]

    async def events(
        self, request: pb.ListEventsRequest, owner: str, *, cursor: int | None, limit: int
    ) -> tuple[Sequence[Event], int | None]:
        """A page of a session's stored events, and the cursor of the page behind it; None on the last one.

        `cursor` is the sequence of the last event of the page before.
        """
        key = SessionKey(owner, request.session_id)
        page = await self._read(request, key, cursor, limit + 1, with_raw=request.include_raw)
        shown = page[:limit]
        if not shown:
            return [], None
        last = shown[-1].sequence
        # A page may also end because it had enough bytes.
        more = len(page) > limit or bool(await self._read(request, key, last, 1, with_raw=False))
        return shown, last if more else None

    async def _read(
        self, request: pb.ListEventsRequest, key: SessionKey, cursor: int | None, limit: int, *, with_raw: bool
    ) -> Sequence[Event]:
        backwards = request.newest_first
        return await self._ledger.read(
            key,
            request.after_sequence if cursor is None or backwards else cursor,
            limit=limit,
            max_bytes=PAGE_BYTES,
            types=tuple(request.event_types),
            newest_first=backwards,
            before_sequence=cursor if backwards else None,
            with_raw=with_raw,
        )
