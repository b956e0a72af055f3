"""AgentPool: starts agents, warm or cold, and ends every agent that it started.

launch.py says what they are started with, warm.py keeps the agents without a session; the pool bounds how many sessions
at rest keep their process.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self
from uuid import uuid4

from agentpb import agent_pb2 as pb

from agent_service.agents.agent import Agent, AgentFailed, AgentSpec, Ended
from agent_service.agents.demand import Profile
from agent_service.agents.host_memory import memory
from agent_service.agents.launch import Launch
from agent_service.agents.prepared import Prepared
from agent_service.agents.warm import WarmAgent, WarmAgents
from agent_service.policy import Policy
from agent_service.processes.guards import ProcessGuard
from agent_service.processes.tree import private_bytes

TERM_GRACE = 0.5
"""Seconds a process tree has between SIGTERM and SIGKILL."""

CLOSE_PATIENCE = 5.0
"""Seconds a CLI may take to exit by itself once its input is closed: it still writes its transcript."""

EXPECTED = 0.7
"""What a guess weighs beside a request."""

UNUSED_PATIENCE = 1.0
"""Seconds an agent that no session has had may take to exit by itself."""

RESERVED = 10.0
"""Seconds for which an agent stays reserved for a session whose turn does not begin."""

RELIEF_INTERVAL = 2.0
"""Seconds between looks at the host's memory while sessions at rest keep their processes."""

MEMORY_SAMPLE = 1.0
"""Seconds for which a figure of the agents' memory holds."""


