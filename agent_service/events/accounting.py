"""Figures that go beyond one turn: sums of usage, and results of turns nobody asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentpb import agent_pb2 as pb
from claude_agent_sdk import TERMINAL_TASK_STATUSES

from agent_service.events.text import text_of, to_json

__all__ = ["TERMINAL_TASK_STATUSES", "add_usage", "unsolicited_result"]


def add_usage(total: pb.Usage, usage: pb.Usage) -> None:
    """Add one usage to another, in place."""
    for field in pb.Usage.DESCRIPTOR.fields:
        setattr(total, field.name, getattr(total, field.name) + getattr(usage, field.name))


def unsolicited_result(frame: Mapping[str, Any]) -> pb.SessionEvent:
    """The result of a turn the agent took by itself, such as one after a background task: a message.system event."""
    notice = pb.SystemMessage(subtype="result", data_json=to_json(frame))
    return pb.SessionEvent(type="message.system", uuid=text_of(frame.get("uuid")), system_message=notice)
