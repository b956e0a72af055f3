"""LiveSessions: sessions held in memory, at work or with a warm process; at most one object per session.

All others are rows in the ledger and cost nothing. What is found here may be decided upon as long as the caller does
not pause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from agentpb import agent_pb2 as pb

from agent_service import errors
from agent_service.ledger import Journal, Ledger, SessionKey, StoredStatus, key_of
from agent_service.registry.status_cache import StatusCache
from agent_service.session.session import Session

MakeSession = Callable[[Journal, Callable[[Session], None]], Session]
"""Makes a session's object from its journal, and what it calls when it has come to rest."""


class LiveSessions:
    """Sessions in memory by owner and id, those being read from the ledger, and those being deleted."""

    def __init__(self, ledger: Ledger, make_session: MakeSession) -> None:
        """Read the others from `ledger`; make objects of them with `make_session`."""
        self.sessions: dict[SessionKey, Session] = {}
        self.deleting: dict[SessionKey, asyncio.Future[None]] = {}
        self.status_cache = StatusCache()
        self.on_removed: Callable[[SessionKey], None] = lambda key: None
        """Called for each session that is no longer stored."""
        self._ledger = ledger
        self._make_session = make_session
        self._opening: dict[SessionKey, asyncio.Task[Session | None]] = {}
        self._deletions = 0

    async def get(self, key: SessionKey) -> pb.Session:
        """A session as of its last durable commit. Raises SessionNotFound."""
        shown = await self._snapshot(key)
        if shown is None and key not in self.deleting:
            shown = await self._ledger.session(key)
        return self._checked(shown, key)

    async def standing(self, key: SessionKey) -> StoredStatus:
        """A session as of its last durable commit, and its turn. Raises SessionNotFound."""
        shown = await self._snapshot(key)
        if shown is None and key not in self.deleting:
            found = await self._ledger.standing(key)
            if found is not None:
                self._checked(found.session, key)
                return found
        session = self._checked(shown, key)
        return StoredStatus(session, await self.turn_of(session))

    async def turn_of(self, session: pb.Session) -> pb.Turn | None:
        """The session's current turn; at rest the one that brought it to this state, which need not be the newest."""
        if session.HasField("current_turn"):
            return session.current_turn
        return await self._ledger.turn_at(key_of(session), session.last_sequence)

    async def _snapshot(self, key: SessionKey) -> pb.Session | None:
        """A session that is held here, as of its last durable commit."""
        session = self.sessions.get(key)
        if session is not None and session.journal.is_behind:
            await asyncio.sleep(0)  # never show less than the events that were sent already
        return session.journal.snapshot() if session is not None else None

    def _checked(self, shown: pb.Session | None, key: SessionKey) -> pb.Session:
        if shown is None or key in self.deleting:
            raise errors.SessionNotFound(key.session_id)
        return shown

    async def open(self, key: SessionKey) -> Session | None:
        """The session's object, made from the ledger when it is at rest there; None when there is no such session.

        It is the one object of that session as long as the caller does not pause before it decides.
        """
        while True:
            before = self._deletions
            session = await self._found(key)
            if key in self.deleting:
                await asyncio.wait([self.deleting[key]])
            elif before == self._deletions or session is None or key in self.sessions:
                return session
            # otherwise what was read may have been deleted while it was read

    async def _found(self, key: SessionKey) -> Session | None:
        if key in self.sessions:
            return self.sessions[key]
        opening = self._opening.get(key)
        if opening is None:
            opening = self._opening[key] = asyncio.create_task(self._load(key))
            opening.add_done_callback(lambda done: self._opened(key, done))
        loaded = await asyncio.shield(opening)
        return self.sessions.get(key, loaded)

    def _opened(self, key: SessionKey, opening: asyncio.Task[Session | None]) -> None:
        if self._opening.get(key) is opening:
            del self._opening[key]

    async def _load(self, key: SessionKey) -> Session | None:
        record = await self._ledger.session(key)
        if key in self.sessions:
            return self.sessions[key]
        return self.make(Journal(record, self._ledger, new=False)) if record is not None else None

    def make(self, journal: Journal) -> Session:
        """An object for a session that has none."""
        return self._make_session(journal, self.forget_if_released)

    def adopt(self, journal: Journal) -> Session:
        """Make and hold a session that the service's last run left at work."""
        session = self.make(journal)
        self.hold(session)
        return session

    def forget_if_released(self, session: Session) -> None:
        """Hold a session no longer than there is something to hold; its journal must be in the ledger first."""
        if session.released and not session.journal.is_flushed:
            session.journal.when_flushed(lambda: self.forget_if_released(session))
        elif session.released and self.sessions.get(session.key) is session:
            del self.sessions[session.key]
            self._ledger.forget_broken(session.key)
            self.status_cache.forget(session.key)

    def find(self, key: SessionKey) -> Session | None:
        """The session's object while it is at work or keeps a warm process."""
        return self.sessions.get(key)

    def hold(self, session: Session) -> None:
        """Keep a session's object from now on: it has a turn."""
        self.status_cache.forget(session.key)
        self.sessions[session.key] = session

    @contextmanager
    def removing(self, key: SessionKey) -> Iterator[None]:
        """Let nobody open the session while the block lasts; whoever tries waits for its end."""
        gone = self.deleting[key] = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            del self.deleting[key]
            gone.set_result(None)

    def removed(self, key: SessionKey) -> None:
        """Forget a session that is no longer stored."""
        self.sessions.pop(key, None)
        self._opening.pop(key, None)  # what is being read is of the session that is gone
        self.status_cache.forget(key)
        self._deletions += 1
        self.on_removed(key)
