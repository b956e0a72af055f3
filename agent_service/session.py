"""Session: its turns, one after the other, each with an ending that is recorded whatever happens.

Decisions are synchronous and go through the journal; the task of the session only waits: for a place, for an agent, for the turn's
end. That task is never cancelled. A turn ends in one of three ways: its result, its agent's exit, or a stop (see stopping.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from agentpb import agent_pb2 as pb

from agent_service import errors, events, outcomes
from agent_service import options as translate
from agent_service.admission import Admission
from agent_service.agent import Agent, AgentFailed, Answer, Ended, PermissionContext
from agent_service.events.accounting import add_usage, unsolicited_result
from agent_service.interactions import Interactions, ask_people
from agent_service.journal import Journal, now_us
from agent_service.keeper import Keeper
from agent_service.ledger import RequestId
from agent_service.outcomes import Outcome, StopCause
from agent_service.pool import AgentPool
from agent_service.stopping import Stop
from agent_service.turns import (
    CONTINUE_PROMPT,
    Work,
    end_turn,
    may_continue,
    message_content,
    prompt_content,
    requeue,
    seconds,
    sent_work,
    set_expiry,
)
from agent_service.watchdogs import Activity, StallWatch, Timers, is_signal

log = logging.getLogger(__name__)

STDERR_EVENTS = 200
"""Lines of stderr that one process may put into the log; the tail is kept beside it."""


QUIET_AFTER_RESULT = 0.25
"""Seconds after a result in which the agent usually says that it is idle; a turn does not wait longer for that."""

PATIENCE_WITH_SENT = 5.0
"""Seconds after a result in which an agent that was sent a message is sure to begin it."""


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
        self._head: Work | None = None
        self._queue: deque[Work] = deque()
        self._task: asyncio.Task[None] | None = None
        self._place: asyncio.Future[bool] | None = None
        self._halted = False
        self._keeper = Keeper(pool, lambda: self._on_rest(self))
        self._ended: asyncio.Future[Outcome] | None = None
        self._prompted = False
        self._prompt_uuid = ""
        self._ttl_of = pb.ExecuteRequest()
        self._reported_model = ""
        self._keeper.begin()
        self._result: pb.TurnResult | None = None
        self._result_raw: bytes | None = None
        self._outcome: Outcome | None = None
        self.result_in = asyncio.Event()
        self._stop: Stop | None = None
        self._timers = Timers()
        self._activity = Activity(self._came_to_idle)
        self._idle_timer: asyncio.TimerHandle | None = None
        self._stderr_events = 0
        self._sent: dict[str, pb.SendMessageRequest] = {}
        self.interactions = Interactions(journal, self._interactions_changed)
        self._stall_watch = StallWatch(
            limits.stall_timeout, self._timers, lambda: len(self.interactions) > 0, self._stalled
        )

    # ------------------------------------------------------------------------------------------------ what callers decide

    @property
    def session_id(self) -> str:
        """The session's id."""
        return self.journal.session_id

    @property
    def running_turn(self) -> pb.Turn | None:
        """The turn an agent works on, or is being started for."""
        return self._head.turn if self._head is not None and self._ended is not None else None

    @property
    def starting(self) -> bool:
        """Whether an agent is being obtained for a turn; a commit follows when that is over."""
        return self._ended is not None and not self._ended.done() and self._head is not None and not self._prompted

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
        return len(self._queue) + (self._head is not None and self._ended is None)

    @property
    def load(self) -> int:
        """How many places it has or asks for: one for what is at work, one for each turn that waits."""
        return len(self._queue) + (self._head is not None or self._ended is not None)

    @property
    def idle(self) -> bool:
        """Whether nothing is at work and no process lives: nobody need hold it."""
        working = self._task is not None and not self._task.done()
        return self._head is None and self.agent is None and not self._keeper.closing and not working

    def submit(self, work: Work, *, request_id: RequestId | None, next_up: bool = False) -> asyncio.Future[None]:
        """Take a turn: it runs at once or waits its turn. The future is done when that is durable."""
        record, turn = self.journal.record, work.turn
        turn.number = record.turn_count = record.turn_count + 1
        turn.state = pb.TURN_STATE_QUEUED
        self._disarm_idle()
        if self._head is None:
            self._promote(work)
            if self._stop is None:
                self._settle(outcomes.COMPLETED)  # background work goes on beside the new turn
        elif next_up:
            self._queue.appendleft(work)
        else:
            self._queue.append(work)
        self.journal.add(events.turn_queued(turn), turn_id=turn.turn_id)
        self.journal.turn_changed(turn)
        self._count_queue()
        self._arm_queue_timeout(work)
        durable = self.journal.commit(requests={turn.turn_id: work.request}, request_id=request_id)
        self._start()
        return durable

    def restore(self, works: list[Work]) -> None:
        """Queue turns that an earlier run of the service left waiting, and go on with the first."""
        self._queue.extend(works)
        for work in works:
            self._arm_queue_timeout(work)
        if self._head is None and self._queue:
            self._promote(self._queue.popleft())
        self._count_queue()
        self.journal.commit()
        self._start()

    def find(self, turn_id: str) -> Work | None:
        """A turn of the session that has not ended."""
        works = ([self._head] if self._head else []) + list(self._queue)
        return next((work for work in works if work.turn.turn_id == turn_id), None)

    def cancel(self, *, grace: float, force: bool, reason: str) -> Stop:
        """End all work for good: the queue in the same commit, the running turn by the ladder of stopping.py."""
        dropped = self._drop_queue(reason or "cancelled")
        if self._ended is None:
            stop = self._cancel_waiting(reason)
        else:
            stop = self.stop(StopCause.CANCEL, grace=grace, force=force, reason=reason)
        self._commit(dropped)
        return stop

    def _cancel_waiting(self, reason: str) -> Stop:
        """Cancel a head that has no place yet: nothing was started."""
        outcome = outcomes.of_stop(StopCause.CANCEL, reason)
        self._conclude_waiting(outcome)
        return Stop.of_waiting(self, outcome, self.journal.commit())

    def _conclude_waiting(self, outcome: Outcome) -> None:
        """End the head before it has begun."""
        if self._head is not None:
            work, self._head = self._head, None
            self._result = self._result_raw = None
            self._conclude(work, outcome)
            self._leave_queue()

    def _over_when_durable(self, stop: Stop | None) -> None:
        if stop is not None:
            self.journal.commit().add_done_callback(lambda done: stop.is_over() if not done.exception() else None)

    def stop(self, cause: StopCause, *, grace: float, force: bool = False, reason: str = "") -> Stop:
        """Stop what runs; a stop under way takes over what is stronger in this one."""
        if self._stop is None:
            self._stop = Stop(cause, deadline=self._now() + grace, force=force, reason=reason)
            if self.journal.record.state == pb.SESSION_STATE_RUNNING:
                self.journal.move(
                    pb.SESSION_STATE_RUNNING, pb.SESSION_PHASE_STOPPING, turn_id=self._turn_id(), reason=reason
                )
            if cause is not StopCause.CANCEL:
                self.journal.commit()
            self._keeper.stop_starting()
            self._stop.begin(self)
        elif self._stop.escalate(cause, deadline=self._now() + grace, force=force, reason=reason) and self.agent:
            self._keeper.pool.end(self.agent, patience=0, term_grace=0)
        return self._stop

    def hold_queue(self) -> None:
        """Begin no further turn in this run of the service."""
        self._halted = True
        self._leave_queue()

    def halt(self, *, grace: float) -> Stop | None:
        """Leave the queue for the next start of the service, and stop what runs."""
        self.hold_queue()
        if self._ended is None:
            return None
        return self.stop(StopCause.DRAIN, grace=grace)

    async def finished(self) -> None:
        """Wait until the session's task and its agent have ended."""
        if self._task is not None:
            await asyncio.wait([self._task])
        self.cool_down()
        await self._keeper.closed()

    def cool_down(self) -> None:
        """Give up the warm process of a session at rest."""
        self._disarm_idle()
        if self.agent is None or self._head is not None or self._ended is not None:
            return
        if self.journal.record.phase == pb.SESSION_PHASE_IDLE:
            self.journal.move(pb.SESSION_STATE_COMPLETED, pb.SESSION_PHASE_DORMANT)
            self.journal.commit()
        self._keeper.close()
        self._on_rest(self)

    async def send(
        self, uuid: str, request: pb.SendMessageRequest, request_id: RequestId | None
    ) -> asyncio.Future[None]:
        """Give the agent a message while it works; the future is done when that is durable. Raises SessionNotActive."""
        agent = self.agent
        if (
            agent is None
            or not self.can_be_asked
            or self._stop is not None
            or self._ended is None
            or self._ended.done()
        ):
            raise errors.SessionNotActive(
                f"session {self.session_id} has no turn that could take a message; use Execute",
                resource=self.session_id,
            )
        self._sent[uuid] = request
        self.journal.add(events.user_prompt(request.text, request.attachments, uuid), turn_id=self._turn_id())
        self.journal.commit()
        try:
            await agent.prompt(uuid, message_content(request.text, request.attachments))
        except AgentFailed as failure:
            self._note_unread(uuid)
            self.journal.commit()
            raise errors.SessionNotActive(
                f"the agent of session {self.session_id} has just ended: {failure.message}", resource=self.session_id
            ) from failure
        return self.journal.commit(request_id=request_id)

    # ------------------------------------------------------------------------------------------------------- the queue

    def _promote(self, work: Work) -> None:
        """Make `work` the next to run; from now on its options are those in force."""
        record = self.journal.record
        self._head = work
        self._ttl_of = work.request
        options = translate.merge(record.options, work.request.options, work.request.clear_options)
        options.ClearField("resume_at_message_uuid")  # it is of this turn alone, which has it in its request
        record.options.CopyFrom(options)
        record.permission_mode = options.permission_mode or pb.PERMISSION_MODE_DEFAULT
        record.cwd = self._keeper.pool.cwd(record)
        record.current_turn.CopyFrom(work.turn)
        phase = pb.SESSION_PHASE_RECOVERING if work.turn.restart_count else pb.SESSION_PHASE_QUEUED
        self.journal.move(pb.SESSION_STATE_PENDING, phase, turn_id=work.turn.turn_id)
        self.journal.changed()

    def _count_queue(self) -> None:
        self.journal.record.queued_turn_count = len(self._queue)
        self.journal.changed()

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name=f"session {self.session_id}")

    def _arm_queue_timeout(self, work: Work) -> None:
        timeout = seconds(work.request, "queue_timeout", self._limits.queue_timeout)
        if timeout:
            left = max(0.0, timeout - (now_us() - work.turn.create_time.ToMicroseconds()) / 1e6)
            work.timer = asyncio.get_running_loop().call_later(left, self._queue_timed_out, work, timeout)

    def _queue_timed_out(self, work: Work, timeout: float) -> None:
        failure = outcomes.error(
            "QUEUE_TIMEOUT", f"the turn waited longer than its queue_timeout of {timeout:g} s", retryable=True
        )
        outcome = outcomes.failed(pb.SESSION_PHASE_TIMED_OUT, failure)
        if work is self._head and self._ended is None:
            self._conclude_waiting(outcome)
        elif work in self._queue:
            self._queue.remove(work)
            self._end_turn(work, outcome, None)
            self._count_queue()
            self._commit([work])

    def _leave_queue(self) -> None:
        if self._place is not None:
            self._admission.withdraw(self._place)

    def _drop_queue(self, reason: str) -> list[Work]:
        """Cancel all turns that wait behind the running one; the caller commits."""
        outcome = outcomes.of_stop(StopCause.CANCEL, reason)
        dropped, self._queue = list(self._queue), deque()
        for work in dropped:
            self._end_turn(work, outcome, None)
        if dropped:
            self._count_queue()
        return dropped

    def _commit(self, ended: list[Work]) -> None:
        """Commit, and let those who wait for the end of these turns know once it is durable."""
        durable = self.journal.commit()
        for work in ended:
            work.done_when(durable)

    # ---------------------------------------------------------------------------------------------------- the main line

    async def _run(self) -> None:
        """Run one turn after the other until none is left."""
        while self._head is not None and not self._halted:
            self._place = self._admission.enter()
            admitted = await self._place
            self._place = None
            if not admitted:
                continue
            try:
                if self._head is not None and not self._halted:
                    await self._run_turn(self._head)
                    await self._linger()
            finally:
                self._admission.leave()
        self._on_rest(self)

    async def _run_turn(self, work: Work) -> None:
        """Run one turn from its start to its recorded end."""
        self._prepare(work)
        assert self._ended is not None
        try:
            warm = await self._keeper.obtain(self.journal.record, work, self)
            if not warm:
                self._activity.reset()
            self._begin(work, warm)
            await self._give_prompt(work)
        except AgentFailed as failure:
            self.on_exit(failure)
        except errors.StoreUnavailable:
            raise
        except Exception as error:
            log.exception("session %s: a turn broke", self.session_id)
            self._settle(outcomes.failed(pb.SESSION_PHASE_FAILED, outcomes.error("INTERNAL", repr(error)[:500])))
        outcome = await self._ended
        if self._stop is not None:
            outcome = await self._stop.finished(self)
        work = self._head or work  # another one by now when the agent has gone on with a message that was sent to it
        self._ended = None
        if self._stop is not None and self._stop.cause is StopCause.DRAIN and may_continue(work):
            self._put_off(work)
        else:
            self._head = None
            self._conclude(work, outcome)
        self._over_when_durable(self._stop)

    async def _give_prompt(self, work: Work) -> None:
        """Give the agent the turn's prompt; where a restart cut the turn short behind it, tell it to go on."""
        assert self.agent is not None
        if self._keeper.knows_prompt:
            await self.agent.prompt(self._prompt_uuid, CONTINUE_PROMPT)
        else:
            await self.agent.prompt(self._prompt_uuid, prompt_content(work.request))

    def _put_off(self, work: Work) -> None:
        """Leave a turn that a shutdown has stopped to the next start, which continues it: its policy says so."""
        self._timers.disarm()
        self.interactions.withdraw("restart")
        self._add_to_totals(self._result)
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

    def _prepare(self, work: Work) -> None:
        work.cancel_timer()
        self._ended = asyncio.get_running_loop().create_future()
        self._prompted = False
        self._keeper.begin()
        self._result = self._result_raw = self._outcome = None
        self.result_in = asyncio.Event()
        self._stop = None
        self._stderr_events = 0
        work.turn.state = pb.TURN_STATE_RUNNING
        self.journal.record.current_turn.CopyFrom(work.turn)
        self.journal.turn_changed(work.turn)
        if self.journal.record.phase != pb.SESSION_PHASE_RECOVERING:
            self.journal.move(pb.SESSION_STATE_PENDING, pb.SESSION_PHASE_STARTING, turn_id=work.turn.turn_id)
        self.journal.commit()

    def _begin(self, work: Work, warm: bool) -> None:
        turn = work.turn
        turn.start_time.FromMicroseconds(now_us())
        self.journal.record.current_turn.CopyFrom(turn)
        self.journal.turn_changed(turn)
        self.journal.add(events.turn_started(turn, warm), turn_id=turn.turn_id)
        phase = self.interactions.phase or pb.SESSION_PHASE_WORKING  # a background task may wait for an answer
        self.journal.move(pb.SESSION_STATE_RUNNING, phase, turn_id=turn.turn_id)
        # The agent skips a uuid it knows without a word.
        self._prompt_uuid = str(uuid4()) if self._keeper.knows_prompt else turn.turn_id
        if self._keeper.knows_prompt:
            self.journal.add(events.user_prompt(CONTINUE_PROMPT, (), self._prompt_uuid), turn_id=turn.turn_id)
        elif not work.recorded:
            prompt = events.user_prompt(work.request.prompt, work.request.attachments, turn.turn_id)
            self.journal.add(prompt, turn_id=turn.turn_id)
        self.journal.commit()
        self._prompted = True
        self._arm_watchdogs(work)

    def _arm_watchdogs(self, work: Work) -> None:
        timeout = seconds(work.request, "execution_timeout", self._limits.execution_timeout)
        if timeout:
            text = f"the turn ran longer than its execution_timeout of {timeout:g} s"
            self._timers.later(timeout, self._time_out, StopCause.TIMEOUT, text)
        self._stall_watch.arm()

    def _stalled(self, text: str) -> None:
        self._time_out(StopCause.STALL, text)

    def _time_out(self, cause: StopCause, text: str) -> None:
        self.stop(cause, grace=5.0, reason=text)

    def settle(self, outcome: Outcome) -> None:
        """End the running turn, or the background work, with `outcome`: what a stop does once everything is dead."""
        self._settle(outcome)

    def _settle(self, outcome: Outcome) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(outcome)

    # ------------------------------------------------------------------------------------------------------- the endings

    def _conclude(self, work: Work, outcome: Outcome) -> None:
        """Record the turn's end, and where the session goes: the next turn, background work, or rest. One commit."""
        self._timers.disarm()
        if not self._goes_on(outcome):
            self.interactions.withdraw("restart" if outcome.phase == pb.SESSION_PHASE_INTERRUPTED else "cancel")
        self._end_turn(work, outcome, self._result)
        ended = [work]
        if not outcome.keeps_queue:
            ended += self._drop_queue("the turn before it did not complete")
        self._drop_sent()
        if self._queue:
            self._promote(self._queue.popleft())
            self._count_queue()
        else:
            self._come_to_rest(outcome, work.turn.turn_id)
        self._commit(ended)

    def _note_unread(self, uuid: str) -> None:
        """Say in the log that the agent did not take in a message that was sent to it; the caller commits."""
        if self._sent.pop(uuid, None) is not None:
            notice = events.from_frame({"type": "command_lifecycle", "command_uuid": uuid, "state": "cancelled"})
            assert notice is not None
            self.journal.add(notice, turn_id=self._turn_id())

    def _drop_sent(self) -> None:
        """Leave no message behind that the agent might still begin by itself."""
        if self._sent:
            for uuid in list(self._sent):
                self._note_unread(uuid)
            self._keeper.close(at_once=True)

    def _goes_on(self, outcome: Outcome) -> bool:
        """Whether the agent works on in the background after a turn that ended like this, and may still ask."""
        completed = outcome.state == pb.SESSION_STATE_COMPLETED
        return completed and self._keeper.alive and bool(self._activity.tasks) and not self._halted

    def _come_to_rest(self, outcome: Outcome, turn_id: str) -> None:
        record = self.journal.record
        record.ClearField("current_turn")
        self.journal.changed()
        state, phase = outcome.state, outcome.phase
        if self._goes_on(outcome):
            state, phase = pb.SESSION_STATE_RUNNING, self.interactions.phase or pb.SESSION_PHASE_BACKGROUND
        elif outcome.state == pb.SESSION_STATE_COMPLETED and self._keeper.alive and self._limits.idle_timeout:
            phase = phase if self._halted else pb.SESSION_PHASE_IDLE
        self.journal.move(state, phase, turn_id=turn_id, reason=outcome.reason, error=outcome.error)
        set_expiry(record, self._ttl_of)
        if phase == pb.SESSION_PHASE_IDLE:
            self._arm_idle()
        elif state != pb.SESSION_STATE_RUNNING:
            self._keeper.close(at_once=outcome.state != pb.SESSION_STATE_COMPLETED)

    def _end_turn(self, work: Work, outcome: Outcome, result: pb.TurnResult | None) -> None:
        """Put a turn's one turn.completed into the log, with its figures into the session's totals."""
        work.cancel_timer()
        raw = self._result_raw if result is not None else None
        end_turn(work.turn, outcome, result)
        self._add_to_totals(result)
        self.journal.turn_changed(work.turn)
        self.journal.add(events.turn_completed(work.turn), turn_id=work.turn.turn_id, raw=raw)

    def _add_to_totals(self, result: pb.TurnResult | None) -> None:
        if result is not None:
            record = self.journal.record
            record.total_cost_usd += result.cost_usd
            add_usage(record.total_usage, result.usage)
            self.journal.changed()

    # ------------------------------------------------------------------------------------------------ after the result

    async def _linger(self) -> None:
        """Stay while background tasks go on after the result; then come to rest. A new turn does not wait for them."""
        while self.journal.record.state == pb.SESSION_STATE_RUNNING:
            await self._background()

    async def _background(self) -> None:
        """Wait until the agent is idle and no task is left, or a new turn has come, or the limit is reached."""
        self._stop = self._result = self._outcome = None
        self._ended = asyncio.get_running_loop().create_future()
        if self._limits.background_timeout:
            text = f"background tasks went on for {self._limits.background_timeout:g} s after the result"
            self._timers.later(self._limits.background_timeout, self._time_out, StopCause.TIMEOUT, text)
        self._check_background()
        outcome = await self._ended
        if self._stop is not None:
            outcome = await self._stop.finished(self)
        self._timers.disarm()
        self._ended = None
        if self._head is None or self._stop is not None:
            self.interactions.withdraw("cancel")
        if self._head is None:
            self._come_to_rest(outcome, "")
        elif self._stop is not None and self._stop.cause is StopCause.CANCEL:
            self._conclude_waiting(outcome)  # it came while the session was being cancelled
        self.journal.commit()
        self._over_when_durable(self._stop)

    def _check_background(self) -> None:
        """End the background phase when no task is left and the agent says that it is idle."""
        if self.journal.record.phase == pb.SESSION_PHASE_BACKGROUND and not self._activity.at_work:
            self._settle(outcomes.COMPLETED)

    def _arm_idle(self) -> None:
        self._idle_timer = asyncio.get_running_loop().call_later(self._limits.idle_timeout, self.cool_down)
        self.pool.rests(self.cool_down)

    def _disarm_idle(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
            self.pool.stirs(self.cool_down)

    # --------------------------------------------------------------------------------------------- what the agent reports

    async def on_frame(self, frame: dict[str, Any]) -> None:
        """Record what the agent says."""
        self._stall_watch.touch()
        kind = frame.get("type")
        if kind == "result":
            self._on_result(frame)
            return
        if kind == "command_lifecycle":
            self._on_lifecycle(frame)
            return
        if kind == "system":
            self._activity.observe(frame)
            if frame.get("subtype") == "init":
                self._reported_model = str(frame.get("model") or "")
        event = None if is_signal(frame) else events.from_frame(frame)
        if event is None:
            return
        if event.ephemeral:
            self.journal.publish(event, turn_id=self._turn_id())
            return
        if kind == "assistant":
            self._note_model(event)
        self.journal.add(event, turn_id=self._turn_id(), raw=events.raw_json(frame))
        self.journal.commit()
        await self.journal.keep_up()

    def _note_model(self, event: pb.SessionEvent) -> None:
        model = event.assistant_message.model
        record = self.journal.record
        if not model or model in ("<synthetic>", record.model) or event.parent_tool_use_id:
            return
        self._reported_model = model
        # Who has a model has a conversation to continue. The agent speaks before it has written its transcript.
        if record.model or self.pool.transcript(record) is not None:
            record.model = model
            self.journal.changed()

    def _had_a_result(self) -> None:
        """Know the model from now on, also where no answer named it: by now the agent has written its transcript."""
        record = self.journal.record
        if not record.model and self._reported_model:
            record.model = self._reported_model
            self.journal.changed()

    def _came_to_idle(self) -> None:
        """End the turn whose result is in: only now has the agent said all it has to say of it."""
        if self._outcome is not None and not self._sent:
            self._settle(self._outcome)
        self._check_background()

    def _waited_enough(self) -> None:
        """End the turn whose result is in although the agent has not begun what was sent to it."""
        if self._outcome is not None:
            self._settle(self._outcome)

    def _on_lifecycle(self, frame: dict[str, Any]) -> None:
        """Follow a message that was sent: the agent takes it into its turn, or begins it as one of its own, or drops it."""
        uuid, state = str(frame.get("command_uuid")), frame.get("state")
        if uuid not in self._sent or state == "queued":
            return
        if state == "started" and self._outcome is not None:
            if self._stop is not None:
                return  # it is too late: the turn ends now, and takes the agent along
            self._hand_over(uuid, self._sent[uuid])
        self._sent.pop(uuid)
        notice = events.from_frame(frame)
        if notice is not None:
            self.journal.add(notice, turn_id=self._turn_id(), raw=events.raw_json(frame))
        self.journal.commit()

    def _hand_over(self, uuid: str, request: pb.SendMessageRequest) -> None:
        """Go on with a turn of the message's own, within the bounds of the one it was sent into, whose result is in."""
        before, outcome, record = self._head, self._outcome, self.journal.record
        assert before is not None
        assert outcome is not None
        self._timers.disarm()
        self._end_turn(before, outcome, self._result)
        ended = [before]
        if not outcome.keeps_queue:
            ended += self._drop_queue("the turn before it did not complete")
        self._result = self._result_raw = self._outcome = None
        self.result_in = asyncio.Event()
        record.turn_count += 1
        work = self._head = sent_work(uuid, request, before, number=record.turn_count)
        self._prompt_uuid = uuid
        self.journal.add(events.turn_queued(work.turn), turn_id=uuid)
        work.turn.state = pb.TURN_STATE_RUNNING
        work.turn.start_time.FromMicroseconds(now_us())
        record.current_turn.CopyFrom(work.turn)
        self.journal.changed()
        self.journal.turn_changed(work.turn)
        self.journal.add(events.turn_started(work.turn, warm=True), turn_id=uuid)
        durable = self.journal.commit(requests={uuid: work.request})
        for each in ended:
            each.done_when(durable)
        self._arm_watchdogs(work)

    def _on_result(self, frame: dict[str, Any]) -> None:
        result, self._keeper.totals = events.turn_result(frame, self._keeper.totals)
        work = self._head
        if work is None or self._ended is None or not self._prompted or not _answers(frame, self._prompt_uuid):
            self._on_other_result(frame, result)
            return
        for uuid in frame.get("user_message_uuids") or ():
            self._sent.pop(uuid, None)
        self._result, self._result_raw = result, events.raw_json(frame)
        self._had_a_result()
        self.result_in.set()
        if self._stop is None:
            status = frame.get("api_error_status")
            outcome = outcomes.of_result(result, status if isinstance(status, int) else None)
            if outcome.error is not None and self.agent is not None:
                outcome.error.stderr_tail = self.agent.stderr_tail
            self._outcome = outcome
            if self._activity.busy or self._sent:
                self._timers.later(QUIET_AFTER_RESULT, self._came_to_idle)
                self._timers.later(PATIENCE_WITH_SENT, self._waited_enough)
            else:
                self._settle(outcome)

    def _on_other_result(self, frame: dict[str, Any], result: pb.TurnResult) -> None:
        """Keep the figures of a turn the agent took by itself, such as one after a background task."""
        self._add_to_totals(result)
        event = unsolicited_result(frame)
        self.journal.add(event, turn_id=self._turn_id(), raw=events.raw_json(frame))
        self.journal.commit()

    def on_stderr(self, line: str) -> None:
        """Record a line of stderr, up to a bound."""
        self._stderr_events += 1
        if self._stderr_events <= STDERR_EVENTS and not self.journal.at_rest:
            self.journal.add(events.stderr(line), turn_id=self._turn_id())
            self.journal.commit()

    def on_exit(self, failure: AgentFailed) -> None:
        """Take note that the agent is gone: the end of a turn, unless a stop is about to say so."""
        if self._stop is not None:
            return
        error = outcomes.error(
            failure.reason, failure.message, retryable=failure.retryable, stderr_tail=failure.stderr_tail
        )
        if self._ended is not None:
            self._settle(outcomes.failed(pb.SESSION_PHASE_FAILED, error))
        else:
            self.cool_down()

    async def on_permission(self, tool: str, tool_input: dict[str, Any], context: PermissionContext) -> Answer:
        """Ask people, when the session's policy says so."""
        if self.journal.at_rest:
            return Answer(False, message="The turn is over; nobody can be asked.")
        policy = self.journal.record.options.interactions
        return await ask_people(self.interactions, tool, tool_input, context, policy, turn_id=self._turn_id())

    def _interactions_changed(self) -> None:
        """Show in the phase what the session waits for."""
        record = self.journal.record
        if record.state == pb.SESSION_STATE_RUNNING and record.phase != pb.SESSION_PHASE_STOPPING:
            background = pb.SESSION_PHASE_BACKGROUND if self._head is None else pb.SESSION_PHASE_WORKING
            phase = self.interactions.phase or background
            self.journal.move(pb.SESSION_STATE_RUNNING, phase, turn_id=self._turn_id())
        self._stall_watch.touch()

    # ------------------------------------------------------------------------------------------------- for the stop ladder

    @property
    def agent(self) -> Agent | None:
        """The agent of the running turn."""
        return self._keeper.agent

    @property
    def prompt_uuid(self) -> str:
        """Under which uuid the agent has the running turn's prompt."""
        return self._prompt_uuid

    @property
    def can_be_asked(self) -> bool:
        """Whether the agent works on a prompt and can be asked to stop."""
        return self._keeper.alive and self._prompted and self._head is not None

    @property
    def pool(self) -> AgentPool:
        """Where its agents come from and end."""
        return self._keeper.pool

    @property
    def own_outcome(self) -> Outcome | None:
        """How the running turn ended by itself; None when it did not, or only because it was stopped."""
        if self._outcome is None and self._result is not None and not self._result.is_error:
            return outcomes.COMPLETED
        return self._outcome

    async def agents_closed(self) -> Ended | None:
        """Wait until an agent that was given back is dead; how it ended."""
        return await self._keeper.closed()

    def release_agent(self) -> None:
        """Forget an agent that a stop has ended."""
        self._keeper.release()

    def _turn_id(self) -> str:
        return self._head.turn.turn_id if self._head is not None else ""

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _answers(frame: dict[str, Any], turn_id: str) -> bool:
    """Whether a result belongs to the prompt sent under `turn_id`."""
    uuids = frame.get("user_message_uuids") or [frame.get("user_message_uuid")]
    named = [uuid for uuid in uuids if uuid]
    if named:
        return turn_id in named
    origin = frame.get("origin")
    return not (isinstance(origin, dict) and origin.get("kind") not in (None, "human"))
