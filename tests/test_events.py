"""What becomes of the agent's frames, and of the bytes of events."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import typing
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import claude_agent_sdk.types as sdk
import pytest
from agentpb import agent_pb2 as pb
from claude_agent_sdk import ClaudeSDKClient, ResultMessage
from claude_agent_sdk._internal.message_parser import parse_message
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent_service import events, options
from agent_service.events import RunningTotals
from agent_service.events.limits import MAX_EVENT, MAX_STRING
from agent_service.offline import OfflineModel

FRAMES = [json.loads(line) for line in (Path(__file__).parent / "data" / "frames.jsonl").read_text().splitlines()]
"""One frame of each shape, recorded from the real CLI at work with the offline model."""

RARE_FRAMES: list[dict[str, Any]] = [
    {
        "type": "rate_limit_event",
        "rate_limit_info": {"status": "allowed_warning", "resetsAt": 1_763_000_000, "rateLimitType": "five_hour"}
        | {"utilization": 0.5, "overageStatus": "allowed", "overageResetsAt": 1, "overageDisabledReason": "none"},
        "uuid": "u-1",
        "session_id": "s-1",
    },
    {
        "type": "system",
        "subtype": "task_progress",
        "task_id": "t-1",
        "description": "looks around",
        "usage": {"total_tokens": 12, "tool_uses": 3, "duration_ms": 4500},
        "uuid": "u-2",
        "session_id": "s-1",
        "tool_use_id": "toolu-1",
        "last_tool_name": "Read",
    },
    {"type": "system", "subtype": "mirror_error", "error": "store down", "key": None},
    {
        "type": "assistant",
        "message": {
            "model": "m",
            "content": [
                {"type": "server_tool_use", "id": "srv-1", "name": "advisor", "input": {"q": 1}},
                {"type": "advisor_tool_result", "tool_use_id": "srv-1", "content": {"type": "advice", "n": 2}},
            ],
        },
        "error": "rate_limit",
        "session_id": "s-1",
        "uuid": "u-3",
    },
    {
        "type": "user",
        "message": {"content": "a task ended"},
        "origin": {"kind": "task-notification"},
        "tool_use_result": ["a", 1],
        "uuid": "u-4",
    },
]

SEEN_ELSEWHERE = {
    "session_id": "the CLI's own id: Session.agent_session_id",
    "user_message_uuid": "matches results with turns: SessionEvent.turn_id",
    "user_message_uuids": "the same",
    "subtype": "says which message it is: SessionEvent.type",
}


def seal(event: pb.SessionEvent | None, sequence: int = 1) -> pb.SessionEvent:
    """The event as a client reads it."""
    assert event is not None
    body = events.seal(event, session_id="s", sequence=sequence, time_us=1_700_000_000_000_001, turn_id="t")
    assert len(body) <= MAX_EVENT
    return pb.SessionEvent.FromString(body)


def strings_of(message: Message) -> list[str]:
    """Every leaf of a message as text; JSON in it is taken apart as well."""
    found = []
    for field, value in message.ListFields():
        for each in value if field.is_repeated else [value]:
            if isinstance(each, Message):
                found += strings_of(each)
            elif field.name.endswith("json"):
                found += leaves(json.loads(each))
            else:
                found.append(str(each))
    return found


def leaves(value: Any) -> list[str]:
    """Every scalar in it as text."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        value = {name: each for name, each in value.items() if name not in SEEN_ELSEWHERE}
    if isinstance(value, dict):
        return [text for each in value.values() for text in leaves(each)]
    if isinstance(value, list):
        return [text for each in value for text in leaves(each)]
    return [] if value is None or value is False or value == "" else [str(value)]


# ------------------------------------------------------------------------------------------------------- frames


def test_every_message_of_the_sdk_has_its_event() -> None:
    seen = {type(parse_message(frame)) for frame in FRAMES + RARE_FRAMES}
    subclasses = {each for each in vars(sdk).values() if isinstance(each, type) and issubclass(each, sdk.SystemMessage)}
    assert set(typing.get_args(sdk.Message)) | subclasses <= seen
    named = [events.from_frame(frame) for frame in FRAMES + RARE_FRAMES]
    assert [event for event in named if event is not None and event.type == "unknown"] == []


