"""FrameHandler: writes the agent's frames to the log, and decides what each frame means for the turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from agentpb import agent_pb2 as pb

from agent_service import events
from agent_service.agents.agent import AgentFailed, Answer, PermissionContext
from agent_service.events.accounting import unsolicited_result
from agent_service.events.limits import MAX_ERROR
from agent_service.events.text import cut_front, to_json
from agent_service.options.output_check import check_output
from agent_service.session import outcomes
from agent_service.session.interactions import ask_people
from agent_service.session.messages import Messages
from agent_service.session.run import Run
from agent_service.session.timers import Activity, is_signal
from agent_service.session.turn import add_to_totals

STDERR_EVENTS = 200
"""Lines of stderr that one process may put into the log; the tail is kept beside it."""

QUIET_AFTER_RESULT = 0.25
"""Seconds after a result in which the agent usually says that it is idle; a turn does not wait longer for that."""

PATIENCE_WITH_SENT = 5.0
"""Seconds after a result in which an agent that was sent a message is sure to begin it."""


class FrameHandler:
    """The sink of a session's agent (see agent.Sink): it records what it hears, and settles the course by it."""

    def __init__(
        self,
        course: Run,
        messages: Messages,
        *,
        on_handover: Callable[[str, pb.SendMessageRequest], None],
        on_gone: Callable[[], None],
    ) -> None:
        """Tell `on_handover` which message the agent began as a turn, and `on_gone` when it ended while at nothing."""
        self._course = course
        self._messages = messages
        self._on_handover = on_handover
        self._on_gone = on_gone
        self._journal = course.journal
        self._keeper = course.keeper
        self.activity = Activity(self._came_to_idle)
        self._reported_model = ""
        self._stderr_events = 0

    def begin(self) -> None:
        """Take down the stderr of another turn."""
        self._stderr_events = 0

    async def on_frame(self, frame: dict[str, Any]) -> None:
        """Record what the agent says."""
        self._course.stall_watch.touch()
        kind = frame.get("type")
        if kind == "result":
            self._on_result(frame, await self._output_problem(frame))
            return
        if kind == "command_lifecycle":
            self._on_lifecycle(frame)
            return
        if kind == "system":
            self.activity.observe(frame)
            if frame.get("subtype") == "init":
                self._reported_model = str(frame.get("model") or "")
        event = None if is_signal(frame) else events.from_frame(frame)
        if event is None:
            return
        if event.ephemeral:
            self._journal.publish(event, turn_id=self._course.turn_id)
            return
        if kind == "assistant":
            self._note_model(event)
        self._record(event, frame)
        await self._journal.keep_up()

    def _record(self, event: pb.SessionEvent, frame: dict[str, Any]) -> None:
        self._journal.add(event, turn_id=self._course.turn_id, raw=events.raw_json(frame))
        self._journal.commit()

    def _note_model(self, event: pb.SessionEvent) -> None:
        model = event.assistant_message.model
        record = self._journal.record
        if not model or model in ("<synthetic>", record.model) or event.parent_tool_use_id:
            return
        self._reported_model = model
        # Who has a model has a conversation to continue. The agent speaks before it has written its transcript.
        if record.model or self._keeper.pool.transcript(record) is not None:
            record.model = model
            self._journal.changed()

    def _had_a_result(self) -> None:
        """Know the model from now on, also where no answer named it: by now the agent has written its transcript."""
        record = self._journal.record
        if not record.model and self._reported_model:
            record.model = self._reported_model
            self._journal.changed()

    def _came_to_idle(self) -> None:
        """End the turn whose result is in: only now has the agent said all it has to say of it."""
        if not self._messages:
            self._waited_enough()
        self.check_background()

    def _waited_enough(self) -> None:
        """End the turn whose result is in although the agent has not begun what was sent to it."""
        if self._course.outcome is not None:
            self._course.settle(self._course.outcome)

    def check_background(self) -> None:
        """End the background phase when no task is left and the agent says that it is idle."""
        if self._journal.record.phase == pb.SESSION_PHASE_BACKGROUND and not self.activity.at_work:
            self._course.settle(outcomes.COMPLETED)

    def _on_lifecycle(self, frame: dict[str, Any]) -> None:
        """Follow a sent message: the agent takes it into its turn, or begins it as one of its own, or drops it."""
        uuid, state = str(frame.get("command_uuid")), frame.get("state")
        if uuid not in self._messages or state == "queued":
            return
        if state == "started" and self._course.outcome is not None:
            if self._course.stopping is not None:
                return  # it is too late: the turn ends now, and takes the agent along
            self._on_handover(uuid, self._messages[uuid])
        self._messages.arrived([uuid])
        notice = events.from_frame(frame)
        if notice is not None:
            self._journal.add(notice, turn_id=self._course.turn_id, raw=events.raw_json(frame))
        self._journal.commit()

    async def _output_problem(self, frame: dict[str, Any]) -> str | None:
        """How the answer in a result fails to meet the schema that was asked for; None when it meets it."""
        schema = self._journal.record.options.output_schema_json
        if not schema or frame.get("is_error"):
            return None
        output = frame.get("structured_output")
        return await asyncio.to_thread(check_output, schema, "" if output is None else to_json(output))

    def _on_result(self, frame: dict[str, Any], output_problem: str | None) -> None:
        result, self._keeper.totals = events.turn_result(frame, self._keeper.totals)
        course = self._course
        if (
            course.head is None
            or course.ended is None
            or not course.prompted
            or not _answers(frame, course.prompt_uuid)
        ):
            self._on_other_result(frame, result)
            return
        self._messages.arrived(frame.get("user_message_uuids") or ())
        course.result, course.result_raw = result, events.raw_json(frame)
        self._had_a_result()
        course.result_in.set()
        if course.stopping is None:
            course.outcome = self._outcome_of(frame, result, output_problem)
            if self.activity.busy or self._messages:
                course.timers.later(QUIET_AFTER_RESULT, self._came_to_idle)
                course.timers.later(PATIENCE_WITH_SENT, self._waited_enough)
            else:
                course.settle(course.outcome)

    def _outcome_of(self, frame: dict[str, Any], result: pb.TurnResult, output_problem: str | None) -> outcomes.Outcome:
        status = frame.get("api_error_status")
        outcome = outcomes.of_result(result, status if isinstance(status, int) else None, output_problem)
        if outcome.error is not None and self._course.agent is not None:
            outcome.error.stderr_tail = cut_front(self._course.agent.stderr_tail, MAX_ERROR)
        return outcome

    def _on_other_result(self, frame: dict[str, Any], result: pb.TurnResult) -> None:
        """Keep the figures of a turn the agent took by itself, such as one after a background task."""
        add_to_totals(self._journal, result)
        self._record(unsolicited_result(frame), frame)

    def on_stderr(self, line: str) -> None:
        """Record a line of stderr, up to a bound."""
        self._stderr_events += 1
        if self._stderr_events <= STDERR_EVENTS and not self._journal.at_rest:
            self._journal.add(events.stderr(line), turn_id=self._course.turn_id)
            self._journal.commit()

    def on_exit(self, failure: AgentFailed) -> None:
        """Take note that the agent is gone: the end of a turn, unless a stop is about to say so."""
        if self._course.stopping is not None:
            return
        error = outcomes.error(
            failure.reason, failure.message, retryable=failure.retryable, stderr_tail=failure.stderr_tail
        )
        if self._course.ended is not None:
            self._course.settle(outcomes.failed(pb.SESSION_PHASE_FAILED, error))
        else:
            self._on_gone()

    async def on_permission(self, tool: str, tool_input: dict[str, Any], context: PermissionContext) -> Answer:
        """Ask people, when the session's policy says so."""
        if self._journal.at_rest:
            return Answer(False, message="The turn is over; nobody can be asked.")
        policy = self._journal.record.options.interactions
        interactions, turn_id = self._course.interactions, self._course.turn_id
        return await ask_people(interactions, tool, tool_input, context, policy, turn_id=turn_id)


def _answers(frame: dict[str, Any], turn_id: str) -> bool:
    """Whether a result belongs to the prompt sent under `turn_id`."""
    uuids = frame.get("user_message_uuids") or [frame.get("user_message_uuid")]
    named = [uuid for uuid in uuids if uuid]
    if named:
        return turn_id in named
    origin = frame.get("origin")
    return not (isinstance(origin, dict) and origin.get("kind") not in (None, "human"))
