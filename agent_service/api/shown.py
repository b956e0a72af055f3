"""Sessions as callers see them."""

from __future__ import annotations

from agentpb import agent_pb2 as pb

from agent_service import options as translate


def shown(session: pb.Session) -> pb.Session:
    """A copy of a session without the secrets in its options."""
    copy = pb.Session()
    copy.CopyFrom(session)
    copy.options.CopyFrom(translate.redacted(session.options))
    return copy