def test_every_content_block_of_the_sdk_keeps_its_kind() -> None:
    kinds: dict[type, set[str]] = {}
    for frame in FRAMES + RARE_FRAMES:
        event, message = events.from_frame(frame), parse_message(frame)
        if event is None or not isinstance(message, sdk.UserMessage | sdk.AssistantMessage):
            continue
        parts = message.content if isinstance(message.content, list) else [sdk.TextBlock(message.content)]
        ours = event.user_message.content or event.assistant_message.content
        for part, block in zip(parts, ours, strict=True):
            kinds.setdefault(type(part), set()).add(str(block.WhichOneof("block")))
    assert kinds == {
        sdk.TextBlock: {"text"},
        sdk.ThinkingBlock: {"thinking"},
        sdk.ToolUseBlock: {"tool_use"},
        sdk.ToolResultBlock: {"tool_result"},
        sdk.ServerToolUseBlock: {"server_tool_use"},
        sdk.ServerToolResultBlock: {"server_tool_result"},
    }
    assert set(kinds) == set(typing.get_args(sdk.ContentBlock))


@pytest.mark.parametrize("frame", FRAMES + RARE_FRAMES, ids=lambda frame: f"{frame['type']}-{frame.get('subtype')}")
def test_what_the_sdk_reads_of_a_frame_is_in_the_event(frame: dict[str, Any]) -> None:
    event, message = events.from_frame(frame), parse_message(frame)
    if event is None or message is None or isinstance(message, sdk.StreamEvent | sdk.RateLimitEvent):
        return  # partials are checked field by field below; of a limit, all is in data_json
    if isinstance(message, sdk.SystemMessage) and not event.HasField("system_message"):
        # `data` is the whole frame, and raw_json for us
        expected = {name: value for name, value in vars(message).items() if name not in {"data", "usage", "patch"}}
        wanted = leaves({name: value for name, value in expected.items() if name not in SEEN_ELSEWHERE})
    elif isinstance(message, sdk.AssistantMessage):
        wanted = leaves(replace(message, usage=None))
        usage = message.usage or {}
        assert event.assistant_message.usage.output_tokens == usage.get("output_tokens", 0)
    else:
        wanted = leaves(message)
    said = "\0".join(strings_of(event))
    assert [text for text in wanted if text not in said] == []


def test_partials_are_ephemeral_and_say_what_is_added() -> None:
    frames = [frame for frame in FRAMES if frame["type"] == "stream_event"]
    partials = [event for frame in frames if (event := events.from_frame(frame)) is not None]
    assert all(event.ephemeral and event.type == "message.partial" for event in partials)
    by_delta = {event.partial_message.WhichOneof("delta"): event.partial_message for event in partials}
    assert by_delta["text"].text == "hello"
    assert by_delta["thinking"].thinking == "hmm"
    assert by_delta["input_json"].input_json.startswith('{"command": ')
    starts = [event.partial_message for event in partials if event.partial_message.event_type == "content_block_start"]
    assert {start.block_type for start in starts} == {"text", "thinking", "tool_use"}
    tool = next(start for start in starts if start.block_type == "tool_use")
    assert tool.tool_name == "Bash"
    assert tool.tool_use_id
    assert any(event.partial_message.message_id for event in partials)
    assert any(event.partial_message.stop_reason for event in partials)


def test_messages_of_subagents_name_the_call_that_started_them() -> None:
    frame = next(frame for frame in FRAMES if frame.get("parent_tool_use_id"))
    event = seal(events.from_frame(frame))
    assert event.parent_tool_use_id == frame["parent_tool_use_id"]
    assert event.uuid == frame["uuid"]


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "result", "subtype": "success"},
        {"type": "control_request", "request": {}},
        {"type": "control_response"},
        {"type": "keep_alive"},
        {"type": "system", "subtype": "session_state_changed", "state": "idle", "sdk_host_only": True},
        {"type": "stream_event", "event": {"type": "ping"}},
    ],
)
def test_some_frames_are_no_events(frame: dict[str, Any]) -> None:
    assert events.from_frame(frame) is None


