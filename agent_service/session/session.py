"""Session: its turns, one after the other, each with an ending that is recorded whatever happens.

Decisions are synchronous and go through the journal; the task of the session only waits: for a place, for an agent, for
the turn's end. That task is never cancelled. A turn ends in one of three ways: its result, its agent's exit, or a stop
(see stopping.py). What the agent is at is the course's, what it says the hearing's, what waits the backlog's, what
follows the last turn resting's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from agentpb import agent_pb2 as pb

from agent_service import errors, events
from agent_service import options as translate
from agent_service.agents.agent import AgentFailed
from agent_service.agents.pool import AgentPool
from agent_service.ledger import RequestId
from agent_service.ledger.journal import Journal
from agent_service.session import outcomes
from agent_service.session.admission import Admission
from agent_service.session.agent_lease import AgentLease
from agent_service.session.frames import FrameHandler
from agent_service.session.idle import IdlePolicy
from agent_service.session.messages import Messages
from agent_service.session.outcomes import Outcome, StopCause
from agent_service.session.run import Run
from agent_service.session.stop import Stop
from agent_service.session.turn import (
    QueuedTurn,
    add_to_totals,
    keep_prompt,
    may_continue,
    record_end,
    requeue,
    sent_work,
)
from agent_service.session.turn_queue import TurnQueue

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What bounds a session, in seconds; 0 means no bound."""

    execution_timeout: float
    queue_timeout: float
    stall_timeout: float
    background_timeout: float
    idle_timeout: float


