"""Control: what callers do to a session at work: interrupt it, send it a message, answer what it asks."""

from __future__ import annotations

import asyncio
from uuid import uuid4

from agentpb import agent_pb2 as pb

from agent_service import errors
from agent_service.ledger import Ledger, RequestId, SessionKey
from agent_service.registry import refusals
from agent_service.registry.idempotency import InFlightRequests, RequestKey, is_answered
from agent_service.registry.live import LiveSessions
from agent_service.session.interactions import closed_error, shown
from agent_service.session.session import Session
from agent_service.session.turn import SentMessage


class Control:
    """Reaches sessions at work. Responses have the session with its secrets."""

    def __init__(self, live: LiveSessions, ledger: Ledger, in_flight: InFlightRequests) -> None:
        """Steer the sessions of `live`."""
        self._live = live
        self._ledger = ledger
        self._in_flight = in_flight

    # ------------------------------------------------------------------------------------------------------- interrupt

    async def interrupt(self, request: pb.InterruptRequest, owner: str) -> pb.InterruptResponse:
        """Stop the running turn and keep the session. Raises SessionNotFound, RequestIdReused."""

        async def again(earlier: RequestId) -> pb.InterruptResponse:
            return await self._interrupt_again(request, owner, earlier)

        response = await self._in_flight.once(
            RequestKey.of(request, owner), lambda key: self._interrupt(request, owner, key, request.turn_id), again
        )
        response.session.CopyFrom(await self._live.get(SessionKey(owner, request.session_id)))
        return response

    async def _interrupt(
        self, request: pb.InterruptRequest, owner: str, key: RequestKey | None, turn_id: str
    ) -> pb.InterruptResponse:
        await self._live.get(SessionKey(owner, request.session_id))
        session = self._live.sessions.get(SessionKey(owner, request.session_id))
        running = session.running_turn if session is not None else None
        response = pb.InterruptResponse()
        if session is not None and running is not None and turn_id in ("", running.turn_id):
            if key is not None:  # written before the stop can have an effect: the ledger keeps the order
                self._ledger.remember(key.begun(request.session_id, running.turn_id))
            stop = session.interrupt("interrupted")
            await asyncio.wait([stop.over])
            await session.journal.flushed()
            response.interrupted = stop.stopped_turn
        if key is not None:
            await self._ledger.remember(key.kept(request.session_id, "", response))
        return response

    async def _interrupt_again(
        self, request: pb.InterruptRequest, owner: str, earlier: RequestId
    ) -> pb.InterruptResponse:
        """The first answer; after a crash, the rest of the first attempt, which was about one turn."""
        if is_answered(earlier):
            response = pb.InterruptResponse.FromString(earlier.response)
        else:
            key = RequestKey.of(request, owner)
            response = await self._interrupt(request, owner, key, earlier.turn_id)
            turn = await self._ledger.turn(earlier.turn_id)
            response.interrupted = response.interrupted or (turn is not None and turn.state == pb.TURN_STATE_CANCELLED)
        response.deduplicated = True
        return response

    # ------------------------------------------------------------------------------------------------------------ send

    async def send(self, request: pb.SendMessageRequest, owner: str, *, by: str) -> pb.SendMessageResponse:
        """Send a message of `by` into the running turn. Raises SessionNotFound, SessionNotActive, RequestIdReused."""
        return await self._in_flight.once(
            RequestKey.of(request, owner), lambda key: self._send(request, owner, by, key), self._sent_before
        )

    async def _sent_before(self, earlier: RequestId) -> pb.SendMessageResponse:
        response = pb.SendMessageResponse.FromString(earlier.response)
        response.session.CopyFrom(await self._live.get(SessionKey(earlier.owner, earlier.session_id)))
        response.deduplicated = True
        return response

    async def _send(
        self, request: pb.SendMessageRequest, owner: str, by: str, key: RequestKey | None
    ) -> pb.SendMessageResponse:
        record = await self._live.get(SessionKey(owner, request.session_id))
        session = self._live.sessions.get(SessionKey(owner, request.session_id))
        if session is not None:
            await self._begun(session)
        running = session.running_turn if session is not None else None
        if session is None or running is None:
            raise refusals.not_active(record)
        response = pb.SendMessageResponse(message_uuid=str(uuid4()), turn_id=running.turn_id)
        kept = key.kept(request.session_id, running.turn_id, response) if key is not None else None
        durable = await session.send(response.message_uuid, SentMessage(request, by), kept)
        await asyncio.shield(durable)
        response.session.CopyFrom(await self._live.get(SessionKey(owner, request.session_id)))
        return response

    async def _begun(self, session: Session) -> None:
        """Wait until a turn that is being started has its prompt."""
        tail = session.journal.tail
        while session.starting:
            changed = tail.changed
            if session.starting:
                await changed.wait()

    # ---------------------------------------------------------------------------------------------------------- answers

    async def respond(
        self, request: pb.RespondToInteractionRequest, owner: str, *, by: str
    ) -> pb.RespondToInteractionResponse:
        """Answer an interaction in the name of `by`.

        Raises SessionNotFound, InteractionNotFound, InteractionClosed, InvalidField, InteractionKindMismatch,
        RequestIdReused.
        """

        async def again(_: RequestId) -> pb.RespondToInteractionResponse:
            await self._live.get(SessionKey(owner, request.session_id))
            return pb.RespondToInteractionResponse(interaction=await self._resolved(request, owner), deduplicated=True)

        response = await self._in_flight.once(
            RequestKey.of(request, owner), lambda key: self._respond(request, owner, by, key), again
        )
        response.session.CopyFrom(await self._live.get(SessionKey(owner, request.session_id)))
        return response

    async def _respond(
        self, request: pb.RespondToInteractionRequest, owner: str, by: str, key: RequestKey | None
    ) -> pb.RespondToInteractionResponse:
        await self._live.get(SessionKey(owner, request.session_id))
        session = self._live.sessions.get(SessionKey(owner, request.session_id))
        if session is None or request.interaction_id not in session.interactions:
            raise closed_error(await self._resolved(request, owner))
        kept = key.kept(request.session_id, "") if key is not None else None
        interaction = session.interactions.respond(request, by=by, key=kept)
        await session.journal.flushed()
        return pb.RespondToInteractionResponse(interaction=shown(interaction))

    async def _resolved(self, request: pb.RespondToInteractionRequest, owner: str) -> pb.Interaction:
        """A resolved interaction, as the log has it. Raises InteractionNotFound."""
        before: int | None = None
        while page := await self._ledger.read(
            SessionKey(owner, request.session_id),
            0,
            types=("interaction.resolved",),
            newest_first=True,
            before_sequence=before,
        ):
            for event in page:
                interaction = pb.SessionEvent.FromString(event.body).interaction_resolved.interaction
                if interaction.interaction_id == request.interaction_id:
                    return interaction
            before = page[-1].sequence
        raise errors.InteractionNotFound(
            f"session {request.session_id} has no interaction {request.interaction_id}", resource=request.interaction_id
        )
