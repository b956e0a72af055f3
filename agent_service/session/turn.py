"""Turns: what a session keeps of each prompt it was given, and the small translations around one."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from agentpb import agent_pb2 as pb

from agent_service import events
from agent_service.agents.conversations import Conversation
from agent_service.ledger import Journal, now_us
from agent_service.options import seconds_of
from agent_service.session.outcomes import Outcome
from agent_service.session.states import move

MAX_RESTARTS = 3
CONTINUE_PROMPT = "The service was restarted while you were at work. Continue where you left off."


def _new_future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


@dataclass(eq=False)
class QueuedTurn:
    """A turn that waits or runs, the request that asked for it, and a future that is done when its end is durable."""

    turn: pb.Turn
    request: pb.ExecuteRequest
    options: pb.AgentOptions = field(default_factory=pb.AgentOptions)
    """The options it runs with; unset while it waits behind another turn (see session.resolve_options)."""
    fork_of: Conversation | None = None
    recorded: bool = False
    """Whether the log has the prompt already: a restart of the service cut the turn short."""
    done: asyncio.Future[None] = field(default_factory=_new_future)
    timer: asyncio.TimerHandle | None = None

    def cancel_timer(self) -> None:
        """Stop waiting for the queue timeout."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def done_when(self, durable: asyncio.Future[None]) -> None:
        """Be done once `durable` is, or fails."""

        def finish(future: asyncio.Future[None]) -> None:
            if not self.done.done() and not future.cancelled():
                future.exception()
                self.done.set_result(None)

        durable.add_done_callback(finish)


class SentMessage(NamedTuple):
    """A message for an agent at work, and the name of its sender."""

    request: pb.SendMessageRequest
    sender: str


def new_turn(turn_id: str, prompt: str, created_by: str) -> pb.Turn:
    """Make a turn's record; a prompt above MAX_STRING bytes is cut in it, and `keep_prompt` keeps the whole."""
    turn = pb.Turn(turn_id=turn_id, prompt=prompt, created_by=created_by)
    turn.create_time.FromMicroseconds(now_us())
    events.fit(turn, events.MAX_TURN)
    return turn


def keep_prompt(journal: Journal, queued: QueuedTurn) -> None:
    """Keep a prompt that was cut in the turn's record; the caller commits."""
    if "prompt" in queued.turn.truncated_fields:
        whole = pb.Turn(prompt=queued.request.prompt)
        journal.keep(f"turn {queued.turn.turn_id}", {"prompt": whole.SerializeToString()})


def sent_turn(uuid: str, message: SentMessage, into: QueuedTurn, *, number: int) -> QueuedTurn:
    """A turn of a message that was sent into another one, whose bounds hold for it as well."""
    sent = message.request
    turn = new_turn(uuid, sent.text, message.sender)
    turn.number, turn.state = number, pb.TURN_STATE_QUEUED
    request = pb.ExecuteRequest(
        prompt=sent.text, attachments=sent.attachments, restart_policy=into.request.restart_policy
    )
    if into.request.HasField("execution_timeout"):
        request.execution_timeout.CopyFrom(into.request.execution_timeout)
    return QueuedTurn(turn, request, options=into.options)


def end_turn(turn: pb.Turn, outcome: Outcome, result: pb.TurnResult | None) -> None:
    """Write a turn's ending into its record."""
    turn.state = outcome.turn_state
    turn.end_time.FromMicroseconds(now_us())
    if result is not None:
        turn.result.CopyFrom(result)
    if outcome.turn_state == pb.TURN_STATE_ERROR and outcome.error is not None:
        turn.error.CopyFrom(outcome.error)


def record_end(
    journal: Journal,
    queued: QueuedTurn,
    outcome: Outcome,
    result: pb.TurnResult | None = None,
    raw: bytes | None = None,
) -> None:
    """Put a turn's one turn.completed into the log; the caller commits."""
    queued.cancel_timer()
    end_turn(queued.turn, outcome, result)
    journal.turn_changed(queued.turn)
    raw = raw if result is not None else None
    journal.add(events.turn_completed(queued.turn), turn_id=queued.turn.turn_id, raw=raw)


def may_continue(queued: QueuedTurn) -> bool:
    """Return whether the turn goes on by itself after a restart of the service, by its policy."""
    return queued.request.restart_policy == pb.RESTART_POLICY_RESUME and queued.turn.restart_count < MAX_RESTARTS


def requeue(turn: pb.Turn) -> None:
    """Let a turn that a restart cut short wait for its continuation."""
    turn.restart_count += 1
    turn.state = pb.TURN_STATE_QUEUED
    turn.ClearField("start_time")


def put_off(journal: Journal, queued: QueuedTurn) -> None:
    """Leave a turn that a shutdown has stopped to the next start of the service, which continues it."""
    turn = queued.turn
    requeue(turn)
    with journal.update() as record:
        record.current_turn.CopyFrom(turn)
    journal.turn_changed(turn)
    reason = "the service was shut down; the turn goes on after its next start"
    move(journal, pb.SESSION_PHASE_RECOVERING, turn_id=turn.turn_id, reason=reason)


def set_expiry(journal: Journal, request: pb.ExecuteRequest) -> None:
    """Record when a session at rest will be deleted, if its last turn asked for a time to live."""
    if request.HasField("ttl") and journal.record.HasField("rest_time"):
        with journal.update() as record:
            expires = record.rest_time.ToMicroseconds() + round(seconds_of(request.ttl) * 1e6)
            record.expire_time.FromMicroseconds(expires)


def seconds(request: pb.ExecuteRequest, name: Literal["execution_timeout", "queue_timeout"], default: float) -> float:
    """A duration of the request in seconds, or the operator's; 0 means no bound."""
    if request.HasField(name):
        return seconds_of(getattr(request, name))
    return default


def prompt_content(request: pb.ExecuteRequest) -> str | list[dict[str, Any]]:
    """The prompt as the Messages API takes it."""
    return message_content(request.prompt, request.attachments)


def message_content(text: str, attachments: Any) -> str | list[dict[str, Any]]:
    """A text and its attachments as the Messages API takes them."""
    if not attachments:
        return text
    blocks = [_attachment(attachment) for attachment in attachments]
    return [*blocks, {"type": "text", "text": text}] if text.strip() else blocks


def _attachment(attachment: pb.Attachment) -> dict[str, Any]:
    kind = "image" if attachment.media_type.startswith("image/") else "document"
    if attachment.WhichOneof("source") == "url":
        source: dict[str, Any] = {"type": "url", "url": attachment.url}
    elif attachment.media_type == "text/plain":
        source = {"type": "text", "media_type": "text/plain", "data": attachment.data.decode("utf-8", "replace")}
    else:
        data = base64.b64encode(attachment.data).decode("ascii")
        source = {"type": "base64", "media_type": attachment.media_type, "data": data}
    block: dict[str, Any] = {"type": kind, "source": source}
    if attachment.title and kind == "document":
        block["title"] = attachment.title
    return block
