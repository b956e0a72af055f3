"""Python values → AgentOptions and ExecuteRequest: the SDK's names and shapes, or the proto's, here and nowhere else.

What may be passed is told in arguments.py. An unknown name is a TypeError that names the nearest ones.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import mimetypes
import os
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, Unpack

from agentpb import agent_pb2 as pb
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from agent_client.arguments import ExecuteArguments, FilterArguments, Json, OptionArguments, Seconds

__all__ = [
    "ExecuteArguments",
    "FilterArguments",
    "OptionArguments",
    "agent_options",
    "attachment",
    "build",
    "duration",
    "enum_number",
    "execute_request",
    "prepare_request",
    "session_filter",
]

_Message = TypeVar("_Message", bound=Message)


def execute_request(prompt: str, **arguments: Unpack[ExecuteArguments]) -> pb.ExecuteRequest:
    """Build the request of Execute; it always has a request id, so that it may be retried."""
    fields = {name: value for name, value in arguments.items() if name in pb.ExecuteRequest.DESCRIPTOR.fields_by_name}
    named = {name: value for name, value in arguments.items() if name not in fields}
    options = _options(fields.pop("options", None), named)
    request = pb.ExecuteRequest(prompt=prompt, options=options)
    _fill(request, fields)
    _clear_what_was_emptied(request, named)
    request.request_id = request.request_id or str(uuid.uuid4())
    return request


def prepare_request(count: int, hold: Seconds | None, profile: str, **named: Any) -> pb.PrepareAgentsRequest:
    """Build the request of PrepareAgents; options are passed as to Execute."""
    options = _options(named.pop("options", None), named)
    request = pb.PrepareAgentsRequest(count=count, profile=profile, options=options)
    _fill(request, {"hold": hold})
    return request


def _options(options: Any, named: Mapping[str, Any]) -> pb.AgentOptions | None:
    if options is not None and named:
        raise TypeError(f"pass either options= or options by name, not both: {', '.join(sorted(named))}")
    return agent_options(**named) if named else build(pb.AgentOptions, options) if options is not None else None


def agent_options(**options: Any) -> pb.AgentOptions:
    """Build AgentOptions from keyword arguments under the SDK's names or the proto's."""
    message = pb.AgentOptions()
    for name, value in options.items():
        field, shape = _ALIASES.get(name, (name, None))
        if field not in pb.AgentOptions.DESCRIPTOR.fields_by_name:
            raise TypeError(_unknown_option(name))
        if value is not None:
            _fill(message, {field: shape(value) if shape else value})
    return message


def session_filter(**conditions: Unpack[FilterArguments]) -> pb.SessionFilter:
    """Build the filter that listing and cleanup share."""
    return build(pb.SessionFilter, conditions)


def attachment(source: pb.Attachment | Json | os.PathLike[str]) -> pb.Attachment:
    """Make an attachment of a file, or of a dict with `media_type` and `data` or `url`."""
    if not isinstance(source, os.PathLike):
        return build(pb.Attachment, source)
    path = Path(source)
    media_type = mimetypes.guess_type(path.name)[0] or "text/plain"
    return pb.Attachment(media_type=media_type, data=path.read_bytes(), title=path.name)


def build(kind: type[_Message], value: Any) -> _Message:
    """Make a message of `kind` from a dict, a dataclass, or a message of that kind."""
    message = kind()
    _fill_message(message, value, kind.DESCRIPTOR.name)
    return message


def duration(value: Seconds | None) -> Duration | None:
    """Make a Duration of seconds or a timedelta; None stays None."""
    return None if value is None else build(Duration, value)


def enum_number(enum: EnumDescriptor, value: str | int) -> int:
    """Return the number of an enum value named in any usual way: "acceptEdits", "ACCEPT_EDITS", or in full."""
    if not isinstance(value, str):
        return int(value)
    prefix = f"{_snake(enum.name).upper()}_"
    word = _snake(value).upper().replace("-", "_").removeprefix(prefix)
    known = enum.values_by_name
    if prefix + word in known:
        return int(known[prefix + word].number)
    choices = ", ".join(name.removeprefix(prefix).lower() for name in known if not name.endswith("_UNSPECIFIED"))
    raise ValueError(f"{value!r} is no {enum.name}; choose one of: {choices}")


def _fill(message: Message, values: Mapping[str, Any], path: str = "") -> None:
    fields = message.DESCRIPTOR.fields_by_name
    for key, value in values.items():
        name = key if key in fields else _snake(key)
        where = f"{path}.{name}" if path else name
        if name not in fields:
            raise TypeError(_unknown(where, name, fields))
        if value is not None:
            _set(message, fields[name], value, where)


def _set(message: Message, field: Any, value: Any, where: str) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        _set_map(message, field, value, where)
    elif field.is_repeated:
        _set_list(message, field, value, where)
    elif field.message_type is not None:
        _fill_message(getattr(message, field.name), value, where)
    else:
        _checked(where, value, partial(_assign, message, field, value))


def _set_map(message: Message, field: Any, value: Any, where: str) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{where} takes a dict, not {type(value).__name__}")
    entries = getattr(message, field.name)
    of = field.message_type.fields_by_name["value"]
    for key, each in value.items():
        if of.message_type is not None:
            _fill_message(entries[key], each, f"{where}[{key!r}]")
        else:
            _checked(f"{where}[{key!r}]", each, partial(entries.__setitem__, key, each or ""))


def _set_list(message: Message, field: Any, value: Any, where: str) -> None:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise TypeError(f"{where} takes a list, not {type(value).__name__}")
    entries = getattr(message, field.name)
    for each in value:
        if field.message_type is not None:
            _fill_message(entries.add(), each, where)
        else:
            _checked(where, each, partial(_append, entries, field, each))


def _fill_message(message: Message, value: Any, where: str) -> None:
    shape = _SHAPES.get(message.DESCRIPTOR.full_name)
    if shape is not None and not isinstance(value, type(message)):
        value = shape(value)
    if isinstance(value, type(message)):
        message.CopyFrom(value)
        return
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if not isinstance(value, Mapping):
        raise TypeError(f"{where} takes a dict or a {message.DESCRIPTOR.name}, not {type(value).__name__}")
    message.SetInParent()
    _fill(message, value, where)


def _assign(message: Message, field: Any, value: Any) -> None:
    setattr(message, field.name, _scalar(field, value))


def _append(entries: Any, field: Any, value: Any) -> None:
    entries.append(_scalar(field, value))


def _scalar(field: Any, value: Any) -> Any:
    if field.enum_type is not None:
        return enum_number(field.enum_type, value)
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _checked(where: str, value: Any, assign: Callable[[], None]) -> None:
    """Assign, and name the field when its value is of the wrong type; never the value, which may be a secret."""
    try:
        assign()
    except TypeError as error:
        raise TypeError(f"{where} does not take {type(value).__name__}") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _clear_what_was_emptied(request: pb.ExecuteRequest, named: Mapping[str, Any]) -> None:
    """Say openly that a list emptied on resume is to be empty: the wire cannot tell it from one that is not given."""
    if not (request.session_id or request.fork_from):
        return
    fields = pb.AgentOptions.DESCRIPTOR.fields_by_name
    for name, value in named.items():
        is_list = name in fields and fields[name].is_repeated
        if is_list and value is not None and not value and name not in {"tools", "skills", *request.clear_options}:
            request.clear_options.append(name)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _unknown(where: str, name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known are: {', '.join(sorted(known))}"
    return f"unknown field {where}; {hint}"


def _unknown_option(name: str) -> str:
    if name in _ELSEWHERE:
        return f"option {name!r} has no meaning from afar: {_ELSEWHERE[name]}"
    known = [*OptionArguments.__annotations__, *ExecuteArguments.__annotations__]
    close = list(dict.fromkeys(difflib.get_close_matches(name, known, n=3)))
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"unknown option {name!r}{hint}"


# --- the SDK's shapes -------------------------------------------------------------------------------------------------


def _json_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _tools(value: Any) -> Any:
    if isinstance(value, Mapping):
        return ["default"]
    return value if isinstance(value, str) else list(value) or ["none"]


def _skills(value: Any) -> Any:
    return [value] if value == "all" else value if isinstance(value, str) else list(value) or ["none"]


def _plugins(value: Any) -> Any:
    return [each["path"] if isinstance(each, Mapping) else each for each in value]


def _system_prompt(value: Any) -> Any:
    if isinstance(value, str):
        return {"text": value}
    fields = dict(value)
    if fields.pop("type", "") == "file":
        raise TypeError("system_prompt: the service cannot read your file; pass its text")
    if "prompt" in fields:
        fields["text"] = fields.pop("prompt")
    return fields


def _thinking(value: Any) -> Any:
    return {("mode" if key == "type" else key): each for key, each in dict(value).items()}


def _mcp_server(value: Any) -> Any:
    fields = dict(value)
    if fields.keys() <= {"stdio", "sse", "http", "configured"}:
        return fields
    kind = fields.pop("type", "stdio")
    if kind not in {"stdio", "sse", "http"}:
        raise TypeError(
            f"mcp_servers: a server of type {kind!r} cannot be reached by the service; use stdio, sse or http"
        )
    return {kind: fields}


def _interactions(value: Any) -> Any:
    return {"permissions": value, "questions": value} if isinstance(value, bool) else value


def _duration(value: Any) -> Any:
    message = Duration()
    message.FromTimedelta(value if isinstance(value, timedelta) else timedelta(seconds=float(value)))
    return message


def _timestamp(value: Any) -> Any:
    message = Timestamp()
    message.FromDatetime(value)
    return message


def _string_list(value: Any) -> Any:
    return value if isinstance(value, Mapping) else {"values": value}


def _attachment(value: Any) -> Any:
    return attachment(value) if isinstance(value, os.PathLike) else value


_SHAPES: dict[str, Callable[[Any], Any]] = {
    "agentservice.v1.Attachment": _attachment,
    "agentservice.v1.InteractionPolicy": _interactions,
    "agentservice.v1.McpServer": _mcp_server,
    "agentservice.v1.StringList": _string_list,
    "agentservice.v1.SystemPrompt": _system_prompt,
    "agentservice.v1.Thinking": _thinking,
    "google.protobuf.Duration": _duration,
    "google.protobuf.Timestamp": _timestamp,
}

# Option as the caller names it → field of AgentOptions, and what becomes of its value.
_ALIASES: dict[str, tuple[str, Callable[[Any], Any] | None]] = {
    "max_thinking_tokens": (
        "thinking",
        lambda tokens: {"mode": "enabled", "budget_tokens": tokens} if tokens else {"mode": "disabled"},
    ),
    "output_format": ("output_schema_json", lambda value: _json_text(value["schema"])),
    "output_schema": ("output_schema_json", _json_text),
    "output_schema_json": ("output_schema_json", _json_text),
    "plugins": ("plugins", _plugins),
    "resume_session_at": ("resume_at_message_uuid", None),
    "settings": ("settings_json", _json_text),
    "settings_json": ("settings_json", _json_text),
    "skills": ("skills", _skills),
    "task_budget": ("task_budget_tokens", lambda value: value["total"] if isinstance(value, Mapping) else value),
    "tools": ("tools", _tools),
}

_ELSEWHERE = {
    "can_use_tool": "pass interactions=True, watch for interaction.requested and answer with allow or deny",
    "cli_path": "the operator of the service chooses the program",
    "continue_conversation": "pass session_id= of the session to continue",
    "debug_stderr": "watch events of type stderr",
    "fork_session": "pass fork_from= with the session to branch from",
    "hooks": "hooks are functions of the service's process; watch the events instead",
    "load_timeout_ms": "the service keeps its own ledger",
    "max_buffer_size": "the service sets it",
    "permission_prompt_tool_name": "pass interactions=True",
    "resume": "pass session_id= of the session to continue",
    "resume_drops_turn": "pass resume_at_message_uuid= and fork_from=",
    "session_id": "it is an argument of execute",
    "session_store_flush": "the service keeps its own ledger",
    "session_store": "the service keeps its own ledger",
    "stderr": "watch events of type stderr",
    "user": "the operator of the service chooses it",
}
