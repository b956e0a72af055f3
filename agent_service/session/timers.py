"""Watchdogs: what ends a turn from outside: its time, its agent's silence. And what the agent does when it is over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from agent_service.events.accounting import TERMINAL_TASK_STATUSES

QUIET_AFTER_TASK = 2.0
"""Seconds after a background task in which the agent usually begins a turn about it."""


class Timers:
    """The timers of one turn, disarmed together."""

    def __init__(self) -> None:
        """None are armed."""
        self._armed: list[asyncio.TimerHandle] = []

    def later(self, delay: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call after `delay` seconds, unless disarmed before."""
        self._armed.append(asyncio.get_running_loop().call_later(delay, call, *arguments))

    def disarm(self) -> None:
        """Call none of them."""
        for timer in self._armed:
            timer.cancel()
        self._armed.clear()


class StallWatch:
    """Notices that an agent at work has given no byte for some time. What waits for people is not silent."""

    def __init__(
        self, limit: float, timers: Timers, is_waiting: Callable[[], bool], on_stall: Callable[[str], None]
    ) -> None:
        """Call `on_stall` after `limit` seconds of silence; 0 never does."""
        self._limit = limit
        self._timers = timers
        self._is_waiting = is_waiting
        self._on_stall = on_stall
        self._last = 0.0

    def touch(self) -> None:
        """Take note of a sign of life."""
        self._last = asyncio.get_running_loop().time()

    def arm(self) -> None:
        """Begin to watch."""
        self.touch()
        if self._limit:
            self._timers.later(self._limit, self._check)

    def _check(self) -> None:
        silent = 0.0 if self._is_waiting() else asyncio.get_running_loop().time() - self._last
        if silent >= self._limit:
            self._on_stall(f"the agent was silent for {self._limit:g} s, the service's stall_timeout")
        else:
            self._timers.later(self._limit - silent, self._check)


class Activity:
    """What the agent is busy with, as its own notices tell: background tasks, and whether it is idle."""

    def __init__(self, on_quiet: Callable[[], None]) -> None:
        """Call `on_quiet` when the agent says that it is idle, and some time after a background task has ended."""
        self._on_quiet = on_quiet
        self.tasks: set[str] = set()
        self.busy = False

    def reset(self) -> None:
        """Begin again, with another agent."""
        self.tasks.clear()
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
    """Whether a frame is there for the service alone: it asked for these to know when the agent is idle."""
    return frame.get("type") == "command_lifecycle" or frame.get("subtype") == "session_state_changed"
