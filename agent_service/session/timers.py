"""Timers of a turn, and the watchdog that ends a turn whose agent is silent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Timers:
    """The timers of one turn, disarmed together."""

    def __init__(self) -> None:
        """Arm none."""
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
    """Notices that an agent has sent nothing for some time. An agent that waits for people does not count as silent."""

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
        """Restart the count of silent seconds."""
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
