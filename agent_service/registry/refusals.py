"""Refusals that a session's state is the reason for: each says in words what is in the way, and the way out."""

from __future__ import annotations

from agentpb import agent_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from agent_service import errors
from agent_service.events import cut

MAX_NAMED, MAX_TITLE = 3, 100
"""Questions that a refusal names, and bytes of what it says of each."""

_AT_WORK = {
    pb.SESSION_PHASE_QUEUED: "waits for a place",
    pb.SESSION_PHASE_STARTING: "is being started",
    pb.SESSION_PHASE_RECOVERING: "goes on after a restart of the service",
    pb.SESSION_PHASE_AWAITING_PERMISSION: "awaits an answer to a permission prompt",
    pb.SESSION_PHASE_AWAITING_INPUT: "awaits an answer to a question",
    pb.SESSION_PHASE_BACKGROUND: "has its result, and its background tasks go on",
    pb.SESSION_PHASE_STOPPING: "is being stopped",
}


def busy(record: pb.Session) -> errors.SessionBusy:
    """For an Execute with ON_BUSY_REJECT."""
    return errors.SessionBusy(
        f"{_at_work(record)}; {_wait_for(record)}, cancel it, or set on_busy to ON_BUSY_ENQUEUE or ON_BUSY_INTERRUPT",
        resource=record.session_id,
        metadata={
            "turn_id": record.current_turn.turn_id,
            "phase": pb.SessionPhase.Name(record.phase),
            "since": _since(record),
            "interaction_id": _interaction_id(record),
        },
    )


def active(record: pb.Session) -> errors.SessionActive:
    """For a DeleteSession without `force`."""
    return errors.SessionActive(
        f"{_at_work(record)}; cancel it first, or set force",
        resource=record.session_id,
        metadata={
            "turn_id": record.current_turn.turn_id,
            "phase": pb.SessionPhase.Name(record.phase),
            "since": _since(record),
            "interaction_id": _interaction_id(record),
        },
    )


def not_active(record: pb.Session) -> errors.SessionNotActive:
    """For a SendMessage."""
    return errors.SessionNotActive(
        f"session {record.session_id} has no running turn: it is in {pb.SessionPhase.Name(record.phase)}; "
        "start one with Execute",
        resource=record.session_id,
    )


def queue_full(waiting: int, limit: int, *, running: int, places: int) -> errors.QueueFull:
    """For an Execute when the whole service lets no more turns wait."""
    return errors.QueueFull(
        f"{waiting} turns wait for a place, and the service lets {limit} wait; {running} sessions are at work in "
        f"{places} places. Try again later, or cancel what is not needed",
        metadata={"max_queued": str(limit)},
        retry_after=1.0,
    )


def too_many_queued(tenant: str, waiting: int, limit: int) -> errors.QuotaExceeded:
    """For an Execute when the tenant lets no more turns wait."""
    return errors.QuotaExceeded(
        f"{waiting} turns of {_tenant(tenant)} wait for a place, and {limit} may wait; try again later",
        metadata={"tenant": tenant, "quota": "sessions.queued", "limit": str(limit)},
        retry_after=1.0,
    )


def too_many_kept(tenant: str, kept: int, limit: int) -> errors.QuotaExceeded:
    """For an Execute of a new session when the tenant has as many as it may."""
    return errors.QuotaExceeded(
        f"{_tenant(tenant)} has {kept} sessions, and may have {limit}; delete some with DeleteSession or Cleanup",
        metadata={"tenant": tenant, "quota": "sessions.kept", "limit": str(limit)},
    )


def _tenant(name: str) -> str:
    return f"tenant {name}" if name else "the tenant without a name"


def session_queue_full(record: pb.Session, waiting: int, limit: int) -> errors.QueueFull:
    """For an Execute when the session lets no more turns wait."""
    return errors.QueueFull(
        f"{waiting} turns wait in session {record.session_id}, and a session lets {limit} wait: turn "
        f"{record.current_turn.number} {_what_it_does(record)}. Try again later, or cancel the session",
        resource=record.session_id,
        metadata={"max_queued": str(limit)},
        retry_after=1.0,
    )


def _at_work(record: pb.Session) -> str:
    turn = record.current_turn.number
    return f"session {record.session_id} is at work: turn {turn} {_what_it_does(record)}"


def _what_it_does(record: pb.Session) -> str:
    """What the current turn does, since when, and the question that it waits with."""
    phase = pb.SessionPhase.Name(record.phase)
    since = f", since {_since(record)}" if _since(record) else ""
    asked = f": {', '.join(_questions(record))}" if record.pending_interactions else ""
    return f"{_AT_WORK.get(record.phase, 'runs')} ({phase}{since}){asked}"


def _wait_for(record: pb.Session) -> str:
    return "answer it with RespondToInteraction" if record.pending_interactions else "wait for it"


def _interaction_id(record: pb.Session) -> str:
    return record.pending_interactions[0].interaction_id if record.pending_interactions else ""


def _since(record: pb.Session) -> str:
    """When the current turn began, or was accepted while it has not begun; empty when that is not known."""
    turn = record.current_turn
    for name in ("start_time", "create_time"):
        if turn.HasField(name):
            time: Timestamp = getattr(turn, name)
            return time.ToDatetime().strftime("%Y-%m-%dT%H:%M:%SZ")
    return ""


def _questions(record: pb.Session) -> list[str]:
    return [
        f"{cut(each.title or each.tool_name, MAX_TITLE)} ({each.interaction_id})"
        for each in record.pending_interactions[:MAX_NAMED]
    ]
