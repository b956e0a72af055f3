"""Figures that go beyond one turn: sums of usage, and results of turns nobody asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentpb import agent_pb2 as pb
from claude_agent_sdk import TERMINAL_TASK_STATUSES

from agent_service.events.text import text_of, to_json

MAX_SPEAKERS = 1000
"""Subagents whose last message is remembered, per process."""

__all__ = ["TERMINAL_TASK_STATUSES", "UsageOfParts", "add_usage", "unsolicited_result"]


def add_usage(total: pb.Usage, usage: pb.Usage) -> None:
    """Add one usage to another, in place."""
    for field in pb.Usage.DESCRIPTOR.fields:
        setattr(total, field.name, getattr(total, field.name) + getattr(usage, field.name))


class UsageOfParts:
    """Removes the usage that all parts of a message repeat, except on the first part, so that usages can be summed."""

    def __init__(self) -> None:
        """Know no message yet."""
        self._last: dict[str, str] = {}  # by the tool call of the subagent that speaks: messages of several interleave

    def keep_first(self, event: pb.SessionEvent) -> None:
        """Leave the usage of a message.assistant event only if it is its message's first part."""
        message, speaker = event.assistant_message, event.parent_tool_use_id
        if message.message_id and self._last.get(speaker) == message.message_id:
            message.ClearField("usage")
        if len(self._last) >= MAX_SPEAKERS and speaker not in self._last:
            del self._last[next(iter(self._last))]
        self._last[speaker] = message.message_id


def unsolicited_result(frame: Mapping[str, Any]) -> pb.SessionEvent:
    """The result of a turn the agent took by itself, such as one after a background task: a message.system event."""
    notice = pb.SystemMessage(subtype="result", data_json=to_json(frame))
    return pb.SessionEvent(type="message.system", uuid=text_of(frame.get("uuid")), system_message=notice)
