"""Deletion: how sessions go: one by one, by age and filter, and by themselves when their time is over."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial

from agentpb import agent_pb2 as pb

from agent_service import errors
from agent_service import options as translate
from agent_service.agents.workspace import Workspaces
from agent_service.events import cut
from agent_service.ledger import Ledger, RequestId, SessionKey, key_of, now_us
from agent_service.registry import refusals
from agent_service.registry.cancel import Cancellation
from agent_service.registry.idempotency import InFlightRequests, RequestKey, is_answered, looked_at
from agent_service.registry.live import LiveSessions
from agent_service.session.session import Session

MAX_REMARK = 1000
"""Bytes of what is said of a session that could not be deleted: MAX_LISTED of them fit into a response."""

MAX_LISTED = 1000
"""Session ids and failures that a cleanup names; it counts all."""

EXPIRED_AT_ONCE = 500
"""Sessions whose time is over that are looked up together."""

FIRST_PAUSE, LONGEST_PAUSE = 60.0, 6 * 3600.0
"""Seconds until the next try after the first removal that failed, and after many."""

log = logging.getLogger(__name__)


class Deletion:
    """Deletes sessions at rest: their files, their transcript, their rows."""

    def __init__(
        self,
        live: LiveSessions,
        ledger: Ledger,
        workspaces: Workspaces,
        in_flight: InFlightRequests,
        cancellation: Cancellation,
    ) -> None:
        """Cancel by `cancellation` what must be cancelled first."""
        self._live = live
        self._ledger = ledger
        self._workspaces = workspaces
        self._in_flight = in_flight
        self._cancellation = cancellation
        self._put_off: dict[
            SessionKey, tuple[float, float]
        ] = {}  # when a failed removal is tried again, and its last pause

    async def delete(
        self,
        key: SessionKey,
        *,
        force: bool = False,
        keep_transcript: bool = False,
        request: RequestKey | None = None,
    ) -> tuple[pb.Session, int]:
        """Delete a session; as it was, and the bytes freed. Raises SessionNotFound, SessionActive.

        A caller who leaves does not end it: a session of which only a part was forgotten could be opened again.
        """
        work = asyncio.create_task(
            self._delete_checked(key, force=force, keep_transcript=keep_transcript, request=request),
            name=f"delete {key.session_id}",
        )
        work.add_done_callback(looked_at)
        return await asyncio.shield(work)

    async def _delete_checked(
        self, key: SessionKey, *, force: bool, keep_transcript: bool, request: RequestKey | None
    ) -> tuple[pb.Session, int]:
        found = await self._live.get(key)
        session = self._live.sessions.get(key)
        if session is not None and not session.journal.at_rest:
            if not force:
                raise refusals.active(session.journal.record)
            cancel = pb.CancelRequest(session_id=key.session_id, reason="deleted")
            await self._cancellation.cancel(cancel, key.owner, wait=None)
            return await self._delete_checked(key, force=force, keep_transcript=keep_transcript, request=request)
        if key in self._live.deleting:
            raise errors.SessionNotFound(key.session_id)
        return await self._delete(found, session, keep_transcript=keep_transcript, request=request)

    async def _delete(
        self, found: pb.Session, session: Session | None, *, keep_transcript: bool, request: RequestKey | None
    ) -> tuple[pb.Session, int]:
        key = key_of(found)
        with self._live.removing(key):
            if session is not None:
                await session.finished()
                # What was found is of the last durable commit. A later change may have named its directory: one that is
                # on its way to the disk, or one of a turn that was stopped as it began, which nothing commits any more.
                await session.journal.flushed()
                found = pb.Session()
                found.CopyFrom(session.journal.record)
            kept = request.kept(found.session_id, "", _answer(found)) if request is not None else None
            # Its files go first: whatever happens in between, what is left can be found, and deleted again.
            freed = await asyncio.to_thread(self._workspaces.remove, found, keep_transcript=keep_transcript)
            freed += await self._ledger.delete(key, request_id=kept) or 0
            self._live.removed(key)
            return found, freed

    async def delete_one(self, request: pb.DeleteSessionRequest, owner: str) -> pb.DeleteSessionResponse:
        """Delete as the request says; the session is unset when it was missing and may be.

        Raises SessionNotFound, SessionActive, RequestIdReused, and StoreUnavailable when its files cannot be removed.
        """

        async def again(earlier: RequestId) -> pb.DeleteSessionResponse:
            response = pb.DeleteSessionResponse.FromString(earlier.response)
            response.deduplicated = True
            return response

        return await self._in_flight.once(
            RequestKey.of(request, owner), lambda key: self._delete_one(request, owner, key), again
        )

    async def _delete_one(
        self, request: pb.DeleteSessionRequest, owner: str, key: RequestKey | None
    ) -> pb.DeleteSessionResponse:
        session_id = request.session_id
        try:
            session, _ = await self.delete(
                SessionKey(owner, session_id),
                force=request.force,
                keep_transcript=request.keep_transcript,
                request=key,
            )
        except errors.SessionNotFound:
            if not request.allow_missing:
                raise
            if key is not None:
                await self._ledger.remember(key.kept(session_id, ""))
            return pb.DeleteSessionResponse()
        except OSError as error:
            raise errors.StoreUnavailable(
                f"the files of session {session_id} cannot be removed: {error}; mend that and delete it again"
            ) from error
        return _answer(session)

    async def cleanup(self, request: pb.CleanupRequest, owner: str, *, older_than: float) -> pb.CleanupResponse:
        """Delete sessions that have been at rest for `older_than` seconds and meet the filter.

        A dry run has no effect that a request id would be needed for. Raises RequestIdReused.
        """
        cutoff = now_us() - round(older_than * 1e6)
        if request.dry_run:
            return _listed(await self._found(request, owner, cutoff, request.limit))

        async def first(key: RequestKey | None) -> pb.CleanupResponse:
            found = await self._found(request, owner, cutoff, request.limit)
            if key is not None:
                await self._ledger.remember(key.begun("", "", pb.CleanupResponse(session_ids=found)))
            return await self._clean_all(request, owner, found, [], key)

        async def again(earlier: RequestId) -> pb.CleanupResponse:
            response = pb.CleanupResponse.FromString(earlier.response)
            if not is_answered(earlier):
                response = await self._clean_rest(request, owner, cutoff, list(response.session_ids))
            response.deduplicated = True
            return response

        return await self._in_flight.once(RequestKey.of(request, owner), first, again)

    async def _found(self, request: pb.CleanupRequest, owner: str, cutoff: int, limit: int = 0) -> list[str]:
        return await self._ledger.at_rest_since(cutoff, request.filter, owner=owner, limit=limit or None)

    async def _clean_rest(
        self, request: pb.CleanupRequest, owner: str, cutoff: int, planned: list[str]
    ) -> pb.CleanupResponse:
        """Go on where the service died: of what was chosen then, delete what is still there and still meets it."""
        meets = set(await self._found(request, owner, cutoff))
        gone = [
            each
            for each in planned
            if each not in meets and await self._ledger.session(SessionKey(owner, each)) is None
        ]
        left = [each for each in planned if each in meets]
        return await self._clean_all(request, owner, left, gone, RequestKey.of(request, owner))

    async def _clean_all(
        self, request: pb.CleanupRequest, owner: str, found: list[str], gone: list[str], key: RequestKey | None
    ) -> pb.CleanupResponse:
        response = _listed(gone)
        for session_id in found:
            if await self._clean(session_id, owner, request.keep_transcripts, response):
                response.deleted_count += 1
                if len(response.session_ids) < MAX_LISTED:
                    response.session_ids.append(session_id)
        if key is not None:
            await self._ledger.remember(key.kept("", "", response))
        return response

    async def _clean(self, session_id: str, owner: str, keep_transcript: bool, response: pb.CleanupResponse) -> bool:
        """Delete one; what a moment ago was at rest may be at work again, or gone, and that is no failure."""
        try:
            _, freed = await self.delete(SessionKey(owner, session_id), keep_transcript=keep_transcript)
        except (errors.SessionNotFound, errors.SessionActive):
            return False
        except errors.StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever an agent left, the others are cleaned up
            if len(response.failures) < MAX_LISTED:
                response.failures.add(session_id=session_id, message=cut(str(error), MAX_REMARK))
            return False
        response.freed_bytes += freed
        return True

    async def expire(self, retention: Callable[[str], float]) -> int:
        """Delete what is past its own expire_time, or has been at rest for its owner's `retention`; how many.

        `retention` gives an owner's seconds, 0 for ever.
        """
        deleted = await self._expire(lambda limit: self._ledger.expired(self._ledger.ages_now(), limit))
        for owner in await self._ledger.owners():
            if seconds := retention(owner):
                cutoff = self._ledger.ages_now() - round(seconds * 1e6)
                deleted += await self._expire(partial(self._ledger.outstayed, owner, cutoff))
        return deleted

    async def _expire(self, find: Callable[[int], Awaitable[list[SessionKey]]]) -> int:
        deleted = 0
        left: set[SessionKey] = set()
        while found := await self._due(find, left):
            for key in found:
                if await self._let_go(key):
                    deleted += 1
                else:
                    left.add(key)
        return deleted

    async def _due(self, find: Callable[[int], Awaitable[list[SessionKey]]], left: set[SessionKey]) -> list[SessionKey]:
        """Sessions whose time is over, without those that could not be deleted: they must not hide the others."""
        put_off = {key for key, (until, _) in self._put_off.items() if until > time.monotonic()} | left
        found = await find(EXPIRED_AT_ONCE + len(put_off))
        return [each for each in found if each not in put_off]

    async def _let_go(self, key: SessionKey) -> bool:
        """Delete a session whose time is over; one that cannot be deleted now does not hold up the others."""
        try:
            await self.delete(key)
        except (errors.SessionNotFound, errors.SessionActive):
            return False
        except errors.StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever an agent left, the others are cleaned up
            pause = self._put_off_longer(key)
            log.warning("session %s is over and cannot be removed: %s; next try in %d s", key.session_id, error, pause)
            return False
        self._put_off.pop(key, None)
        return True

    def _put_off_longer(self, key: SessionKey) -> float:
        """Leave a session alone for twice as long as before; the seconds."""
        _, before = self._put_off.get(key, (0.0, 0.0))
        pause = min(2 * before or FIRST_PAUSE, LONGEST_PAUSE)
        self._put_off[key] = (time.monotonic() + pause, pause)
        return pause


def _answer(session: pb.Session) -> pb.DeleteSessionResponse:
    """The session as it was, without its secrets: with a request id it is kept for a day."""
    response = pb.DeleteSessionResponse(session=session)
    translate.redact(response.session.options)
    return response


def _listed(session_ids: list[str]) -> pb.CleanupResponse:
    return pb.CleanupResponse(deleted_count=len(session_ids), session_ids=session_ids[:MAX_LISTED])
