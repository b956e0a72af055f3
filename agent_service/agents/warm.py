"""WarmAgents: agents connected before a session asks for them. Each serves one session and ends with it.

A warm agent has an id and a directory of its own, which its session takes over; it has had no prompt, files or rules
of any caller. One task starts agents by demand and by order, one at a time and only while no turn waits for a start. It
retires agents that are too old, dead, no longer wanted, or started before a change of the CLI or of credentials.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from agent_service.agents.agent import Agent, AgentFailed, Answer
from agent_service.agents.demand import Demand, Profile, shares
from agent_service.agents.host_memory import Memory
from agent_service.agents.prepared import Orders, Prepared

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
    """An agent without a session."""

    profile: Profile
    agent: Agent
    made_with: object
    born: float
    serves: asyncio.Task[bool] | None = None
    """Once it was given away: whether it is connected and still answers."""
    connected: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    task: asyncio.Task[None] | None = None
    unattended: _Unattended | None = None

    @property
    def agent_session_id(self) -> str:
        """The id of its conversation, which is empty."""
        session_id = self.agent.spec.options.session_id
        assert session_id is not None
        return session_id

    @property
    def usable(self) -> bool:
        """Whether the agent is connected or connecting, and has done nothing by itself."""
        if self.unattended is not None and self.unattended.spoke:
            return False
        return self.agent.alive if self.connected.done() else True


class WarmAgents:
    """The agents without a session, and the task that keeps them."""

    def __init__(
        self,
        *,
        places: int,
        max_prepared: int = 0,
        make: Callable[[Profile], Awaitable[Agent]],
        end: Callable[[Agent], None],
        made_with: Callable[[Profile], object],
        may_start: Callable[[], bool],
        short_of_memory: Callable[[], bool],
    ) -> None:
        """Keep at most `places` agents by demand, and `max_prepared` that were ordered.

        `make` prepares an agent and `end` ends it. `made_with` changes when an agent would be started differently.
        `may_start` is false while a turn waits for a start.
        """
        self._places = places
        self._make = make
        self._end = end
        self._made_with = made_with
        self._may_start = may_start
        self._short_of_memory = short_of_memory
        self._demand = Demand()
        self._orders = Orders(max_prepared)
        self._waiting: list[WarmAgent] = []
        self._failures: dict[Profile, tuple[int, float]] = {}
        self._turn_began = float("-inf")
        self._wanted_since = float("inf")
        self._wake = asyncio.Event()
        self._closed = False
        self._task: asyncio.Task[None] | None = None
        self.retired = 0

    def __len__(self) -> int:
        """The number of agents kept, connecting ones included."""
        return len(self._waiting)

    def ready(self, profile: Profile | None = None) -> int:
        """Return the number of connected agents: of one profile, or in all."""
        fitting = [warm for warm in self._waiting if profile is None or warm.profile == profile]
        return sum(warm.connected.done() and warm.usable for warm in fitting)

    def open(self) -> None:
        """Start the task."""
        if self._places:
            self._begin()

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._keep(), name="warm agents")

    def stop(self) -> list[Agent]:
        """Start no more agents; the caller ends those that are kept."""
        self._closed = True
        self._wake.set()
        waiting, self._waiting = self._waiting, []
        return [warm.agent for warm in waiting]

    async def stopped(self) -> None:
        """Wait until no start is running."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def expect(self, profile: Profile, weight: float = 1.0) -> None:
        """Count demand for this profile."""
        if self._places:
            self._demand.note(profile, time.monotonic(), weight)
            self._wake.set()

    def prepare(self, profile: Profile, count: int, hold: float, *, quota: int | None, memory: Memory) -> Prepared:
        """Keep `count` agents for sessions that come within `hold` seconds, or as many as there is room for."""
        if self._closed:
            return Prepared(0, 0, "max_warm")
        now, made_with = time.monotonic(), self._made_with(profile)
        granted, limit = self._orders.place(
            profile, made_with, count, now + hold, kept=self._kept(), quota=quota, memory=memory
        )
        if granted and self._task is None:
            self._begin()
        self._wake.set()
        asyncio.get_running_loop().call_later(hold, self._wake.set)
        ready = self.ready(profile)
        return Prepared(ready, max(0, granted - ready), limit)

    def prepare_no_more(self) -> None:
        """End the agents that were ordered; those in demand stay."""
        self._drop_ordered(self._orders.clear())

    def take(self, profile: Profile) -> WarmAgent | None:
        """Hand over an agent: a connected one, or the one that has been connecting longest."""
        self._orders.came(profile)
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
        """Record that a turn begins, on any agent."""
        self._turn_began = time.monotonic()

    @staticmethod
    async def _prove(taken: WarmAgent) -> bool:
        """Return whether the agent answers: one that died a moment ago looks alive until asked."""
        answers = await (taken.connected if not taken.connected.done() else taken.agent.answers())
        return answers and taken.usable

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
        """Pause; a long pause ends early when there is something to do."""
        if pause >= CHECK_INTERVAL:
            await self._wake.wait()
        else:
            await asyncio.sleep(pause)

    def _wanted(self) -> Profile | None:
        """Return a profile with fewer agents than were ordered, or than its share of the places.

        A profile with too many gives one up for it. Ordered agents take none of the places.
        """
        now = time.monotonic()
        kept, ordered = self._kept(), self._orders.wanted()
        for profile, count in ordered.items():
            if kept[profile] < count and not self._is_blocked(profile, now):
                return profile
        weights = self._demand.weights(now)
        wanted = shares(weights, self._places)
        in_places = (kept - ordered).total()
        for profile, share in wanted.items():
            if kept[profile] >= share or self._is_blocked(profile, now):
                continue
            if in_places < self._places or self._make_room(wanted | ordered, weights, profile):
                return profile
        return None

    def _kept(self) -> Counter[Profile]:
        return Counter(warm.profile for warm in self._waiting)

    def _make_room(self, wanted: Counter[Profile], weights: dict[Profile, float], profile: Profile) -> bool:
        """Retire an agent of clearly less demand: places must not change with every request."""
        kept = self._kept()
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
        """Start one unless a turn waits for a start. Returns the pause after it, in seconds."""
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
        unattended = _Unattended(self._wake.set)
        warm = WarmAgent(profile, agent, made_with, time.monotonic(), unattended=unattended)
        agent.attach(unattended)
        self._waiting.append(warm)
        warm.task = asyncio.create_task(self._connect(warm), name=f"warm {warm.agent_session_id}")
        await asyncio.wait([warm.task])
        return 0.0

    async def _connect(self, warm: WarmAgent) -> None:
        """Connect the agent, and have it do part of its first prompt's work in advance."""
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
        """Retire the agents that no session should get."""
        now = time.monotonic()
        self._drop_ordered(self._orders.end(now, self._made_with))
        for warm in list(self._waiting):
            if not warm.connected.done():
                continue
            if not warm.usable:
                spoke = warm.unattended.spoke if warm.unattended is not None else ""
                if spoke:
                    log.warning("a warm agent did what nobody had asked for, and is ended: %s", spoke)
                self._failed(warm.profile, RuntimeError(spoke or "its process ended while it waited"))
                self._drop(warm)
            elif now - warm.born > MAX_AGE or warm.made_with != self._made_with(warm.profile):
                self._drop(warm)
        if self._waiting and self._short_of_memory():
            self._drop(self._waiting[0])
        self._failures = {profile: each for profile, each in self._failures.items() if each[1] > now - MAX_BACKOFF}

    def _drop_ordered(self, ended: Iterable[Profile]) -> None:
        """Retire the agents of orders that have ended, but for as many as demand would keep."""
        in_demand = shares(self._demand.weights(time.monotonic()), self._places)
        for profile in ended:
            of_it = [warm for warm in self._waiting if warm.profile == profile and warm.connected.done()]
            for warm in of_it[in_demand[profile] :]:
                self._drop(warm)

    def _drop(self, warm: WarmAgent) -> None:
        self._waiting.remove(warm)
        self.retired += 1
        self._end(warm.agent)


