"""Success is proven: what no model answered, what a hook stopped and what was cut is no completed turn."""

from __future__ import annotations

import json

import pytest
from agentpb import agent_pb2 as pb

from tests.conftest import Service

SCHEMA = json.dumps({"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]})


def hook(event: str, command: str) -> pb.AgentOptions:
    """Options whose settings run a command at an event; Bash needs no leave."""
    entry = {"hooks": [{"type": "command", "command": command}]}
    return pb.AgentOptions(allowed_tools=["Bash"], settings_json=json.dumps({"hooks": {event: [entry]}}))


def says(**answer: object) -> str:
    """A command that prints a hook's answer."""
    return f"echo '{json.dumps(answer)}'"


async def test_a_schema_was_demanded_and_no_object_came(service: Service) -> None:
    response = await service.run("say: only text", options=pb.AgentOptions(output_schema_json=SCHEMA))
    assert response.state == pb.SESSION_STATE_ERROR
    assert response.session.error.reason == "STRUCTURED_OUTPUT_INVALID"
    assert response.turn.result.result
    said = [block.text.text for event in await service.events(response.session_id) for block in _blocks(event)]
    assert "only text" in said


def _blocks(event: pb.SessionEvent) -> list[pb.ContentBlock]:
    return list(event.assistant_message.content)


async def test_a_command_of_the_agents_own_owes_no_object(service: Service) -> None:
    response = await service.run('json: {"x": 1}', options=pb.AgentOptions(output_schema_json=SCHEMA))
    assert json.loads(response.turn.result.structured_output_json) == {"x": 1}
    cleared = await service.run("/clear", session_id=response.session_id)
    assert cleared.state == pb.SESSION_STATE_COMPLETED


@pytest.mark.parametrize("command", ["echo not today >&2; exit 2", says(decision="block", reason="not today")])
async def test_a_prompt_that_a_hook_blocked_says_so(service: Service, command: str) -> None:
    response = await service.run("say: hello", options=hook("UserPromptSubmit", command))
    assert response.state == pb.SESSION_STATE_ERROR
    assert response.session.error.reason == "PROMPT_BLOCKED"
    assert "not today" in response.session.error.message
    assert not response.session.error.retryable


async def test_a_prompt_that_a_hook_stopped_says_so(service: Service) -> None:
    stop = says(**{"continue": False, "stopReason": "enough"})
    response = await service.run("say: hello", options=hook("UserPromptSubmit", stop))
    assert response.session.error.reason == "HOOK_STOPPED"
    assert "enough" in response.session.error.message


@pytest.mark.parametrize("event", ["PreToolUse", "PostToolUse"])
async def test_a_turn_that_a_hook_stopped_in_its_middle_says_so(service: Service, event: str) -> None:
    stop = says(**{"continue": False, "stopReason": "enough"})
    response = await service.run("bash: echo hi\nsay: not reached", options=hook(event, stop))
    assert response.state == pb.SESSION_STATE_ERROR
    assert response.session.error.reason == "HOOK_STOPPED"
    assert response.turn.result.terminal_reason == "hook_stopped"


async def test_a_hook_that_ends_a_turn_after_its_answer_leaves_it_completed(service: Service) -> None:
    response = await service.run("say: the answer", options=hook("Stop", says(**{"continue": False})))
    assert response.state == pb.SESSION_STATE_COMPLETED
    assert response.turn.result.result == "the answer"


@pytest.mark.parametrize("reason", ["refusal", "max_tokens", "pause_turn"])
async def test_an_answer_that_was_refused_or_cut_is_no_success(service: Service, reason: str) -> None:
    text = "say: a part\n" if reason == "pause_turn" else ""
    response = await service.run(f"{text}stop: {reason}")
    assert response.state == pb.SESSION_STATE_ERROR
    assert response.session.error.reason in ("API_ERROR", "AGENT_ERROR")
    assert response.session.error.retryable == (reason != "refusal")


async def test_a_turn_after_a_blocked_one_is_not_blamed_for_it(service: Service) -> None:
    block = "grep -q forbidden && { echo no >&2; exit 2; } || true"
    first = await service.run("say: forbidden", options=hook("UserPromptSubmit", block))
    assert first.session.error.reason == "PROMPT_BLOCKED"
    again = await service.run("say: fine", session_id=first.session_id)
    assert again.state == pb.SESSION_STATE_COMPLETED
    assert again.turn.result.result == "fine"
