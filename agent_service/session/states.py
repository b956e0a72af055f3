"""States: the table of a session's phases and of the moves between them, and the one function that makes a move.

A phase belongs to exactly one state, so the table lists phases only. docs/architecture.md shows it as `table` and
`diagram` draw it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from agentpb import agent_pb2 as pb

from agent_service import events
from agent_service.ledger import AT_REST, Journal, now_us

Phase: TypeAlias = pb.SessionPhase.ValueType

_NEW = pb.SESSION_PHASE_UNSPECIFIED
_QUEUED, _STARTING, _RECOVERING = (
    pb.SESSION_PHASE_QUEUED,
    pb.SESSION_PHASE_STARTING,
    pb.SESSION_PHASE_RECOVERING,
)
_WORKING, _BACKGROUND, _STOPPING = (
    pb.SESSION_PHASE_WORKING,
    pb.SESSION_PHASE_BACKGROUND,
    pb.SESSION_PHASE_STOPPING,
)
_PERMISSION, _INPUT = pb.SESSION_PHASE_AWAITING_PERMISSION, pb.SESSION_PHASE_AWAITING_INPUT
_IDLE, _DORMANT = pb.SESSION_PHASE_IDLE, pb.SESSION_PHASE_DORMANT
_FAILED, _LIMIT, _TIMED_OUT, _INTERRUPTED = (
    pb.SESSION_PHASE_FAILED,
    pb.SESSION_PHASE_LIMIT_REACHED,
    pb.SESSION_PHASE_TIMED_OUT,
    pb.SESSION_PHASE_INTERRUPTED,
)
_CANCELLED, _BY_CLIENT = pb.SESSION_PHASE_CANCELLED, pb.SESSION_PHASE_INTERRUPTED_BY_CLIENT

_STATES: Mapping[pb.SessionState.ValueType, tuple[Phase, ...]] = {
    pb.SESSION_STATE_UNSPECIFIED: (_NEW,),
    pb.SESSION_STATE_PENDING: (_QUEUED, _STARTING, _RECOVERING),
    pb.SESSION_STATE_RUNNING: (_WORKING, _PERMISSION, _INPUT, _BACKGROUND, _STOPPING),
    pb.SESSION_STATE_COMPLETED: (_IDLE, _DORMANT),
    pb.SESSION_STATE_ERROR: (_FAILED, _LIMIT, _TIMED_OUT, _INTERRUPTED),
    pb.SESSION_STATE_CANCELLED: (_CANCELLED, _BY_CLIENT),
}

STATE_OF: Mapping[Phase, pb.SessionState.ValueType] = {
    phase: state for state, phases in _STATES.items() for phase in phases
}
"""The state of each phase."""

_ENDINGS = frozenset({_IDLE, _DORMANT, _FAILED, _LIMIT, _TIMED_OUT, _INTERRUPTED, _CANCELLED, _BY_CLIENT})
# A turn whose agent is being started has no result: it begins, fails or is stopped; the next turn may follow.
_STARTS = frozenset({_WORKING, _PERMISSION, _INPUT, _FAILED, _INTERRUPTED, _CANCELLED, _BY_CLIENT, _QUEUED})
# Each of these may end in every way: a stop that comes while the agent is being started leaves the phase as it is.
_WORKS = frozenset({_WORKING, _PERMISSION, _INPUT, _BACKGROUND, _STOPPING, _QUEUED, _RECOVERING}) | _ENDINGS

MOVES: Mapping[Phase, frozenset[Phase]] = {
    _NEW: frozenset({_QUEUED}),
    # RECOVERING and INTERRUPTED: the service was started again. TIMED_OUT: queue_timeout.
    _QUEUED: frozenset({_STARTING, _RECOVERING, _TIMED_OUT, _INTERRUPTED, _CANCELLED}),
    _STARTING: _STARTS | {_RECOVERING},
    _RECOVERING: _STARTS | {_TIMED_OUT},
    _WORKING: _WORKS - {_WORKING},
    _PERMISSION: _WORKS - {_PERMISSION},
    _INPUT: _WORKS - {_INPUT},
    # There is no turn: the work ends by itself, its agent fails, it is stopped, or a turn comes.
    _BACKGROUND: frozenset({_PERMISSION, _INPUT, _STOPPING, _QUEUED, _IDLE, _DORMANT, _FAILED, _INTERRUPTED}),
    # BACKGROUND, IDLE and DORMANT: the result came before the stop took effect.
    _STOPPING: _WORKS - {_STOPPING, _WORKING},
    _IDLE: frozenset({_QUEUED, _DORMANT}),
    **{phase: frozenset({_QUEUED}) for phase in (_DORMANT, _FAILED, _LIMIT, _TIMED_OUT, _INTERRUPTED)},
    **{phase: frozenset({_QUEUED}) for phase in (_CANCELLED, _BY_CLIENT)},
}
"""The phases that may follow each phase. No phase follows itself: that is no move."""


def move(
    journal: Journal,
    phase: Phase,
    *,
    turn_id: str = "",
    reason: str = "",
    error: pb.SessionError | None = None,
) -> None:
    """Take the session to another phase with one state.changed event; the caller commits.

    Nothing happens when it is in that phase already. Raises AssertionError for a move that is not in MOVES.
    """
    before = journal.record
    if before.phase == phase:
        return
    assert phase in MOVES[before.phase], f"{_name(before.phase)} to {_name(phase)} is not a move of a session"
    state, was_at_rest = STATE_OF[phase], journal.at_rest
    change = events.state_changed(
        from_state=before.state, from_phase=before.phase, state=state, phase=phase, reason=reason, error=error
    )
    journal.add(change, turn_id=turn_id)
    with journal.update() as record:
        record.state, record.phase = state, phase
        if state == pb.SESSION_STATE_ERROR and error is not None:
            record.error.CopyFrom(error)
        elif state != pb.SESSION_STATE_ERROR:
            record.ClearField("error")
        if state not in AT_REST:
            record.ClearField("rest_time")
            record.ClearField("expire_time")
        elif not was_at_rest:
            record.rest_time.FromMicroseconds(now_us())


def is_at_work(record: pb.Session) -> bool:
    """Tell whether a session has its place: an agent works for it, or is about to."""
    return record.state == pb.SESSION_STATE_RUNNING or record.phase in (_STARTING, _RECOVERING)


def table() -> str:
    """The moves as a Markdown table, a row for each phase."""
    rows = [
        f"| {_state(phase)} | {_name(phase)} | {', '.join(_name(each) for each in _ordered(MOVES[phase]))} |"
        for phase in STATE_OF
        if phase != _NEW
    ]
    return "\n".join(["| state | phase | may be followed by |", "| --- | --- | --- |", *rows])


def diagram() -> str:
    """The moves between states as a Mermaid diagram: an arrow for each pair of states, its phases inside."""
    pairs = {(STATE_OF[phase], STATE_OF[each]) for phase, targets in MOVES.items() for each in targets}
    arrows = [f"    {_state_id(a)} --> {_state_id(b)}" for a, b in sorted(pairs) if a != b]
    boxes: list[str] = []
    for state, phases in _STATES.items():
        if state != pb.SESSION_STATE_UNSPECIFIED:
            name = pb.SessionState.Name(state).removeprefix("SESSION_STATE_")
            boxes.append(f'    state "{name}" as {_state_id(state)} {{')
            boxes += [f"        {_name(phase)}" for phase in phases]
            boxes.append("    }")
    return "\n".join(["```mermaid", "stateDiagram-v2", *boxes, *arrows, "```"])


def _ordered(phases: frozenset[Phase]) -> list[Phase]:
    return [phase for phase in STATE_OF if phase in phases]


def _name(phase: Phase) -> str:
    return pb.SessionPhase.Name(phase).removeprefix("SESSION_PHASE_")


def _state(phase: Phase) -> str:
    return pb.SessionState.Name(STATE_OF[phase]).removeprefix("SESSION_STATE_")


def _state_id(state: pb.SessionState.ValueType) -> str:
    if state == pb.SESSION_STATE_UNSPECIFIED:
        return "[*]"
    return pb.SessionState.Name(state)  # with its prefix: CANCELLED is a phase as well