CONVERSATION = frozenset({"user", "assistant", "stream_event", "result", "tool_progress", "command_lifecycle"})
"""Types of frames that an agent without a session has no reason for: no session has given it a prompt."""


class _Unattended:
    """The sink of an agent without a session: whatever it does by itself ends it, for no log would have it."""

    def __init__(self, on_exit: Callable[[], None]) -> None:
        self._on_exit = on_exit
        self.spoke = ""
        """What it did that nobody had asked for."""

    async def on_frame(self, frame: dict[str, Any]) -> None:
        """Have the agent replaced when it converses; notices of its state are ignored."""
        kind = str(frame.get("type"))
        if kind in CONVERSATION or frame.get("subtype") in ("init", "task_started"):
            self._found(f"it sent a frame of type {kind!r}")

    def on_stderr(self, line: str) -> None:
        """Ignore the line: the agent keeps its last lines."""

    def on_exit(self, failure: AgentFailed) -> None:
        """Have the agent replaced."""
        self._on_exit()

    async def on_permission(self, tool: str, tool_input: dict[str, Any], context: Any) -> Answer:
        """Deny, and have the agent replaced: no tool runs before the first prompt."""
        self._found(f"it asked for the tool {tool!r}")
        return Answer(allowed=False, message="no session is there to be asked")

    def _found(self, what: str) -> None:
        if not self.spoke:
            self.spoke = what
            self._on_exit()
