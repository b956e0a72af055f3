"""Stop: the ladder that ends an agent's work. The agent is asked, then its processes are told, then they are killed.

    interrupt → grace → close input, SIGTERM to the whole tree → SIGKILL to the whole tree → nothing lives: settled

The ladder runs in a task of its own that nobody cancels. A stronger stop that comes later joins it and does not start
another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Set
from typing import Protocol

from agentpb import agent_pb2 as pb

from agent_service.agents.agent import Agent, Ended
from agent_service.session import outcomes
from agent_service.session.outcomes import Outcome, StopCause

log = logging.getLogger(__name__)

CLOSING_PATIENCE = 2.0
"""Seconds a CLI that stopped when asked may take to exit; within the grace it may take longer."""

MAX_RECEIPT = 65_536
"""Process ids that a receipt names."""
USAGE_PATIENCE = 0.25
"""Seconds that an agent may take to say what it has used before it is killed; a working one takes 2 to 60 ms."""
ASK_AGAIN = 0.5
"""Seconds after which an agent that goes on is asked again."""
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 60.0
"""Seconds until a stop that broke is tried again, the first time and after many."""


class Stoppable(Protocol):
    """The work that a stop ends: a Run."""

    @property
    def session_id(self) -> str:
        """The session's id, for logs and task names."""

    @property
    def agent(self) -> Agent | None:
        """The agent at work; None when it is gone, or was never started."""

    @property
    def can_be_asked(self) -> bool:
        """Whether the agent works on a prompt and can be asked to stop."""

    @property
    def prompt_uuid(self) -> str:
        """The uuid under which the agent has the prompt."""

    @property
    def result_in(self) -> asyncio.Event:
        """Set once the agent has given the prompt's result."""

    @property
    def own_outcome(self) -> Outcome | None:
        """The outcome of work that ended by itself; None when it did not, or only because it was stopped."""

    def settle(self, outcome: Outcome) -> None:
        """End the work with `outcome`, unless it has ended."""

    def end_agent(self, patience: float, term_grace: float | None = None) -> Awaitable[Ended]:
        """End the agent, with the pool's own time between SIGTERM and SIGKILL unless `term_grace` says another."""
        ...

    async def ask_usage(self, patience: float) -> None:
        """Count what the agent has used so far, if it answers within `patience` seconds."""
        ...

    async def agent_closed(self) -> Ended | None:
        """Wait until an agent that was given back is dead; how it ended, None when it was dead before."""

    def release_agent(self) -> None:
        """Forget an agent that the stop has ended."""


