"""Session: runs its turns in order and records the end of each, whatever happens.

Decisions are synchronous and go through the journal; the task of the session only waits: for a place, for an agent, for
the end of a run. That task is never cancelled. A turn ends in one of three ways: its result, its agent's exit, or a
stop (see stop.py). `run` is the agent's work on one turn or in the background; the agent itself is held by the lease
and outlives runs; frames.py reads what the agent says, idle.py decides what follows the last turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from agentpb import agent_pb2 as pb

from agent_service import errors, events
from agent_service.agents.agent import AgentFailed
from agent_service.agents.pool import AgentPool
from agent_service.ledger import Journal, RequestId
from agent_service.session import outcomes
from agent_service.session.admission import Admission
from agent_service.session.agent_lease import AgentLease
from agent_service.session.frames import FrameHandler
from agent_service.session.idle import IdlePolicy
from agent_service.session.interactions import Interactions
from agent_service.session.limits import Limits
from agent_service.session.messages import Messages
from agent_service.session.outcomes import Outcome, StopCause
from agent_service.session.run import Run
from agent_service.session.states import move
from agent_service.session.stop import Stop
from agent_service.session.turn import (
    QueuedTurn,
    SentMessage,
    keep_prompt,
    may_continue,
    put_off,
    record_end,
    sent_turn,
)
from agent_service.session.turn_options import put_in_force, resolve_options
from agent_service.session.turn_queue import TurnQueue

log = logging.getLogger(__name__)

INTERRUPT_GRACE = 5.0
"""Seconds an interrupted agent may take to stop by itself."""


class Session:
    """One conversation at work, or with a warm process. The registry holds it as long as that lasts."""

    def __init__(
        self,
        journal: Journal,
        *,
        pool: AgentPool,
        admission: Admission,
        limits: Limits,
        on_release: Callable[[Session], None],
    ) -> None:
        """Run turns with agents of `pool` in places of `admission`; tell `on_release` when nothing is left to do."""
        self.journal = journal
        self.key = journal.key
        self.run: Run | None = None
        """What the agent is at; None while it is at nothing."""
        self._next: QueuedTurn | None = None
        """The turn that runs next: its options are in force, and it waits for a place."""
        self._admission = admission
        self._limits = limits
        self._on_release = on_release
        self._task: asyncio.Task[None] | None = None
        self._place: asyncio.Future[bool] | None = None
        self.interactions = Interactions(journal, self._interactions_changed)
        self._queue = TurnQueue(journal, limits.queue_timeout, self._queue_timed_out)
        self._messages = Messages(journal)
        self._lease = AgentLease(pool, journal, on_closed=self._released, on_quiet=lambda: self._frames.came_to_idle())
        self._idle = IdlePolicy(
            journal=journal,
            lease=self._lease,
            interactions=self.interactions,
            idle_timeout=limits.idle_timeout,
            has_work=lambda: self.run is not None or self._next is not None,
            on_release=self._released,
        )
        self._frames = FrameHandler(
            journal=journal,
            lease=self._lease,
            interactions=self.interactions,
            messages=self._messages,
            current_run=lambda: self.run,
            on_handover=self._hand_over,
            on_gone=self._idle.release,
        )

    # ---------------------------------------------------------------------------------------------- what callers decide

    @property
    def session_id(self) -> str:
        """The session's id."""
        return self.journal.session_id

    @property
    def running_turn(self) -> pb.Turn | None:
        """The turn an agent works on, or is being started for."""
        return self.run.queued.turn if self.run is not None and self.run.queued is not None else None

    @property
    def starting(self) -> bool:
        """Whether an agent is being obtained for a turn; a commit follows when that is over."""
        run = self.run
        return run is not None and run.queued is not None and not run.prompted and not run.has_ended

    @property
    def task(self) -> asyncio.Task[None] | None:
        """The task that runs its turns, while there are any."""
        return self._task if self._task is not None and not self._task.done() else None

    @property
    def warm(self) -> bool:
        """Whether it is at rest and keeps its process for the next turn."""
        return self.journal.record.phase == pb.SESSION_PHASE_IDLE

    @property
    def waiting(self) -> int:
        """How many of its turns wait."""
        return len(self._queue) + (self._next is not None)

    @property
    def load(self) -> int:
        """How many places it has or asks for: one for what is at work, one for each turn that waits."""
        return len(self._queue) + (self._next is not None or self.run is not None)

    @property
    def released(self) -> bool:
        """Whether nothing is at work and no process lives: the object is not needed any more."""
        no_process = self._lease.agent is None and not self._lease.closing
        return self._next is None and no_process and self.task is None

    def submit(
        self, queued: QueuedTurn, options: pb.AgentOptions, *, request_id: RequestId | None, next_up: bool = False
    ) -> asyncio.Future[None]:
        """Take a turn, with `options` as just resolved if it is the next to run. Done when that is durable."""
        turn = queued.turn
        with self.journal.update() as record:
            turn.number = record.turn_count = record.turn_count + 1
        turn.state = pb.TURN_STATE_QUEUED
        self._idle.unpark()
        if self._next is None and self.running_turn is None:
            self._promote(queued, options)
            if self.run is not None and self.run.stopping is None:
                self.run.settle(outcomes.COMPLETED)  # background work goes on beside the new turn
        else:
            self._queue.put(queued, next_up=next_up)
        self.journal.add(events.turn_queued(turn), turn_id=turn.turn_id)
        self.journal.turn_changed(turn)
        keep_prompt(self.journal, queued)
        self._queue.arm(queued)
        durable = self.journal.commit(requests={turn.turn_id: queued.request}, request_id=request_id)
        self._start()
        return durable

    def restore(self, turns: list[QueuedTurn]) -> None:
        """Queue turns that an earlier run of the service left waiting, and go on with the first."""
        self._queue.restore(turns)
        if self._next is None and self._queue:
            self._promote_first()
        self.journal.commit()
        self._start()

    def find(self, turn_id: str) -> QueuedTurn | None:
        """A turn of the session that has not ended."""
        running = self.run.queued if self.run is not None else None
        found = (queued for queued in (running, self._next, *self._queue) if queued is not None)
        return next((queued for queued in found if queued.turn.turn_id == turn_id), None)

    def cancel(self, *, grace: float, force: bool, reason: str) -> Stop:
        """End all work for good: the queue in the same commit, the run by the ladder of stop.py."""
        dropped = self._queue.drop(reason or "cancelled")
        if self.run is None:
            stop = self._cancel_waiting(reason)
        else:
            stop = self.run.stop(StopCause.CANCEL, grace=grace, force=force, reason=reason)
        self._commit(dropped)
        return stop

    def _cancel_waiting(self, reason: str) -> Stop:
        """Cancel the next turn, which has no place yet: nothing was started."""
        outcome = outcomes.of_stop(StopCause.CANCEL, reason)
        self._conclude_waiting(outcome)
        durable = self.journal.commit()
        return Stop.of_waiting(self.session_id, outcome.reason, agent_closed=self._lease.closed, durable=durable)

    def _conclude_waiting(self, outcome: Outcome) -> None:
        """End the next turn before it has begun."""
        if self._next is not None:
            queued, self._next = self._next, None
            self._conclude(queued, outcome, None)
            self._leave_queue()

    def interrupt(self, reason: str) -> Stop:
        """Stop the running turn, of which there must be one, and keep the queue."""
        assert self.run is not None
        return self.run.stop(StopCause.INTERRUPT, grace=INTERRUPT_GRACE, reason=reason)

    def hold_queue(self) -> None:
        """Begin no further turn in this run of the service."""
        self._idle.draining = True
        self._leave_queue()

    def halt(self, *, grace: float) -> Stop | None:
        """Leave the queue for the next start of the service, and stop what runs."""
        self.hold_queue()
        return self.run.stop(StopCause.DRAIN, grace=grace) if self.run is not None else None

    async def finished(self) -> None:
        """Wait until the session's task and its agent have ended."""
        if self._task is not None:
            await asyncio.wait([self._task])
        self._idle.release()
        await self._lease.closed()

    async def send(self, uuid: str, message: SentMessage, request_id: RequestId | None) -> asyncio.Future[None]:
        """Give the agent a message while it works; the future is done when that is durable. Raises SessionNotActive."""
        return await self._messages.send(self.run, uuid, message, request_id)

    # ------------------------------------------------------------------------------------------------------- the queue

    def _promote(self, queued: QueuedTurn, options: pb.AgentOptions) -> None:
        """Make `queued` the next to run; from now on its options are those in force."""
        self._next = queued
        self._idle.ttl_of = queued.request
        queued.options = options
        put_in_force(self.journal, queued.request, options)
        with self.journal.update() as record:
            record.cwd = self._lease.pool.workspaces.cwd_of(record)
            record.current_turn.CopyFrom(queued.turn)
        phase = pb.SESSION_PHASE_RECOVERING if queued.turn.restart_count else pb.SESSION_PHASE_QUEUED
        move(self.journal, phase, turn_id=queued.turn.turn_id)

    def _promote_first(self) -> None:
        """Make the first of the queue the next to run."""
        queued = self._queue.take()
        self._promote(queued, resolve_options(self.journal.record, queued.request))

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run_turns(), name=f"session {self.session_id}")
            self._task.add_done_callback(lambda _: self._released())

    def _queue_timed_out(self, queued: QueuedTurn, outcome: Outcome) -> None:
        if queued is self._next and self.run is None:
            self._conclude_waiting(outcome)
        elif queued in self._queue:
            self._queue.remove(queued)
            record_end(self.journal, queued, outcome)
            self._commit([queued])

    def _leave_queue(self) -> None:
        if self._place is not None:
            self._admission.withdraw(self._place, self.key.owner)

    def _commit(self, ended: list[QueuedTurn]) -> None:
        """Commit, and let those who wait for the end of these turns know once it is durable."""
        durable = self.journal.commit()
        for queued in ended:
            queued.done_when(durable)

    # ---------------------------------------------------------------------------------------------------- the main line

    async def _run_turns(self) -> None:
        """Run one turn after the other until none is left."""
        while self._next is not None and not self._idle.draining:
            self._place = self._admission.enter(self.key.owner)
            admitted = await self._place
            self._place = None
            if not admitted:
                continue
            try:
                if self._next is not None and not self._idle.draining:
                    await self._run_turn(self._next)
                    await self._linger()
            finally:
                self._admission.leave(self.key.owner)

    def _released(self) -> None:
        self._on_release(self)

    def _interactions_changed(self) -> None:
        if self.run is not None:
            self.run.show_waiting()

    def _new_run(self, queued: QueuedTurn | None) -> Run:
        """Begin a run: from now on what the agent says is about it."""
        self.run = run = Run(
            queued, journal=self.journal, lease=self._lease, interactions=self.interactions, limits=self._limits
        )
        return run

    async def _run_turn(self, queued: QueuedTurn) -> None:
        """Run one turn from its start to its recorded end."""
        self._next, run = None, self._new_run(queued)
        run.prepare(queued)
        try:
            await run.start(queued, self._frames)
        except AgentFailed as failure:
            self._frames.on_exit(failure)
        except errors.StoreUnavailable:
            raise
        except Exception:
            incident = errors.new_incident()
            log.exception("session %s: a turn broke, incident %s", self.session_id, incident)
            run.settle(outcomes.failed(pb.SESSION_PHASE_FAILED, outcomes.internal(incident)))
        outcome = await run.end()
        while self.run is not None and self.run is not run:  # the agent has gone on with a message that was sent to it
            run = self.run
            outcome = await run.end()
        self._end_turn(run, outcome)

    def _end_turn(self, run: Run, outcome: Outcome) -> None:
        """Record the end of a run's turn, or leave the turn to the next start of the service."""
        assert run.queued is not None
        self.run = None
        run.timers.disarm()
        if run.stopping is not None and run.stopping.cause is StopCause.DRAIN and may_continue(run.queued):
            self._next = run.queued
            self.interactions.withdraw("restart")
            put_off(self.journal, run.queued)
            self.journal.commit()
        else:
            self._conclude(run.queued, outcome, run)
        run.stop_is_over_when_durable()

    async def _linger(self) -> None:
        """Stay while background tasks go on after the result; then come to rest. A new turn does not wait for them."""
        while self.journal.record.state == pb.SESSION_STATE_RUNNING:
            await self._background()

    async def _background(self) -> None:
        """Wait until the agent is idle and no task is left, or a new turn has come, or the limit is reached."""
        run = self._new_run(None)
        run.watch_background()
        self._frames.check_background()
        outcome = await run.end()
        self.run = None
        run.timers.disarm()
        if self._next is None or run.stopping is not None:
            self.interactions.withdraw("cancel")
        if self._next is None:
            self._idle.come_to_rest(outcome, "")
        elif run.stopping is not None and run.stopping.cause is StopCause.CANCEL:
            self._conclude_waiting(outcome)  # it came while the session was being cancelled
        self.journal.commit()
        run.stop_is_over_when_durable()

    # ------------------------------------------------------------------------------------------------------ the endings

    def _conclude(self, queued: QueuedTurn, outcome: Outcome, run: Run | None) -> None:
        """Record the turn's end, and where the session goes: the next turn, background work, or rest. One commit."""
        if not self._idle.goes_on(outcome):
            self.interactions.withdraw("restart" if outcome.phase == pb.SESSION_PHASE_INTERRUPTED else "cancel")
        ended = self._record_end(queued, outcome, run)
        if self._messages.drop():  # the agent might still begin them by itself
            self._lease.close(at_once=True)
        if self._queue:
            self._promote_first()
        else:
            self._idle.come_to_rest(outcome, queued.turn.turn_id)
        self._commit(ended)

    def _record_end(self, queued: QueuedTurn, outcome: Outcome, run: Run | None) -> list[QueuedTurn]:
        """Record the turn's end, and that of queued turns that end with it. Returns all that have ended."""
        if run is None:
            record_end(self.journal, queued, outcome)
        else:
            record_end(self.journal, queued, outcome, run.result, run.result_raw)
        if outcome.keeps_queue:
            return [queued]
        return [queued, *self._queue.drop("the turn before it did not complete")]

    def _hand_over(self, run: Run, uuid: str, message: SentMessage) -> None:
        """Run the message as a turn of its own, within the limits of the turn that it was sent into."""
        before, outcome = run.queued, run.outcome
        assert before is not None
        assert outcome is not None
        run.timers.disarm()
        ended = self._record_end(before, outcome, run)
        with self.journal.update() as record:
            record.turn_count += 1
        queued = sent_turn(uuid, message, before, number=self.journal.record.turn_count)
        following = self._new_run(queued)
        following.begun_by_agent(queued)
        durable = self.journal.commit(requests={uuid: queued.request})
        for each in ended:
            each.done_when(durable)
        following.watch_over(queued)
        run.settle(outcome)
