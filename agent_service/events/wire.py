"""The bytes of events: never larger than a response can carry, encoded once, joined by concatenation.

A repeated field of messages is tag, length and bytes for each; so a batch is made of stored bytes without reading them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from agentpb import agent_pb2 as pb
from google.protobuf.message import Message

from agent_service.events.text import clean, cut, cut_json, text_of, to_json

MAX_STRING = 256 << 10
"""Bytes of a string within an event."""
MAX_EVENT = 1 << 20
"""Bytes of an event, and of the raw message that goes with it."""
MAX_PARTS = 4096
"""How long a list within an event may be, once the event is above MAX_EVENT."""
MAX_PATHS = 100
"""How many cut fields are named; the last name is then an ellipsis."""

WATCH_EVENTS = pb.WatchSessionResponse.EVENTS_FIELD_NUMBER
LIST_EVENTS = pb.ListEventsResponse.EVENTS_FIELD_NUMBER

_ROOM_FOR_PATHS = 32 << 10
_USUAL = 4 << 10
_LENGTH_DELIMITED = 2
_RAW_JSON_TAG = bytes([pb.SessionEvent.RAW_JSON_FIELD_NUMBER << 3 | _LENGTH_DELIMITED])


def seal(event: pb.SessionEvent, *, session_id: str, sequence: int, time_us: int, turn_id: str) -> bytes:
    """Give an event its place in the log and encode it, once and for all; at most MAX_EVENT bytes."""
    event.session_id = clean(session_id)
    event.sequence = sequence
    event.time.FromMicroseconds(time_us)
    event.turn_id = clean(turn_id)
    return fit(event).SerializeToString()


def fit(event: pb.SessionEvent) -> pb.SessionEvent:
    """Cut what is too long, in place, and name it in `truncated_fields`. JSON stays JSON."""
    if event.ByteSize() <= MAX_STRING:
        return event
    paths = dict.fromkeys(event.truncated_fields)
    most, longest = MAX_PARTS, MAX_STRING
    if event.ByteSize() > MAX_EVENT:
        _cut_lists(event, most, paths)
    _cut_strings(event, longest, paths)
    while event.ByteSize() > MAX_EVENT - _ROOM_FOR_PATHS and longest > 1024:
        longest //= 2
        _cut_strings(event, longest, paths)
    while event.ByteSize() > MAX_EVENT - _ROOM_FOR_PATHS and most > 1:
        most //= 4
        _cut_lists(event, most, paths)
    del event.truncated_fields[:]
    event.truncated_fields.extend([path[:200] for path in list(paths)[:MAX_PATHS]])
    if len(paths) > MAX_PATHS:
        event.truncated_fields.append("…")
    return event


def _cut_strings(message: Message, longest: int, paths: dict[str, None], prefix: str = "") -> None:
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _cut_keys(value, longest, path, paths)
            for key in value:
                if isinstance(value[key], Message):
                    _cut_strings(value[key], longest, paths, f"{path}[{json.dumps(key)}].")
                elif isinstance(value[key], str) and (shorter := cut(value[key], longest)) != value[key]:
                    value[key] = shorter
                    paths[f"{path}[{json.dumps(key)}]"] = None
        elif field.message_type is not None:
            for where, each in _messages(value, path, field.is_repeated):
                _cut_strings(each, longest, paths, f"{where}.")
        elif field.type == field.TYPE_STRING and field.name != "truncated_fields":
            _cut_field(message, field.name, value, longest, path, paths)


def _cut_keys(entries: Any, longest: int, path: str, paths: dict[str, None]) -> None:
    for key in [key for key in entries if isinstance(key, str) and cut(key, longest) != key]:
        del entries[key]
        paths[path] = None


def _messages(value: Any, path: str, is_repeated: bool) -> Iterator[tuple[str, Message]]:
    if not is_repeated:
        yield path, value
        return
    for index, each in enumerate(value):
        yield f"{path}[{index}]", each


def _cut_field(message: Message, name: str, value: Any, longest: int, path: str, paths: dict[str, None]) -> None:
    shorten = cut_json if name == "json" or name.endswith("_json") else cut
    if isinstance(value, str):
        shorter = shorten(value, longest)
        if shorter is not value and shorter != value:
            setattr(message, name, shorter)
            paths[path] = None
        return
    for index, each in enumerate(value):
        if (shorter := shorten(each, longest)) != each:
            value[index] = shorter
            paths[f"{path}[{index}]"] = None


def _cut_lists(message: Message, most: int, paths: dict[str, None], prefix: str = "") -> None:
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if field.is_repeated:
            if len(value) > most:
                _drop(value, most)
                paths[path] = None
            value = list(value.values()) if hasattr(value, "values") else value
        if field.message_type is not None:
            for where, each in _messages(value, path, field.is_repeated):
                if isinstance(each, Message):
                    _cut_lists(each, most, paths, f"{where}.")


def _drop(entries: Any, most: int) -> None:
    if hasattr(entries, "keys"):
        for key in list(entries)[most:]:
            del entries[key]
    else:
        del entries[most:]


def raw_json(frame: Mapping[str, Any]) -> bytes:
    """The agent's own message as ASCII JSON; above MAX_EVENT bytes, an object that says so."""
    text = to_json(frame)
    if len(text) > MAX_EVENT:
        kind = text_of(frame.get("type"))[:200] if isinstance(frame, Mapping) else ""
        text = to_json({"truncated": True, "type": kind, "bytes": len(text)})
    return text.encode("ascii")


def with_raw(body: bytes, raw: bytes | None) -> bytes:
    """A sealed event with `raw_json` filled in, if there is any, without reading it again."""
    return b"".join((body, _RAW_JSON_TAG, _varint(len(raw)), raw)) if raw else body


def response_bytes(bodies: Iterable[bytes], field: int = WATCH_EVENTS) -> bytes:
    """Sealed events as the repeated field `field` of a response: its encoding, or the beginning of it."""
    heads = _heads(field)
    return b"".join([part for body in bodies for part in (heads[len(body)], body)])


class _Heads(dict[int, bytes]):
    """What stands before an event of so many bytes: tag and length. Those of the usual sizes are made once."""

    def __init__(self, field: int) -> None:
        super().__init__()
        self._tag = _varint(field << 3 | _LENGTH_DELIMITED)

    def __missing__(self, size: int) -> bytes:
        head = self._tag + _varint(size)
        if size < _USUAL:
            self[size] = head
        return head


_heads = cache(_Heads)


@cache
def heads(most: int, field: int = WATCH_EVENTS) -> bytes:
    """What stands before events of 0 to `most` bytes in a response, three bytes for each; below 128 they use two."""
    return b"".join(_heads(field)[size].ljust(3, b"\0") for size in range(most + 1))


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)