class Session:
    """One conversation at work, or with a warm process. The registry holds it as long as that lasts."""

    def __init__(
        self,
        journal: Journal,
        *,
        pool: AgentPool,
        admission: Admission,
        limits: Limits,
        on_rest: Callable[[Session], None],
    ) -> None:
        """Run turns with agents of `pool` in places of `admission`; tell `on_rest` when nothing is left to do."""
        self.journal = journal
        self._admission = admission
        self._limits = limits
        self._on_rest = on_rest
        self._task: asyncio.Task[None] | None = None
        self._place: asyncio.Future[bool] | None = None
        self._keeper = AgentLease(pool, self._came_to_rest)
        self._course = Run(
            journal, self._keeper, execution_timeout=limits.execution_timeout, stall_timeout=limits.stall_timeout
        )
        self.interactions = self._course.interactions
        self._backlog = TurnQueue(journal, limits.queue_timeout, self._queue_timed_out)
        self._messages = Messages(self._course)
        self._hearing = FrameHandler(
            self._course, self._messages, on_handover=self._hand_over, on_gone=lambda: self._resting.cool_down()
        )
        self._resting = IdlePolicy(
            self._course, self._hearing.activity, idle_timeout=limits.idle_timeout, on_rest=self._came_to_rest
        )

    # ---------------------------------------------------------------------------------------------- what callers decide

    @property
    def session_id(self) -> str:
        """The session's id."""
        return self.journal.session_id

    @property
    def running_turn(self) -> pb.Turn | None:
        """The turn an agent works on, or is being started for."""
        head = self._course.head
        return head.turn if head is not None and self._course.ended is not None else None

    @property
    def starting(self) -> bool:
        """Whether an agent is being obtained for a turn; a commit follows when that is over."""
        course = self._course
        return course.ended is not None and not course.ended.done() and course.head is not None and not course.prompted

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
        return len(self._backlog) + (self._course.head is not None and self._course.ended is None)

    @property
    def load(self) -> int:
        """How many places it has or asks for: one for what is at work, one for each turn that waits."""
        return len(self._backlog) + (self._course.head is not None or self._course.ended is not None)

    @property
    def idle(self) -> bool:
        """Whether nothing is at work and no process lives: nobody need hold it."""
        no_process = self._keeper.agent is None and not self._keeper.closing
        return self._course.head is None and no_process and self.task is None

    def submit(self, work: QueuedTurn, *, request_id: RequestId | None, next_up: bool = False) -> asyncio.Future[None]:
        """Take a turn: it runs at once or waits its turn. The future is done when that is durable."""
        record, turn = self.journal.record, work.turn
        turn.number = record.turn_count = record.turn_count + 1
        turn.state = pb.TURN_STATE_QUEUED
        self._resting.disarm()
        if self._course.head is None:
            self._promote(work)
            if self._course.stopping is None:
                self._course.settle(outcomes.COMPLETED)  # background work goes on beside the new turn
        else:
            self._backlog.put(work, next_up=next_up)
        self.journal.add(events.turn_queued(turn), turn_id=turn.turn_id)
        self.journal.turn_changed(turn)
        keep_prompt(self.journal, work)
        self._backlog.count()
        self._backlog.arm(work)
        durable = self.journal.commit(requests={turn.turn_id: work.request}, request_id=request_id)
        self._start()
        return durable

    def restore(self, works: list[QueuedTurn]) -> None:
        """Queue turns that an earlier run of the service left waiting, and go on with the first."""
        self._backlog.restore(works)
        if self._course.head is None and self._backlog:
            self._promote(self._backlog.take())
        self._backlog.count()
        self.journal.commit()
        self._start()

    def find(self, turn_id: str) -> QueuedTurn | None:
        """A turn of the session that has not ended."""
        works = ([self._course.head] if self._course.head else []) + list(self._backlog)
        return next((work for work in works if work.turn.turn_id == turn_id), None)

    def cancel(self, *, grace: float, force: bool, reason: str) -> Stop:
        """End all work for good: the queue in the same commit, the running turn by the ladder of stopping.py."""
        dropped = self._backlog.drop(reason or "cancelled")
        if self._course.ended is None:
            stop = self._cancel_waiting(reason)
        else:
            stop = self.stop(StopCause.CANCEL, grace=grace, force=force, reason=reason)
        self._commit(dropped)
        return stop

    def _cancel_waiting(self, reason: str) -> Stop:
        """Cancel a head that has no place yet: nothing was started."""
        outcome = outcomes.of_stop(StopCause.CANCEL, reason)
        self._conclude_waiting(outcome)
        return Stop.of_waiting(self._course, outcome, self.journal.commit())

    def _conclude_waiting(self, outcome: Outcome) -> None:
        """End the head before it has begun."""
        course = self._course
        if course.head is not None:
            work, course.head = course.head, None
            course.result = course.result_raw = None
            self._conclude(work, outcome)
            self._leave_queue()

    def stop(self, cause: StopCause, *, grace: float, force: bool = False, reason: str = "") -> Stop:
        """Stop what runs; a stop under way takes over what is stronger in this one."""
        return self._course.stop(cause, grace=grace, force=force, reason=reason)

    def hold_queue(self) -> None:
        """Begin no further turn in this run of the service."""
        self._course.halted = True
        self._leave_queue()

    def halt(self, *, grace: float) -> Stop | None:
        """Leave the queue for the next start of the service, and stop what runs."""
        self.hold_queue()
        if self._course.ended is None:
            return None
        return self.stop(StopCause.DRAIN, grace=grace)

    async def finished(self) -> None:
        """Wait until the session's task and its agent have ended."""
        if self._task is not None:
            await asyncio.wait([self._task])
        self._resting.cool_down()
        await self._keeper.closed()

    async def send(
        self, uuid: str, request: pb.SendMessageRequest, request_id: RequestId | None
    ) -> asyncio.Future[None]:
        """Give the agent a message while it works; the future is done when that is durable. Raises SessionNotActive."""
        return await self._messages.send(uuid, request, request_id)

    # ------------------------------------------------------------------------------------------------------- the queue

    def _promote(self, work: QueuedTurn) -> None:
        """Make `work` the next to run; from now on its options are those in force."""
        record = self.journal.record
        self._course.head = work
        self._resting.ttl_of = work.request
        options = translate.merge(record.options, work.request.options, work.request.clear_options)
        options.ClearField("resume_at_message_uuid")  # it is of this turn alone, which has it in its request
        record.options.CopyFrom(options)
        record.permission_mode = options.permission_mode or pb.PERMISSION_MODE_DEFAULT
        record.cwd = self._keeper.pool.cwd(record)
        record.current_turn.CopyFrom(work.turn)
        phase = pb.SESSION_PHASE_RECOVERING if work.turn.restart_count else pb.SESSION_PHASE_QUEUED
        self.journal.move(pb.SESSION_STATE_PENDING, phase, turn_id=work.turn.turn_id)
        self.journal.changed()

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name=f"session {self.session_id}")

    def _queue_timed_out(self, work: QueuedTurn, outcome: Outcome) -> None:
        if work is self._course.head and self._course.ended is None:
            self._conclude_waiting(outcome)
        elif work in self._backlog:
            self._backlog.remove(work)
            record_end(self.journal, work, outcome)
            self._commit([work])

    def _leave_queue(self) -> None:
        if self._place is not None:
            self._admission.withdraw(self._place)

    def _commit(self, ended: list[QueuedTurn]) -> None:
        """Commit, and let those who wait for the end of these turns know once it is durable."""
        durable = self.journal.commit()
        for work in ended:
            work.done_when(durable)

    # ---------------------------------------------------------------------------------------------------- the main line

    async def _run(self) -> None:
        """Run one turn after the other until none is left."""
        while self._course.head is not None and not self._course.halted:
            self._place = self._admission.enter()
            admitted = await self._place
            self._place = None
            if not admitted:
                continue
            try:
                if self._course.head is not None and not self._course.halted:
                    await self._run_turn(self._course.head)
                    await self._linger()
            finally:
                self._admission.leave()
        self._came_to_rest()

    def _came_to_rest(self) -> None:
        self._on_rest(self)

    async def _run_turn(self, work: QueuedTurn) -> None:
        """Run one turn from its start to its recorded end."""
        course = self._course
        course.prepare(work)
        self._hearing.begin()
        try:
            warm = await self._keeper.obtain(self.journal.record, work, self._hearing)
            if not warm:
                self._hearing.activity.reset()
            course.begin(work, warm)
            await course.give_prompt(work)
        except AgentFailed as failure:
            self._hearing.on_exit(failure)
        except errors.StoreUnavailable:
            raise
        except Exception:
            incident = errors.new_incident()
            log.exception("session %s: a turn broke, incident %s", self.session_id, incident)
            course.settle(outcomes.failed(pb.SESSION_PHASE_FAILED, outcomes.internal(incident)))
        outcome = await course.end()
        work = course.head or work  # another one by now when the agent has gone on with a message that was sent to it
        if course.stopping is not None and course.stopping.cause is StopCause.DRAIN and may_continue(work):
            self._put_off(work)
        else:
            course.head = None
            self._conclude(work, outcome)
        course.stop_is_over_when_durable()

    async def _linger(self) -> None:
        """Stay while background tasks go on after the result; then come to rest. A new turn does not wait for them."""
        while self.journal.record.state == pb.SESSION_STATE_RUNNING:
            await self._background()

    async def _background(self) -> None:
        """Wait until the agent is idle and no task is left, or a new turn has come, or the limit is reached."""
        course = self._course
        course.stay(self._limits.background_timeout)
        self._hearing.check_background()
        outcome = await course.end()
        course.timers.disarm()
        if course.head is None or course.stopping is not None:
            self.interactions.withdraw("cancel")
        if course.head is None:
            self._resting.come_to_rest(outcome, "")
        elif course.stopping is not None and course.stopping.cause is StopCause.CANCEL:
            self._conclude_waiting(outcome)  # it came while the session was being cancelled
        self.journal.commit()
        course.stop_is_over_when_durable()

    # ------------------------------------------------------------------------------------------------------ the endings

    def _conclude(self, work: QueuedTurn, outcome: Outcome) -> None:
        """Record the turn's end, and where the session goes: the next turn, background work, or rest. One commit."""
        self._course.timers.disarm()
        if not self._resting.goes_on(outcome):
            self.interactions.withdraw("restart" if outcome.phase == pb.SESSION_PHASE_INTERRUPTED else "cancel")
        ended = self._record_end(work, outcome)
        if self._messages.drop():  # the agent might still begin them by itself
            self._keeper.close(at_once=True)
        if self._backlog:
            self._promote(self._backlog.take())
        else:
            self._resting.come_to_rest(outcome, work.turn.turn_id)
        self._commit(ended)

    def _record_end(self, work: QueuedTurn, outcome: Outcome) -> list[QueuedTurn]:
        """Record the turn's end, and that of the turns behind it when it takes them along; all that have ended."""
        self._course.record_end(work, outcome)
        if outcome.keeps_queue:
            return [work]
        return [work, *self._backlog.drop("the turn before it did not complete")]

    def _put_off(self, work: QueuedTurn) -> None:
        """Leave a turn that a shutdown has stopped to the next start, which continues it: its policy says so."""
        self._course.timers.disarm()
        self.interactions.withdraw("restart")
        add_to_totals(self.journal, self._course.result)
        requeue(work.turn)
        self.journal.record.current_turn.CopyFrom(work.turn)
        self.journal.turn_changed(work.turn)
        self.journal.move(
            pb.SESSION_STATE_PENDING,
            pb.SESSION_PHASE_RECOVERING,
            turn_id=work.turn.turn_id,
            reason="the service was shut down; the turn goes on after its next start",
        )
        self._commit([])

    def _hand_over(self, uuid: str, request: pb.SendMessageRequest) -> None:
        """Go on with a turn of the message's own, within the bounds of the one it was sent into, whose result is in."""
        course, record = self._course, self.journal.record
        before, outcome = course.head, course.outcome
        assert before is not None
        assert outcome is not None
        course.timers.disarm()
        ended = self._record_end(before, outcome)
        course.expect_result()
        record.turn_count += 1
        work = sent_work(uuid, request, before, number=record.turn_count)
        course.go_on(work)
        durable = self.journal.commit(requests={uuid: work.request})
        for each in ended:
            each.done_when(durable)
        course.watch_over(work)
