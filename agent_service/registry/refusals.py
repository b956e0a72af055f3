"""Refusals that a session's state is the reason for: each says in words what is in the way, and the way out."""

from __future__ import annotations

from agentpb import agent_pb2 as pb

from agent_service import errors

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
        f"{_at_work(record)}; wait for it, cancel it, or set on_busy to ON_BUSY_ENQUEUE or ON_BUSY_INTERRUPT",
        resource=record.session_id,
        metadata={"turn_id": record.current_turn.turn_id, "phase": pb.SessionPhase.Name(record.phase)},
    )


def active(record: pb.Session) -> errors.SessionActive:
    """For a DeleteSession without `force`."""
    return errors.SessionActive(
        f"{_at_work(record)}; cancel it first, or set force",
        resource=record.session_id,
        metadata={"turn_id": record.current_turn.turn_id, "phase": pb.SessionPhase.Name(record.phase)},
    )


def not_active(record: pb.Session) -> errors.SessionNotActive:
    """For a SendMessage."""
    return errors.SessionNotActive(
        f"session {record.session_id} has no running turn: it is in {pb.SessionPhase.Name(record.phase)}; "
        "start one with Execute",
        resource=record.session_id,
    )


def queue_full(waiting: int, limit: int) -> errors.QueueFull:
    """For an Execute when the whole service lets no more turns wait."""
    return errors.QueueFull(
        f"{waiting} turns wait for a place, and the service lets {limit} wait; try again later",
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
        f"{waiting} turns wait in session {record.session_id}, and a session lets {limit} wait; try again later",
        resource=record.session_id,
        metadata={"max_queued": str(limit)},
        retry_after=1.0,
    )


def _at_work(record: pb.Session) -> str:
    phase = pb.SessionPhase.Name(record.phase)
    turn = record.current_turn.number
    return f"session {record.session_id} is at work: turn {turn} {_AT_WORK.get(record.phase, 'runs')} ({phase})"
