"""Run: what a session is at, from the start of its agent's work to its end: begun and stopped here and nowhere else.

The work is on the turn at the session's head, or goes on in the background after one. It ends with an outcome; who
settles it first decides, unless a stop is under way (see stopping.py).
"""

from __future__ import annotations

import asyncio
from uuid import uuid4

from agentpb import agent_pb2 as pb

from agent_service import events
from agent_service.agents.agent import Agent, Ended
from agent_service.agents.pool import AgentPool
from agent_service.ledger.journal import Journal, now_us
from agent_service.session import outcomes
from agent_service.session.agent_lease import AgentLease
from agent_service.session.interactions import Interactions
from agent_service.session.outcomes import Outcome, StopCause
from agent_service.session.stop import Stop
from agent_service.session.timers import StallWatch, Timers
from agent_service.session.turn import CONTINUE_PROMPT, QueuedTurn, keep_prompt, prompt_content, record_end, seconds


class Run:
    """The work of a session's agent. Public attributes are what the session and those who listen to the agent share."""

    def __init__(self, journal: Journal, keeper: AgentLease, *, execution_timeout: float, stall_timeout: float) -> None:
        """Work with the agent of `keeper`; stop what takes too long, unless its limit (in seconds) is 0."""
        self.journal = journal
        self.keeper = keeper
        self._execution_timeout = execution_timeout
        self.head: QueuedTurn | None = None
        """The turn that runs, or is the next to run."""
        self.ended: asyncio.Future[Outcome] | None = None
        """Done with the outcome of what the agent is at; None when it is at nothing."""
        self.stopping: Stop | None = None
        self.halted = False
        """Whether no further turn begins in this run of the service."""
        self.prompted = False
        self.prompt_uuid = ""
        """Under which uuid the agent has the running turn's prompt."""
        self.result: pb.TurnResult | None = None
        self.result_raw: bytes | None = None
        self.result_in = asyncio.Event()
        self.outcome: Outcome | None = None
        """What the result means, unless a stop came before it."""
        self.timers = Timers()
        self.interactions = Interactions(journal, self._interactions_changed)
        self.stall_watch = StallWatch(stall_timeout, self.timers, lambda: len(self.interactions) > 0, self._stalled)

    @property
    def turn_id(self) -> str:
        """The id of the turn at the head; empty when there is none."""
        return self.head.turn.turn_id if self.head is not None else ""

    # ------------------------------------------------------------------------------------------------ from start to end

    def prepare(self, work: QueuedTurn) -> None:
        """Begin to obtain an agent for a turn."""
        work.cancel_timer()
        self.ended = asyncio.get_running_loop().create_future()
        self.prompted = False
        self.keeper.begin()
        self.expect_result()
        self.stopping = None
        work.turn.state = pb.TURN_STATE_RUNNING
        self.journal.record.current_turn.CopyFrom(work.turn)
        self.journal.turn_changed(work.turn)
        if self.journal.record.phase != pb.SESSION_PHASE_RECOVERING:
            self.journal.move(pb.SESSION_STATE_PENDING, pb.SESSION_PHASE_STARTING, turn_id=work.turn.turn_id)
        self.journal.commit()

    def begin(self, work: QueuedTurn, warm: bool) -> None:
        """Record that the turn has its agent, and watch over it."""
        turn = work.turn
        turn.start_time.FromMicroseconds(now_us())
        self.journal.record.current_turn.CopyFrom(turn)
        self.journal.turn_changed(turn)
        self.journal.add(events.turn_started(turn, warm), turn_id=turn.turn_id)
        phase = self.interactions.phase or pb.SESSION_PHASE_WORKING  # a background task may wait for an answer
        self.journal.move(pb.SESSION_STATE_RUNNING, phase, turn_id=turn.turn_id)
        # The agent skips a uuid it knows without a word.
        self.prompt_uuid = str(uuid4()) if self.keeper.knows_prompt else turn.turn_id
        if self.keeper.knows_prompt:
            self.journal.add(events.user_prompt(CONTINUE_PROMPT, (), self.prompt_uuid), turn_id=turn.turn_id)
        elif not work.recorded:
            prompt = events.user_prompt(work.request.prompt, work.request.attachments, turn.turn_id)
            self.journal.add(prompt, turn_id=turn.turn_id)
        self.journal.commit()
        self.prompted = True
        self.watch_over(work)

    async def give_prompt(self, work: QueuedTurn) -> None:
        """Give the agent the turn's prompt; where a restart cut the turn short behind it, tell it to go on."""
        assert self.agent is not None
        if self.keeper.knows_prompt:
            await self.agent.prompt(self.prompt_uuid, CONTINUE_PROMPT)
        else:
            await self.agent.prompt(self.prompt_uuid, prompt_content(work.request))

    def go_on(self, work: QueuedTurn) -> None:
        """Record that the agent has begun a turn by itself, of a message that it was sent; the caller commits."""
        self.head = work
        turn = work.turn
        self.prompt_uuid = turn.turn_id
        self.journal.add(events.turn_queued(turn), turn_id=turn.turn_id)
        turn.state = pb.TURN_STATE_RUNNING
        turn.start_time.FromMicroseconds(now_us())
        self.journal.record.current_turn.CopyFrom(turn)
        self.journal.changed()
        self.journal.turn_changed(turn)
        keep_prompt(self.journal, work)
        self.journal.add(events.turn_started(turn, warm=True), turn_id=turn.turn_id)

    def watch_over(self, work: QueuedTurn) -> None:
        """Stop the turn when it runs too long, or when its agent is silent for too long."""
        timeout = seconds(work.request, "execution_timeout", self._execution_timeout)
        if timeout:
            self.stop_after(timeout, f"the turn ran longer than its execution_timeout of {timeout:g} s")
        self.stall_watch.arm()

    def stay(self, timeout: float) -> None:
        """Go on in the background, for at most `timeout` seconds; 0 means no bound."""
        self.stopping = self.result = self.outcome = None
        self.ended = asyncio.get_running_loop().create_future()
        if timeout:
            self.stop_after(timeout, f"background tasks went on for {timeout:g} s after the result")

    def settle(self, outcome: Outcome) -> None:
        """End the running turn, or the background work, with `outcome`: what a stop does once everything is dead."""
        if self.ended is not None and not self.ended.done():
            self.ended.set_result(outcome)

    async def end(self) -> Outcome:
        """Wait for the end of what the agent is at, and of the stop that is under way by then."""
        assert self.ended is not None
        outcome = await self.ended
        if self.stopping is not None:
            outcome = await self.stopping.finished(self)
        self.ended = None
        return outcome

    def expect_result(self) -> None:
        """Forget the result of the turn before."""
        self.result = self.result_raw = self.outcome = None
        self.result_in = asyncio.Event()

    def record_end(self, work: QueuedTurn, outcome: Outcome) -> None:
        """Put the turn's end into the log, with the result that is in."""
        record_end(self.journal, work, outcome, self.result, self.result_raw)

    def _interactions_changed(self) -> None:
        """Show in the phase what the session waits for."""
        record = self.journal.record
        if record.state == pb.SESSION_STATE_RUNNING and record.phase != pb.SESSION_PHASE_STOPPING:
            background = pb.SESSION_PHASE_BACKGROUND if self.head is None else pb.SESSION_PHASE_WORKING
            phase = self.interactions.phase or background
            self.journal.move(pb.SESSION_STATE_RUNNING, phase, turn_id=self.turn_id)
        self.stall_watch.touch()

    # ------------------------------------------------------------------------------------------------------------ stops

    def stop(self, cause: StopCause, *, grace: float, force: bool = False, reason: str = "") -> Stop:
        """Stop what runs; a stop under way takes over what is stronger in this one."""
        deadline = asyncio.get_running_loop().time() + grace
        if self.stopping is None:
            self.stopping = Stop(cause, deadline=deadline, force=force, reason=reason)
            if self.journal.record.state == pb.SESSION_STATE_RUNNING:
                self.journal.move(
                    pb.SESSION_STATE_RUNNING, pb.SESSION_PHASE_STOPPING, turn_id=self.turn_id, reason=reason
                )
            if cause is not StopCause.CANCEL:
                self.journal.commit()
            self.keeper.stop_starting()
            self.stopping.begin(self)
        elif self.stopping.escalate(cause, deadline=deadline, force=force, reason=reason) and self.agent:
            self.pool.end(self.agent, patience=0, term_grace=0)
        return self.stopping

    def stop_after(self, seconds: float, text: str) -> None:
        """Stop what runs unless it ends before `seconds` are over."""
        self.timers.later(seconds, self._time_out, StopCause.TIMEOUT, text)

    def stop_is_over_when_durable(self) -> None:
        """Let those who wait for the stop know once all that was recorded so far is durable."""
        stop = self.stopping
        if stop is not None:
            self.journal.commit().add_done_callback(lambda done: stop.is_over() if not done.exception() else None)

    def _stalled(self, text: str) -> None:
        self._time_out(StopCause.STALL, text)

    def _time_out(self, cause: StopCause, text: str) -> None:
        self.stop(cause, grace=5.0, reason=text)

    # ---------------------------------------------------------------------------------------------- for the stop ladder

    @property
    def session_id(self) -> str:
        """The session's id."""
        return self.journal.session_id

    @property
    def agent(self) -> Agent | None:
        """The agent of the running turn."""
        return self.keeper.agent

    @property
    def pool(self) -> AgentPool:
        """Where its agents come from and end."""
        return self.keeper.pool

    @property
    def can_be_asked(self) -> bool:
        """Whether the agent works on a prompt and can be asked to stop."""
        return self.keeper.alive and self.prompted and self.head is not None

    @property
    def own_outcome(self) -> Outcome | None:
        """How the running turn ended by itself; None when it did not, or only because it was stopped."""
        if self.outcome is None and self.result is not None and not self.result.is_error:
            return outcomes.COMPLETED
        return self.outcome

    async def agents_closed(self) -> Ended | None:
        """Wait until an agent that was given back is dead; how it ended."""
        return await self.keeper.closed()

    def release_agent(self) -> None:
        """Forget an agent that a stop has ended."""
        self.keeper.release()
