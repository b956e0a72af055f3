"""WarmAgents: agents connected before anybody asks for them. Each is given away once, to one session, and dies with it.

A warm agent has an id and a directory of its own, which the session that gets it takes over; nobody's prompt, files or
rules have been near it. One task keeps them: it starts what is in demand, one at a time and only while nobody waits for
a start, and retires what is too old, dead, no longer wanted, or started with what has changed since.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from agent_service.agents.agent import Agent, AgentFailed, Answer
from agent_service.agents.demand import Demand, Profile, shares

log = logging.getLogger(__name__)

MAX_AGE = 900.0
"""Seconds after which an unused agent is retired: what it read at its start, such as the date, may have changed."""

CHECK_INTERVAL = 5.0
QUIET = 0.5
"""Seconds after a turn has begun in which none is started: until its first message it has the cores to itself."""

PATIENCE = 2.0
"""Seconds for which turns that begin can put off a start: when they never cease, agents are needed all the more."""

CLEARLY_LESS = 0.75
"""Share of another's weight per agent up to which a profile loses its place to it."""

BACKOFF = 2.0
MAX_BACKOFF = 300.0
"""Seconds for which a profile whose agent did not start, or died waiting, is left alone: doubled each time."""


@dataclass(eq=False)
class WarmAgent:
    """An agent that waits for its session."""

    profile: Profile
    agent: Agent
    made_with: object
    born: float
    serves: asyncio.Task[bool] | None = None
    """Once it was given away: whether it is connected and still answers."""
    connected: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    task: asyncio.Task[None] | None = None

    @property
    def agent_session_id(self) -> str:
        """The id of its conversation, which is still empty."""
        session_id = self.agent.spec.options.session_id
        assert session_id is not None
        return session_id

    @property
    def usable(self) -> bool:
        """Whether it is connected, or about to be."""
        return self.agent.alive if self.connected.done() else True


