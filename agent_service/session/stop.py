"""Stopping: the ladder that ends a running turn. The agent is asked, then its processes are told, then they are killed.

    interrupt → grace → close input, SIGTERM to the whole tree → SIGKILL to the whole tree → nothing lives: settled

It runs in a task of its own that nobody cancels. A stronger stop that comes later joins the ladder; it does not start
another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Set
from typing import TYPE_CHECKING

from agentpb import agent_pb2 as pb

from agent_service.agents.agent import Agent, Ended
from agent_service.session import outcomes
from agent_service.session.outcomes import Outcome, StopCause

if TYPE_CHECKING:
    from agent_service.session.run import Run

log = logging.getLogger(__name__)

CLOSING_PATIENCE = 2.0
"""Seconds a CLI that stopped when asked may take to exit; within the grace it may take longer."""

MAX_RECEIPT = 65_536
"""Process ids that a receipt names."""
ASK_AGAIN = 0.5
"""Seconds after which an agent that goes on is asked again."""


class Stop:
    """One stop under way. `over` is done when the turn's end is durable; from then on `receipt` tells how it went."""

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
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def of_waiting(cls, course: Run, outcome: Outcome, durable: asyncio.Future[None]) -> Stop:
        """A stop of work that had not begun. What is left to do is to see the process of an earlier turn dead."""
        stop = cls(StopCause.CANCEL, deadline=0, force=False, reason=outcome.reason)
        stop._task = asyncio.create_task(stop._see_off(course, durable), name=f"stop {course.session_id}")
        return stop

    async def _see_off(self, course: Run, durable: asyncio.Future[None]) -> None:
        self.receipt = _receipt(await course.agents_closed())
        self._measure()
        await asyncio.wait([durable])
        if durable.exception() is None:
            self.is_over()

    def is_over(self) -> None:
        """Say that the turn's end is durable."""
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

    def begin(self, course: Run) -> None:
        """Climb the ladder, in a task of its own."""
        self._task = asyncio.create_task(self._run(course), name=f"stop {course.session_id}")

    async def _run(self, course: Run) -> None:
        try:
            self.receipt = await self._climb(course)
        except Exception:
            log.exception("session %s: the stop itself broke", course.session_id)
            self.receipt = pb.CancelReceipt(outcome=pb.CANCEL_OUTCOME_UNSPECIFIED)
        self._measure()
        course.settle(outcomes.of_stop(self.cause, self.reason))

    def _measure(self) -> None:
        self.receipt.duration.FromMicroseconds(round((asyncio.get_running_loop().time() - self._begun) * 1e6))

    async def finished(self, course: Run) -> Outcome:
        """How the turn ended, once the ladder is climbed. It does not pause after its last look at the cause.

        A stronger stop may have joined when an interrupt had left the agent alive: then there is more to climb.
        """
        while True:
            assert self._task is not None
            await asyncio.wait([self._task])
            if self.cause is StopCause.INTERRUPT or course.agent is None:
                return self._outcome(course)
            self.begin(course)

    def _outcome(self, course: Run) -> Outcome:
        """Who comes too late did not stop anything: the turn's own end stands. A cancel holds in any case."""
        own = course.own_outcome
        if self.cause < StopCause.DRAIN and own is not None:
            return own
        self.stopped_turn = True
        return outcomes.of_stop(self.cause, self.reason)

    async def _climb(self, course: Run) -> pb.CancelReceipt:
        seen = course.agent.process_ids() if course.agent is not None else set()
        if course.can_be_asked and not self.force:
            await self._ask(course)
        if self.cause is StopCause.INTERRUPT and self._agent_stopped(course):
            return pb.CancelReceipt(outcome=pb.CANCEL_OUTCOME_INTERRUPTED)
        if course.agent is None:
            return _receipt(await course.agents_closed())
        started = course.agent.spawned
        ended = await self._end(course)
        course.release_agent()
        return _receipt(ended, started=started, seen=seen)

    async def _ask(self, course: Run) -> None:
        """Interrupt, and wait for the turn's result until the deadline, or until somebody is in more of a hurry.

        An interrupt that comes before the agent has the prompt is acknowledged and does nothing: ask again. One that
        comes before the agent has begun with it withdraws it: there will be no result.
        """
        agent = course.agent
        assert agent is not None
        asked, asking = -ASK_AGAIN, None
        while not self._agent_stopped(course) and not self.force and agent.alive:
            now = asyncio.get_running_loop().time()
            if now >= self.deadline:
                break
            if now - asked >= ASK_AGAIN and (asking is None or asking.done()):
                asked = now
                asking = asyncio.create_task(self._interrupt(course, agent), name=f"ask {course.session_id}")
            await self._pause(course, min(self.deadline - now, 0.25))
        if asking is not None:
            asking.cancel()

    def _agent_stopped(self, course: Run) -> bool:
        """Whether the agent has said, by a result or by giving the prompt back, that it works on it no more."""
        return course.result_in.is_set() or self._withdrawn

    async def _interrupt(self, course: Run, agent: Agent) -> None:
        if course.prompt_uuid in await agent.interrupt(cancel_queued=True):
            self._withdrawn = True
            self._nudge.set()

    async def _pause(self, course: Run, seconds: float) -> None:
        """Wait for the result, for a stronger stop, or for a moment."""
        self._nudge.clear()
        waits = [asyncio.create_task(event.wait()) for event in (course.result_in, self._nudge)]
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _end(self, course: Run) -> Ended:
        agent = course.agent
        assert agent is not None
        polite = self._agent_stopped(course) and not self.force
        left = max(0.0, self.deadline - asyncio.get_running_loop().time())
        patience = min(left, CLOSING_PATIENCE) if polite else 0.0
        if self.force:
            return await asyncio.shield(course.pool.end(agent, patience=0, term_grace=0))
        return await asyncio.shield(course.pool.end(agent, patience=patience))


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
