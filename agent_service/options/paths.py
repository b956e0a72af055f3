"""Every value within a message, under the path a caller knows: `mcp_servers["x"].http.url`, `add_dirs[0]`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

MAX_KEY = 256


def leaves(message: Message, prefix: str = "") -> Iterator[tuple[str, FieldDescriptor, Any]]:
    """Every value that is set, however deep, with its path and field; keys of maps are among them."""
    for field, value in message.ListFields():
        where = f"{prefix}{field.name}"
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            item = field.message_type.fields_by_name["value"]
            for key, each in value.items():
                yield f"{where}[{quoted(key)}]", field.message_type.fields_by_name["key"], key
                yield from _leaf(f"{where}[{quoted(key)}]", item, each)
        elif field.is_repeated:
            for index, each in enumerate(value):
                yield from _leaf(f"{where}[{index}]", field, each)
        else:
            yield from _leaf(where, field, value)


def _leaf(where: str, field: FieldDescriptor, value: Any) -> Iterator[tuple[str, FieldDescriptor, Any]]:
    if isinstance(value, Message):
        yield from leaves(value, f"{where}.")
    else:
        yield where, field, value


def quoted(key: str) -> str:
    """A map's key as it stands in a field path; long ones are cut."""
    return json.dumps(key if len(key) <= MAX_KEY else key[:MAX_KEY] + "…", ensure_ascii=False)