class WarmAgents:
    """The agents that wait, and the task that keeps them."""

    def __init__(
        self,
        *,
        places: int,
        make: Callable[[Profile], Awaitable[Agent]],
        end: Callable[[Agent], None],
        made_with: Callable[[Profile], object],
        may_start: Callable[[], bool],
        short_of_memory: Callable[[], bool],
    ) -> None:
        """Keep at most `places` agents.

        `make` prepares one and `end` ends it; `made_with` is equal as long as an agent would be started alike;
        `may_start` is false while somebody waits for a start.
        """
        self._places = places
        self._make = make
        self._end = end
        self._made_with = made_with
        self._may_start = may_start
        self._short_of_memory = short_of_memory
        self._demand = Demand()
        self._waiting: list[WarmAgent] = []
        self._failures: dict[Profile, tuple[int, float]] = {}
        self._turn_began = float("-inf")
        self._wanted_since = float("inf")
        self._wake = asyncio.Event()
        self._closed = False
        self._task: asyncio.Task[None] | None = None
        self.retired = 0

    def __len__(self) -> int:
        """How many wait, or are being started."""
        return len(self._waiting)

    def ready(self, profile: Profile | None = None) -> int:
        """How many are connected and could be given away: of one profile, or in all."""
        fitting = [warm for warm in self._waiting if profile is None or warm.profile == profile]
        return sum(warm.connected.done() and warm.usable for warm in fitting)

    def open(self) -> None:
        """Begin to keep them."""
        if self._places:
            self._task = asyncio.create_task(self._keep(), name="warm agents")

    def stop(self) -> list[Agent]:
        """Start no more; those that wait are the caller's to end."""
        self._closed = True
        self._wake.set()
        waiting, self._waiting = self._waiting, []
        return [warm.agent for warm in waiting]

    async def stopped(self) -> None:
        """Wait until nothing is started any more."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def expect(self, profile: Profile, weight: float = 1.0) -> None:
        """Take note that agents of this profile are asked for."""
        if self._places:
            self._demand.note(profile, time.monotonic(), weight)
            self._wake.set()

    def take(self, profile: Profile) -> WarmAgent | None:
        """Give one away, for good: a connected one, or else the one that is furthest on its way."""
        made_with = self._made_with(profile)
        fitting = [
            warm for warm in self._waiting if warm.profile == profile and warm.usable and warm.made_with == made_with
        ]
        if not fitting:
            return None
        taken = next((warm for warm in fitting if warm.connected.done()), fitting[0])
        self._waiting.remove(taken)
        taken.serves = asyncio.create_task(self._prove(taken), name=f"prove {taken.agent_session_id}")
        self.turn_begins()
        self._wake.set()
        return taken

    def turn_begins(self) -> None:
        """Take note that a turn begins, on whatever agent."""
        self._turn_began = time.monotonic()

    @staticmethod
    async def _prove(taken: WarmAgent) -> bool:
        """Whether it serves: one that died a moment ago looks alive until asked; meanwhile the turn is written."""
        if not taken.connected.done():
            return await taken.connected
        return await taken.agent.answers()

    # ----------------------------------------------------------------------------------------------------- keeping them

    async def _keep(self) -> None:
        while not self._closed:
            self._wake.clear()
            pause = CHECK_INTERVAL
            try:
                self._retire()
                profile = self._wanted()
                if profile is None:
                    self._wanted_since = float("inf")
                else:
                    self._wanted_since = min(self._wanted_since, time.monotonic())
                    pause = await self._start(profile)
            except Exception:
                log.exception("warm agents could not be kept; it is tried again")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._pause_or_wake(pause), pause)

    async def _pause_or_wake(self, pause: float) -> None:
        """A short pause is a pause; a long one ends when there is something to look at."""
        if pause >= CHECK_INTERVAL:
            await self._wake.wait()
        else:
            await asyncio.sleep(pause)

    def _wanted(self) -> Profile | None:
        """A profile that has fewer agents than its share; for it, one that has too many gives up one of its own."""
        now = time.monotonic()
        weights = self._demand.weights(now)
        wanted = shares(weights, self._places)
        kept = Counter(warm.profile for warm in self._waiting)
        for profile, share in wanted.items():
            if kept[profile] >= share or self._is_blocked(profile, now):
                continue
            if len(self._waiting) < self._places or self._make_room(wanted, weights, profile):
                return profile
        return None

    def _make_room(self, wanted: Counter[Profile], weights: dict[Profile, float], profile: Profile) -> bool:
        """Retire one that is wanted clearly less: places must not change hands at every request."""
        kept = Counter(warm.profile for warm in self._waiting)
        surplus = [warm for warm in self._waiting if kept[warm.profile] > wanted[warm.profile]]
        if not surplus:
            return False
        least = min(surplus, key=lambda warm: weights.get(warm.profile, 0.0) / kept[warm.profile])
        if (
            weights.get(least.profile, 0.0) / kept[least.profile]
            > weights[profile] / (kept[profile] + 1) * CLEARLY_LESS
        ):
            return False
        self._drop(least)
        return True

    async def _start(self, profile: Profile) -> float:
        """Start one, unless it would be in somebody's way; how long to pause then."""
        now = time.monotonic()
        if now < min(self._turn_began + QUIET, self._wanted_since + PATIENCE):
            return QUIET / 10
        if not self._may_start() or self._short_of_memory():
            return QUIET if not self._may_start() else CHECK_INTERVAL
        made_with = self._made_with(profile)
        try:
            agent = await self._make(profile)
        except (OSError, AgentFailed, ValueError) as failure:
            self._failed(profile, failure)
            return 0.0
        if self._closed:
            self._end(agent)
            return 0.0
        warm = WarmAgent(profile, agent, made_with, time.monotonic())
        agent.attach(_Unattended(self._wake.set))
        self._waiting.append(warm)
        warm.task = asyncio.create_task(self._connect(warm), name=f"warm {warm.agent_session_id}")
        await asyncio.wait([warm.task])
        return 0.0

    async def _connect(self, warm: WarmAgent) -> None:
        """Connect it, and let it do beforehand what it would do at its first prompt."""
        try:
            await warm.agent.connect()
        except AgentFailed as failure:
            if warm in self._waiting:
                self._waiting.remove(warm)
                self._failed(warm.profile, failure)
                self._end(warm.agent)
        finally:
            warm.connected.set_result(warm.agent.alive)
        if warm.agent.alive:
            await warm.agent.rehearse()

    def _failed(self, profile: Profile, failure: Exception) -> None:
        if self._closed:
            return
        times = self._failures.get(profile, (0, 0.0))[0] + 1
        pause = min(BACKOFF * 2 ** (times - 1), MAX_BACKOFF)
        self._failures[profile] = (times, time.monotonic() + pause)
        log.info("a warm agent was lost, the next is started in %g s at the earliest: %s", pause, failure)

    def _is_blocked(self, profile: Profile, now: float) -> bool:
        return self._failures.get(profile, (0, now))[1] > now

    def _retire(self) -> None:
        """Give up what nobody should get any more."""
        now = time.monotonic()
        for warm in list(self._waiting):
            if not warm.connected.done():
                continue
            if not warm.usable:
                self._failed(warm.profile, RuntimeError("its process ended while it waited"))
                self._drop(warm)
            elif now - warm.born > MAX_AGE or warm.made_with != self._made_with(warm.profile):
                self._drop(warm)
        if self._waiting and self._short_of_memory():
            self._drop(self._waiting[0])
        self._failures = {profile: each for profile, each in self._failures.items() if each[1] > now - MAX_BACKOFF}

    def _drop(self, warm: WarmAgent) -> None:
        self._waiting.remove(warm)
        self.retired += 1
        self._end(warm.agent)


class _Unattended:
    """Who an agent reports to while it waits: nobody, but for its end."""

    def __init__(self, on_exit: Callable[[], None]) -> None:
        self._on_exit = on_exit

    async def on_frame(self, frame: dict[str, Any]) -> None:
        """Nothing it says before its first prompt is of a conversation."""

    def on_stderr(self, line: str) -> None:
        """The agent keeps its last lines itself."""

    def on_exit(self, failure: AgentFailed) -> None:
        """Have it replaced."""
        self._on_exit()

    async def on_permission(self, tool: str, tool_input: dict[str, Any], context: Any) -> Answer:
        """Nothing runs before the first prompt, so nothing may."""
        return Answer(allowed=False, message="no session is there to be asked")
