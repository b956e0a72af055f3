"""The contract's invariants, for any log and any session: what holds whatever was asked of the service, and its end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from agentpb import agent_pb2 as pb

P = pb.SessionPhase
PHASES = {
    pb.SESSION_STATE_PENDING: {P.SESSION_PHASE_QUEUED, P.SESSION_PHASE_STARTING, P.SESSION_PHASE_RECOVERING},
    pb.SESSION_STATE_RUNNING: {
        P.SESSION_PHASE_WORKING,
        P.SESSION_PHASE_AWAITING_PERMISSION,
        P.SESSION_PHASE_AWAITING_INPUT,
        P.SESSION_PHASE_BACKGROUND,
        P.SESSION_PHASE_STOPPING,
    },
    pb.SESSION_STATE_COMPLETED: {P.SESSION_PHASE_IDLE, P.SESSION_PHASE_DORMANT},
    pb.SESSION_STATE_ERROR: {
        P.SESSION_PHASE_FAILED,
        P.SESSION_PHASE_LIMIT_REACHED,
        P.SESSION_PHASE_TIMED_OUT,
        P.SESSION_PHASE_INTERRUPTED,
    },
    pb.SESSION_STATE_CANCELLED: {P.SESSION_PHASE_CANCELLED, P.SESSION_PHASE_INTERRUPTED_BY_CLIENT},
}
AT_REST = {pb.SESSION_STATE_COMPLETED, pb.SESSION_STATE_ERROR, pb.SESSION_STATE_CANCELLED}
PAYLOADS = {
    "state.changed": "state_changed",
    "turn.queued": "turn_queued",
    "turn.started": "turn_started",
    "turn.completed": "turn_completed",
    "interaction.requested": "interaction_requested",
    "interaction.resolved": "interaction_resolved",
    "message.user": "user_message",
    "message.assistant": "assistant_message",
    "message.system": "system_message",
    "task.started": "task",
    "task.progress": "task",
    "task.notification": "task",
    "task.updated": "task",
    "hook.started": "hook",
    "hook.response": "hook",
    "rate_limit": "rate_limit",
    "conversation.reset": "conversation_reset",
    "warning": "warning",
    "stderr": "stderr",
    "unknown": "unknown",
}
MESSAGES = ("message.user", "message.assistant")


def check_log(events: Sequence[pb.SessionEvent], session: pb.Session | None = None) -> None:
    """All events of a log from the first on, and the session they lead to."""
    check_numbers(events)
    check_edges(events)
    check_turns(events)
    check_interactions(events)
    if session is not None:
        check_session(session)
        check_agreement(events, session)


def check_numbers(events: Sequence[pb.SessionEvent]) -> None:
    """Numbered 1, 2, 3 and so on, in the order of time, each with the payload its type names; nothing ephemeral."""
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert not any(event.ephemeral for event in events)
    assert len({event.session_id for event in events}) <= 1
    times = [event.time.ToNanoseconds() for event in events]
    assert times == sorted(times)
    for event in events:
        assert event.WhichOneof("payload") == PAYLOADS[event.type], event
        if event.raw_json:
            json.loads(event.raw_json)


def check_edges(events: Sequence[pb.SessionEvent]) -> None:
    """One state.changed per edge, each from where the one before led; an error if and only if the state is ERROR."""
    state, phase = pb.SESSION_STATE_UNSPECIFIED, pb.SESSION_PHASE_UNSPECIFIED
    for edge in (event.state_changed for event in events if event.type == "state.changed"):
        assert (edge.from_state, edge.from_phase) == (state, phase), edge
        state, phase = edge.state, edge.phase
        assert (edge.from_state, edge.from_phase) != (state, phase), edge
        assert phase in PHASES[state], edge
        assert edge.HasField("error") == (state == pb.SESSION_STATE_ERROR), edge
        if edge.HasField("error"):
            check_error(edge.error)


def check_turns(events: Sequence[pb.SessionEvent]) -> None:
    """A turn is queued once and completed once, in this order; at rest all of them are."""
    open_turns: set[str] = set()
    known: set[str] = set()
    for event in events:
        match event.type:
            case "turn.queued":
                assert event.turn_id == event.turn_queued.turn.turn_id
                assert event.turn_id not in known, "queued twice"
                known.add(event.turn_id)
                open_turns.add(event.turn_id)
                assert event.turn_queued.turn.number == len(known)
            case "turn.started":
                assert event.turn_id in open_turns, "started before it was queued, or after its end"
            case "turn.completed":
                assert event.turn_id in open_turns, "completed twice, or before it was queued"
                open_turns.remove(event.turn_id)
                check_ended(event.turn_completed.turn)
            case "state.changed" if event.state_changed.state in AT_REST:
                assert not open_turns, "at rest with turns that have not ended"
        assert not event.turn_id or event.turn_id in known or event.type == "state.changed", event


def check_interactions(events: Sequence[pb.SessionEvent]) -> None:
    """What the agent asks is resolved at most once, and before the session is at rest."""
    asked: set[str] = set()
    for event in events:
        match event.type:
            case "interaction.requested":
                asked.add(event.interaction_requested.interaction.interaction_id)
            case "interaction.resolved":
                asked.remove(event.interaction_resolved.interaction.interaction_id)
            case "state.changed" if event.state_changed.state in AT_REST:
                assert not asked, "at rest with questions nobody answered"


def check_ended(turn: pb.Turn) -> None:
    """A turn that has ended."""
    assert turn.state in (pb.TURN_STATE_COMPLETED, pb.TURN_STATE_ERROR, pb.TURN_STATE_CANCELLED)
    assert turn.HasField("end_time")
    assert turn.HasField("error") == (turn.state == pb.TURN_STATE_ERROR), turn
    if turn.HasField("error"):
        check_error(turn.error)
    if turn.HasField("start_time"):
        assert turn.create_time.ToNanoseconds() <= turn.start_time.ToNanoseconds() <= turn.end_time.ToNanoseconds()


def check_error(error: pb.SessionError) -> None:
    """Why a run failed: a stable word and a text for people."""
    assert error.reason
    assert error.reason == error.reason.upper()
    assert error.message.strip()


def check_session(session: pb.Session) -> None:
    """At rest: rest_time, no running turn, no question. ERROR: an error. Nothing secret in its options."""
    at_rest = session.state in AT_REST
    assert session.phase in PHASES[session.state], session
    assert session.HasField("rest_time") == at_rest, session
    assert (session.state == pb.SESSION_STATE_ERROR) == session.HasField("error"), session
    if session.HasField("error"):
        check_error(session.error)
    if at_rest:
        assert not session.HasField("current_turn"), session
        assert not session.pending_interactions, session
        assert not session.queued_turn_count, session
    else:
        assert not session.HasField("expire_time")
    assert all(value == "***" for value in session.options.env.values())
    assert session.options.settings_json in ("", "***")


def check_agreement(events: Sequence[pb.SessionEvent], session: pb.Session) -> None:
    """The session says what its log says. The log may be older: then only what cannot go back is compared."""
    kinds = Counter(event.type for event in events)
    assert session.last_sequence >= len(events)
    if session.last_sequence > len(events):
        return
    edges = [event.state_changed for event in events if event.type == "state.changed"]
    assert (session.state, session.phase) == (edges[-1].state, edges[-1].phase)
    assert session.turn_count == kinds["turn.queued"]
    assert session.message_count == sum(kinds[kind] for kind in MESSAGES)
    waiting = kinds["turn.queued"] - kinds["turn.completed"] - session.HasField("current_turn")
    assert session.queued_turn_count == waiting, (session, kinds)
    spent = sum(event.turn_completed.turn.result.cost_usd for event in events if event.type == "turn.completed")
    assert session.total_cost_usd >= spent - 1e-9
