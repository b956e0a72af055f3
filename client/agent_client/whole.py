"""Makes records whole again: reads what was cut in them, field by field."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from agentpb import agent_pb2 as pb
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

Read = Callable[..., Awaitable[str]]
"""AgentClient.read_field."""

R = TypeVar("R", pb.SessionEvent, pb.Turn, pb.Interaction)

_STEP = re.compile(r"[.\[]")
_TURNS = ("turn_queued", "turn_started", "turn_completed")
_SHORT = frozenset(
    {"interaction_id", "turn_id", "tool_use_id", "create_time", "expire_time", "resolve_time", "resolved_by"}
)
_INTERACTIONS = ("interaction_requested", "interaction_resolved")


async def complete(read: Read, session_id: str, record: R) -> R:
    """The record with nothing cut: itself, when it was not, or else a copy that was filled in."""
    if isinstance(record, pb.Interaction):
        return await _interaction(read, session_id, record) if record.input_truncated else record
    if not record.truncated_fields:
        return record
    if isinstance(record, pb.Turn):
        return await _turn(read, session_id, record)
    return await _event(read, session_id, record)


async def _turn(read: Read, session_id: str, turn: pb.Turn) -> pb.Turn:
    whole, cut = _copy(turn), _first_names(turn.truncated_fields)
    names = [name for name in ("prompt", "result", "error") if name in cut or ("…" in cut and _has(turn, name))]
    await _fill(read, whole, names, session_id=session_id, turn_id=turn.turn_id)
    del whole.truncated_fields[:]
    if turn.HasField("result"):
        del whole.result.truncated_fields[:]
    return whole


async def _interaction(read: Read, session_id: str, interaction: pb.Interaction) -> pb.Interaction:
    whole = _copy(interaction)
    # Which fields were cut is not said, so all that may be long are read.
    names = [
        field.name
        for field in pb.Interaction.DESCRIPTOR.fields
        if field.name not in _SHORT and field.type in (field.TYPE_STRING, field.TYPE_MESSAGE)
    ]
    await _fill(read, whole, names, session_id=session_id, interaction_id=interaction.interaction_id)
    whole.input_truncated = False
    return whole


async def _event(read: Read, session_id: str, event: pb.SessionEvent) -> pb.SessionEvent:
    whole = _copy(event)
    names = _first_names(event.truncated_fields) - {"…"}
    del whole.truncated_fields[:]
    payload = str(event.WhichOneof("payload"))
    if payload in names and payload in (*_TURNS, *_INTERACTIONS):
        names.remove(payload)
        await _fill_shown(read, session_id, getattr(whole, payload))
    await _fill(read, whole, names, session_id=session_id, sequence=event.sequence)
    return whole


async def _fill_shown(read: Read, session_id: str, payload: Any) -> None:
    """Fill in the turn or the interaction that an event shows; it has been kept with that record."""
    if "turn" in payload.DESCRIPTOR.fields_by_name:
        payload.turn.CopyFrom(await complete(read, session_id, payload.turn))
    else:
        payload.interaction.CopyFrom(await complete(read, session_id, payload.interaction))


def _has(turn: pb.Turn, name: str) -> bool:
    return any(field.name == name for field, _ in turn.ListFields())


def _first_names(paths: Iterable[str]) -> set[str]:
    """The record's own fields in which something was cut; an ellipsis when not all are named."""
    return {_STEP.split(path, maxsplit=1)[0] for path in paths}


async def _fill(read: Read, record: Message, names: Iterable[str], **where: Any) -> None:
    """Replace fields by what the service has of them: a text, or a message, list or map as JSON."""
    for name in names:
        text = await read(field=name, **where)
        field = record.DESCRIPTOR.fields_by_name[name]
        if field.type == field.TYPE_STRING and not field.is_repeated:
            setattr(record, name, text)
        else:
            record.ClearField(name)
            ParseDict({name: json.loads(text)}, record, ignore_unknown_fields=True)


def _copy(record: R) -> R:
    copy = type(record)()
    copy.CopyFrom(record)
    return copy