def test_session_state_is_shown_when_it_was_asked_for() -> None:
    event = events.from_frame({"type": "system", "subtype": "session_state_changed", "state": "idle"})
    assert event is not None
    assert event.type == "message.system"


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "brand_new", "x": [1]},
        {"type": "user", "message": {"content": 7}},
        {"type": "assistant", "message": "no"},
        {"type": "system"},
        {"type": "stream_event", "event": None},
        {"type": "rate_limit_event"},
        {"type": ["system"]},
        {"no": "type"},
    ],
)
def test_what_has_no_name_is_unknown_and_complete(frame: dict[str, Any]) -> None:
    event = seal(events.from_frame(frame))
    assert event.type == "unknown"
    assert event.unknown.wire_type == (frame.get("type") if isinstance(frame.get("type"), str) else "")
    assert json.loads(event.unknown.data_json) == frame


def test_a_frame_that_is_no_object_is_unknown() -> None:
    assert seal(events.from_frame([1])).unknown.data_json == "[1]"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "text", "content_json"),
    [
        ("plain", "plain", None),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb", None),
        ([], "", None),
        (None, "", None),
        ([{"type": "text", "text": "a"}, {"type": "image", "source": {}}], "", True),
        ({"type": "odd"}, "", True),
    ],
)
def test_a_tool_result_is_text_or_json(content: Any, text: str, content_json: bool | None) -> None:
    part = {"type": "tool_result", "tool_use_id": "x", "content": content, "is_error": True}
    event = seal(events.from_frame({"type": "user", "message": {"content": [part]}}))
    block = event.user_message.content[0].tool_result
    assert block.text == text
    assert block.content_json == (json.dumps(content, separators=(",", ":")) if content_json else "")
    assert block.is_error


def test_a_block_without_a_name_is_kept_whole() -> None:
    part = {"type": "redacted_thinking", "data": "é"}
    event = seal(events.from_frame({"type": "assistant", "message": {"content": [part, 5]}}))
    first, second = event.assistant_message.content
    assert (first.unknown.type, json.loads(first.unknown.json)) == ("redacted_thinking", part)
    assert first.unknown.json.isascii()
    assert second.unknown.json == "5"


def test_lone_surrogates_are_replaced_and_json_keeps_its_escapes() -> None:
    content = [
        {"type": "text", "text": "a\ud800b\0é"},
        {"type": "tool_use", "id": "\udfff", "name": "n", "input": {"k": "\ud800"}},
    ]
    event = seal(events.from_frame({"type": "assistant", "message": {"content": content}, "uuid": "\ud800"}))
    text, tool = event.assistant_message.content
    assert text.text.text == "a�b\0é"
    assert tool.tool_use.id == "�"
    assert tool.tool_use.input_json == '{"k":"\\ud800"}'


def test_numbers_out_of_range_are_cut_at_the_end_of_it() -> None:
    usage = {"input_tokens": 10**30, "output_tokens": -(10**30), "cache_read_input_tokens": True}
    frame = {"type": "assistant", "message": {"content": [], "usage": usage | {"cache_creation_input_tokens": "9"}}}
    got = seal(events.from_frame(frame)).assistant_message.usage
    assert (got.input_tokens, got.output_tokens) == (2**63 - 1, -(2**63))
    assert (got.cache_read_input_tokens, got.cache_creation_input_tokens) == (0, 0)


# ---------------------------------------------------------------------------------------------------- anything at all

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats()
    | st.text(st.characters(blacklist_categories=()), max_size=20)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
