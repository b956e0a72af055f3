"""Branching: a fork that ends after one of its parent's turns, found in the parent's log."""

from __future__ import annotations

import asyncio

from agentpb import agent_pb2 as pb

from agent_service import errors
from agent_service.agents.conversations import holds_message
from agent_service.agents.workspace import Workspaces
from agent_service.ledger import Ledger, SessionKey, key_of


async def branched(
    request: pb.ExecuteRequest, parent: pb.Session, ledger: Ledger, workspaces: Workspaces
) -> pb.ExecuteRequest:
    """The request of a fork with the message that its conversation ends with, the last of `fork_at_turn_id`.

    Raises TurnNotFound; ResumeRejected for a turn without an answer, or one that the parent's conversation has no more.
    """
    turn = await ledger.turn_of(key_of(parent), request.fork_at_turn_id)
    if turn is None:
        raise errors.TurnNotFound(
            f"session {parent.session_id} has no turn {request.fork_at_turn_id}", resource=request.fork_at_turn_id
        )
    message, transcript = await _last_answer(key_of(parent), turn, ledger), workspaces.transcript(parent)
    if not message or transcript is None or not await asyncio.to_thread(holds_message, transcript, message):
        raise errors.ResumeRejected(
            f"the conversation of session {parent.session_id} cannot be branched after turn {turn.turn_id}: "
            "the turn has not ended, has no answer, or was left behind by /clear",
            resource=parent.session_id,
        )
    at_turn = pb.ExecuteRequest()
    at_turn.CopyFrom(request)
    at_turn.options.resume_at_message_uuid = message
    return at_turn


async def _last_answer(key: SessionKey, turn: pb.Turn, ledger: Ledger) -> str:
    """The uuid of the agent's last message in a turn that has ended, subagents left out; "" when there is none."""
    before: int | None = None
    while turn.HasField("end_time"):
        page = await ledger.read(
            key, 0, types=("message.assistant", "turn.started"), newest_first=True, before_sequence=before
        )
        for stored in page:
            event = pb.SessionEvent.FromString(stored.body)
            if event.turn_id == turn.turn_id and event.HasField("turn_started"):
                return ""
            if event.turn_id == turn.turn_id and event.uuid and not event.parent_tool_use_id:
                return event.uuid
        if not page:
            break
        before = page[-1].sequence
    return ""
