"""SDK wire frames → SessionEvent, and SessionEvent → the bytes that are stored and sent; here and nowhere else.

Frames are read raw, as the CLI wrote them: the SDK's dataclasses drop fields and whole messages that they do not know.
"""

from __future__ import annotations

from agent_service.events.accounting import TERMINAL_TASK_STATUSES, UsageOfParts, add_usage, unsolicited_result
from agent_service.events.fields import event_of_raw, field_at, first_of
from agent_service.events.frames import from_frame
from agent_service.events.limits import (
    MAX_ERROR,
    MAX_EVENT,
    MAX_INTERACTION,
    MAX_SESSION,
    MAX_STRING,
    MAX_TURN,
    fit,
    fit_keeping,
)
from agent_service.events.own import (
    OF_RECORDS,
    interaction_requested,
    interaction_resolved,
    state_changed,
    stderr,
    turn_completed,
    turn_queued,
    turn_started,
    user_prompt,
    warning,
)
from agent_service.events.results import RunningTotals, restored_totals, turn_result
from agent_service.events.text import clean, cut, cut_front, to_json
from agent_service.events.transcript import lines_backwards
from agent_service.events.wire import (
    LIST_EVENTS,
    STUB_START,
    WATCH_EVENTS,
    heads,
    is_stub,
    raw_json,
    response_bytes,
    seal,
    with_raw,
)

__all__ = [
    "LIST_EVENTS",
    "MAX_ERROR",
    "MAX_EVENT",
    "MAX_INTERACTION",
    "MAX_SESSION",
    "MAX_STRING",
    "MAX_TURN",
    "OF_RECORDS",
    "STUB_START",
    "TERMINAL_TASK_STATUSES",
    "WATCH_EVENTS",
    "RunningTotals",
    "UsageOfParts",
    "add_usage",
    "clean",
    "cut",
    "cut_front",
    "event_of_raw",
    "field_at",
    "first_of",
    "fit",
    "fit_keeping",
    "from_frame",
    "heads",
    "interaction_requested",
    "interaction_resolved",
    "is_stub",
    "lines_backwards",
    "raw_json",
    "response_bytes",
    "restored_totals",
    "seal",
    "state_changed",
    "stderr",
    "to_json",
    "turn_completed",
    "turn_queued",
    "turn_result",
    "turn_started",
    "unsolicited_result",
    "user_prompt",
    "warning",
    "with_raw",
]
