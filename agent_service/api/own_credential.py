"""A caller's own credential in its request: refused, since an agent that has it could call in the caller's name."""

from __future__ import annotations

from google.protobuf.message import Message

from agent_service.errors import InvalidField

SHORTEST = 16
"""Characters of a token below which its text may stand in a request by chance."""


def check_own_credential(request: Message, data: bytes, bearer: str) -> None:
    """Raise InvalidField when the token of the call stands in the request, whose bytes are `data`."""
    if len(bearer) >= SHORTEST and bearer.encode() in data:
        field = _place(request, bearer) or "authorization"
        raise InvalidField.of(field, "must not have the token of this call in it: the agent could call in your name")


def _place(message: Message, text: str) -> str:
    """The path of the first field with this text in it; "" without one."""
    for field, value in message.ListFields():
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        each = value.items() if is_map else enumerate(value) if field.is_repeated else [(None, value)]
        for key, one in each:
            name = field.name if key is None else f"{field.name}[{key}]" if not is_map else f'{field.name}["{key}"]'
            if isinstance(one, Message):
                if inner := _place(one, text):
                    return f"{name}.{inner}"
            elif text in str(one) or (is_map and text in str(key)):
                return field.name if is_map and text in str(key) else name
    return ""
