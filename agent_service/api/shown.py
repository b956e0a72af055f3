"""Records as callers see them: without secrets, and within the budget that each has in a response."""

from __future__ import annotations

from agentpb import agent_pb2 as pb

from agent_service import events
from agent_service import options as translate


def shown(session: pb.Session) -> pb.Session:
    """A copy of a session without the secrets in its options, of at most MAX_SESSION bytes."""
    copy = pb.Session()
    copy.CopyFrom(session)
    copy.options.CopyFrom(translate.redacted(session.options))
    events.fit(copy, events.MAX_SESSION, longest=events.MAX_SESSION)
    return copy


def shown_turn(turn: pb.Turn) -> pb.Turn:
    """A turn of at most MAX_TURN bytes; a copy where it has more, as those of earlier versions may."""
    if turn.ByteSize() <= events.MAX_TURN:
        return turn
    copy = pb.Turn()
    copy.CopyFrom(turn)
    events.fit(copy, events.MAX_TURN)
    return copy
