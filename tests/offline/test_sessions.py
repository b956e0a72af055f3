"""The real SDK and the real bundled CLI run whole sessions on the offline model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from claude_agent_sdk import (
    AssistantMessage,
    ClaudeSDKClient,
    Message,
    PermissionResultAllow,
    PermissionResultDeny,
    ResultMessage,
    ThinkingBlock,
    ToolUseBlock,
)

from agent_service.offline import OfflineModel

from .conftest import MakeOptions, Turn, run, run_once


async def allow(name: str, given: dict[str, Any], context: Any) -> PermissionResultAllow:
    return PermissionResultAllow(updated_input=given)


def _uses_tool(message: Message) -> bool:
    return isinstance(message, AssistantMessage) and isinstance(message.content[0], ToolUseBlock)


async def test_text_thinking_and_tools_come_in_the_order_of_the_prompt(options: MakeOptions) -> None:
    turn = await run_once(options(), "think: hm\nsay: one\nbash: echo real output\nresult\nrequest: model")

    assert [type(block).__name__ for block in turn.blocks] == [
        "ThinkingBlock",
        "TextBlock",
        "ToolUseBlock",
        "TextBlock",
        "TextBlock",
    ]
    assert next(block for block in turn.blocks if isinstance(block, ThinkingBlock)).thinking == "hm"
    assert turn.tool_results == ["real output"]
    assert turn.texts == ["one", "real output", "offline"]
    assert turn.result.subtype == "success"
    assert turn.result.num_turns == 2


async def test_one_process_runs_turn_after_turn_and_the_cost_follows_from_the_tokens(options: MakeOptions) -> None:
    async with ClaudeSDKClient(options()) as client:
        first = await run(client, "hello")
        second = await run(client, "tokens: 1000")
        third = await run(client, 'say-json: "nul \\u0000 lone \\ud800 line\\nend"')
        fourth = await run(client, "/compact")
        fifth = await run(client, "say: still there")

    assert first.texts == ["echo (1 messages): hello"]
    assert first.result.usage is not None
    assert (first.result.usage["input_tokens"], first.result.usage["output_tokens"]) == (2, 6)
    assert first.result.total_cost_usd == pytest.approx((2 * 4 + 6 * 20) / 1e6)
    assert second.result.usage is not None
    assert second.result.usage["output_tokens"] == 1000
    assert third.texts == ["nul \x00 lone \ud800 line\nend"]
    assert fourth.result.is_error is False
    assert fifth.texts == ["still there"]


async def test_any_tool_can_be_used(options: MakeOptions, tmp_path: Path) -> None:
    target = tmp_path / "cwd" / "file.txt"
    prompt = f'tool: Write {{"file_path": "{target}", "content": "written"}}\nturns: 2\nsay: after'
    turn = await run_once(options(permission_mode="acceptEdits"), prompt)

    assert target.read_text() == "written"
    assert turn.texts == ["after"]
    assert turn.result.num_turns == 4


async def test_structured_output(options: MakeOptions) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    turn = await run_once(
        options(output_format={"type": "json_schema", "schema": schema}), 'say: so be it\njson: {"a": 1}'
    )

    assert turn.result.structured_output == {"a": 1}


async def test_structured_output_that_is_refused_is_given_again_until_the_cli_gives_up(options: MakeOptions) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    turn = await run_once(options(output_format={"type": "json_schema", "schema": schema}), 'json: {"a": "text"}')

    assert turn.result.subtype == "error_max_structured_output_retries"


async def test_a_resumed_session_recalls_its_first_prompt(options: MakeOptions) -> None:
    first = await run_once(options(), "the very first prompt\nbash: true")
    resumed = await run_once(options(resume=first.result.session_id), "recall")

    assert resumed.texts == ["the very first prompt\nbash: true"]


@pytest.mark.parametrize("status", [401, 500])
async def test_an_api_error_fails_the_run_and_the_next_prompt_is_a_new_one(options: MakeOptions, status: int) -> None:
    async with ClaudeSDKClient(options()) as client:
        failed = await run(client, f"bash: true\nfail: {status}")
        failed_at_once = await run(client, f"fail: {status}")
        after = await run(client, "say: better")

    assert failed.result.is_error
    assert failed.result.api_error_status == status
    assert failed_at_once.result.api_error_status == status
    assert after.texts == ["better"]


async def test_an_overloaded_api_is_tried_again(options: MakeOptions, model: OfflineModel) -> None:
    turn = await run_once(options(env={"CLAUDE_CODE_MAX_RETRIES": "2"}), "fail-once: 529 0\nsay: at last")

    assert turn.texts == ["at last"]
    assert model.requests == 2


async def test_a_cut_stream_fails_the_run(options: MakeOptions) -> None:
    turn = await run_once(options(), "say: begun\ncut")

    assert turn.result.is_error


async def test_a_failure_in_mid_answer_fails_the_run_too(options: MakeOptions) -> None:
    turn = await run_once(options(), "say: begun\nfail: 529")

    assert turn.texts[0] == "begun"
    assert turn.result.is_error
    assert turn.result.api_error_status == 529


async def test_thinking_alone_is_not_the_end(options: MakeOptions) -> None:
    turn = await run_once(options(), "think: alone")

    assert turn.texts == ["done"]


async def test_slow_text_arrives_in_pieces(options: MakeOptions) -> None:
    turn = await run_once(options(include_partial_messages=True), "slow: 0.3\nsay: end")

    assert turn.deltas == ["tick 1 ", "tick 2 ", "tick 3 ", "end"]
    assert turn.texts == ["tick 1 tick 2 tick 3 ", "end"]


async def test_an_interrupted_turn_asks_for_nothing_more_and_the_next_prompt_is_a_new_one(
    options: MakeOptions, model: OfflineModel
) -> None:
    async with ClaudeSDKClient(options(include_partial_messages=True)) as client:
        await client.query("slow: 60\nbash: true")
        async for message in client.receive_response():
            if type(message).__name__ == "StreamEvent" and model.requests == 1:
                await client.interrupt()
                break
        interrupted = Turn([message async for message in client.receive_response()])
        after = await run(client, "say: other")

    assert interrupted.result.terminal_reason == "aborted_streaming"
    assert after.texts == ["other"]
    assert model.requests == 2


async def test_a_question_is_answered_by_the_user(options: MakeOptions) -> None:
    asked: list[dict[str, Any]] = []

    async def answer(name: str, given: dict[str, Any], context: Any) -> PermissionResultAllow:
        asked.append(given)
        return PermissionResultAllow(updated_input={**given, "answers": {"Which colour?": "blue"}})

    turn = await run_once(options(allowed_tools=[], can_use_tool=answer), "ask: Which colour? | red | blue\nresult")

    assert [option["label"] for option in asked[0]["questions"][0]["options"]] == ["red", "blue"]
    assert '"Which colour?"="blue"' in turn.texts[-1]


async def test_what_a_denied_tool_was_told_reaches_the_model(options: MakeOptions) -> None:
    async def deny(name: str, given: dict[str, Any], context: Any) -> PermissionResultDeny:
        return PermissionResultDeny(message="not on my machine")

    turn = await run_once(options(allowed_tools=[], can_use_tool=deny), "bash: touch x\nresult")

    assert turn.texts == ["not on my machine"]


async def test_a_background_task_that_ends_is_noted_in_a_turn_of_its_own(options: MakeOptions, tmp_path: Path) -> None:
    go = tmp_path / "go"
    async with ClaudeSDKClient(options()) as client:
        first = await run(client, f"background: while ! test -e {go}; do sleep 0.02; done\nsay: meanwhile")
        go.touch()
        unasked = Turn([message async for message in client.receive_response()])
        last = await run(client, "say: bye")

    assert first.texts == ["meanwhile"]
    assert len(unasked.texts) == 1
    assert unasked.texts[0].startswith("noted: Background command")
    assert last.texts == ["bye"]


async def test_a_subagent_runs_its_own_program(options: MakeOptions) -> None:
    prompt = (
        'tool: Agent {"description": "d", "prompt": "bash: echo inner\\nresult", '
        '"subagent_type": "general-purpose", "run_in_background": false}\nsay: outer\nresult'
    )
    turn = await run_once(options(), prompt)

    inner = [m for m in turn.messages if isinstance(m, AssistantMessage) and m.parent_tool_use_id]
    assert inner
    assert turn.texts[-2] == "outer"
    assert "inner" in turn.texts[-1]


@pytest.mark.parametrize("name", ["offline", "claude-haiku-4-5-offline"])
async def test_a_prompt_sent_while_a_tool_runs_is_added_to_the_program(
    options: MakeOptions, tmp_path: Path, name: str
) -> None:
    go = tmp_path / "go"
    async with ClaudeSDKClient(options(model=name)) as client:
        await client.query(f"bash: while ! test -e {go}; do sleep 0.02; done\nsay: planned")
        seen: list[Message] = []
        async for message in client.receive_response():
            seen.append(message)
            if not go.exists() and _uses_tool(message):
                await client.query("say: steered\nbash: echo more\nresult")
                await client.get_mcp_status()  # answered after the prompt was read
                go.touch()
        after = await run(client, "say: next")

    assert Turn(seen).texts == ["planned", "steered", "more"]
    assert sum(isinstance(message, ResultMessage) for message in seen) == 1
    assert after.texts == ["next"]
