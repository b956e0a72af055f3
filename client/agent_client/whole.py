"""Makes records whole again: reads what was cut in them, field by field."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from agentpb import agent_pb2 as pb
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from agent_client import errors

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
    """The record with nothing cut: itself, when it was not, or else a copy that was filled in.

    What the service did not keep (an earlier version cut it) stays as it is, and named.
    """
    if isinstance(record, pb.Interaction):
        return await _interaction(read, session_id, record) if record.input_truncated else record
    if not record.truncated_fields or (isinstance(record, pb.SessionEvent) and record.ephemeral):
        return record
    if isinstance(record, pb.Turn):
        whole = _copy(record)
        await _fill_turn(read, session_id, whole, record.truncated_fields)
        return whole
    return await _event(read, session_id, record)


async def _interaction(read: Read, session_id: str, interaction: pb.Interaction) -> pb.Interaction:
    whole = _copy(interaction)
    # Which fields were cut is not said, so all that may be long are read.
    names = [
        field.name
        for field in pb.Interaction.DESCRIPTOR.fields
        if field.name not in _SHORT and field.type in (field.TYPE_STRING, field.TYPE_MESSAGE)
    ]
    lost = await _fill(read, whole, names, session_id=session_id, interaction_id=interaction.interaction_id)
    whole.input_truncated = bool(lost)
    return whole


async def _event(read: Read, session_id: str, event: pb.SessionEvent) -> pb.SessionEvent:
    whole = _copy(event)
    names = _first_names(event.truncated_fields) - {"…"}
    payload = str(event.WhichOneof("payload"))
    lost: set[str] = set()
    if payload in names and payload in (*_TURNS, *_INTERACTIONS):
        names.remove(payload)
        if not await _fill_shown(read, session_id, whole, payload):
            lost.add(payload)
    lost |= await _fill(read, whole, names, session_id=session_id, sequence=event.sequence)
    _keep_names(whole, lost)
    return whole


async def _fill_shown(read: Read, session_id: str, event: pb.SessionEvent, payload: str) -> bool:
    """Fill in the turn or the interaction that an event shows, which is kept with that record; whether it is whole."""
    kind = "turn" if payload in _TURNS else "interaction"
    shown, prefix = getattr(getattr(event, payload), kind), f"{payload}.{kind}."
    paths = [path.removeprefix(prefix) for path in event.truncated_fields if path == "…" or path.startswith(prefix)]
    if kind == "turn":
        return await _fill_turn(read, session_id, shown, paths)
    names = _first_names(paths)
    if "…" in names:
        shown.CopyFrom(await _interaction(read, session_id, shown))
        return not shown.input_truncated
    lost = await _fill(read, shown, names, session_id=session_id, interaction_id=shown.interaction_id)
    shown.input_truncated = bool(lost)
    return not lost


async def _fill_turn(read: Read, session_id: str, turn: pb.Turn, paths: Iterable[str]) -> bool:
    """Fill in a turn in place; whether it is whole."""
    cut = _first_names(paths)
    present = {field.name for field, _ in turn.ListFields()}
    names = [name for name in ("prompt", "result", "error") if name in cut or ("…" in cut and name in present)]
    lost = await _fill(read, turn, names, session_id=session_id, turn_id=turn.turn_id)
    _keep_names(turn, lost)
    if turn.HasField("result") and "result" not in lost:
        del turn.result.truncated_fields[:]
    return not lost


def _keep_names(record: pb.SessionEvent | pb.Turn, lost: set[str]) -> None:
    """Name only what is still cut."""
    names = [path for path in record.truncated_fields if _STEP.split(path, maxsplit=1)[0] in lost]
    del record.truncated_fields[:]
    record.truncated_fields.extend(names)


def _first_names(paths: Iterable[str]) -> set[str]:
    """The record's own fields in which something was cut; an ellipsis when not all are named."""
    return {_STEP.split(path, maxsplit=1)[0] for path in paths}


async def _fill(read: Read, record: Message, names: Iterable[str], **where: Any) -> set[str]:
    """Replace fields by what the service has of them, a text or JSON; the names of those that it has not kept."""
    lost = set()
    for name in names:
        field = record.DESCRIPTOR.fields_by_name[name]
        try:
            text = await read(field=name, **where)
        except errors.InvalidField:
            lost.add(name)
            continue
        if field.type == field.TYPE_STRING and not field.is_repeated:
            setattr(record, name, text)
        else:
            record.ClearField(name)
            ParseDict({name: json.loads(text)}, record, ignore_unknown_fields=True)
    return lost


def _copy(record: R) -> R:
    copy = type(record)()
    copy.CopyFrom(record)
    return copy
