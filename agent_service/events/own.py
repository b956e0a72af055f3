"""Events that the service itself makes; the agent knows nothing of them."""

from __future__ import annotations

from collections.abc import Iterable

from agentpb import agent_pb2 as pb

from agent_service.events.text import clean, to_json

OF_RECORDS = frozenset(
    {"turn_queued", "turn_started", "turn_completed", "interaction_requested", "interaction_resolved"}
)
"""Payloads that show a turn or an interaction: what is too long for the event is kept with that record."""


def state_changed(
    *,
    from_state: pb.SessionState.ValueType,
    from_phase: pb.SessionPhase.ValueType,
    state: pb.SessionState.ValueType,
    phase: pb.SessionPhase.ValueType,
    reason: str = "",
    error: pb.SessionError | None = None,
) -> pb.SessionEvent:
    """The session moved."""
    change = pb.StateChanged(
        from_state=from_state, from_phase=from_phase, state=state, phase=phase, reason=clean(reason), error=error
    )
    return pb.SessionEvent(type="state.changed", state_changed=change)


def turn_queued(turn: pb.Turn) -> pb.SessionEvent:
    """A turn was accepted."""
    queued = pb.TurnQueued(turn=turn)
    return pb.SessionEvent(type="turn.queued", turn_queued=queued, truncated_fields=_cut_in("turn_queued", turn))


def turn_started(turn: pb.Turn, warm: bool) -> pb.SessionEvent:
    """A turn's agent begins to work."""
    started = pb.TurnStarted(turn=turn, warm=warm)
    return pb.SessionEvent(type="turn.started", turn_started=started, truncated_fields=_cut_in("turn_started", turn))


def turn_completed(turn: pb.Turn) -> pb.SessionEvent:
    """A turn has ended."""
    ended = pb.TurnCompleted(turn=turn)
    return pb.SessionEvent(
        type="turn.completed", turn_completed=ended, truncated_fields=_cut_in("turn_completed", turn)
    )


def _cut_in(payload: str, turn: pb.Turn) -> list[str]:
    """Paths within an event of what was cut in its turn before."""
    return [f"{payload}.turn.{path}" if path != "…" else path for path in turn.truncated_fields]


def interaction_requested(interaction: pb.Interaction) -> pb.SessionEvent:
    """The agent asks something."""
    asked = pb.InteractionRequested(interaction=interaction)
    return pb.SessionEvent(type="interaction.requested", interaction_requested=asked)


def interaction_resolved(interaction: pb.Interaction) -> pb.SessionEvent:
    """An interaction needs no answer any more."""
    answered = pb.InteractionResolved(interaction=interaction)
    return pb.SessionEvent(type="interaction.resolved", interaction_resolved=answered)


def stderr(text: str) -> pb.SessionEvent:
    """The agent's process wrote to stderr."""
    return pb.SessionEvent(type="stderr", stderr_output=pb.StderrOutput(text=clean(text)))


def warning(noticed: pb.Warning) -> pb.SessionEvent:
    """Something that was asked for is not there."""
    return pb.SessionEvent(type="warning", warning=noticed)


def user_prompt(text: str, attachments: Iterable[pb.Attachment], uuid: str) -> pb.SessionEvent:
    """A prompt as it was given. Of attachments only kind and size are noted, never the content."""
    event = pb.SessionEvent(type="message.user", uuid=clean(uuid))
    event.user_message.origin = "human"
    if text:
        event.user_message.content.add().text.text = clean(text)
    for attachment in attachments:
        block = event.user_message.content.add().unknown
        block.type = "attachment"
        block.json = _note_of(attachment)
    return event


def _note_of(attachment: pb.Attachment) -> str:
    note: dict[str, object] = {"type": "attachment", "media_type": attachment.media_type}
    if attachment.WhichOneof("source") == "data":
        note["bytes"] = len(attachment.data)
    if attachment.title:
        note["title"] = attachment.title
    return to_json(note)
