"""Interactions: what a session's agent asks of people and who answers first; what is asked is in permissions.py.

A pending interaction is a future the agent waits on. Whoever resolves it first wins: an answer, the deadline, the
turn's end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from agentpb import agent_pb2 as pb

from agent_service import errors, events
from agent_service.agents.agent import Answer
from agent_service.ledger import Journal, RequestId, now_us
from agent_service.options import remember, seconds_of
from agent_service.session.permissions import answer_of

MAX_PENDING, MAX_PENDING_BYTES = 16, 8 << 20
"""Questions of one session that may await an answer at once, and the bytes of what they ask about."""

CLOSED_KEPT = 256
"""Resolved interactions that are remembered; the log knows the older ones."""


@dataclass
class _Pending:
    interaction: pb.Interaction
    tool_input: dict[str, Any]
    answer: asyncio.Future[Answer]
    kept: set[str] = field(default_factory=set)
    """Fields that are too long for a response, whose whole is stored already."""
    timer: asyncio.TimerHandle | None = None


class Interactions:
    """The interactions of one session. Every change goes through its journal."""

    def __init__(self, journal: Journal, changed: Callable[[], None]) -> None:
        """Call `changed` whenever the set of pending ones did, before the commit."""
        self._journal = journal
        self._changed = changed
        self._pending: dict[str, _Pending] = {}
        self._closed: dict[str, pb.Interaction] = {}

    def __contains__(self, interaction_id: str) -> bool:
        """Return whether it is remembered, pending or not."""
        return interaction_id in self._pending or interaction_id in self._closed

    def __len__(self) -> int:
        """Return how many await an answer."""
        return len(self._pending)

    @property
    def phase(self) -> pb.SessionPhase.ValueType | None:
        """The phase the pending ones put their session in; None when there are none."""
        kinds = {pending.interaction.kind for pending in self._pending.values()}
        if pb.INTERACTION_KIND_PERMISSION in kinds:
            return pb.SESSION_PHASE_AWAITING_PERMISSION
        return pb.SESSION_PHASE_AWAITING_INPUT if kinds else None

    async def ask(
        self, interaction: pb.Interaction, tool_input: dict[str, Any], policy: pb.InteractionPolicy
    ) -> Answer:
        """Put the question into the log and wait for its answer; a cancelled wait withdraws the question.

        A question beyond what may be pending is denied at once, with a warning in the log.
        """
        if (refusal := self._full(interaction)) is not None:
            noticed = pb.Warning(code="TOO_MANY_QUESTIONS", message=refusal)
            self._journal.add(events.warning(noticed), turn_id=interaction.turn_id)
            self._journal.commit()
            return Answer(False, message=refusal)
        pending = self._open(interaction, tool_input, policy)
        try:
            return await pending.answer
        finally:
            self._resolve(interaction.interaction_id, pb.INTERACTION_STATE_WITHDRAWN, by="cancel")

    def _full(self, interaction: pb.Interaction) -> str | None:
        asked = sum(len(pending.interaction.input_json) for pending in self._pending.values())
        if len(self._pending) < MAX_PENDING and asked + len(interaction.input_json) <= MAX_PENDING_BYTES:
            return None
        return (
            f"{interaction.tool_name} was denied and nobody was asked: {len(self._pending)} questions of {asked} bytes "
            f"await an answer; the most is {MAX_PENDING}, of {MAX_PENDING_BYTES} bytes. Ask again later."
        )

    def _open(self, interaction: pb.Interaction, tool_input: dict[str, Any], policy: pb.InteractionPolicy) -> _Pending:
        loop = asyncio.get_running_loop()
        interaction.interaction_id = str(uuid4())
        interaction.state = pb.INTERACTION_STATE_PENDING
        interaction.create_time.FromMicroseconds(now_us())
        pending = _Pending(interaction, tool_input, loop.create_future())
        if policy.HasField("timeout"):
            seconds = seconds_of(policy.timeout)
            interaction.expire_time.FromMicroseconds(now_us() + round(seconds * 1e6))
            pending.timer = loop.call_later(seconds, self._expire, interaction.interaction_id, policy.on_timeout)
        self._pending[interaction.interaction_id] = pending
        self._keep(pending)
        self._journal.add(events.interaction_requested(interaction), turn_id=interaction.turn_id)
        self._record()
        self._changed()
        self._journal.commit()
        return pending

    def respond(self, request: pb.RespondToInteractionRequest, *, by: str, key: RequestId | None) -> pb.Interaction:
        """Resolve with a caller's answer; `key` is written in the same commit.

        It counts once the journal is flushed. Raises InteractionClosed (with `resolved_by`), InvalidField,
        InteractionKindMismatch.
        """
        pending = self._pending.get(request.interaction_id)
        if pending is None:
            raise closed_error(self._closed[request.interaction_id])
        answer = answer_of(request, pending.interaction, pending.tool_input)
        remembered = self._remembered_with(request.allow.updated_permissions)
        interaction = pending.interaction
        interaction.message = answer.message
        interaction.updated_input_json = request.allow.updated_input_json
        if interaction.kind == pb.INTERACTION_KIND_QUESTION and answer.updated_input is not None:
            answers = answer.updated_input["answers"].items()
            interaction.answers.update({events.clean(question): events.clean(text) for question, text in answers})
        if request.allow.updated_permissions:
            with self._journal.update() as record:
                del record.remembered_permissions[:]
                record.remembered_permissions.extend(remembered)
        state = pb.INTERACTION_STATE_ALLOWED if answer.allowed else pb.INTERACTION_STATE_DENIED
        self._resolve(request.interaction_id, state, by=by, answer=answer, key=key)
        return interaction

    def _remembered_with(self, updates: Sequence[pb.PermissionUpdate]) -> list[pb.PermissionUpdate]:
        """Return the remembered permissions once `updates` are in force. Raises InvalidField."""
        record = self._journal.record
        bypass = record.options.permission_mode == pb.PERMISSION_MODE_BYPASS_PERMISSIONS
        for index, update in enumerate(updates):
            if update.mode == "bypassPermissions" and not bypass:
                raise errors.InvalidField.of(
                    f"allow.updated_permissions[{index}].mode",
                    "must not be bypassPermissions: only a turn that was started in that mode can return to it",
                )
        return remember(record.remembered_permissions, updates)

    def _expire(self, interaction_id: str, on_timeout: pb.OnTimeout.ValueType) -> None:
        interrupt = on_timeout == pb.ON_TIMEOUT_INTERRUPT
        answer = Answer(False, message="Nobody answered in time.", interrupt=interrupt)
        self._pending[interaction_id].interaction.message = answer.message
        self._resolve(interaction_id, pb.INTERACTION_STATE_EXPIRED, by="timeout", answer=answer)

    def withdraw(self, by: str) -> None:
        """Resolve all that are pending, as the work is over; the caller says where the session goes, and commits."""
        for interaction_id in list(self._pending):
            self._resolve(interaction_id, pb.INTERACTION_STATE_WITHDRAWN, by=by, over=True)

    def _resolve(
        self,
        interaction_id: str,
        state: pb.InteractionState.ValueType,
        *,
        by: str,
        answer: Answer | None = None,
        key: RequestId | None = None,
        over: bool = False,
    ) -> None:
        pending = self._pending.pop(interaction_id, None)
        if pending is None:
            return
        if pending.timer is not None:
            pending.timer.cancel()
        interaction = pending.interaction
        interaction.state = state
        interaction.resolved_by = by
        interaction.resolve_time.FromMicroseconds(now_us())
        self._remember(self._keep(pending))
        self._journal.add(events.interaction_resolved(interaction), turn_id=interaction.turn_id)
        self._record()
        if not over:
            self._changed()
            self._journal.commit(request_id=key)
        if not pending.answer.done():
            if answer is None:
                pending.answer.cancel()
            else:
                pending.answer.set_result(answer)

    def _keep(self, pending: _Pending) -> pb.Interaction:
        """Store the whole of what is too long for a response; a copy of the interaction that fits into one."""
        copy = pb.Interaction()
        copy.CopyFrom(pending.interaction)
        whole = events.fit_keeping(copy, events.MAX_INTERACTION)
        new = {name: body for name, body in whole.items() if name not in pending.kept}
        self._journal.keep(f"interaction {copy.interaction_id}", new)
        pending.kept.update(new)
        return copy

    def _remember(self, interaction: pb.Interaction) -> None:
        self._closed[interaction.interaction_id] = interaction
        while len(self._closed) > CLOSED_KEPT:
            oldest = next(iter(self._closed))
            del self._closed[oldest]

    def _record(self) -> None:
        each = events.MAX_INTERACTION // max(1, len(self._pending))
        with self._journal.update() as record:
            del record.pending_interactions[:]
            record.pending_interactions.extend(shown(pending.interaction, each) for pending in self._pending.values())


def shown(interaction: pb.Interaction, most: int = events.MAX_INTERACTION) -> pb.Interaction:
    """A copy of at most `most` bytes, however long the tool's input is."""
    copy = pb.Interaction()
    copy.CopyFrom(interaction)
    events.fit(copy, most)
    return copy


def closed_error(closed: pb.Interaction) -> errors.InteractionClosed:
    """The error for an answer that comes too late; it names who answered first."""
    return errors.InteractionClosed(
        f"interaction {closed.interaction_id} was resolved by {closed.resolved_by or 'another caller'}",
        resource=closed.interaction_id,
        metadata={"resolved_by": closed.resolved_by, "state": pb.InteractionState.Name(closed.state)},
    )
