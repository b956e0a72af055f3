"""Activity: whether an agent has work beside its prompts, as its own notices tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from agent_service.events import TERMINAL_TASK_STATUSES

QUIET_AFTER_TASK = 2.0
"""Seconds after a background task in which the agent usually begins a turn about it."""


class Activity:
    """The background tasks of one agent, and whether it is idle. An agent outlives turns, and so do its tasks."""

    def __init__(self, on_quiet: Callable[[], None]) -> None:
        """Call `on_quiet` when the agent says that it is idle, and some time after a background task has ended."""
        self._on_quiet = on_quiet
        self.tasks: set[str] = set()
        self.busy = False

    @property
    def at_work(self) -> bool:
        """Whether there is more to come without a prompt."""
        return bool(self.tasks) or self.busy

    def observe(self, frame: dict[str, Any]) -> None:
        """Take note of one of the agent's system frames."""
        subtype, task_id = frame.get("subtype"), str(frame.get("task_id", ""))
        patch = frame.get("patch")
        status = frame.get("status") or (patch.get("status") if isinstance(patch, dict) else None)
        if subtype == "task_started":
            self.tasks.add(task_id)
        elif subtype in ("task_notification", "task_updated") and status in TERMINAL_TASK_STATUSES:
            self.tasks.discard(task_id)
            # The agent is about to take a turn about it; if it does not, this was the end.
            asyncio.get_running_loop().call_later(QUIET_AFTER_TASK, self._on_quiet)
        elif subtype == "session_state_changed":
            self.busy = frame.get("state") != "idle"
            if not self.busy:
                self._on_quiet()


def is_signal(frame: dict[str, Any]) -> bool:
    """Return whether a frame is for the service only: the agent is asked for these so that its idleness is known."""
    return frame.get("type") == "command_lifecycle" or frame.get("subtype") == "session_state_changed"
