"""AgentPool: where agents come from, warm or cold, and where they end. It makes their environment and owns their ends.

Agents that wait for a session are kept by warm.py; sessions that keep their process between turns are bounded here.
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
from agent_service.agents.agent import Agent, AgentSpec, Ended, bundled_cli
from agent_service.agents.demand import Profile
from agent_service.agents.host_memory import memory
from agent_service.agents.warm import WarmAgent, WarmAgents
from agent_service.agents.workspace import Workspaces
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
    """Which conversation an agent continues: the SDK's id, whether as a fork of its own, and up to which message."""

    agent_session_id: str
    fork: bool = False
    at_message_uuid: str = ""


class AgentPool:
    """Where sessions get their agents. Whatever becomes of a session, the pool ends what it started."""

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

        Their CLI sees `environment` and what each session adds, nothing else. Up to `warm_agents` are kept connected
        for sessions to come; at most `max_idle` sessions at rest keep their process, without bound when it is 0.
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
        self._resting: dict[Callable[[], None], None] = {}
        self._start_times: dict[str, deque[float]] = {"warm": deque(maxlen=256), "cold": deque(maxlen=256)}
        self._starts = {"warm": 0, "cold": 0}
        self._retired = 0
        self._memory = (float("-inf"), 0)
        self._tick: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        """Clear away what earlier runs left, and begin to keep agents warm."""
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
        """What an agent for this session and options is started with. Writes files; call it off the loop's hot path."""
        cwd = self._workspaces.make_cwd(session)
        sdk = translate.to_sdk(
            options,
            cwd=cwd,
            env={},
            scratch=self._workspaces.scratch(session),
            default_model=self._default_model or None,
        )
        if resume is None:
            sdk = replace(sdk, session_id=session.agent_session_id)
        elif resume.fork:
            sdk = replace(sdk, resume=resume.agent_session_id, fork_session=True, session_id=session.agent_session_id)
        else:
            sdk = replace(sdk, resume=resume.agent_session_id)
        if resume is not None and resume.at_message_uuid:
            sdk = replace(sdk, resume_session_at=resume.at_message_uuid)
        tmp = self._workspaces.new_tmp()
        return AgentSpec(
            options=sdk,
            environment=self._agent_environment(session, options, cwd, tmp),
            cwd=cwd,
            scratch=tmp,
            key=self.key(options),
            asks=options.interactions.permissions or options.interactions.questions,
            marker=f"{self._marker}:{session.agent_session_id}",
        )

    @staticmethod
    def key(options: pb.AgentOptions) -> str:
        """Equal for options that one connected agent can serve one after the other.

        Model and permission mode can be changed.
        """
        fixed = pb.AgentOptions()
        fixed.CopyFrom(options)
        # A process that was not started for it refuses to bypass permissions; the other modes can be changed.
        bypass = options.permission_mode == pb.PERMISSION_MODE_BYPASS_PERMISSIONS
        for name in ("model", "permission_mode", "resume_at_message_uuid"):
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
        if options.enable_file_checkpointing:
            environment["CLAUDE_CODE_ENABLE_SDK_FILE_CHECKPOINTING"] = "true"
        if options.client_app:
            environment["CLAUDE_AGENT_SDK_CLIENT_APP"] = options.client_app
        if options.permission_mode == pb.PERMISSION_MODE_BYPASS_PERMISSIONS and os.geteuid() == 0:
            # The CLI refuses this mode to root unless it is told that the host is expendable.
            environment["IS_SANDBOX"] = "1"
        return {**environment, **options.env}

    def cwd(self, session: pb.Session) -> str:
        """The directory the session's agent works in; empty until the session has one."""
        known = session.options.cwd or session.agent_session_id
        return str(self._workspaces.cwd(session)) if known else ""

    def transcript(self, session: pb.Session) -> Path | None:
        """The file of the session's conversation; None when there is none that could be continued."""
        return self._workspaces.transcript(session)

    def transcript_to_fork(self, session: pb.Session, agent_session_id: str) -> Path | None:
        """The file of the conversation that the session begins with; None when it is gone."""
        return self._workspaces.find_transcript(session.owner, agent_session_id)

    # ------------------------------------------------------------------------------------------------------- cold, warm

    def claim(self, spec: AgentSpec) -> Agent:
        """An agent for `spec`; the caller connects it."""
        agent = Agent(spec, guard=self._guard, start_slots=self._start_slots, start_timeout=self._start_timeout)
        self._agents.add(agent)
        return agent

    def started(self, how: Literal["warm", "cold"], seconds: float) -> None:
        """Remember how long a turn waited for its agent."""
        self._warm.turn_begins()
        self._starts[how] += 1
        self._start_times[how].append(seconds)

    def expect(self, options: pb.AgentOptions, owner: str) -> None:
        """Be prepared for a session with these options; what is really asked for counts more."""
        if (profile := self._profile(options, owner)) is not None:
            self._warm.expect(profile, EXPECTED)

    def reserve(self, options: pb.AgentOptions, owner: str) -> str:
        """The agent_session_id of a new session: that of a warm agent, if there is one for it; see `take`.

        Whoever asks for one is expected to come again.
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
        """The warm agent reserved under this id, for good; the caller waits until it is connected, and ends it."""
        return self._reserved.pop(agent_session_id, None)

    def _give_up(self, agent_session_id: str) -> None:
        """End an agent whose session did not come for it. Its directory is the session's."""
        if (warm := self.take(agent_session_id)) is not None:
            self._retired += 1
            self.end(warm.agent, patience=0)

    def _profile(self, options: pb.AgentOptions, owner: str) -> Profile | None:
        """What an agent for these options must have been started with; None when none should wait for them."""
        if _is_perishable(options):
            return None
        # A connected agent can be told another model or mode, but not to return to what it would have chosen itself.
        named = f"{bool(options.model or self._default_model):d}{bool(options.permission_mode):d}"
        fixed = pb.AgentOptions()
        fixed.CopyFrom(options)
        return Profile(owner, named + self.key(options), fixed)

    async def _make(self, profile: Profile) -> Agent:
        """Prepare an agent that no session has yet."""
        session = pb.Session(agent_session_id=str(uuid4()), owner=profile.owner, options=profile.options)
        spec = await asyncio.to_thread(self._unclaimed_spec, session)
        return self.claim(spec)

    def _unclaimed_spec(self, session: pb.Session) -> AgentSpec:
        self._workspaces.note_unclaimed(session.agent_session_id)
        try:
            return self.spec(session, session.options, None)
        except OSError:
            self._workspaces.forget(session.agent_session_id)
            raise

    def _end_unused(self, agent: Agent) -> None:
        """End an agent that no session has had, and remove what was made for it."""
        agent_session_id = agent.spec.options.session_id
        assert agent_session_id is not None
        # With its input closed it ends by itself and quietly, as fast as by a signal.
        ended = self.end(agent, patience=UNUSED_PATIENCE)
        ended.add_done_callback(lambda _: self._workspaces.forget(agent_session_id))

    def _made_with(self, profile: Profile) -> object:
        """What an agent reads at its start and nobody tells it: the CLI itself, and credentials that lie in files."""
        config = self._workspaces.config_dir(profile.owner)
        named = [self._environment[name] for name in CREDENTIAL_FILES if name in self._environment]
        files: list[str | Path] = [_cli(), config / ".credentials.json", config / "settings.json", *named]
        return tuple(_version(file) for file in files)

    # ------------------------------------------------------------------------------------------- sessions between turns

    def rests(self, cool_down: Callable[[], None]) -> None:
        """Let a session keep its process for its next turn; `cool_down` is called if that asks too much of the host."""
        self._resting[cool_down] = None
        asyncio.get_running_loop().call_soon(self._relieve)

    def stirs(self, cool_down: Callable[[], None]) -> None:
        """Take note that the session is at work again, or has given up its process."""
        self._resting.pop(cool_down, None)

    def _look_after(self) -> None:
        self._relieve()
        self._tick = asyncio.get_running_loop().call_later(RELIEF_INTERVAL, self._look_after)

    def _relieve(self) -> None:
        """Let those that rest longest go, while there are too many; one, while memory is short."""
        surplus = len(self._resting) - self._max_idle if self._max_idle else 0
        if self._resting and surplus <= 0 and memory().short:
            surplus = 1
        for cool_down in list(self._resting)[: max(0, surplus)]:
            self._resting.pop(cool_down, None)
            cool_down()

    # ------------------------------------------------------------------------------------------------------------- ends

    def end(
        self, agent: Agent, *, patience: float = CLOSE_PATIENCE, term_grace: float = TERM_GRACE
    ) -> asyncio.Task[Ended]:
        """End an agent in a task of the pool's own; it is done when the whole tree is dead."""
        self._agents.discard(agent)
        task = agent.end(patience=patience, term_grace=term_grace)
        if task not in self._ends:
            self._ends.add(task)
            task.add_done_callback(self._ends.discard)
        return task

    def statistics(self) -> pb.PoolStatistics:
        """How agents were started so far, and what they take."""
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
        """How many connected agents no session has yet: for sessions with these options, or in all."""
        if options is None:
            return self._warm.ready()
        profile = self._profile(options, owner)
        return self._warm.ready(profile) if profile is not None else 0

    def _resident_bytes(self) -> int:
        """Walks through all processes of the host, so it does that once a second at most."""
        sampled, size = self._memory
        if time.monotonic() - sampled > MEMORY_SAMPLE:
            size = private_bytes([agent.tree for agent in self._agents if agent.tree is not None])
            self._memory = (time.monotonic(), size)
        return size


@functools.cache
def _cli() -> str:
    return bundled_cli()


def _is_perishable(options: pb.AgentOptions) -> bool:
    """Whether an agent reads at its start what may soon be otherwise: settings, plugins, the state of a repository."""
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
