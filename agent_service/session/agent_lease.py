"""AgentLease: the one agent a session has, from turn to turn: obtained, adjusted, resumed, closed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from agentpb import agent_pb2 as pb

from agent_service.agents.agent import Agent, AgentFailed, AgentSpec, Ended, Sink
from agent_service.agents.pool import AgentPool, Resume
from agent_service.agents.workspace import holds_message, holds_messages
from agent_service.events import RunningTotals, restored_totals
from agent_service.options.live import live_settings
from agent_service.session.turn import QueuedTurn


class AgentLease:
    """Keeps a session's agent, never more than one process on a conversation: two would each go their own way."""

    def __init__(self, pool: AgentPool, on_closed: Callable[[], None]) -> None:
        """Take agents from `pool` and give them back to it; tell `on_closed` when one that was given back is dead."""
        self.pool = pool
        self._on_closed = on_closed
        self.agent: Agent | None = None
        self.totals = RunningTotals()
        self.knows_prompt = False
        """Whether the conversation already has the turn's prompt: the agent of an earlier run of the service had it."""
        self._key = ""
        self._closing: asyncio.Task[Ended] | None = None
        self._stopped = False

    @property
    def alive(self) -> bool:
        """Whether there is a connected agent."""
        return self.agent is not None and self.agent.alive

    @property
    def closing(self) -> bool:
        """Whether an agent that was given back still lives."""
        return self._closing is not None and not self._closing.done()

    def begin(self) -> None:
        """Forget a stop of the turn before."""
        self._stopped = False

    def stop_starting(self) -> None:
        """Start no agent for this turn any more."""
        self._stopped = True

    async def obtain(self, record: pb.Session, work: QueuedTurn, sink: Sink) -> bool:
        """Have a connected agent for the turn; whether it was connected already. Raises AgentFailed."""
        options = record.options
        resume_at = work.request.options.resume_at_message_uuid
        key = self.pool.key(options)
        self.knows_prompt = False
        begun = time.monotonic()
        kept = self.agent if self.alive and key == self._key and not resume_at else None
        if kept is not None and await self._adjust(kept, options):
            self.pool.started("warm", time.monotonic() - begun)
            return True
        self.close()
        await self.closed()
        begun = time.monotonic()
        if not record.agent_session_id:
            record.agent_session_id = self.pool.reserve(options, record.owner)
            record.cwd = self.pool.cwd(record)
        connected = await self._take_warm(record, sink)
        if connected is not None:
            self.pool.started("warm" if connected else "cold", time.monotonic() - begun)
            return connected
        spec = await asyncio.to_thread(self._prepare, record, work, resume_at)
        if self._stopped:
            raise AgentFailed("STOPPED", "the turn was stopped before its agent started")
        self.agent, self._key = self.pool.claim(spec), key
        self.agent.attach(sink)
        await self.agent.connect()
        self.pool.started("cold", time.monotonic() - begun)
        return False

    async def _take_warm(self, record: pb.Session, sink: Sink) -> bool | None:
        """Take the agent reserved for the session; whether it was connected already, None if it does not serve."""
        warm = self.pool.take(record.agent_session_id)
        if warm is None:
            return None
        connected = warm.connected.done()
        self.agent, self._key = warm.agent, self.pool.key(record.options)
        self.totals = RunningTotals()
        if (
            warm.serves is not None
            and await warm.serves
            and await self._adjust(warm.agent, record.options)
            and self.alive
        ):
            warm.agent.attach(sink)
            return connected
        self.close(at_once=True)
        await self.closed()
        if self._stopped:
            raise AgentFailed("STOPPED", "the turn was stopped before its agent started")
        return None

    @staticmethod
    async def _adjust(agent: Agent, options: pb.AgentOptions) -> bool:
        """Give a connected agent the model and permission mode of this turn; False when it refuses."""
        wanted = live_settings(options)
        if wanted.model is not None and wanted.model != agent.model and not await agent.set_model(wanted.model):
            return False
        mode = wanted.permission_mode
        return mode is None or mode == agent.permission_mode or await agent.set_permission_mode(mode)

    def _prepare(self, record: pb.Session, work: QueuedTurn, resume_at: str) -> AgentSpec:
        """What to start, and what the conversation it continues has in it. Reads and writes files."""
        transcript, resume = self._resume(record, work, resume_at)
        self.totals = restored_totals(transcript) if transcript is not None else RunningTotals()
        self.knows_prompt = transcript is not None and holds_message(transcript, work.turn.turn_id)
        return self.pool.spec(record, record.options, resume)

    def _resume(self, record: pb.Session, work: QueuedTurn, resume_at: str) -> tuple[Path | None, Resume | None]:
        """The conversation the turn continues; without, it begins one. Raises AgentFailed when it should and cannot."""
        transcript = self.pool.transcript(record)
        if transcript is not None and not record.model and not holds_messages(transcript):
            transcript.unlink()  # of an agent that was killed before it wrote more than its name; no other could begin
            transcript = None
        if transcript is not None:
            return transcript, Resume(record.agent_session_id, at_message_uuid=resume_at)
        if record.model:
            raise AgentFailed("RESUME_REJECTED", "the conversation's transcript is missing; start a new session")
        if work.fork_of is None:
            return None, None
        transcript = self.pool.transcript_to_fork(record, work.fork_of)
        if transcript is None:
            raise AgentFailed(
                "RESUME_REJECTED", "the transcript of the session to fork is missing; start a new session"
            )
        return transcript, Resume(work.fork_of, fork=True, at_message_uuid=resume_at)

    def close(self, *, at_once: bool = False) -> None:
        """Give the agent back; the pool ends it."""
        agent, self.agent = self.agent, None
        if agent is not None:
            agent.detach()
            self._closing = self.pool.end(agent, patience=0) if at_once else self.pool.end(agent)
            self._closing.add_done_callback(lambda _: self._on_closed())

    def release(self) -> None:
        """Forget an agent that somebody else has ended."""
        if self.agent is not None:
            self.agent.detach()
            self.agent = None

    async def closed(self) -> Ended | None:
        """Wait until the agent that was given back is dead; how it ended, if it has not been dead before."""
        if self._closing is None or self._closing.done():
            return None
        return await asyncio.shield(self._closing)
