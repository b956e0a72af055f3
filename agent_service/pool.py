"""AgentPool: agents connected before they are asked for, and closed after. It makes their environment and owns their ends."""

from __future__ import annotations

import asyncio
import os
import statistics
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from agentpb import agent_pb2 as pb

from agent_service import options as translate
from agent_service.agent import Agent, AgentSpec, Ended
from agent_service.processes import ProcessGuard
from agent_service.workspace import Workspaces

TERM_GRACE = 0.5
"""Seconds a process tree has between SIGTERM and SIGKILL."""

CLOSE_PATIENCE = 5.0
"""Seconds a CLI may take to exit by itself once its input is closed: it still writes its transcript."""


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
    ) -> None:
        """Start at most `spawn_limit` agents at a moment, in process trees whose marker begins with `marker`.

        Their CLI sees `environment` and what each session adds, nothing else.
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
        self._cold_starts: deque[float] = deque(maxlen=256)
        self._cold = 0

    async def __aenter__(self) -> Self:
        """Take over the directory for temporary files."""
        await asyncio.to_thread(self._workspaces.clear_tmp)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every agent and wait until each is dead."""
        for agent in list(self._agents):
            self.end(agent, patience=0)
        if self._ends:
            await asyncio.wait(self._ends)

    def spec(self, session: pb.Session, options: pb.AgentOptions, resume: Resume | None) -> AgentSpec:
        """What an agent for this session and these options is started with. Writes files; call it off the loop's hot path."""
        cwd = self._workspaces.make_cwd(session)
        sdk = translate.to_sdk(
            options,
            cwd=cwd,
            env={},
            scratch=self._workspaces.scratch(session.session_id),
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
        """Equal for options that one connected agent can serve one after the other (model and permission mode can be changed)."""
        fixed = pb.AgentOptions()
        fixed.CopyFrom(options)
        for name in ("model", "permission_mode", "resume_at_message_uuid"):
            fixed.ClearField(name)
        return fixed.SerializeToString(deterministic=True).hex()

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
        """The directory the session's agent works in."""
        return str(self._workspaces.cwd(session))

    def transcript(self, session: pb.Session) -> Path | None:
        """The file of the session's conversation; None when there is none that could be continued."""
        return self._workspaces.transcript(session)

    def transcript_to_fork(self, session: pb.Session, agent_session_id: str) -> Path | None:
        """The file of the conversation that the session begins with; None when it is gone."""
        return self._workspaces.find_transcript(session.owner, agent_session_id)

    def claim(self, spec: AgentSpec) -> Agent:
        """An agent for `spec`; the caller connects it."""
        agent = Agent(spec, guard=self._guard, start_slots=self._start_slots, start_timeout=self._start_timeout)
        self._agents.add(agent)
        self._cold += 1
        return agent

    def started(self, seconds: float) -> None:
        """Remember how long a cold start took."""
        self._cold_starts.append(seconds)

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
        """How agents were started so far."""
        figures = pb.PoolStatistics(cold_starts=self._cold)
        if self._cold_starts:
            figures.cold_start_duration.FromMicroseconds(round(statistics.median(self._cold_starts) * 1e6))
        return figures