blocks = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "thinking", "tool_use", "tool_result", "web_search_tool_result", "x"])},
    optional=dict.fromkeys(("text", "thinking", "id", "name", "input", "tool_use_id", "content"), values),
)
inner_frames = st.fixed_dictionaries(
    {"content": values | st.lists(blocks | values, max_size=4), "model": values, "usage": values, "id": values}
)
frames = st.fixed_dictionaries(
    {"type": st.sampled_from(sorted({frame["type"] for frame in FRAMES + RARE_FRAMES} | {"odd"})) | values},
    optional={
        "subtype": st.sampled_from(sorted({frame.get("subtype") or "odd" for frame in FRAMES + RARE_FRAMES})) | values,
        "message": inner_frames | values,
        "event": st.fixed_dictionaries(
            {"type": st.sampled_from(["content_block_delta", "message_start", "content_block_start", "x"])},
            optional={"delta": values | blocks, "index": values, "content_block": values, "message": values},
        )
        | values,
        "rate_limit_info": st.dictionaries(st.sampled_from(["resetsAt", "utilization", "status"]), values) | values,
        "usage": st.dictionaries(st.sampled_from(["total_tokens", "tool_uses", "duration_ms"]), values) | values,
    }
    | dict.fromkeys(("uuid", "patch", "exit_code", "parent_tool_use_id", "origin", "tool_use_result", "error"), values),
)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(frames | values)
def test_no_frame_can_raise_and_each_event_is_valid(frame: Any) -> None:
    raw = events.raw_json(frame)
    json.loads(raw)
    assert raw.isascii()
    event = events.from_frame(frame)
    if event is None:
        return
    sealed = seal(event)
    assert sealed.type
    assert sealed.WhichOneof("payload")
    for text in _json_of(sealed):
        json.loads(text, parse_constant=pytest.fail)
        assert text.isascii()


def _json_of(message: Message) -> list[str]:
    found = []
    for field, value in message.ListFields():
        for each in value if field.is_repeated else [value]:
            if isinstance(each, Message):
                found += _json_of(each)
            elif (field.name == "json" or field.name.endswith("_json")) and "PartialMessage" not in str(
                message.DESCRIPTOR.full_name
            ):
                found.append(each)
    return found


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["total_cost_usd", "usage", "errors", "duration_ms", "is_error"]), values))
def test_no_result_can_raise(frame: dict[str, Any]) -> None:
    extra = {"modelUsage": {"m": frame}, "permission_denials": [frame, 5], "structured_output": frame}
    result, totals = events.turn_result({**frame, **extra}, RunningTotals())
    again, _ = events.turn_result({**frame, **extra}, totals)
    assert result.cost_usd >= again.cost_usd == 0
    result.SerializeToString()


# ------------------------------------------------------------------------------------------------------- how large


