"""One frame of the CLI → one event, for every type of frame there is and for those there are not yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from agentpb import agent_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from agent_service.events.text import int32, int64, mapping, number, text_of, to_json

NOT_EVENTS = frozenset(
    {"control_request", "control_response", "control_cancel_request", "keep_alive", "result", "transcript_mirror"}
)
"""Types of frames that no event is made of; of `result` the session makes `turn.completed`."""

NOTICES = frozenset({"auth_status", "command_lifecycle", "prompt_suggestion", "tool_progress", "tool_use_summary"})
"""Types of frames that are notices of the CLI's own, though it does not call them `system`."""

_LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z, where google.protobuf.Timestamp ends


def from_frame(frame: Mapping[str, Any]) -> pb.SessionEvent | None:
    """The event that a frame is; None for frames that are none. Never raises: what has no name becomes `unknown`."""
    kind = frame.get("type") if isinstance(frame, Mapping) else None
    if isinstance(kind, str) and kind in NOT_EVENTS:
        return None
    if kind == "system" and frame.get("subtype") == "session_state_changed" and frame.get("sdk_host_only") is True:
        return None
    event = pb.SessionEvent()
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None or not reader(frame, event):
        event.Clear()
        _unknown(frame, kind, event)
    elif kind == "stream_event" and event.partial_message.event_type == "ping":
        return None
    if isinstance(frame, Mapping):
        event.uuid = text_of(frame.get("uuid"))
        event.parent_tool_use_id = text_of(frame.get("parent_tool_use_id"))
    return event


def _unknown(frame: object, kind: object, event: pb.SessionEvent) -> None:
    event.type = "unknown"
    event.unknown.wire_type = text_of(kind)
    event.unknown.data_json = to_json(frame)


# Each reader fills in an event and says whether it could: a frame of another shape than its type promises is `unknown`.


def _user(frame: Mapping[str, Any], event: pb.SessionEvent) -> bool:
    content = mapping(frame.get("message")).get("content")
    if not isinstance(content, str | list):
        return False
    event.type = "message.user"
    message = event.user_message
    message.SetInParent()
    if isinstance(content, str):
        message.content.add().text.text = text_of(content)
    else:
        _blocks(content, message.content)
    message.origin = text_of(mapping(frame.get("origin")).get("kind"))
    if (result := frame.get("tool_use_result")) is not None:
        message.tool_use_result_json = to_json(result)
    return True


def _assistant(frame: Mapping[str, Any], event: pb.SessionEvent) -> bool:
    inner = mapping(frame.get("message"))
    content = inner.get("content")
    if not isinstance(content, list):
        return False
    event.type = "message.assistant"
    message = event.assistant_message
    message.SetInParent()
    _blocks(content, message.content)
    message.model = text_of(inner.get("model"))
    message.message_id = text_of(inner.get("id"))
    message.stop_reason = text_of(inner.get("stop_reason"))
    message.error = text_of(frame.get("error"))
    if isinstance(inner.get("usage"), Mapping):
        message.usage.CopyFrom(usage_of(inner["usage"]))
    return True


def usage_of(usage: Mapping[str, Any]) -> pb.Usage:
    """Tokens in the words of the Messages API."""
    return pb.Usage(
        input_tokens=int64(usage.get("input_tokens")),
        output_tokens=int64(usage.get("output_tokens")),
        cache_read_input_tokens=int64(usage.get("cache_read_input_tokens")),
        cache_creation_input_tokens=int64(usage.get("cache_creation_input_tokens")),
        web_search_requests=int64(mapping(usage.get("server_tool_use")).get("web_search_requests")),
    )


def _blocks(content: Iterable[object], blocks: Any) -> None:
    for part in content:
        block = blocks.add()
        if not isinstance(part, Mapping) or not _block(part, block):
            block.unknown.type = text_of(mapping(part).get("type"))
            block.unknown.json = to_json(part)


def _block(part: Mapping[str, Any], block: pb.ContentBlock) -> bool:
    match part.get("type"):
        case "text" if isinstance(part.get("text"), str):
            block.text.text = text_of(part["text"])
        case "thinking" if isinstance(part.get("thinking"), str):
            block.thinking.thinking = text_of(part["thinking"])
            block.thinking.signature = text_of(part.get("signature"))
        case "tool_use":
            _tool_use(part, block.tool_use)
        case "tool_result":
            _tool_result(part, block.tool_result)
        case "server_tool_use" | "mcp_tool_use":
            _tool_use(part, block.server_tool_use)
        case str() as kind if kind.endswith("_tool_result"):
            _tool_result(part, block.server_tool_result)
        case _:
            return False
    return True


def _tool_use(part: Mapping[str, Any], block: pb.ToolUseBlock) -> None:
    block.SetInParent()
    block.id = text_of(part.get("id"))
    block.name = text_of(part.get("name"))
    block.input_json = to_json(part.get("input", {}))


def _tool_result(part: Mapping[str, Any], block: pb.ToolResultBlock) -> None:
    block.SetInParent()
    block.tool_use_id = text_of(part.get("tool_use_id"))
    block.is_error = part.get("is_error") is True
    content = part.get("content")
    texts = _only_texts(content)
    if texts is not None:
        block.text = "\n".join(map(text_of, texts))
    elif content is not None:
        block.content_json = to_json(content)


def _only_texts(content: object) -> list[str] | None:
    """The texts of content that is nothing but text; None when it is more, or nothing."""
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list):
        return None
    texts = [
        part["text"]
        for part in content
        if isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)
    ]
    return texts if len(texts) == len(content) else None


