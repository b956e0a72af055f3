"""Sink: the receiver of what one agent reports."""

from __future__ import annotations

from typing import Any, Protocol

from claude_agent_sdk import ToolPermissionContext as PermissionContext

from agent_service.agents.failures import AgentFailed
from agent_service.agents.permission import Answer

__all__ = ["PermissionContext", "Sink"]


class Sink(Protocol):
    """The receiver of an agent's reports."""

    async def on_frame(self, frame: dict[str, Any]) -> None:
        """Take one frame of the CLI's output. The next frame is read after this returns."""

    def on_stderr(self, line: str) -> None:
        """Take one line of the CLI's stderr."""

    def on_exit(self, failure: AgentFailed) -> None:
        """Take note that the agent's output has ended."""

    async def on_permission(self, tool: str, tool_input: dict[str, Any], context: PermissionContext) -> Answer:
        """Decide whether a tool may be used. There is no time limit."""
        ...