def test_a_long_text_is_cut_at_a_character_and_said_so() -> None:
    frame = {"type": "assistant", "message": {"content": [{"type": "text", "text": "é" * 200_000}]}}
    event = seal(events.from_frame(frame))
    text = event.assistant_message.content[0].text.text
    assert text == "é" * (MAX_STRING // 2)
    assert event.truncated_fields == ["assistant_message.content[0].text.text"]


def test_a_text_that_fits_is_left_alone() -> None:
    frame = {"type": "assistant", "message": {"content": [{"type": "text", "text": "x" * MAX_STRING}]}}
    event = seal(events.from_frame(frame))
    assert len(event.assistant_message.content[0].text.text) == MAX_STRING
    assert not event.truncated_fields


def test_json_that_is_cut_stays_json() -> None:
    image = {"type": "image", "source": {"type": "base64", "data": "A" * 3_000_000}}
    part = {"type": "tool_result", "tool_use_id": "x", "content": [image]}
    event = seal(events.from_frame({"type": "user", "message": {"content": [part]}}))
    [kept] = json.loads(event.user_message.content[0].tool_result.content_json)
    assert kept["source"]["data"].startswith("AAAA")
    assert len(kept["source"]["data"]) < MAX_STRING
    assert event.truncated_fields == ["user_message.content[0].tool_result.content_json"]


def test_json_that_cannot_be_cut_says_its_size() -> None:
    event = seal(events.from_frame({"type": "odd", "numbers": list(range(200_000))}))
    assert json.loads(event.unknown.data_json)["truncated"] is True
    assert event.truncated_fields == ["unknown.data_json"]


def test_many_strings_are_cut_further_until_the_event_fits() -> None:
    content = [{"type": "text", "text": "x" * 200_000} for _ in range(40)]
    event = seal(events.from_frame({"type": "assistant", "message": {"content": content}}))
    assert len(event.assistant_message.content) == 40
    assert len(event.truncated_fields) == 40


def test_too_many_parts_are_left_out_and_the_paths_stay_few() -> None:
    content = [{"type": "text", "text": "x" * 2000}] * 1000 + [{"type": "text", "text": "y"}] * 300_000
    event = seal(events.from_frame({"type": "assistant", "message": {"content": content}}))
    assert 0 < len(event.assistant_message.content) < 300_000
    assert len(event.truncated_fields) == 101
    assert event.truncated_fields[-1] == "…"


def test_an_ending_keeps_what_it_says_however_large_it_is() -> None:
    turn = pb.Turn(turn_id="t", state=pb.TURN_STATE_COMPLETED, prompt="p" * 300_000)
    turn.result.result = "r" * 2_000_000
    for number in range(5000):
        turn.result.permission_denials.add(tool_name="Bash", tool_input_json=json.dumps({"n": number, "x": "y" * 900}))
        turn.result.model_usage["m" * 2000 + str(number)].cost_usd = 1
    event = seal(events.turn_completed(turn))
    assert event.turn_completed.turn.state == pb.TURN_STATE_COMPLETED
    assert event.turn_completed.turn.result.result.startswith("rrr")
    assert "turn_completed.turn.result.result" in event.truncated_fields


def test_a_raw_message_above_the_limit_is_sent_as_an_object_that_says_so() -> None:
    frame = {"type": "user", "message": {"content": "é" * 400_000}}
    raw = events.raw_json(frame)
    assert json.loads(raw) == frame
    body = seal(events.from_frame(frame)).SerializeToString()
    sent = pb.SessionEvent.FromString(events.with_raw(body, raw))
    assert json.loads(sent.raw_json) == {"truncated": True, "bytes": len(raw)}
    assert sent.truncated_fields == ["user_message.content[0].text.text", "raw_json"]


# ----------------------------------------------------------------------------------------------------------- bytes


def test_sealing_gives_an_event_its_place() -> None:
    event = seal(events.stderr("a\ud800"), sequence=7)
    assert (event.session_id, event.sequence, event.turn_id) == ("s", 7, "t")
    assert event.time.ToMicroseconds() == 1_700_000_000_000_001
    assert event.stderr_output.text == "a�"


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_responses_are_concatenations_of_stored_events(texts: list[bytes]) -> None:
    bodies = [seal(events.stderr(text.hex() * 3)).SerializeToString() for text in texts]
    parsed = [pb.SessionEvent.FromString(body) for body in bodies]
    watched = pb.WatchSessionResponse(events=parsed).SerializeToString()
    listed = pb.ListEventsResponse(events=parsed).SerializeToString()
    assert events.response_bytes(bodies) == watched
    assert events.response_bytes(bodies, field=events.LIST_EVENTS) == listed


def test_a_raw_message_is_added_without_reading_the_event_again() -> None:
    frame = FRAMES[1]
    body = seal(events.from_frame(frame)).SerializeToString()
    event = pb.SessionEvent.FromString(events.with_raw(body, events.raw_json(frame)))
    assert json.loads(event.raw_json) == frame
    event.ClearField("raw_json")
    assert event.SerializeToString() == body


# ------------------------------------------------------------------------------------------------------- own events


def test_a_prompt_is_recorded_without_the_bytes_of_its_attachments() -> None:
    attachments = [
        pb.Attachment(media_type="image/png", data=b"secret bytes", title="a cat"),
        pb.Attachment(media_type="application/pdf", url="https://example.com/signed?token=1"),
    ]
    event = seal(events.user_prompt("look", attachments, "u-1"))
    text, image, document = event.user_message.content
    assert (event.type, event.uuid, event.user_message.origin) == ("message.user", "u-1", "human")
    assert text.text.text == "look"
    assert json.loads(image.unknown.json) == {
        "type": "attachment",
        "media_type": "image/png",
        "bytes": 12,
        "title": "a cat",
    }
    assert json.loads(document.unknown.json) == {"type": "attachment", "media_type": "application/pdf"}


def test_every_own_event_has_its_type_and_payload() -> None:
    turn, interaction = pb.Turn(turn_id="t"), pb.Interaction(interaction_id="i")
    made = [
        events.state_changed(
            from_state=pb.SESSION_STATE_PENDING,
            from_phase=pb.SESSION_PHASE_STARTING,
            state=pb.SESSION_STATE_RUNNING,
            phase=pb.SESSION_PHASE_WORKING,
        ),
        events.turn_queued(turn),
        events.turn_started(turn, warm=True),
        events.turn_completed(turn),
        events.interaction_requested(interaction),
        events.interaction_resolved(interaction),
        events.stderr("x"),
    ]
    payloads = [event.type.replace(".", "_").replace("stderr", "stderr_output") for event in made]
    assert payloads == [event.WhichOneof("payload") for event in made]


# --------------------------------------------------------------------------------------------------------- results


def _result(cost: float, tokens: int, **more: Any) -> dict[str, Any]:
    usage = {"inputTokens": tokens, "outputTokens": 2 * tokens, "costUSD": cost, "contextWindow": 200_000}
    return {"type": "result", "total_cost_usd": cost, "modelUsage": {"m": usage}, **more}


def test_running_totals_become_figures_of_the_turn() -> None:
    _, totals = events.turn_result(_result(0.5, 10, duration_api_ms=100), RunningTotals())
    result, totals = events.turn_result(_result(0.75, 15, duration_api_ms=140, usage={"input_tokens": 5}), totals)
    assert result.cost_usd == pytest.approx(0.25)
    assert result.model_usage["m"].usage == pb.Usage(input_tokens=5, output_tokens=10)
    assert result.model_usage["m"].context_window == 200_000
    assert result.api_duration.ToMilliseconds() == 40
    assert result.usage.input_tokens == 5
    assert totals.cost_usd == 0.75


def test_a_model_that_did_nothing_in_a_turn_is_not_in_its_result() -> None:
    _, totals = events.turn_result(_result(0.5, 10), RunningTotals())
    result, _ = events.turn_result(_result(0.5, 10), totals)
    assert not result.model_usage


def test_totals_that_went_down_count_from_zero() -> None:
    _, totals = events.turn_result(_result(0.5, 10), RunningTotals())
    result, _ = events.turn_result(_result(0.125, 4), totals)
    assert result.cost_usd == 0.125
    assert result.model_usage["m"].usage.input_tokens == 4


def test_a_result_without_totals_leaves_them_as_they_were() -> None:
    _, totals = events.turn_result(_result(0.5, 10), RunningTotals())
    result, after = events.turn_result({"type": "result", "is_error": True}, totals)
    assert (result.cost_usd, after) == (0, totals)


def test_a_result_keeps_what_the_sdk_reads_of_it() -> None:
    frame = next(frame for frame in FRAMES if frame["type"] == "result") | {
        "structured_output": {"a": [1]},
        "permission_denials": [{"tool_name": "Bash", "tool_use_id": "x", "tool_input": {"command": "ls"}}],
        "errors": ["[ede_diagnostic] result_type=user", "real"],
    }
    result, _ = events.turn_result(frame, RunningTotals())
    message = parse_message(frame)
    assert isinstance(message, ResultMessage)
    for name in ("subtype", "is_error", "result", "stop_reason", "terminal_reason", "num_turns"):
        assert getattr(result, name) == getattr(message, name)
    assert result.duration.ToMilliseconds() == message.duration_ms
    assert result.structured_output_json == '{"a":[1]}'
    assert result.permission_denials[0].tool_input_json == '{"command":"ls"}'
    assert result.errors == ["real"]


def test_restored_totals_are_the_last_a_transcript_tells(tmp_path: Path) -> None:
    transcript = tmp_path / "t.jsonl"
    state = '{"type":"cost-state","totalCostUSD":%s,"totalAPIDuration":5,"modelUsage":{"m":{"inputTokens":3}}}'
    lines = ['{"type":"user"}', state % 0.25, json.dumps({"quoted": "\n" + state % 9}), state % 0.5, '{"type":"user"}']
    transcript.write_text("\n".join(lines) + "\n" + (state % 1)[:40])
    totals = events.restored_totals(transcript)
    assert (totals.cost_usd, totals.api_duration_ms) == (0.5, 5)
    assert totals.models["m"].counts[0] == 3


def test_lines_of_a_transcript_are_found_from_its_end_whatever_their_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transcript = tmp_path / "t.jsonl"
    lines = [b"x" * length + str(number).encode() for number, length in enumerate((0, 5, 63, 64, 65, 200, 1, 0, 130))]
    transcript.write_bytes(b"\n".join(lines) + b"\n")
    for piece in (1, 7, 64, 1000):
        monkeypatch.setattr("agent_service.events.transcript.PIECE", piece)
        assert list(events.lines_backwards(transcript, b"x")) == [line for line in reversed(lines) if b"x" in line]
    with transcript.open("ab") as file:
        file.truncate(1 << 40)
    monkeypatch.setattr("agent_service.events.transcript.PIECE", 1 << 20)
    monkeypatch.setattr("agent_service.events.transcript.MOST", 1 << 22)
    assert list(events.lines_backwards(transcript, b"x")) == []


def test_a_transcript_that_is_truncated_while_it_is_read_ends_nothing(tmp_path: Path) -> None:
    transcript = tmp_path / "t.jsonl"
    transcript.write_bytes((b"x" * 100_000 + b"\n") * 50)
    lines = events.lines_backwards(transcript, b"x")
    assert next(lines)
    transcript.write_bytes(b"")
    assert sum(1 for _ in lines) < 50
    transcript.unlink()
    os.mkfifo(transcript)
    assert events.restored_totals(transcript) == RunningTotals()


@pytest.mark.parametrize("content", [None, b"", b'{"type":"user"}\n', b"\xff\xfe"])
def test_a_transcript_without_totals_means_zero(tmp_path: Path, content: bytes | None) -> None:
    transcript = tmp_path / "t.jsonl"
    if content is not None:
        transcript.write_bytes(content)
    assert events.restored_totals(transcript) == RunningTotals()


@pytest.mark.process
async def test_a_resumed_conversation_is_charged_for_its_new_turn_only(tmp_path: Path) -> None:
    """With the real CLI: it restores the totals it wrote at its last orderly end, and starts at zero without them."""
    async with OfflineModel() as model:
        (tmp_path / "work").mkdir()
        env = {
            "ANTHROPIC_API_KEY": "x",
            "ANTHROPIC_BASE_URL": model.url,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CONFIG_DIR": str(tmp_path / "config"),
        }
        translated = options.to_sdk(
            pb.AgentOptions(), cwd=tmp_path / "work", env=env, scratch=tmp_path, default_model="offline"
        )
        translated = replace(translated, stderr=lambda _: None)
        session = str(uuid.uuid4())
        first, first_totals = await _one_turn(replace(translated, session_id=session), RunningTotals())
        [transcript] = (tmp_path / "config" / "projects").rglob(f"{session}.jsonl")
        restored = events.restored_totals(transcript)
        assert restored.models == first_totals.models
        second, second_totals = await _one_turn(replace(translated, resume=session), restored)
        for result in (first, second):
            assert result.cost_usd == pytest.approx(
                (result.usage.input_tokens * 4 + result.usage.output_tokens * 20) / 1e6
            )
        assert second_totals.cost_usd == pytest.approx(first.cost_usd + second.cost_usd)


async def _one_turn(translated: Any, totals: RunningTotals) -> tuple[pb.TurnResult, RunningTotals]:
    client = ClaudeSDKClient(translated)
    await client.connect()
    try:
        await client.query("tokens: 10")
        async with asyncio.timeout(30):
            result = [frame async for frame in _results(client)][-1]
    finally:
        await client.disconnect()
    return events.turn_result(result, totals)


async def _results(client: ClaudeSDKClient) -> AsyncIterator[dict[str, Any]]:
    async for message in client.receive_response():
        if isinstance(message, ResultMessage):
            yield vars(message) | {"modelUsage": message.model_usage}
