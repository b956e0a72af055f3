"""Cancelling many: every session at work that meets a filter, each as Cancel does it.

What is at rest is skipped, so a repeat is safe. All are cancelled whether the caller stays or not: the caller of a
night's emergency may lose its connection as well.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from agentpb import agent_pb2 as pb

from agent_service import errors
from agent_service.ledger import Ledger
from agent_service.registry.cancel import Cancellation

log = logging.getLogger(__name__)

AT_ONCE = 32
"""Sessions that are being cancelled at the same time: a cancel waits up to its grace for processes to end."""
PAGE = 500
"""Sessions that are looked up together."""
AT_WORK = (pb.SESSION_STATE_PENDING, pb.SESSION_STATE_RUNNING)


class MassCancellation:
    """Cancels all sessions that a filter names."""

    def __init__(self, ledger: Ledger, cancellation: Cancellation) -> None:
        """Find sessions in `ledger`; cancel by `cancellation`."""
        self._ledger = ledger
        self._cancellation = cancellation
        self._running: set[asyncio.Task[None]] = set()

    async def cancel(self, request: pb.CancelSessionsRequest, owner: str) -> AsyncIterator[pb.CancelSessionsResponse]:
        """A response for each session as it is done, then the summary."""
        found = await self._find(request.filter, owner)
        summary = pb.CancelSessionsSummary(matched=len(found))
        if request.dry_run:
            for session_id in found:
                yield _cancelled(session_id)
        else:
            done: asyncio.Queue[pb.CancelSessionsResponse] = asyncio.Queue()
            self._begin(request, owner, found, done)
            for _ in found:
                response = await done.get()
                summary.cancelled += response.HasField("cancelled")
                summary.failed += response.HasField("failed")
                yield response
        yield pb.CancelSessionsResponse(summary=summary)

    async def _find(self, wanted: pb.SessionFilter, owner: str) -> list[str]:
        """Ids of sessions at work that meet the filter, oldest first."""
        at_work = pb.SessionFilter()
        at_work.CopyFrom(wanted)
        at_work.states[:] = [state for state in AT_WORK if not wanted.states or state in wanted.states]
        found: list[str] = []
        after = None
        while at_work.states:
            page, after = await self._ledger.sessions(
                at_work, pb.SESSION_ORDER_CREATE_TIME_ASC, owner=owner, after=after, limit=PAGE
            )
            found += [session.session_id for session in page]
            if after is None:
                break
        return found

    def _begin(
        self,
        request: pb.CancelSessionsRequest,
        owner: str,
        found: list[str],
        done: asyncio.Queue[pb.CancelSessionsResponse],
    ) -> None:
        """Cancel all in tasks of their own, which nobody who leaves ends."""
        waiting = iter(found)

        async def work() -> None:
            for session_id in waiting:
                done.put_nowait(await self._cancel(session_id, request, owner))

        for number in range(min(AT_ONCE, len(found))):
            task = asyncio.create_task(work(), name=f"cancel many {number}")
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _cancel(
        self, session_id: str, request: pb.CancelSessionsRequest, owner: str
    ) -> pb.CancelSessionsResponse:
        cancel = pb.CancelRequest(session_id=session_id, reason=request.reason, force=request.force)
        try:
            response = await self._cancellation.cancel(cancel, owner, wait=None)
        except errors.RequestError as error:
            return _failed(session_id, error.reason, error.message)
        except Exception:
            incident = errors.new_incident()
            log.exception("session %s cannot be cancelled, incident %s", session_id, incident)
            return _failed(session_id, "INTERNAL", f"internal error, incident {incident}")
        return _cancelled(session_id, response.receipt if response.HasField("receipt") else None)

    async def finished(self) -> None:
        """Wait until what was begun is over."""
        if self._running:
            await asyncio.wait(set(self._running))


def _cancelled(session_id: str, receipt: pb.CancelReceipt | None = None) -> pb.CancelSessionsResponse:
    return pb.CancelSessionsResponse(cancelled=pb.SessionCancelled(session_id=session_id, receipt=receipt))


def _failed(session_id: str, reason: str, message: str) -> pb.CancelSessionsResponse:
    return pb.CancelSessionsResponse(
        failed=pb.SessionCancelFailed(session_id=session_id, reason=reason, message=message)
    )
