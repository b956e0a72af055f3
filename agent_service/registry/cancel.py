"""Cancellation: what Cancel does: the end of a session's work, and the receipt of how its processes ended.

The receipt comes later than the decision, and the caller may not wait for it. So a request id is claimed only until the
decision is durable; the receipt is stored when it is there, whoever waits for it.
"""

from __future__ import annotations

import asyncio

from agentpb import agent_pb2 as pb

from agent_service.ledger import Ledger, RequestId, SessionKey
from agent_service.options import seconds_of
from agent_service.registry.idempotency import InFlightRequests, RequestKey, is_answered, looked_at
from agent_service.registry.live import LiveSessions
from agent_service.session.session import Session
from agent_service.session.stop import Stop

DEFAULT_GRACE = 5.0
"""Seconds an agent may take to stop by itself, unless the request says otherwise."""

STORING = 5.0
"""Seconds that a shutdown waits for receipts to be stored."""

Receipt = asyncio.Future[pb.CancelResponse]
"""The answer that is to come, without its session."""


class Cancellation:
    """Cancels sessions. Responses have the session with its secrets, and no receipt if the wait was over first."""

    def __init__(self, live: LiveSessions, ledger: Ledger, in_flight: InFlightRequests) -> None:
        """Cancel sessions of `live`."""
        self._live = live
        self._ledger = ledger
        self._in_flight = in_flight
        self._receipts: dict[tuple[str, str], Receipt] = {}
        """Those that are still to come, of requests with an id."""

    async def cancel(self, request: pb.CancelRequest, owner: str, *, wait: float | None) -> pb.CancelResponse:
        """End the session's work for good, and wait `wait` seconds for its end.

        Raises SessionNotFound, RequestIdReused.
        """

        async def first(key: RequestKey | None) -> tuple[Receipt, bool]:
            return await self._begin(request, owner, key), False

        async def again(earlier: RequestId) -> tuple[Receipt, bool]:
            return await self._begun_before(request, owner, earlier), True

        receipt, repeated = await self._in_flight.once(RequestKey.of(request, owner), first, again)
        done, _ = await asyncio.wait([receipt], timeout=wait)
        response = pb.CancelResponse(deduplicated=repeated)
        if done:
            response.MergeFrom(receipt.result())
        response.session.CopyFrom(await self._live.get(SessionKey(owner, request.session_id)))
        return response

    async def finished(self) -> None:
        """Wait until every receipt that is still to come is stored; not for long, as a ledger may have failed."""
        if self._receipts:
            await asyncio.wait(list(self._receipts.values()), timeout=STORING)

    async def _begin(self, request: pb.CancelRequest, owner: str, key: RequestKey | None) -> Receipt:
        """Cancel, and be durable; the receipt is still to come when something is at work."""
        await self._live.get(SessionKey(owner, request.session_id))
        session = self._live.sessions.get(SessionKey(owner, request.session_id))
        if session is None or session.journal.at_rest:
            if session is not None:
                await session.journal.flushed()
            response = pb.CancelResponse(already_at_rest=True)
            if key is not None:
                await self._ledger.remember(key.kept(request.session_id, "", response))
            return _arrived(response)
        if key is not None:  # written before the cancel can have an effect: the ledger keeps the order
            self._ledger.remember(key.begun(request.session_id, session.journal.record.current_turn.turn_id))
        grace = seconds_of(request.grace) if request.HasField("grace") else DEFAULT_GRACE
        stop = session.cancel(grace=grace, force=request.force, reason=request.reason)
        receipt = self._expect(session, stop, key)
        await session.journal.flushed()
        return receipt

    def _expect(self, session: Session, stop: Stop, key: RequestKey | None) -> Receipt:
        receipt = asyncio.create_task(self._receipt(session, stop, key), name=f"receipt {session.session_id}")
        receipt.add_done_callback(looked_at)
        if key is not None:
            place = (key.owner, key.stored)
            self._receipts[place] = receipt
            receipt.add_done_callback(lambda _: self._receipts.pop(place, None))
        return receipt

    async def _receipt(self, session: Session, stop: Stop, key: RequestKey | None) -> pb.CancelResponse:
        await asyncio.wait([stop.over])
        await session.journal.flushed()
        response = pb.CancelResponse(receipt=stop.receipt)
        if key is not None:
            await self._ledger.remember(key.kept(session.session_id, "", response))
        return response

    async def _begun_before(self, request: pb.CancelRequest, owner: str, earlier: RequestId) -> Receipt:
        """The first attempt's answer; after a crash, the rest of the first attempt, which was about one turn."""
        if (receipt := self._receipts.get((earlier.owner, earlier.request_id))) is not None:
            return receipt
        if not is_answered(earlier):
            record = await self._live.get(SessionKey(owner, request.session_id))
            if record.HasField("current_turn") and record.current_turn.turn_id == earlier.turn_id:
                return await self._begin(request, owner, RequestKey.of(request, owner))
        return _arrived(pb.CancelResponse.FromString(earlier.response))


def _arrived(response: pb.CancelResponse) -> Receipt:
    receipt: Receipt = asyncio.get_running_loop().create_future()
    receipt.set_result(response)
    return receipt