class AgentPool:
    """Starts agents for sessions and ends them, whatever becomes of the session."""

    def __init__(
        self,
        *,
        guard: ProcessGuard,
        launch: Launch,
        spawn_limit: int,
        start_timeout: float,
        warm_agents: int = 0,
        max_prepared: int = 0,
        max_idle: int = 0,
        policy: Policy | None = None,
    ) -> None:
        """Start at most `spawn_limit` agents at a moment, with what `launch` says, in process trees held by `guard`.

        Up to `warm_agents` agents are kept connected for new sessions, and up to `max_prepared` that callers asked for;
        at most `max_idle` sessions at rest keep their process, 0 for no limit.
        """
        self._guard = guard
        self.launch = launch
        self.policy = policy or Policy()
        self.workspaces = launch.workspaces
        self._start_slots = asyncio.Semaphore(spawn_limit)
        self._start_timeout = start_timeout
        self._agents: set[Agent] = set()
        self._ends: set[asyncio.Task[Ended]] = set()
        self._max_idle = max_idle
        self._warm = WarmAgents(
            places=warm_agents,
            max_prepared=max_prepared,
            make=self._make,
            end=self._end_unused,
            made_with=launch.made_with,
            may_start=lambda: all(agent.alive for agent in self._agents),
            short_of_memory=lambda: memory().short,
        )
        self._reserved: dict[str, WarmAgent] = {}
        self._parked: dict[Callable[[], None], None] = {}
        self._start_times: dict[str, deque[float]] = {"warm": deque(maxlen=256), "cold": deque(maxlen=256)}
        self._starts = {"warm": 0, "cold": 0}
        self._retired = 0
        self._memory = (float("-inf"), 0)
        self._tick: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        """End the processes that earlier runs left, and begin to keep agents warm."""
        await asyncio.to_thread(self.workspaces.clear)
        self._warm.open()
        self._look_after()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every agent and wait until each is dead."""
        if self._tick is not None:
            self._tick.cancel()
        for agent in self._warm.stop():
            self._end_unused(agent)
        for agent in list(self._agents):
            self.end(agent, patience=0)
        await self._warm.stopped()
        if self._ends:
            await asyncio.wait(self._ends)

    # ------------------------------------------------------------------------------------------------------- cold, warm

    def new_agent(self, spec: AgentSpec) -> Agent:
        """Return an agent for `spec`; the caller connects it."""
        agent = Agent(
            spec,
            guard=self._guard,
            start_slots=self._start_slots,
            start_timeout=self._start_timeout,
            discard=self.workspaces.removals.discard,
        )
        self._agents.add(agent)
        return agent

    def started(self, how: Literal["warm", "cold"], seconds: float) -> None:
        """Record how long a turn waited for its agent, in seconds."""
        self._warm.turn_begins()
        self._starts[how] += 1
        self._start_times[how].append(seconds)

    def expect(self, options: pb.AgentOptions, owner: str) -> None:
        """Prepare for a session with these options; real requests weigh more."""
        if (profile := self._profile(options, owner)) is not None:
            self._warm.expect(profile, EXPECTED)

    def prepare(self, options: pb.AgentOptions, owner: str, count: int, hold: float, quota: int | None) -> Prepared:
        """Connect agents ahead of `count` sessions with these options, and hold them for `hold` seconds.

        `quota` is how many the owner may have ordered.
        """
        profile = self._profile(options, owner)
        if profile is None:
            return Prepared(0, 0, "options")
        return self._warm.prepare(profile, count, hold, quota=quota, memory=memory())

    def prepare_no_more(self) -> None:
        """End the agents that `prepare` connected, before a shutdown: no session will come."""
        self._warm.prepare_no_more()

    def reserve(self, options: pb.AgentOptions, owner: str) -> str:
        """Return the agent_session_id of a new session: a warm agent's, if one fits; see `take`.

        Each call counts as demand.
        """
        profile = self._profile(options, owner)
        warm = self._warm.take(profile) if profile is not None else None
        if profile is not None:
            self._warm.expect(profile)
        if warm is None:
            return str(uuid4())
        self.workspaces.claim(warm.agent_session_id)
        self._reserved[warm.agent_session_id] = warm
        asyncio.get_running_loop().call_later(RESERVED, self._give_up, warm.agent_session_id)
        return warm.agent_session_id

    def take(self, agent_session_id: str) -> WarmAgent | None:
        """Take the warm agent reserved under this id; the caller waits until it is connected, and ends it."""
        return self._reserved.pop(agent_session_id, None)

    def _give_up(self, agent_session_id: str) -> None:
        """End a reserved agent that its session did not take. Its directory stays the session's."""
        if (warm := self.take(agent_session_id)) is not None:
            self._retired += 1
            self.end(warm.agent, patience=0)

    def _profile(self, options: pb.AgentOptions, owner: str) -> Profile | None:
        return self.launch.profile(self.policy.in_force(options, owner), owner)

    async def _make(self, profile: Profile) -> Agent:
        """Prepare an agent without a session."""
        session = pb.Session(agent_session_id=str(uuid4()), owner=profile.owner, options=profile.options)
        spec = await asyncio.to_thread(self._unclaimed_spec, session)
        return self.new_agent(spec)

    def _unclaimed_spec(self, session: pb.Session) -> AgentSpec:
        self.workspaces.note_unclaimed(session.agent_session_id)
        try:
            return self.launch.spec(session, session.options, None)
        except (OSError, AgentFailed):
            self.workspaces.forget(session.agent_session_id)
            raise

    def _end_unused(self, agent: Agent) -> None:
        """End an unused agent and remove its directories."""
        agent_session_id = agent.spec.options.session_id
        assert agent_session_id is not None
        # With its input closed it ends by itself and quietly, as fast as by a signal.
        ended = self.end(agent, patience=UNUSED_PATIENCE)
        ended.add_done_callback(lambda _: self.workspaces.forget(agent_session_id))

    # ------------------------------------------------------------------------------------------- sessions between turns

    def park(self, release: Callable[[], None]) -> None:
        """Let a session keep its process for its next turn; `release` is called when the host needs the memory."""
        self._parked[release] = None
        asyncio.get_running_loop().call_soon(self._relieve)

    def unpark(self, release: Callable[[], None]) -> None:
        """Record that the session is at work again, or has given up its process."""
        self._parked.pop(release, None)

    def _look_after(self) -> None:
        self._relieve()
        self._tick = asyncio.get_running_loop().call_later(RELIEF_INTERVAL, self._look_after)

    def _relieve(self) -> None:
        """Release the processes that rest longest while there are too many; one at a time while memory is short."""
        surplus = len(self._parked) - self._max_idle if self._max_idle else 0
        if self._parked and surplus <= 0 and memory().short:
            surplus = 1
        for release in list(self._parked)[: max(0, surplus)]:
            self._parked.pop(release, None)
            release()

    # ------------------------------------------------------------------------------------------------------------- ends

    def end(
        self, agent: Agent, *, patience: float = CLOSE_PATIENCE, term_grace: float = TERM_GRACE
    ) -> asyncio.Task[Ended]:
        """End an agent in a task of the pool's own; the task is done when the whole tree is dead."""
        self._agents.discard(agent)
        task = agent.end(patience=patience, term_grace=term_grace)
        if task not in self._ends:
            self._ends.add(task)
            task.add_done_callback(self._ends.discard)
        return task

    def statistics(self) -> pb.PoolStatistics:
        """Return how agents were started so far, and their memory."""
        figures = pb.PoolStatistics(
            warm_starts=self._starts["warm"],
            cold_starts=self._starts["cold"],
            retired=self._retired + self._warm.retired,
            resident_bytes=self._resident_bytes(),
        )
        for how, times in self._start_times.items():
            if times:
                getattr(figures, f"{how}_start_duration").FromMicroseconds(round(statistics.median(times) * 1e6))
        return figures

    def waiting(self, options: pb.AgentOptions | None = None, owner: str = "") -> int:
        """Return the number of connected agents without a session: for these options, or in all."""
        if options is None:
            return self._warm.ready()
        profile = self._profile(options, owner)
        return self._warm.ready(profile) if profile is not None else 0

    def _resident_bytes(self) -> int:
        """Reads all processes of the host, therefore at most once a second."""
        sampled, size = self._memory
        if time.monotonic() - sampled > MEMORY_SAMPLE:
            size = private_bytes([agent.tree for agent in self._agents if agent.tree is not None])
            self._memory = (time.monotonic(), size)
        return size