def _system(frame: Mapping[str, Any], event: pb.SessionEvent) -> bool:
    subtype = frame["type"] if frame["type"] in NOTICES else frame.get("subtype")
    if not isinstance(subtype, str):
        return False
    reader = _SYSTEM_READERS.get(subtype)
    if reader is not None:
        reader(frame, event)
        return True
    event.type = "message.system"
    event.system_message.subtype = text_of(subtype)
    event.system_message.data_json = to_json(frame)
    return True


def _task(frame: Mapping[str, Any], event: pb.SessionEvent) -> None:
    patch = mapping(frame.get("patch"))
    task = event.task
    event.type = "task." + frame["subtype"].removeprefix("task_")
    task.SetInParent()
    task.task_id = text_of(frame.get("task_id"))
    task.tool_use_id = text_of(frame.get("tool_use_id"))
    task.description = text_of(frame.get("description", patch.get("description")))
    task.task_type = text_of(frame.get("task_type"))
    task.status = text_of(frame.get("status", patch.get("status")))
    task.summary = text_of(frame.get("summary"))
    task.output_file = text_of(frame.get("output_file"))
    task.last_tool_name = text_of(frame.get("last_tool_name"))
    if isinstance(frame.get("usage"), Mapping):
        usage = frame["usage"]
        task.total_tokens = int64(usage.get("total_tokens"))
        task.tool_uses = int32(usage.get("tool_uses"))
        task.duration.CopyFrom(duration_of(usage.get("duration_ms")))
    if event.type == "task.updated":
        task.patch_json = to_json(patch)


def duration_of(milliseconds: object) -> Duration:
    """Milliseconds as a Duration, never negative, a thousand years at most."""
    whole = max(0, min(int64(milliseconds), 1000 * 366 * 86_400_000))
    return Duration(seconds=whole // 1000, nanos=whole % 1000 * 1_000_000)


def _hook(frame: Mapping[str, Any], event: pb.SessionEvent) -> None:
    event.type = "hook." + frame["subtype"].removeprefix("hook_")
    hook = event.hook
    hook.SetInParent()
    names = (frame.get("hook_event"), frame.get("hook_name"), frame.get("hook_event_name"))
    hook.hook_event_name = next(filter(None, map(text_of, names)), "")
    hook.hook_name = text_of(frame.get("hook_name"))
    hook.hook_id = text_of(frame.get("hook_id"))
    hook.output = text_of(frame.get("output"))
    if isinstance(frame.get("exit_code"), int):
        hook.exit_code = int32(frame["exit_code"])
    hook.outcome = text_of(frame.get("outcome"))


def _partial(frame: Mapping[str, Any], event: pb.SessionEvent) -> bool:
    inner = frame.get("event")
    if not isinstance(inner, Mapping) or not isinstance(inner.get("type"), str):
        return False
    event.type = "message.partial"
    event.ephemeral = True
    partial = event.partial_message
    partial.event_type = text_of(inner["type"])
    partial.index = int32(inner.get("index"))
    delta = mapping(inner.get("delta"))
    match delta.get("type"):
        case "text_delta":
            partial.text = text_of(delta.get("text"))
        case "thinking_delta":
            partial.thinking = text_of(delta.get("thinking"))
        case "input_json_delta":
            partial.input_json = text_of(delta.get("partial_json"))
    match inner["type"]:
        case "content_block_start":
            block = mapping(inner.get("content_block"))
            partial.block_type = text_of(block.get("type"))
            partial.tool_name = text_of(block.get("name"))
            partial.tool_use_id = text_of(block.get("id"))
        case "message_start":
            partial.message_id = text_of(mapping(inner.get("message")).get("id"))
        case "message_delta":
            partial.stop_reason = text_of(delta.get("stop_reason"))
            if isinstance(inner.get("usage"), Mapping):
                partial.usage.CopyFrom(usage_of(inner["usage"]))
    return True


def _rate_limit(frame: Mapping[str, Any], event: pb.SessionEvent) -> bool:
    info = frame.get("rate_limit_info")
    if not isinstance(info, Mapping):
        return False
    event.type = "rate_limit"
    limit = event.rate_limit
    limit.status = text_of(info.get("status"))
    limit.rate_limit_type = text_of(info.get("rateLimitType"))
    resets_at = int64(info.get("resetsAt"))
    if 0 < resets_at <= _LAST_SECOND:
        limit.reset_time.FromSeconds(resets_at)
    if isinstance(info.get("utilization"), int | float):
        limit.utilization = number(info["utilization"])
    limit.data_json = to_json(info)
    return True


def _conversation_reset(frame: Mapping[str, Any], event: pb.SessionEvent) -> bool:
    event.type = "conversation.reset"
    event.conversation_reset.SetInParent()
    event.conversation_reset.new_conversation_id = text_of(frame.get("new_conversation_id"))
    return True


_READERS: Mapping[str, Callable[[Mapping[str, Any], pb.SessionEvent], bool]] = {
    "user": _user,
    "assistant": _assistant,
    "system": _system,
    "stream_event": _partial,
    "rate_limit_event": _rate_limit,
    "conversation_reset": _conversation_reset,
    **dict.fromkeys(NOTICES, _system),
}

_SYSTEM_READERS: Mapping[str, Callable[[Mapping[str, Any], pb.SessionEvent], None]] = {
    "task_started": _task,
    "task_progress": _task,
    "task_notification": _task,
    "task_updated": _task,
    "hook_started": _hook,
    "hook_response": _hook,
}
