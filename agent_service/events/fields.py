"""Paths of fields, as `truncated_fields` names them, and the whole of the field at a path."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from agentpb import agent_pb2 as pb
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from agent_service.events.accounting import unsolicited_result
from agent_service.events.frames import from_frame

_STEP = re.compile(r'\.?(?P<name>[a-z][a-z0-9_]*)|\[(?P<index>\d{1,9})\]|\[(?P<key>"(?:[^"\\]|\\.)*")\]')


def first_of(path: str) -> str:
    """The field of the record itself in which a path begins; empty when it is no path."""
    found = _STEP.match(path)
    return (found["name"] or "") if found is not None else ""


def field_at(record: Message, path: str) -> bytes | None:
    """The field at a path: a text as UTF-8, anything else as JSON under the contract's names; None without one."""
    value: Any = record
    place = 0
    while place < len(path):
        step = _STEP.match(path, place)
        if step is None:
            return None
        try:
            value = _next(value, step)
        except (LookupError, AttributeError, TypeError, ValueError):
            return None
        place = step.end()
    return None if value is record else _bytes_of(value)


def _next(value: Any, step: re.Match[str]) -> Any:
    if step["index"] is not None:
        return value[int(step["index"])]
    if step["key"] is not None:
        key = json.loads(step["key"])
        if key not in value:  # a map of messages makes an entry of whatever is asked for
            raise KeyError(key)
        return value[key]
    field = value.DESCRIPTOR.fields_by_name[step["name"]]
    if field.message_type is not None and not field.is_repeated and not value.HasField(field.name):
        raise KeyError(field.name)
    return getattr(value, field.name)


def _bytes_of(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else json.dumps(_plain(value), ensure_ascii=False).encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Message):
        return MessageToDict(value, preserving_proto_field_name=True)
    if isinstance(value, Mapping) or hasattr(value, "items"):
        return {str(key): _plain(each) for key, each in value.items()}
    return value if isinstance(value, str | int | float | bool) else [_plain(each) for each in value]


def event_of_raw(raw: bytes) -> pb.SessionEvent | None:
    """The event that one of the agent's own messages is, nothing of it cut; None when it is none."""
    frame = json.loads(raw)
    if frame.get("type") == "result":
        return unsolicited_result(frame)
    return from_frame(frame)
