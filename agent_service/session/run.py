"""Run: one piece of work of a session's agent, from its start to its recorded end; made for it and then thrown away.

The work is a turn, or the background tasks that go on behind one: then there is no `queued`, and no prompt and no
result. It ends with an outcome; whichever comes first settles it (the result, the agent's exit, a failure), unless a
stop is under way (see stop.py).
"""

from __future__ import annotations

import asyncio
from uuid import uuid4

from agentpb import agent_pb2 as pb

from agent_service import events
from agent_service.agents.agent import Agent, Ended, Sink
from agent_service.ledger import Journal, now_us
from agent_service.session import outcomes
from agent_service.session.agent_lease import AgentLease
from agent_service.session.interactions import Interactions
from agent_service.session.limits import Limits
from agent_service.session.outcomes import Outcome, StopCause
from agent_service.session.states import move
from agent_service.session.stop import Stop
from agent_service.session.timers import StallWatch, Timers
from agent_service.session.turn import CONTINUE_PROMPT, QueuedTurn, keep_prompt, prompt_content, seconds


class Run:
    """The agent's work on one turn, or the background work behind it. Whoever listens to the agent fills in results."""

    def __init__(
        self,
        queued: QueuedTurn | None,
        *,
        journal: Journal,
        lease: AgentLease,
        interactions: Interactions,
        limits: Limits,
    ) -> None:
        """Work on `queued`, or in the background, with the agent of `lease`; stop what exceeds `limits`."""
        self.queued = queued
        self.stopping: Stop | None = None
        self.prompted = False
        """Whether the agent has been given the turn's prompt, or is about to be."""
        self.prompt_uuid = ""
        """The uuid under which the agent has the turn's prompt."""
        self.result: pb.TurnResult | None = None
        self.result_raw: bytes | None = None
        self.result_in = asyncio.Event()
        self.refused: pb.SessionError | None = None
        """How a hook refused the prompt."""
        self.outcome: Outcome | None = None
        """What the result means, unless a stop came before it."""
        self.stderr_lines = 0
        """Lines of the agent's stderr that the log has of it."""
        self.timers = Timers()
        self.stall_watch = StallWatch(
            limits.stall_timeout, self.timers, lambda: len(interactions) > 0, self._stop_stalled
        )
        self._ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._journal = journal
        self._lease = lease
        self._interactions = interactions
        self._limits = limits
        self._knows_prompt = False

    @property
    def turn_id(self) -> str:
        """The id of its turn; empty in the background."""
        return self.queued.turn.turn_id if self.queued is not None else ""

    @property
    def has_ended(self) -> bool:
        """Whether its outcome is known; its end may still have to be recorded."""
        return self._ended.done()

    # ------------------------------------------------------------------------------------------------------- its start

    async def start(self, queued: QueuedTurn, sink: Sink) -> None:
        """Obtain an agent for the turn and give it the prompt. Raises AgentFailed."""
        obtained = await self._lease.obtain(queued, sink, given_up=lambda: self.stopping is not None)
        self._knows_prompt = obtained.knows_prompt
        self._begin(queued, obtained.warm)
        await self._give_prompt(queued)

    def prepare(self, queued: QueuedTurn) -> None:
        """Record that an agent is being obtained for the turn."""
        queued.cancel_timer()
        queued.turn.state = pb.TURN_STATE_RUNNING
        self._show(queued.turn)
        if self._journal.record.phase != pb.SESSION_PHASE_RECOVERING:
            move(self._journal, pb.SESSION_PHASE_STARTING, turn_id=queued.turn.turn_id)
        self._journal.commit()

    def _begin(self, queued: QueuedTurn, warm: bool) -> None:
        """Record that the turn has its agent, and watch over it."""
        turn = queued.turn
        turn.start_time.FromMicroseconds(now_us())
        self._show(turn)
        self._journal.add(events.turn_started(turn, warm), turn_id=turn.turn_id)
        phase = self._interactions.phase or pb.SESSION_PHASE_WORKING  # a background task may wait for an answer
        move(self._journal, phase, turn_id=turn.turn_id)
        # The CLI skips a prompt whose uuid it knows, without a word.
        self.prompt_uuid = str(uuid4()) if self._knows_prompt else turn.turn_id
        if self._knows_prompt:
            self._journal.add(events.user_prompt(CONTINUE_PROMPT, (), self.prompt_uuid), turn_id=turn.turn_id)
        elif not queued.recorded:
            prompt = events.user_prompt(queued.request.prompt, queued.request.attachments, turn.turn_id)
            self._journal.add(prompt, turn_id=turn.turn_id)
        self._journal.commit()
        self.prompted = True
        self.watch_over(queued)

    async def _give_prompt(self, queued: QueuedTurn) -> None:
        """Give the agent the turn's prompt; where a restart cut the turn short behind it, tell it to go on."""
        assert self.agent is not None
        if self._knows_prompt:
            await self.agent.prompt(self.prompt_uuid, CONTINUE_PROMPT)
        else:
            await self.agent.prompt(self.prompt_uuid, prompt_content(queued.request))

    def begun_by_agent(self, queued: QueuedTurn) -> None:
        """Record that the agent has begun the turn by itself, of a message that it was sent; the caller commits."""
        turn = queued.turn
        self.prompted = True
        self.prompt_uuid = turn.turn_id
        self._journal.add(events.turn_queued(turn), turn_id=turn.turn_id)
        turn.state = pb.TURN_STATE_RUNNING
        turn.start_time.FromMicroseconds(now_us())
        self._show(turn)
        keep_prompt(self._journal, queued)
        self._journal.add(events.turn_started(turn, warm=True), turn_id=turn.turn_id)

    def _show(self, turn: pb.Turn) -> None:
        """Show the turn as the session's current one."""
        with self._journal.update() as record:
            record.current_turn.CopyFrom(turn)
        self._journal.turn_changed(turn)

    def watch_over(self, queued: QueuedTurn) -> None:
        """Stop the turn when it runs too long, or when its agent is silent for too long."""
        timeout = seconds(queued.request, "execution_timeout", self._limits.execution_timeout)
        if timeout:
            self._stop_after(timeout, f"the turn ran longer than its execution_timeout of {timeout:g} s")
        self.stall_watch.arm()

    def watch_background(self) -> None:
        """Stop the background work when it goes on for too long."""
        timeout = self._limits.background_timeout
        if timeout:
            self._stop_after(timeout, f"background tasks went on for {timeout:g} s after the result")

    # --------------------------------------------------------------------------------------------------------- its end

    def settle(self, outcome: Outcome) -> None:
        """End it with `outcome`, unless it has ended: what a stop does once every process is dead."""
        if not self._ended.done():
            self._ended.set_result(outcome)

    async def end(self) -> Outcome:
        """Wait for its end, and for that of the stop that is under way by then."""
        outcome = await self._ended
        return outcome if self.stopping is None else await self.stopping.finished(self)

    def show_waiting(self) -> None:
        """Show in the session's phase what the agent waits for."""
        record = self._journal.record
        if record.state == pb.SESSION_STATE_RUNNING and record.phase != pb.SESSION_PHASE_STOPPING:
            otherwise = pb.SESSION_PHASE_BACKGROUND if self.queued is None else pb.SESSION_PHASE_WORKING
            move(self._journal, self._interactions.phase or otherwise, turn_id=self.turn_id)
        self.stall_watch.touch()

    # ----------------------------------------------------------------------------------------------------------- stops

    def stop(self, cause: StopCause, *, grace: float, force: bool = False, reason: str = "") -> Stop:
        """Stop it, with `grace` seconds to end by itself; a stop under way takes over what is stronger in this one."""
        deadline = asyncio.get_running_loop().time() + grace
        if self.stopping is None:
            self.stopping = Stop(cause, deadline=deadline, force=force, reason=reason)
            if self._journal.record.state == pb.SESSION_STATE_RUNNING:
                move(self._journal, pb.SESSION_PHASE_STOPPING, turn_id=self.turn_id, reason=reason)
            if cause is not StopCause.CANCEL:
                self._journal.commit()
            self.stopping.begin(self)
        elif self.stopping.escalate(cause, deadline=deadline, force=force, reason=reason) and self.agent:
            self.end_agent(patience=0, term_grace=0)
        return self.stopping

    def stop_is_over_when_durable(self) -> None:
        """Complete the stop once everything recorded so far is durable."""
        stop = self.stopping
        if stop is not None:
            self._journal.commit().add_done_callback(lambda done: stop.is_over() if not done.exception() else None)

    def _stop_after(self, seconds: float, text: str) -> None:
        """Stop it unless it ends before `seconds` are over."""
        self.timers.later(seconds, self._time_out, StopCause.TIMEOUT, text)

    def _stop_stalled(self, text: str) -> None:
        self._time_out(StopCause.STALL, text)

    def _time_out(self, cause: StopCause, text: str) -> None:
        self.stop(cause, grace=5.0, reason=text)

    # ---------------------------------------------------------------------------- what a stop asks for: stop.Stoppable

    @property
    def session_id(self) -> str:
        """The session's id."""
        return self._journal.session_id

    @property
    def agent(self) -> Agent | None:
        """The agent at work."""
        return self._lease.agent

    @property
    def can_be_asked(self) -> bool:
        """Whether the agent works on a prompt and can be asked to stop."""
        return self._lease.alive and self.prompted

    @property
    def own_outcome(self) -> Outcome | None:
        """The outcome of work that ended by itself; None when it did not, or only because it was stopped."""
        if self.outcome is None and self.result is not None and not self.result.is_error:
            return outcomes.COMPLETED
        return self.outcome

    def end_agent(self, patience: float, term_grace: float | None = None) -> asyncio.Task[Ended]:
        """End the agent; the pool does it in a task of its own."""
        assert self.agent is not None
        return self._lease.end(self.agent, patience=patience, term_grace=term_grace)

    async def ask_usage(self, patience: float) -> None:
        """Count what the agent has used so far, if it answers within `patience` seconds."""
        if self._lease.agent is not None and self._lease.alive:
            await self._lease.spending.ask(self._lease.agent, patience=patience)

    async def agent_closed(self) -> Ended | None:
        """Wait until an agent that was given back is dead; how it ended."""
        return await self._lease.closed()

    def release_agent(self) -> None:
        """Forget an agent that a stop has ended."""
        self._lease.release()
