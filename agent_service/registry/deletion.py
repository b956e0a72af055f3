"""Deletion: how sessions go: one by one, by age and filter, and by themselves when their time is over."""

from __future__ import annotations

import asyncio
import logging

from agentpb import agent_pb2 as pb

from agent_service import errors
from agent_service.agents.workspace import Workspaces
from agent_service.events.text import cut
from agent_service.ledger import Ledger
from agent_service.ledger.journal import now_us
from agent_service.registry.control import Control
from agent_service.registry.live import LiveSessions
from agent_service.session.session import Session

MAX_REMARK = 1000
"""Bytes of what is said of a session that could not be deleted: MAX_LISTED of them fit into a response."""

MAX_LISTED = 1000
"""Session ids and failures that a cleanup names; it counts all."""

EXPIRED_AT_ONCE = 500
"""Sessions whose time is over that are looked up together."""

log = logging.getLogger(__name__)


class Deletion:
    """Deletes sessions at rest: their files, their transcript, their rows."""

    def __init__(self, roster: LiveSessions, ledger: Ledger, workspaces: Workspaces, steering: Control) -> None:
        """Cancel by `steering` what must be cancelled first."""
        self._roster = roster
        self._ledger = ledger
        self._workspaces = workspaces
        self._steering = steering

    async def delete(
        self, session_id: str, owner: str, *, force: bool, keep_transcript: bool
    ) -> tuple[pb.Session, int]:
        """Delete a session; as it was, and the bytes freed. Raises SessionNotFound, SessionActive."""
        shown = await self._roster.get(session_id, owner)
        session = self._roster.sessions.get(session_id)
        if session is not None and not session.journal.at_rest:
            if not force:
                raise errors.SessionActive(
                    f"session {session_id} is at work; cancel it first, or set force", resource=session_id
                )
            await self._steering.cancel(session_id, owner, grace=5.0, force=False, reason="deleted", wait=None)
            return await self.delete(session_id, owner, force=force, keep_transcript=keep_transcript)
        if session_id in self._roster.deleting:
            raise errors.SessionNotFound(session_id)
        return shown, await self._delete(shown, session, keep_transcript=keep_transcript)

    async def _delete(self, shown: pb.Session, session: Session | None, *, keep_transcript: bool) -> int:
        with self._roster.removing(shown.session_id):
            if session is not None:
                await session.finished()
            # Its files go first: whatever happens in between, what is left can be found, and deleted again.
            freed = await asyncio.to_thread(self._workspaces.remove, shown, keep_transcript=keep_transcript)
            freed += await self._ledger.delete(shown.session_id) or 0
            self._roster.removed(shown.session_id)
            return freed

    async def delete_one(self, request: pb.DeleteSessionRequest, owner: str) -> pb.Session | None:
        """Delete as the request says; None when it was missing and may be.

        Raises SessionNotFound, SessionActive, and StoreUnavailable when its files cannot be removed.
        """
        try:
            session, _ = await self.delete(
                request.session_id, owner, force=request.force, keep_transcript=request.keep_transcript
            )
        except errors.SessionNotFound:
            if request.allow_missing:
                return None
            raise
        except OSError as error:
            raise errors.StoreUnavailable(
                f"the files of session {request.session_id} cannot be removed: {error}; mend that and delete it again"
            ) from error
        return session

    async def cleanup(self, request: pb.CleanupRequest, owner: str, *, older_than: float) -> pb.CleanupResponse:
        """Delete sessions that have been at rest for `older_than` seconds and meet the filter."""
        cutoff = now_us() - round(older_than * 1e6)
        response = pb.CleanupResponse()
        found = await self._ledger.at_rest_since(cutoff, request.filter, owner=owner, limit=request.limit or None)
        for session_id in found:
            if not request.dry_run and not await self._clean(session_id, owner, request.keep_transcripts, response):
                continue
            response.deleted_count += 1
            if len(response.session_ids) < MAX_LISTED:
                response.session_ids.append(session_id)
        return response

    async def _clean(self, session_id: str, owner: str, keep_transcript: bool, response: pb.CleanupResponse) -> bool:
        """Delete one; what a moment ago was at rest may be at work again, or gone, and that is no failure."""
        try:
            _, freed = await self.delete(session_id, owner, force=False, keep_transcript=keep_transcript)
        except (errors.SessionNotFound, errors.SessionActive):
            return False
        except OSError as error:
            if len(response.failures) < MAX_LISTED:
                response.failures.add(session_id=session_id, message=cut(str(error), MAX_REMARK))
            return False
        response.freed_bytes += freed
        return True

    async def expire(self, retention: float) -> int:
        """Delete what has been at rest for longer than `retention` seconds (0: for ever) or its own ttl; how many."""
        cutoff = now_us() - round(retention * 1e6) if retention else None
        deleted = 0
        while found := await self._ledger.expired(now_us(), cutoff, limit=EXPIRED_AT_ONCE):
            gone = 0
            for session_id, owner in found:
                gone += await self._let_go(session_id, owner)
            deleted += gone
            if gone < len(found):
                break  # what is left would be found again
        return deleted

    async def _let_go(self, session_id: str, owner: str) -> bool:
        """Delete a session whose time is over; one that cannot be deleted now does not hold up the others."""
        try:
            await self.delete(session_id, owner, force=False, keep_transcript=False)
        except (errors.SessionNotFound, errors.SessionActive):
            return False
        except OSError as error:
            log.warning("session %s is over and cannot be removed: %s; it is tried again", session_id, error)
            return False
        return True
