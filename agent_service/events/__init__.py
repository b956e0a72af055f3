"""SDK wire frames → SessionEvent, and SessionEvent → the bytes that are stored and sent; here and nowhere else.

Frames are read raw, as the CLI wrote them: the SDK's dataclasses drop fields and whole messages that they do not know.
"""

from __future__ import annotations

from agent_service.events.frames import from_frame
from agent_service.events.limits import MAX_EVENT, MAX_INTERACTION, MAX_SESSION, MAX_TURN, fit, fit_keeping
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
)
from agent_service.events.results import RunningTotals, restored_totals, turn_result
from agent_service.events.text import clean
from agent_service.events.wire import LIST_EVENTS, WATCH_EVENTS, heads, raw_json, response_bytes, seal, with_raw

__all__ = [
    "LIST_EVENTS",
    "MAX_EVENT",
    "MAX_INTERACTION",
    "MAX_SESSION",
    "MAX_TURN",
    "OF_RECORDS",
    "WATCH_EVENTS",
    "RunningTotals",
    "clean",
    "fit",
    "fit_keeping",
    "from_frame",
    "heads",
    "interaction_requested",
    "interaction_resolved",
    "raw_json",
    "response_bytes",
    "restored_totals",
    "seal",
    "state_changed",
    "stderr",
    "turn_completed",
    "turn_queued",
    "turn_result",
    "turn_started",
    "user_prompt",
    "with_raw",
]
