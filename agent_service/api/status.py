"""Encoding of GetStatusResponse, in parts: the fields of a message may come in any order on the wire.

The head changes with the session, the messages only with its log, and the tail has four values; each is encoded once.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentpb import agent_pb2 as pb

from agent_service import events
from agent_service.api.shown import show, shown_turn
from agent_service.ledger import Event

MESSAGES_FIELD = pb.GetStatusResponse.MESSAGES_FIELD_NUMBER

STATUS_TAILS = {
    (truncated, expired): pb.GetStatusResponse(messages_truncated=truncated, wait_expired=expired).SerializeToString()
    for truncated in (False, True)
    for expired in (False, True)
}
"""By (messages_truncated, wait_expired)."""


def status_head(session: pb.Session, turn: pb.Turn | None) -> bytes:
    """Everything but the messages and the tail."""
    turn = shown_turn(turn) if turn is not None else None
    response = pb.GetStatusResponse(session_id=session.session_id, state=session.state, session=session, turn=turn)
    show(response.session)
    if turn is not None and turn.HasField("result"):
        response.result.CopyFrom(turn.result)
    if session.HasField("error"):
        response.error.CopyFrom(session.error)
    return response.SerializeToString()


def status_messages(found: Sequence[Event]) -> bytes:
    """The messages, as the bytes that are stored."""
    return events.response_bytes((event.body for event in found), field=MESSAGES_FIELD)