class Stop:
    """One stop under way. `over` is done when the end of the work is durable; from then on `receipt` tells how."""

    def __init__(self, cause: StopCause, *, deadline: float, force: bool, reason: str) -> None:
        """Stop for `cause`; the agent may take until `deadline` (loop time) to stop by itself."""
        self.cause = cause
        self.reason = reason
        self.force = force
        self.deadline = deadline
        self.stopped_turn = False
        self.receipt = pb.CancelReceipt()
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._begun = asyncio.get_running_loop().time()
        self._nudge = asyncio.Event()
        self._withdrawn = False
        self._pause_after_failure = 0.0
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def of_waiting(
        cls,
        session_id: str,
        reason: str,
        *,
        agent_closed: Callable[[], Awaitable[Ended | None]],
        durable: asyncio.Future[None],
    ) -> Stop:
        """A stop of a turn that had not begun: over when the agent of an earlier turn is dead and `durable` is done."""
        stop = cls(StopCause.CANCEL, deadline=0, force=False, reason=reason)
        stop._task = asyncio.create_task(stop._see_off(agent_closed, durable), name=f"stop {session_id}")
        return stop

    async def _see_off(
        self, agent_closed: Callable[[], Awaitable[Ended | None]], durable: asyncio.Future[None]
    ) -> None:
        self.receipt = _receipt(await agent_closed())
        self._measure()
        await asyncio.wait([durable])
        if durable.exception() is None:
            self.is_over()

    def is_over(self) -> None:
        """Say that the end of the work is durable."""
        if not self.over.done():
            self.over.set_result(None)

    def escalate(self, cause: StopCause, *, deadline: float, force: bool, reason: str) -> bool:
        """Take over what is stronger; True when the processes are to be killed at once from now on."""
        if cause > self.cause:
            self.cause, self.reason = cause, reason
        self.deadline = min(self.deadline, deadline)
        at_once = force and not self.force
        self.force = self.force or force
        self._nudge.set()
        return at_once

    def begin(self, run: Stoppable) -> None:
        """Climb the ladder, in a task of its own."""
        self._task = asyncio.create_task(self._stop(run), name=f"stop {run.session_id}")

    async def _stop(self, run: Stoppable) -> None:
        try:
            self.receipt = await self._climb(run)
        except Exception:
            self._pause_after_failure = min(2 * self._pause_after_failure or FIRST_PAUSE, LONGEST_PAUSE)
            log.exception("session %s: the stop itself broke", run.session_id)
            self.receipt = pb.CancelReceipt(outcome=pb.CANCEL_OUTCOME_UNSPECIFIED)
        self._measure()
        run.settle(outcomes.of_stop(self.cause, self.reason))

    def _measure(self) -> None:
        self.receipt.duration.FromMicroseconds(round((asyncio.get_running_loop().time() - self._begun) * 1e6))

    async def finished(self, run: Stoppable) -> Outcome:
        """Return the outcome once every step was taken. There is no await after the last look at the cause.

        A stronger stop may have joined when an interrupt had left the agent alive: then there is more to climb. A stop
        that broke is tried again, after pauses that grow.
        """
        while True:
            assert self._task is not None
            await asyncio.wait([self._task])
            if self.cause is StopCause.INTERRUPT or run.agent is None:
                return self._outcome(run)
            await asyncio.sleep(self._pause_after_failure)
            self.begin(run)

    def _outcome(self, run: Stoppable) -> Outcome:
        """The outcome of the stop, or the work's own when the stop came too late. A cancel holds in any case."""
        own = run.own_outcome
        if self.cause < StopCause.DRAIN and own is not None:
            return own
        self.stopped_turn = True
        return outcomes.of_stop(self.cause, self.reason)

    async def _climb(self, run: Stoppable) -> pb.CancelReceipt:
        seen = run.agent.process_ids() if run.agent is not None else set()
        if run.can_be_asked and not self.force:
            await self._ask(run)
        if self.cause is StopCause.INTERRUPT and self._agent_stopped(run):
            return pb.CancelReceipt(outcome=pb.CANCEL_OUTCOME_INTERRUPTED)
        if run.agent is None:
            return _receipt(await run.agent_closed())
        started = run.agent.spawned
        ended = await self._end(run)
        run.release_agent()
        return _receipt(ended, started=started, seen=seen)

    async def _ask(self, run: Stoppable) -> None:
        """Interrupt, and wait for the turn's result until the deadline, or until a stop in more of a hurry joins.

        An interrupt that comes before the agent has the prompt is acknowledged and does nothing: ask again. One that
        comes before the agent has begun with it withdraws it: there will be no result.
        """
        agent = run.agent
        assert agent is not None
        asked, asking = -ASK_AGAIN, None
        while not self._agent_stopped(run) and not self.force and agent.alive:
            now = asyncio.get_running_loop().time()
            if now >= self.deadline:
                break
            if now - asked >= ASK_AGAIN and (asking is None or asking.done()):
                asked = now
                asking = asyncio.create_task(self._interrupt(run, agent), name=f"ask {run.session_id}")
            await self._pause(run, min(self.deadline - now, 0.25))
        if asking is not None:
            asking.cancel()

    def _agent_stopped(self, run: Stoppable) -> bool:
        """Return whether the agent has said, by a result or by giving the prompt back, that it works on it no more."""
        return run.result_in.is_set() or self._withdrawn

    async def _interrupt(self, run: Stoppable, agent: Agent) -> None:
        if run.prompt_uuid in await agent.interrupt(cancel_queued=True):
            self._withdrawn = True
            self._nudge.set()

    async def _pause(self, run: Stoppable, seconds: float) -> None:
        """Wait for the result, for a stronger stop, or for a moment."""
        self._nudge.clear()
        waits = [asyncio.create_task(event.wait()) for event in (run.result_in, self._nudge)]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _end(self, run: Stoppable) -> Ended:
        if not run.result_in.is_set():  # no result will say what was used
            await run.ask_usage(USAGE_PATIENCE)
        polite = self._agent_stopped(run) and not self.force
        left = max(0.0, self.deadline - asyncio.get_running_loop().time())
        patience = min(left, CLOSING_PATIENCE) if polite else 0.0
        if self.force:
            return await asyncio.shield(run.end_agent(patience=0, term_grace=0))
        return await asyncio.shield(run.end_agent(patience=patience))


def _receipt(ended: Ended | None, *, started: bool = False, seen: Set[int] = frozenset()) -> pb.CancelReceipt:
    """The receipt; `seen` are processes that lived when the stop began, and may have ended when the agent was asked."""
    if ended is None or not (started or ended.process_ids):
        return pb.CancelReceipt(outcome=pb.CANCEL_OUTCOME_NOT_STARTED)
    if ended.killed:
        outcome = pb.CANCEL_OUTCOME_KILLED
    elif ended.terminated:
        outcome = pb.CANCEL_OUTCOME_TERMINATED
    else:
        outcome = pb.CANCEL_OUTCOME_INTERRUPTED
    return pb.CancelReceipt(outcome=outcome, process_ids=sorted(seen | set(ended.process_ids))[:MAX_RECEIPT])
