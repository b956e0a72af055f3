"""Size limits of records: the budget of each, and how a record is cut to its budget.

A record (event, turn, interaction, session) is measured as a whole. Whatever the agent, its tools and its questions
contain, a record that was fitted has at most its budget, names what was cut in `truncated_fields`, and JSON stays JSON.
The budgets add up to less than MAX_RESPONSE in every response: the largest is a status with its session (MAX_SESSION),
a turn, the same turn's result again (2 * MAX_TURN), an error (MAX_ERROR) and a page of messages (MAX_EVENT).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from agentpb import agent_pb2 as pb
from google.protobuf.message import Message

from agent_service.events.text import cut, cut_json

MAX_RESPONSE = 3584 << 10
"""Bytes of a response: half a MiB less than the 4 MiB that clients accept by default."""
MAX_STRING = 256 << 10
"""Bytes of a string within a record that has to be cut, and of any string within an event or a turn."""
MAX_EVENT = 1 << 20
"""Bytes of an event, and of the agent's own message that is sent with it."""
MAX_TURN = 512 << 10
"""Bytes of a turn with its prompt, result and error."""
MAX_INTERACTION = 512 << 10
"""Bytes of an interaction, and of all pending interactions of a session together."""
MAX_SESSION = 1280 << 10
"""Bytes of a session with its options, its pending interactions and its current turn."""
MAX_ERROR = 64 << 10
"""Bytes of the message of a SessionError, and of its `stderr_tail`."""
MAX_PARTS = 4096
"""Entries of a list or map within a record that has to be cut."""
MAX_PATHS = 100
"""Cut fields that a record names; the last name is then an ellipsis."""
MAX_PATH = 200
"""Characters of a path. An entry of a map with a longer path is named by the path of its map."""

_NAMES = "truncated_fields"
_SHORTEST, _TINY = 1024, 16
_STEP = re.compile(r"[.\[]")


def fit(message: Message, most: int, longest: int = MAX_STRING) -> list[str]:
    """Cut a record in place until it has at most `most` bytes and no string above `longest` bytes.

    Returns the paths of all fields that were cut now, also of those beyond the MAX_PATHS that the record names.
    """
    if message.ByteSize() <= min(most, longest):
        return []
    paths: dict[str, None] = {}
    room = most - min(64 << 10, most // 8)
    parts = MAX_PARTS
    if message.ByteSize() > most:
        _cut_lists(message, parts, paths)
    _cut_strings(message, longest, paths)
    while message.ByteSize() > room and longest > _SHORTEST:
        longest //= 2
        _cut_strings(message, longest, paths)
    while message.ByteSize() > room and parts > 1:
        parts //= 4
        _cut_lists(message, parts, paths)
    while message.ByteSize() > room and longest > _TINY:
        longest //= 4
        _cut_strings(message, longest, paths)
    _name(message, list(paths))
    return list(paths)


def fit_keeping(message: Message, most: int, longest: int = MAX_STRING) -> dict[str, bytes]:
    """Cut a record as `fit` does; return each of its own fields that was cut for the first time, whole, by its name.

    The value is the encoding of a record of the same type that has only this field.
    """
    if message.ByteSize() <= min(most, longest):
        return {}
    before = {_first(path) for path in getattr(message, _NAMES, ())}
    whole = type(message)()
    whole.CopyFrom(message)
    fields = dict.fromkeys(_first(path) for path in fit(message, most, longest))
    return {name: _only(whole, name) for name in fields if name not in before}


def _first(path: str) -> str:
    """The field of the record itself in which a path begins."""
    return _STEP.split(path, maxsplit=1)[0]


def _only(message: Message, name: str) -> bytes:
    part = type(message)()
    field, value = message.DESCRIPTOR.fields_by_name[name], getattr(message, name)
    if field.is_repeated:
        getattr(part, name).MergeFrom(value)
    elif field.message_type is not None:
        getattr(part, name).CopyFrom(value)
    else:
        setattr(part, name, value)
    return part.SerializeToString()


def _name(message: Message, paths: list[str]) -> None:
    """Name cut fields in a record, and those of each record within it there as well."""
    if not paths:
        return
    if isinstance(message, pb.Interaction):
        message.input_truncated = True
    elif _NAMES in message.DESCRIPTOR.fields_by_name:
        _add_names(message, paths)
    for field, value in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for where, each in _messages(value, field.name, field.is_repeated):
            _name(each, [path[len(where) + 1 :] for path in paths if path.startswith(f"{where}.")])


def _add_names(message: Any, paths: list[str]) -> None:
    names = list(dict.fromkeys([*message.truncated_fields, *paths]))
    del message.truncated_fields[:]
    message.truncated_fields.extend(names[:MAX_PATHS])
    if len(names) > MAX_PATHS:
        message.truncated_fields.append("…")


def _cut_strings(message: Message, longest: int, paths: dict[str, None], prefix: str = "") -> None:
    for field, value in message.ListFields():
        path = f"{prefix}{field.name}"
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            _cut_entries(value, longest, path, paths)
        elif field.message_type is not None:
            for where, each in _messages(value, path, field.is_repeated):
                _cut_strings(each, longest, paths, f"{where}.")
        elif field.type == field.TYPE_STRING and field.name != _NAMES:
            _cut_field(message, field.name, value, longest, path, paths)


def _cut_entries(entries: Any, longest: int, path: str, paths: dict[str, None]) -> None:
    for key in [key for key in entries if isinstance(key, str) and cut(key, longest) != key]:
        del entries[key]
        paths[path] = None
    for key in entries:
        where = f"{path}[{json.dumps(key)}]"
        where = where if len(where) <= MAX_PATH - 50 else path
        if isinstance(entries[key], Message):
            _cut_strings(entries[key], longest, paths, f"{where}.")
        elif isinstance(entries[key], str) and (shorter := cut(entries[key], longest)) != entries[key]:
            entries[key] = shorter
            paths[where] = None


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
        if field.name == _NAMES:
            continue
        if field.is_repeated:
            if len(value) > most:
                _drop(value, most)
                paths[path] = None
            value = list(value.values()) if isinstance(value, Mapping) or hasattr(value, "values") else value
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
