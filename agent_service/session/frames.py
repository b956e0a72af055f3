"""FrameHandler: writes the agent's frames to the log, and decides what each frame means for the run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from agentpb import agent_pb2 as pb

from agent_service import events
from agent_service.agents.agent import AgentFailed, Answer, PermissionContext
from agent_service.agents.transport import LargeFrame
from agent_service.events import MAX_ERROR, UsageOfParts, cut_front, to_json, unsolicited_result
from agent_service.ledger import Journal
from agent_service.options import check_output, permissions, takes_away
from agent_service.session import outcomes
from agent_service.session.activity import is_signal
from agent_service.session.agent_lease import AgentLease
from agent_service.session.in_force import follow
from agent_service.session.interactions import Interactions
from agent_service.session.messages import Messages
from agent_service.session.permissions import interaction_of, may_ask
from agent_service.session.run import Run
from agent_service.session.turn import SentMessage
from agent_service.session.warnings import Warnings

STDERR_EVENTS = 200
"""Lines of stderr that the log takes of one run; the tail is kept beside it."""

QUIET_AFTER_RESULT = 0.25
"""Seconds after a result in which the agent usually says that it is idle; a turn does not wait longer for that."""

PATIENCE_WITH_SENT = 5.0
"""Seconds after a result in which an agent that was sent a message is sure to begin it."""


class FrameHandler:
    """The sink of a session's agents (see agent.Sink): it records their frames, and settles the run by them.

    An agent outlives runs: between two turns it may speak while there is none.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        lease: AgentLease,
        interactions: Interactions,
        messages: Messages,
        current_run: Callable[[], Run | None],
        on_handover: Callable[[Run, str, SentMessage], None],
        on_gone: Callable[[], None],
    ) -> None:
        """Tell `on_handover` which message the agent began as a turn, and `on_gone` when it ended without a run."""
        self._journal = journal
        self._lease = lease
        self._interactions = interactions
        self._messages = messages
        self._current_run = current_run
        self._on_handover = on_handover
        self._on_gone = on_gone
        self._reported_model = ""
        self._warnings = Warnings(journal)
        self._usage = UsageOfParts()

    @property
    def _turn_id(self) -> str:
        run = self._current_run()
        return run.turn_id if run is not None else ""

    async def on_frame(self, frame: dict[str, Any]) -> None:
        """Record a frame, and act on it."""
        run = self._current_run()
        if run is not None:
            run.stall_watch.touch()
        kind = frame.get("type")
        if kind == "result":
            await self._ask_settings(frame)
            self._on_result(frame, await self._output_problem(frame))
            return
        if kind == "command_lifecycle":
            self._on_lifecycle(frame)
            return
        if kind == "system":
            self._lease.activity.observe(frame)
            if frame.get("subtype") == "init":
                self._reported_model = str(frame.get("model") or "")
                await self._lease.follow_conversation(frame.get("session_id"))
            self._follow()
            if run is not None:
                run.refused = outcomes.refused_prompt(frame) or run.refused
        if is_signal(frame):
            return
        event, raw = await _read(frame)
        if event is None:
            return
        if event.ephemeral:
            self._journal.publish(event, turn_id=self._turn_id)
            return
        if kind == "assistant":
            self._note_model(event)
            self._lease.spending.message(event, self._lease.agent)
            self._usage.keep_first(event)
        self._journal.add(event, turn_id=self._turn_id, raw=raw or events.raw_json(frame))
        if kind == "system":
            options = run.queued.options if run is not None and run.queued is not None else self._journal.record.options
            self._warnings.observe(frame, options, agent=self._lease.agent, turn_id=self._turn_id)
        self._journal.commit()
        await self._journal.keep_up()

    def _follow(self) -> None:
        """Show in the session what the agent says is in force; the caller commits."""
        if self._lease.agent is not None:
            follow(self._journal, self._lease.agent.in_force)

    async def _ask_settings(self, result: dict[str, Any]) -> None:
        """Learn what a command of the agent's own has changed, such as /model; no frame says it."""
        if result.get("local_command") and self._lease.agent is not None:
            await self._lease.agent.ask_settings()
            self._follow()

    def _record(self, event: pb.SessionEvent, raw: bytes) -> None:
        self._journal.add(event, turn_id=self._turn_id, raw=raw)
        self._journal.commit()

    def _note_model(self, event: pb.SessionEvent) -> None:
        model = event.assistant_message.model
        record = self._journal.record
        if not model or model in ("<synthetic>", record.model) or event.parent_tool_use_id:
            return
        self._reported_model = model
        # `record.model` is set only once there is a transcript to resume; the agent speaks before it has written one.
        if record.model or self._lease.pool.workspaces.transcript(record) is not None:
            self._set_model(model)

    def _had_a_result(self) -> None:
        """Set the model also where no answer named it: by now the agent has written its transcript."""
        if not self._journal.record.model and self._reported_model:
            self._set_model(self._reported_model)

    def _set_model(self, model: str) -> None:
        with self._journal.update() as record:
            record.model = model

    def came_to_idle(self) -> None:
        """End the turn whose result is in: only now has the agent said all it has to say of it."""
        if not self._messages:
            self._waited_enough()
        self.check_background()

    def _waited_enough(self) -> None:
        """End the turn whose result is in although the agent has not begun what was sent to it."""
        run = self._current_run()
        if run is not None and run.outcome is not None:
            run.settle(run.outcome)

    def check_background(self) -> None:
        """End the background work when no task is left and the agent says that it is idle."""
        run = self._current_run()
        in_background = self._journal.record.phase == pb.SESSION_PHASE_BACKGROUND
        if run is not None and in_background and not self._lease.activity.at_work:
            run.settle(outcomes.COMPLETED)

    def _on_lifecycle(self, frame: dict[str, Any]) -> None:
        """Follow a sent message: the agent takes it into its turn, or begins it as one of its own, or drops it."""
        uuid, state = str(frame.get("command_uuid")), frame.get("state")
        if uuid not in self._messages or state == "queued":
            return
        run = self._current_run()
        if state == "started" and run is not None and run.outcome is not None:
            if run.stopping is not None:
                return  # it is too late: the turn ends now, and takes the agent along
            self._on_handover(run, uuid, self._messages[uuid])
        self._messages.arrived([uuid])
        notice = events.from_frame(frame)
        if notice is not None:
            self._journal.add(notice, turn_id=self._turn_id, raw=events.raw_json(frame))
        self._journal.commit()

    async def _output_problem(self, frame: dict[str, Any]) -> str | None:
        """Return why the answer in a result does not meet the requested schema; None when it does."""
        schema = self._journal.record.options.output_schema_json
        if not schema or frame.get("is_error") or frame.get("local_command"):
            return None  # the agent carries out a command of its own, such as /clear, without asking the model
        output = frame.get("structured_output")
        return await asyncio.to_thread(check_output, schema, "" if output is None else to_json(output))

    def _on_result(self, frame: dict[str, Any], output_problem: str | None) -> None:
        result = self._lease.spending.result(frame)
        run = self._current_run()
        if run is None or not run.prompted or not _answers(frame, run.prompt_uuid):
            self._on_other_result(frame, result)
            return
        self._messages.arrived(frame.get("user_message_uuids") or ())
        run.result, run.result_raw = result, events.raw_json(frame)
        self._had_a_result()
        run.result_in.set()
        if run.stopping is None:
            run.outcome = self._outcome_of(frame, result, output_problem, run.refused)
            if self._lease.activity.busy or self._messages:
                run.timers.later(QUIET_AFTER_RESULT, self.came_to_idle)
                run.timers.later(PATIENCE_WITH_SENT, self._waited_enough)
            else:
                run.settle(run.outcome)

    def _outcome_of(
        self,
        frame: dict[str, Any],
        result: pb.TurnResult,
        output_problem: str | None,
        refused: pb.SessionError | None,
    ) -> outcomes.Outcome:
        status = frame.get("api_error_status")
        outcome = outcomes.of_result(result, status if isinstance(status, int) else None, output_problem, refused)
        if outcome.error is not None and self._lease.agent is not None:
            outcome.error.stderr_tail = cut_front(self._lease.agent.stderr_tail, MAX_ERROR)
        return outcome

    def _on_other_result(self, frame: dict[str, Any], result: pb.TurnResult) -> None:
        """Keep the figures of a turn the agent took by itself, such as one after a background task."""
        self._record(unsolicited_result(frame), events.raw_json(frame))

    def on_stderr(self, line: str) -> None:
        """Record a line of stderr, up to a bound for each run."""
        run = self._current_run()
        if run is not None and run.stderr_lines < STDERR_EVENTS:
            run.stderr_lines += 1
            self._journal.add(events.stderr(line), turn_id=run.turn_id)
            self._journal.commit()

    def on_exit(self, failure: AgentFailed) -> None:
        """End the run by the agent's exit, unless a stop is about to end it."""
        run = self._current_run()
        if run is None:
            self._on_gone()
        elif run.stopping is None:
            error = outcomes.error(
                failure.reason, failure.message, retryable=failure.retryable, stderr_tail=failure.stderr_tail
            )
            run.settle(outcomes.failed(pb.SESSION_PHASE_FAILED, error))

    async def on_permission(self, tool: str, tool_input: dict[str, Any], context: PermissionContext) -> Answer:
        """Ask people about a tool call when the session's policy lets them be asked; otherwise the answer is no."""
        if self._journal.at_rest:
            return Answer(False, message="The turn is over; nobody can be asked.")
        policy = self._lease.options.interactions
        if not may_ask(policy, tool):
            return Answer(False, message="Nobody can be asked: this session takes no such interactions.")
        interaction = interaction_of(tool, tool_input, context, turn_id=self._turn_id)
        answer = await self._interactions.ask(interaction, tool_input, policy)
        if takes_away(answer.updated_permissions) and self._lease.agent is not None:
            # The agent itself takes away only rules that it has from an answer.
            await self._lease.agent.apply_permissions(permissions(self._journal.record.remembered_permissions))
        return answer


async def _read(frame: dict[str, Any]) -> tuple[pb.SessionEvent | None, bytes | None]:
    """The event of a frame; of a large one, read in a thread, it fits already and comes with the raw message."""
    if not isinstance(frame, LargeFrame):
        return events.from_frame(frame), None
    return await asyncio.to_thread(_read_large, frame)


def _read_large(frame: LargeFrame) -> tuple[pb.SessionEvent | None, bytes | None]:
    event = events.from_frame(frame)
    if event is None:
        return None, None
    events.fit(event, events.MAX_EVENT)
    return event, events.raw_json(frame)


def _answers(frame: dict[str, Any], turn_id: str) -> bool:
    """Return whether a result belongs to the prompt sent under `turn_id`."""
    uuids = frame.get("user_message_uuids") or [frame.get("user_message_uuid")]
    named = [uuid for uuid in uuids if uuid]
    if named:
        return turn_id in named
    origin = frame.get("origin")
    return not (isinstance(origin, dict) and origin.get("kind") not in (None, "human"))
