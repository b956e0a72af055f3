"""Masks: no form of a secret's value stays in what an agent says."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from claude_agent_sdk import PermissionUpdate
from claude_agent_sdk.types import PermissionRuleValue
from hypothesis import given
from hypothesis import strategies as st

from agent_service.agents.failures import AgentFailed
from agent_service.agents.masks import MASK, MaskedSink, Masks
from agent_service.agents.permission import Answer
from agent_service.agents.sink import PermissionContext
from agent_service.agents.transport import LargeFrame

VALUE = 'pass"w\\ord ü/+ tökn'
VALUES = st.text(st.characters(codec="utf-8"), min_size=8, max_size=40)
AROUND = st.text(max_size=6)


@given(VALUES, AROUND, AROUND)
def test_a_value_is_masked_as_it_is_in_json_and_in_base64(value: str, before: str, after: str) -> None:
    masks, around = Masks([value]), before + value + after
    for text in (
        around,
        json.dumps(around),
        json.dumps(around, ensure_ascii=False),
        json.dumps(json.dumps(around)),
        json.dumps(json.dumps(around, ensure_ascii=False), ensure_ascii=False),
    ):
        assert value not in masks.text(text)
        assert json.dumps(value)[1:-1] not in masks.text(text)
    for encode in (base64.standard_b64encode, base64.urlsafe_b64encode):
        body = around.encode()
        assert MASK in masks.text(encode(body).decode())


def test_short_values_are_left_alone() -> None:
    masks = Masks(["1234567"])

    assert not masks
    assert masks.text("1234567") == "1234567"


def test_every_line_of_a_value_is_masked() -> None:
    masks = Masks(["-----BEGIN KEY-----\nAAAABBBBCCCC\nend\n"])

    assert masks.text("grep: AAAABBBBCCCC\nend") == "grep: ***\nend"


def test_a_frame_is_masked_wherever_the_value_is_and_however_deep() -> None:
    frame: dict[str, object] = {"type": "user", "n": 1, "deep": [{VALUE: [VALUE, {"x": f"a {VALUE} b"}]}, None, True]}
    nested: list[object] = [VALUE]
    for _ in range(5000):
        nested = [nested]
    frame["nested"] = nested
    Masks([VALUE]).frame(frame)

    inner = frame.pop("nested")
    while isinstance(inner, list):
        (inner,) = inner
    assert inner == MASK
    assert frame == {"type": "user", "n": 1, "deep": [{MASK: [MASK, {"x": "a *** b"}]}, None, True]}


def piece(text: str, index: int = 0) -> dict[str, Any]:
    delta = {"type": "text_delta", "text": text}
    return {"type": "stream_event", "event": {"type": "content_block_delta", "index": index, "delta": delta}}


@given(VALUES, AROUND, AROUND, st.integers(1, 5))
def test_a_value_that_comes_in_pieces_is_masked(value: str, before: str, after: str, size: int) -> None:
    masks, whole, shown = Masks([value]), before + value + after, ""
    for at in range(0, len(whole), size):
        frame = piece(whole[at : at + size])
        masks.frame(frame)
        shown += frame["event"]["delta"]["text"]

    assert value not in shown
    assert MASK in shown


def test_pieces_without_a_beginning_of_a_value_are_not_held_back() -> None:
    masks = Masks([VALUE])
    for text in ("hello ", "pass", "ing by", "passe", "there"):
        masks.frame(frame := piece(text))
        expected = {"pass": "", "ing by": "passing by"}
        assert frame["event"]["delta"]["text"] == expected.get(text, text)


@pytest.mark.parametrize("print_it", [repr, str])
def test_masks_do_not_print_what_they_mask(print_it: object) -> None:
    assert VALUE not in print_it(Masks([VALUE]))  # type: ignore[operator]


class Seen:
    """A sink that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    async def on_frame(self, frame: dict[str, Any]) -> None:
        self.told.append(frame)

    def on_stderr(self, line: str) -> None:
        self.told.append(line)

    def on_exit(self, failure: AgentFailed) -> None:
        self.told += [failure.message, failure.stderr_tail, str(failure)]

    async def on_permission(self, tool: str, tool_input: dict[str, Any], context: PermissionContext) -> Answer:
        self.told += [tool_input, str(context)]
        return Answer(allowed=True)


async def test_all_that_an_agent_reports_is_masked_and_what_its_tools_get_is_not() -> None:
    seen, tool_input = Seen(), {"command": f"curl -H '{VALUE}'", "more": [VALUE]}
    sink = MaskedSink(seen, Masks([VALUE]))
    rule = PermissionUpdate(type="addRules", rules=[PermissionRuleValue("Bash", f"curl {VALUE}")])
    await sink.on_frame({"type": "user", "x": VALUE})
    await sink.on_frame(LargeFrame({"type": "user", "x": VALUE}))
    sink.on_stderr(f"{VALUE} in stderr")
    sink.on_exit(AgentFailed("AGENT_EXITED", f"ended: {VALUE}", stderr_tail=VALUE))
    answer = await sink.on_permission("Bash", tool_input, PermissionContext(suggestions=[rule], description=VALUE))

    assert VALUE not in str(seen.told)
    assert str(seen.told).count(MASK) == 10
    assert answer.updated_input is None
    assert tool_input == {"command": f"curl -H '{VALUE}'", "more": [VALUE]}
