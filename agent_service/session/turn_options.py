"""The options of a turn: a request's, merged over its session's. The only place where options are merged."""

from __future__ import annotations

from agentpb import agent_pb2 as pb

from agent_service import options as translate
from agent_service.ledger import Journal
from agent_service.options import CLEAR, NEVER_INHERITED


def resolve_options(session: pb.Session, request: pb.ExecuteRequest) -> pb.AgentOptions:
    """The options that a turn of `request` runs with when it is the session's next one.

    A turn that begins at once is resolved once, where it is admitted: the same message is checked, warned about, put in
    force and given to the agents' pool. A turn that waits behind others is resolved again when it is its turn, because
    those before it may still change the session's options (a queued request may be withdrawn, overtaken by an
    interrupting one, or end in another permission mode). What was checked at its admission is the best forecast then.
    """
    return translate.merge(session.options, request.options, request.clear_options)


def put_in_force(journal: Journal, request: pb.ExecuteRequest, options: pb.AgentOptions) -> None:
    """Make the options of a turn those of its session, without what is of that turn alone."""
    with journal.update() as record:
        if CLEAR in request.clear_options:
            del record.remembered_permissions[:]
        record.options.CopyFrom(options)
        record.profile = request.profile or record.profile
        for name in NEVER_INHERITED:
            record.options.ClearField(name)  # type: ignore[arg-type]
        record.permission_mode = options.permission_mode or pb.PERMISSION_MODE_DEFAULT
