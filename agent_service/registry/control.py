"""Control: what callers do to a session at work: cancel, interrupt, tell it something, answer what it asks."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from uuid import uuid4

from agentpb import agent_pb2 as pb

from agent_service import errors
from agent_service.ledger import Ledger, RequestId
from agent_service.registry.idempotency import InFlightRequests, RequestKey, answer_key
from agent_service.registry.live import LiveSessions
from agent_service.session.interactions import closed_error, shown
from agent_service.session.outcomes import StopCause
from agent_service.session.session import Session
from agent_service.session.stop import Stop


@dataclass(frozen=True)
class Cancelled:
    """What `cancel` did; no receipt when the session was at rest, or when the wait was over first."""

    session: pb.Session
    already_at_rest: bool
    receipt: pb.CancelReceipt | None


class Control:
    """Reaches sessions at work; of those at rest it says so."""

    def __init__(self, roster: LiveSessions, ledger: Ledger, claims: InFlightRequests) -> None:
        """Steer the sessions of `roster`."""
        self._roster = roster
        self._ledger = ledger
        self._claims = claims

    async def cancel(
        self, session_id: str, owner: str, *, grace: float, force: bool, reason: str, wait: float | None
    ) -> Cancelled:
        """End the session's work for good. Raises SessionNotFound."""
        await self._roster.get(session_id, owner)
        session = self._roster.sessions.get(session_id)
        if session is None or session.journal.at_rest:
            if session is not None:
                await session.journal.flushed()
            return Cancelled(await self._roster.get(session_id, owner), True, None)
        stop = session.cancel(grace=grace, force=force, reason=reason)
        receipt = await self._stopped(session, stop, wait)
        return Cancelled(await self._roster.get(session_id, owner), False, receipt)

    async def _stopped(self, session: Session, stop: Stop, wait: float | None) -> pb.CancelReceipt | None:
        done, _ = await asyncio.wait([stop.over], timeout=wait)
        await session.journal.flushed()
        return stop.receipt if done else None

    async def interrupt(self, session_id: str, owner: str, turn_id: str) -> tuple[pb.Session, bool]:
        """Stop the running turn and keep the session; whether one was stopped."""
        await self._roster.get(session_id, owner)
        session = self._roster.sessions.get(session_id)
        running = session.running_turn if session is not None else None
        if session is None or running is None or (turn_id and running.turn_id != turn_id):
            return await self._roster.get(session_id, owner), False
        stop = session.stop(StopCause.INTERRUPT, grace=5.0, reason="interrupted")
        await self._stopped(session, stop, None)
        return await self._roster.get(session_id, owner), stop.stopped_turn

    async def send(self, request: pb.SendMessageRequest, owner: str) -> pb.SendMessageResponse:
        """Send a message into the running turn. Raises SessionNotFound, SessionNotActive, RequestIdReused."""
        key = RequestKey.of(request, owner)
        if key is None:
            return await self._send(request, owner, None)
        return await asyncio.shield(asyncio.create_task(self._send_once(request, owner, key)))

    async def _send_once(self, request: pb.SendMessageRequest, owner: str, key: RequestKey) -> pb.SendMessageResponse:
        async with self._claims.claim(key) as earlier:
            if earlier is None:
                return await self._send(request, owner, key)
            response = pb.SendMessageResponse.FromString(earlier.response)
            response.session.CopyFrom(await self._roster.get(earlier.session_id, owner))
            response.deduplicated = True
            return response

    async def _send(self, request: pb.SendMessageRequest, owner: str, key: RequestKey | None) -> pb.SendMessageResponse:
        await self._roster.get(request.session_id, owner)
        session = self._roster.sessions.get(request.session_id)
        if session is not None:
            await self._begun(session)
        running = session.running_turn if session is not None else None
        if session is None or running is None:
            raise errors.SessionNotActive(
                f"session {request.session_id} has no running turn; use Execute", resource=request.session_id
            )
        response = pb.SendMessageResponse(message_uuid=str(uuid4()), turn_id=running.turn_id)
        kept = key.kept(request.session_id, running.turn_id, response) if key is not None else None
        durable = await session.send(response.message_uuid, request, kept)
        await asyncio.shield(durable)
        response.session.CopyFrom(await self._roster.get(request.session_id, owner))
        return response

    async def _begun(self, session: Session) -> None:
        """Wait until a turn that is being started has its prompt."""
        tail = self._ledger.tail(session.session_id)
        while session.starting:
            changed = tail.changed
            if session.starting:
                await changed.wait()

    async def respond(
        self, request: pb.RespondToInteractionRequest, owner: str, *, by: str, key: str
    ) -> tuple[pb.Interaction, pb.Session, bool]:
        """Answer an interaction; it, the session, and whether this answer had been given already."""
        await self._roster.get(request.session_id, owner)
        session = self._roster.sessions.get(request.session_id)
        kept = answer_key(request, owner, key)
        if session is None or request.interaction_id not in session.interactions:
            return await self._resolved_before(request, kept), await self._roster.get(request.session_id, owner), True
        interaction, repeated = session.interactions.respond(request, by=by, key=kept)
        await session.journal.flushed()
        return shown(interaction), await self._roster.get(request.session_id, owner), repeated

    async def _resolved_before(self, request: pb.RespondToInteractionRequest, key: RequestId | None) -> pb.Interaction:
        """An interaction that only the log remembers, when this is a retry of its answer.

        Raises InteractionNotFound, InteractionClosed.
        """
        closed = await self._find_resolved(request.session_id, request.interaction_id)
        if closed is None:
            raise errors.InteractionNotFound(
                f"session {request.session_id} has no interaction {request.interaction_id}",
                resource=request.interaction_id,
            )
        earlier = await self._ledger.request(key.owner, key.request_id) if key is not None else None
        if earlier is None or earlier.fingerprint != request.interaction_id:
            raise closed_error(closed)
        return closed

    async def _find_resolved(self, session_id: str, interaction_id: str) -> pb.Interaction | None:
        before: int | None = None
        while page := await self._ledger.read(
            session_id, 0, types=("interaction.resolved",), newest_first=True, before_sequence=before
        ):
            for event in page:
                interaction = pb.SessionEvent.FromString(event.body).interaction_resolved.interaction
                if interaction.interaction_id == interaction_id:
                    return interaction
            before = page[-1].sequence
        return None
