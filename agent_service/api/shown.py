"""Records as callers see them: without secrets, and within the budget that each has in a response."""

from __future__ import annotations

from agentpb import agent_pb2 as pb

from agent_service import events
from agent_service import options as translate


def show(session: pb.Session) -> None:
    """Hide the secrets in the options of a response's session and cut it to MAX_SESSION bytes, in place."""
    translate.redact(session.options)
    events.fit(session, events.MAX_SESSION, longest=events.MAX_SESSION)


def shown(session: pb.Session) -> pb.Session:
    """A copy of a session as `show` makes it: for a session that others hold."""
    copy = pb.Session()
    copy.CopyFrom(session)
    show(copy)
    return copy


def shown_turn(turn: pb.Turn) -> pb.Turn:
    """A turn of at most MAX_TURN bytes; a copy where it has more, as those of earlier versions may."""
    if turn.ByteSize() <= events.MAX_TURN:
        return turn
    copy = pb.Turn()
    copy.CopyFrom(turn)
    events.fit(copy, events.MAX_TURN)
    return copy
