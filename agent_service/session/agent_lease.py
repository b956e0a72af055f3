"""AgentLease: a session's one agent: obtained for a turn, kept between turns, adjusted, resumed and closed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from agentpb import agent_pb2 as pb

from agent_service.agents.agent import Agent, AgentFailed, AgentSpec, Ended, Sink
from agent_service.agents.conversations import holds_message, holds_messages
from agent_service.agents.failures import classify
from agent_service.agents.launch import Resume
from agent_service.agents.pool import TERM_GRACE, AgentPool
from agent_service.events import RunningTotals, restored_totals
from agent_service.ledger import Journal
from agent_service.options import CLEAR, EFFORTS, PERMISSION_MODES, is_uuid, permissions
from agent_service.processes.view import OutOfBounds, SandboxUnavailable
from agent_service.session.activity import Activity
from agent_service.session.in_force import agree
from agent_service.session.spending import Spending
from agent_service.session.turn import QueuedTurn


class Obtained(NamedTuple):
    """The way in which a turn got its agent."""

    warm: bool
    """Whether it was connected already."""
    knows_prompt: bool = False
    """Whether its conversation has the turn's prompt already: an earlier run of the service had given it."""


class AgentLease:
    """Holds a session's agent, never more than one process on a conversation: two would each go their own way."""

    def __init__(
        self, pool: AgentPool, journal: Journal, *, on_closed: Callable[[], None], on_quiet: Callable[[], None]
    ) -> None:
        """Take agents from `pool` and give them back to it.

        `on_closed` is called when an agent that was given back is dead, `on_quiet` when the agent may have no work left
        (see Activity).
        """
        self.pool = pool
        self._journal = journal
        self._on_closed = on_closed
        self._on_quiet = on_quiet
        self.agent: Agent | None = None
        self.activity = Activity(on_quiet)
        """The background tasks of the agent."""
        self.spending = Spending(journal)
        """What the session's agents have used so far."""
        self.options = pb.AgentOptions()
        """The options of the turn that the agent was last obtained for."""
        self._key = ""
        self._closing: asyncio.Task[Ended] | None = None

    @property
    def alive(self) -> bool:
        """Whether there is a connected agent."""
        return self.agent is not None and self.agent.alive

    @property
    def closing(self) -> bool:
        """Whether an agent that was given back still lives."""
        return self._closing is not None and not self._closing.done()

    async def obtain(self, queued: QueuedTurn, sink: Sink, *, given_up: Callable[[], bool]) -> Obtained:
        """Have a connected agent for the turn; no process is started once `given_up`. Raises AgentFailed."""
        agree(self._journal, queued.request.options, queued.options)
        self._put_policy_in_force(queued)
        options, key = queued.options, self.pool.launch.key(queued.options)
        begun = time.monotonic()
        serves = key == self._key and not options.resume_at_message_uuid and CLEAR not in queued.request.clear_options
        kept = self.agent if self.alive and serves else None
        if kept is not None and self._fits(kept) and await self._adjust(kept, options):
            self.pool.started("warm", time.monotonic() - begun)
            return Obtained(warm=True)
        self.close()
        await self.closed()
        begun = time.monotonic()
        self._name_conversation(options)
        obtained = await self._take_warm(options, sink, given_up) or await self._start_cold(queued, sink, given_up)
        self.pool.started("warm" if obtained.warm else "cold", time.monotonic() - begun)
        return obtained

    def _put_policy_in_force(self, queued: QueuedTurn) -> None:
        """Hold the turn against the policy as it is now, and give it what that fills in. Raises AgentFailed."""
        policy, record = self.pool.policy, self._journal.record
        if problem := policy.problem(queued.request, queued.options, record):
            self.close()
            raise AgentFailed("POLICY_DENIED", problem)
        self.options = queued.options = policy.in_force(queued.options, record.owner)

    def _fits(self, agent: Agent) -> bool:
        """Whether the agent was started under what its tenant's policy says now."""
        return agent.spec.grant == self.pool.policy.grant(self._journal.record.owner)

    def _name_conversation(self, options: pb.AgentOptions) -> None:
        """Give the session's conversation its id and directory, unless it has them."""
        if self._journal.record.agent_session_id:
            return
        with self._journal.update() as record:
            record.agent_session_id = record.workspace_id = self.pool.reserve(options, record.owner)
            record.cwd = self.pool.workspaces.cwd_of(record)

    async def _take_warm(self, options: pb.AgentOptions, sink: Sink, given_up: Callable[[], bool]) -> Obtained | None:
        """Take the agent reserved for the session; None if there is none, or if it does not serve."""
        warm = self.pool.take(self._journal.record.agent_session_id)
        if warm is None:
            return None
        connected = warm.connected.done()
        self._have(warm.agent, self.pool.launch.key(options), RunningTotals())
        serves = warm.serves is not None and await warm.serves and self._fits(warm.agent)
        if serves and await self._adjust(warm.agent, options) and self.alive:
            warm.agent.attach(sink)
            return Obtained(warm=connected)
        self.close(at_once=True)
        await self.closed()
        _check(given_up)
        return None

    async def _start_cold(self, queued: QueuedTurn, sink: Sink, given_up: Callable[[], bool]) -> Obtained:
        """Start an agent, in the conversation that the turn continues or in a new one."""
        try:
            prepared = await asyncio.to_thread(self._prepare, self._journal.record, queued)
        except (SandboxUnavailable, OutOfBounds) as error:
            raise classify(error, stderr_tail="") from error
        except OSError as error:
            raise AgentFailed(
                "AGENT_UNAVAILABLE", f"the session's directories cannot be prepared: {error}", retryable=True
            ) from error
        if given_up() and prepared.spec.outlet is not None:
            await prepared.spec.outlet.close()
        _check(given_up)
        agent = self.pool.new_agent(prepared.spec)
        self._have(agent, prepared.spec.key, prepared.totals)
        agent.attach(sink)
        await agent.connect()
        if prepared.spec.options.fork_session and (parent := prepared.spec.options.resume):
            # The agent has it in memory now, and the copy may say more than the fork should know.
            await asyncio.to_thread(self.pool.workspaces.remove_copy, self._journal.record, parent)
        await self._tell_remembered(agent)
        self.activity = Activity(self._on_quiet)
        return Obtained(warm=False, knows_prompt=prepared.knows_prompt)

    async def _tell_remembered(self, agent: Agent) -> None:
        """Tell a new process the rules that answers made: a denial must hold from the first prompt on."""
        remembered = self._journal.record.remembered_permissions
        if remembered and not await agent.apply_permissions(permissions(remembered)):
            raise AgentFailed("AGENT_REFUSED", "the agent did not take the permission rules of the session")

    def _have(self, agent: Agent, key: str, totals: RunningTotals) -> None:
        self.agent, self._key = agent, key
        if self._journal.record.sandbox != agent.spec.wall.name:
            with self._journal.update() as record:
                record.sandbox = agent.spec.wall.name
        self.spending.begin(totals)
        self.activity = Activity(self._on_quiet)

    async def _adjust(self, agent: Agent, options: pb.AgentOptions) -> bool:
        """Give a connected agent the model, permission mode and effort of this turn; False when it does not take them.

        They are compared with what the agent reports, and not with what it was told: it changes them by itself. An
        agent that left its own choice cannot be told to return to it.
        """
        now = agent.in_force
        for setting, wanted, tell in (
            (now.model, self.pool.launch.model(options), agent.set_model),
            (now.permission_mode, PERMISSION_MODES.get(options.permission_mode), agent.set_permission_mode),
            (now.effort, EFFORTS.get(options.effort), agent.set_effort),
        ):
            if not setting.holds(wanted) and (wanted is None or not await tell(wanted)):
                return False
        return True

    def _prepare(self, record: pb.Session, queued: QueuedTurn) -> _Prepared:
        """Prepare the start parameters, and read the conversation to continue. Reads and writes files."""
        transcript, resume = self._resume(record, queued)
        if transcript is None:
            return _Prepared(self.pool.launch.spec(record, queued.options, resume), RunningTotals(), False)
        totals, knows_prompt = restored_totals(transcript), holds_message(transcript, queued.turn.turn_id)
        return _Prepared(self.pool.launch.spec(record, queued.options, resume), totals, knows_prompt)

    def _resume(self, record: pb.Session, queued: QueuedTurn) -> tuple[Path | None, Resume | None]:
        """The conversation the turn continues; without, it begins one. Raises AgentFailed when it should and cannot."""
        resume_at = queued.options.resume_at_message_uuid
        self.pool.workspaces.adopt(record)
        transcript = self.pool.workspaces.transcript(record)
        if transcript is not None and not record.model and not holds_messages(transcript):
            transcript.unlink()  # of an agent that was killed before it wrote more than its name; no other could begin
            transcript = None
        if transcript is not None:
            return transcript, Resume(record.agent_session_id, at_message_uuid=resume_at)
        if record.model:
            raise AgentFailed("RESUME_REJECTED", "the conversation's transcript is missing; start a new session")
        if queued.fork_of is None:
            return None, None
        transcript = self.pool.workspaces.fork(record, queued.fork_of)
        if transcript is None:
            raise AgentFailed(
                "RESUME_REJECTED", "the transcript of the session to fork is missing; start a new session"
            )
        return transcript, Resume(queued.fork_of.agent_session_id, fork=True, at_message_uuid=resume_at)

    async def follow_conversation(self, agent_session_id: object) -> None:
        """Let the session stand for the conversation that its agent is in: /clear begins another one.

        The id that the notice of a reset carries is not the one under which the agent goes on; that of init is.
        """
        record, named = self._journal.record, str(agent_session_id or "")
        if not is_uuid(named) or named == record.agent_session_id:
            return
        # Noted first: whatever happens in between, deletion finds the transcript.
        await asyncio.to_thread(self.pool.workspaces.note_conversation, record, named)
        self.totals = RunningTotals()
        with self._journal.update() as record:
            record.agent_session_id = named

    def end(self, agent: Agent, *, patience: float, term_grace: float | None = None) -> asyncio.Task[Ended]:
        """Have the pool end the agent, which stays here until `release`."""
        return self.pool.end(agent, patience=patience, term_grace=TERM_GRACE if term_grace is None else term_grace)

    def close(self, *, at_once: bool = False) -> None:
        """Give the agent back; the pool ends it."""
        self.spending.stop_asking()
        agent, self.agent = self.agent, None
        if agent is not None:
            agent.detach()
            self._closing = self.pool.end(agent, patience=0) if at_once else self.pool.end(agent)
            self._closing.add_done_callback(lambda _: self._on_closed())

    def release(self) -> None:
        """Forget the agent: it has ended."""
        self.spending.stop_asking()
        if self.agent is not None:
            self.agent.detach()
            self.agent = None

    async def closed(self) -> Ended | None:
        """Wait until the agent that was given back is dead; how it ended, if it has not been dead before."""
        if self._closing is None or self._closing.done():
            return None
        return await asyncio.shield(self._closing)


class _Prepared(NamedTuple):
    """The start parameters of an agent, and the state of its conversation."""

    spec: AgentSpec
    totals: RunningTotals
    knows_prompt: bool


def _check(given_up: Callable[[], bool]) -> None:
    if given_up():
        raise AgentFailed("STOPPED", "the turn was stopped before its agent started")
