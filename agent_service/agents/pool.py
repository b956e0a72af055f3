"""AgentPool: starts agents, warm or cold, makes their environment, and ends every agent that it started.

warm.py keeps the agents without a session; the pool bounds how many sessions at rest keep their process.
"""

from __future__ import annotations

import asyncio
import functools
import os
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self
from uuid import uuid4

from agentpb import agent_pb2 as pb

from agent_service import options as translate
from agent_service.agents.agent import Agent, AgentSpec, Ended
from agent_service.agents.demand import Profile
from agent_service.agents.host_memory import memory
from agent_service.agents.sdk import bundled_cli
from agent_service.agents.warm import WarmAgent, WarmAgents
from agent_service.agents.workspace import Workspaces
from agent_service.options import may_choose_mode
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

CREDENTIAL_FILES = ("GOOGLE_APPLICATION_CREDENTIALS", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE")
"""Variables of the agents' environment that name files with credentials."""

RELIEF_INTERVAL = 2.0
"""Seconds between looks at the host's memory while sessions at rest keep their processes."""

MEMORY_SAMPLE = 1.0
"""Seconds for which a figure of the agents' memory holds."""


class Resume(NamedTuple):
    """The conversation that an agent continues: the SDK's id, whether as a fork, and up to which message."""

    agent_session_id: str
    fork: bool = False
    at_message_uuid: str = ""


class AgentPool:
    """Starts agents for sessions and ends them, whatever becomes of the session."""

    def __init__(
        self,
        *,
        guard: ProcessGuard,
        workspaces: Workspaces,
        environment: Mapping[str, str],
        marker: str,
        spawn_limit: int,
        start_timeout: float,
        default_model: str,
        warm_agents: int = 0,
        max_idle: int = 0,
    ) -> None:
        """Start at most `spawn_limit` agents at a moment, in process trees whose marker begins with `marker`.

        Their CLI gets `environment` and each session's own variables, nothing else. Up to `warm_agents` agents are kept
        connected for new sessions; at most `max_idle` sessions at rest keep their process, 0 for no limit.
        """
        self._guard = guard
        self._workspaces = workspaces
        self._environment = dict(environment)
        self._marker = marker
        self._start_slots = asyncio.Semaphore(spawn_limit)
        self._start_timeout = start_timeout
        self._default_model = default_model
        self._agents: set[Agent] = set()
        self._ends: set[asyncio.Task[Ended]] = set()
        self._max_idle = max_idle
        self._warm = WarmAgents(
            places=warm_agents,
            make=self._make,
            end=self._end_unused,
            made_with=self._made_with,
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
        await asyncio.to_thread(self._workspaces.clear)
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

    # -------------------------------------------------------------------------------------------------- what is started

    def spec(self, session: pb.Session, options: pb.AgentOptions, resume: Resume | None) -> AgentSpec:
        """Return the start parameters of an agent for this session. Writes files; call it off the loop's hot path."""
        cwd, handed = self._workspaces.make_cwd(session), self._workspaces.scratch(session)
        sdk = translate.to_sdk(
            options,
            cwd=cwd,
            env={},
            scratch=handed,
            default_model=self._default_model or None,
        )
        if resume is None:
            sdk = replace(sdk, session_id=session.agent_session_id)
        elif resume.fork:
            sdk = replace(sdk, resume=resume.agent_session_id, fork_session=True, session_id=session.agent_session_id)
        else:
            sdk = replace(sdk, resume=resume.agent_session_id)
        if resume is not None and sdk.permission_mode is None and not may_choose_mode(options):
            sdk = replace(sdk, permission_mode="default")  # the agent would return to the mode its transcript ends in
        if resume is not None and resume.at_message_uuid:
            sdk = replace(sdk, resume_session_at=resume.at_message_uuid)
        tmp = self._workspaces.new_tmp()
        return AgentSpec(
            options=sdk,
            environment=self._agent_environment(session, options, cwd, tmp),
            cwd=cwd,
            scratch=tmp,
            handed=handed,
            key=self.key(options),
            asks=options.interactions.permissions or options.interactions.questions,
            marker=f"{self._marker}:{session.agent_session_id}",
        )

    @staticmethod
    def key(options: pb.AgentOptions) -> str:
        """Return a key that is equal for options which one connected agent can serve in turn.

        Model, permission mode and effort are not part of it: a connected agent can change them.
        """
        fixed = pb.AgentOptions()
        fixed.CopyFrom(options)
        # A process that was not started for it refuses to bypass permissions; the other modes can be changed.
        bypass = options.permission_mode == pb.PERMISSION_MODE_BYPASS_PERMISSIONS
        for name in ("model", "permission_mode", "effort", "resume_at_message_uuid"):
            fixed.ClearField(name)
        # How long people may take to answer is the service's to know; whether they are asked is the agent's.
        fixed.interactions.ClearField("timeout")
        fixed.interactions.ClearField("on_timeout")
        if not fixed.interactions.ListFields():
            fixed.ClearField("interactions")
        return f"{bypass:d}" + fixed.SerializeToString(deterministic=True).hex()

    def _agent_environment(self, session: pb.Session, options: pb.AgentOptions, cwd: Path, tmp: Path) -> dict[str, str]:
        environment = {
            **self._environment,
            "HOME": str(self._workspaces.home(session.owner)),
            "CLAUDE_CONFIG_DIR": str(self._workspaces.config_dir(session.owner)),
            "TMPDIR": str(tmp),
            "CLAUDE_CODE_TMPDIR": str(tmp),
            "PWD": str(cwd),
        }
        if not options.file_mentions:
            # The agent reads every "@path" of a prompt into it, whatever its tools are and with nobody asked.
            environment["CLAUDE_CODE_DISABLE_FILE_MENTIONS"] = "1"
        if options.enable_file_checkpointing:
            environment["CLAUDE_CODE_ENABLE_SDK_FILE_CHECKPOINTING"] = "true"
        if options.client_app:
            environment["CLAUDE_AGENT_SDK_CLIENT_APP"] = options.client_app
        if options.permission_mode == pb.PERMISSION_MODE_BYPASS_PERMISSIONS and os.geteuid() == 0:
            # The CLI refuses this mode to root unless it is told that the host is expendable.
            environment["IS_SANDBOX"] = "1"
        return {**environment, **options.env}

    def model(self, options: pb.AgentOptions) -> str | None:
        """Return the model that agents are told for these options; None leaves it to the agent."""
        return options.model or self._default_model or None

    def cwd(self, session: pb.Session) -> str:
        """Return the working directory of the session's agent; empty until the session has one."""
        known = session.options.cwd or session.workspace_id or session.agent_session_id
        return str(self._workspaces.cwd(session)) if known else ""

    def transcript(self, session: pb.Session) -> Path | None:
        """Return the transcript file of the session's conversation; None without one to continue."""
        return self._workspaces.transcript(session)

    async def note_conversation(self, session: pb.Session, agent_session_id: str) -> None:
        """Note that the session's agent has begun another conversation."""
        await asyncio.to_thread(self._workspaces.note_conversation, session, agent_session_id)

    def transcript_to_fork(self, session: pb.Session, agent_session_id: str) -> Path | None:
        """Return the transcript file of the conversation that the session was forked from; None when it is gone."""
        return self._workspaces.find_transcript(session.owner, agent_session_id)

    # ------------------------------------------------------------------------------------------------------- cold, warm

    def new_agent(self, spec: AgentSpec) -> Agent:
        """Return an agent for `spec`; the caller connects it."""
        agent = Agent(spec, guard=self._guard, start_slots=self._start_slots, start_timeout=self._start_timeout)
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
        self._workspaces.claim(warm.agent_session_id)
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
        """Return the profile of an agent for these options; None when no agent should be kept warm for them."""
        if _is_perishable(options):
            return None
        # A connected agent can be told another model or mode, but not to return to what it would have chosen itself.
        # Another effort takes it longer to change to than the wait for it is worth.
        named = f"{bool(options.model or self._default_model):d}{bool(options.permission_mode):d}{options.effort}"
        fixed = pb.AgentOptions()
        fixed.CopyFrom(options)
        return Profile(owner, named + self.key(options), fixed)

    async def _make(self, profile: Profile) -> Agent:
        """Prepare an agent without a session."""
        session = pb.Session(agent_session_id=str(uuid4()), owner=profile.owner, options=profile.options)
        spec = await asyncio.to_thread(self._unclaimed_spec, session)
        return self.new_agent(spec)

    def _unclaimed_spec(self, session: pb.Session) -> AgentSpec:
        self._workspaces.note_unclaimed(session.agent_session_id)
        try:
            return self.spec(session, session.options, None)
        except OSError:
            self._workspaces.forget(session.agent_session_id)
            raise

    def _end_unused(self, agent: Agent) -> None:
        """End an unused agent and remove its directories."""
        agent_session_id = agent.spec.options.session_id
        assert agent_session_id is not None
        # With its input closed it ends by itself and quietly, as fast as by a signal.
        ended = self.end(agent, patience=UNUSED_PATIENCE)
        ended.add_done_callback(lambda _: self._workspaces.forget(agent_session_id))

    def _made_with(self, profile: Profile) -> object:
        """Fingerprint what an agent reads at its start besides its parameters: the CLI, credentials in files."""
        config = self._workspaces.config_dir(profile.owner)
        named = [self._environment[name] for name in CREDENTIAL_FILES if name in self._environment]
        files: list[str | Path] = [_cli(), config / ".credentials.json", config / "settings.json", *named]
        return tuple(_version(file) for file in files)

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


@functools.cache
def _cli() -> str:
    return bundled_cli()


def _is_perishable(options: pb.AgentOptions) -> bool:
    """Return whether an agent reads at its start what may change soon: settings, plugins, the state of a repository."""
    if options.setting_sources or options.plugins or options.resume_at_message_uuid:
        return True
    cwd = Path(options.cwd) if options.cwd else None
    return cwd is not None and any((folder / ".git").exists() for folder in (cwd, *cwd.parents))


def _version(file: str | Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
