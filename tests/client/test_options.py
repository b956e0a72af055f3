"""Every option of the contract can be passed, in Python's own shapes; none is dropped silently."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path

import pytest
from agent_client import agent_options
from agent_client.options import ExecuteArguments, FilterArguments, OptionArguments, execute_request
from agentpb import agent_pb2 as pb
from claude_agent_sdk import AgentDefinition, ClaudeAgentOptions

EVERY_OPTION = {
    "model": "m",
    "fallback_model": "f",
    "system_prompt": {"type": "preset", "preset": "claude_code", "append": "a", "exclude_dynamic_sections": True},
    "tools": ["Bash"],
    "allowed_tools": ["Read"],
    "disallowed_tools": ["Write"],
    "permission_mode": "acceptEdits",
    "max_turns": 3,
    "max_budget_usd": 0.5,
    "task_budget_tokens": 1000,
    "thinking": {"type": "enabled", "budget_tokens": 2048, "display": "omitted"},
    "effort": "high",
    "output_schema_json": {"type": "object"},
    "cwd": Path("/work"),
    "add_dirs": [Path("/a"), "/b"],
    "env": {"K": "V"},
    "mcp_servers": {
        "a": {"command": "run", "args": ["-x"], "env": {"T": "1"}},
        "b": {"type": "http", "url": "https://x", "headers": {"H": "v"}},
        "c": {"type": "sse", "url": "https://y"},
    },
    "strict_mcp_config": False,
    "agents": {"helper": AgentDefinition(description="d", prompt="p", maxTurns=2, memory="user", effort="low")},
    "skills": "all",
    "setting_sources": ["project"],
    "settings_json": {"a": 1},
    "sandbox": {
        "enabled": True,
        "autoAllowBashIfSandboxed": False,
        "network": {"allowedDomains": ["x"]},
        "ignoreViolations": {"*": ["y"]},
    },
    "plugins": [{"type": "local", "path": "/p"}],
    "betas": ["b"],
    "include_partial_messages": True,
    "include_hook_events": True,
    "forward_subagent_text": True,
    "enable_file_checkpointing": True,
    "resume_at_message_uuid": "u",
    "extra_args": {"flag": None, "key": "value"},
    "client_app": "app/1",
    "interactions": {"permissions": True, "timeout": timedelta(minutes=1), "on_timeout": "interrupt"},
    "verbatim_prompts": True,
    "file_mentions": True,
}


def test_every_option_of_the_contract_arrives():
    message = agent_options(**EVERY_OPTION)
    missing = {field.name for field in pb.AgentOptions.DESCRIPTOR.fields} - {
        field.name for field, _ in message.ListFields()
    }
    assert not missing


def test_every_field_of_the_contract_is_an_argument():
    assert _fields(pb.AgentOptions) <= OptionArguments.__annotations__.keys()
    assert _fields(pb.ExecuteRequest) - {"prompt"} <= ExecuteArguments.__annotations__.keys()
    assert _fields(pb.SessionFilter) == FilterArguments.__annotations__.keys()


def test_every_option_of_the_sdk_is_taken_or_explained():
    unexplained = []
    for field in dataclasses.fields(ClaudeAgentOptions):
        try:
            agent_options(**{field.name: None})
        except TypeError as error:
            unexplained.append(f"{field.name}: {error}") if "from afar" not in str(error) else None
    assert not unexplained


def test_the_shapes_of_the_sdk_are_understood():
    message = agent_options(**EVERY_OPTION)
    assert message.system_prompt == pb.SystemPrompt(preset="claude_code", append="a", exclude_dynamic_sections=True)
    assert message.permission_mode == pb.PERMISSION_MODE_ACCEPT_EDITS
    assert message.thinking == pb.Thinking(mode=pb.THINKING_MODE_ENABLED, budget_tokens=2048, display="omitted")
    assert message.mcp_servers["a"].stdio == pb.McpStdioServer(command="run", args=["-x"], env={"T": "1"})
    assert message.mcp_servers["b"].http == pb.McpHttpServer(url="https://x", headers={"H": "v"})
    assert message.mcp_servers["c"].sse.url == "https://y"
    helper = message.agents["helper"]
    assert (helper.max_turns, helper.memory, helper.effort) == (2, pb.SETTING_SOURCE_USER, pb.EFFORT_LOW)
    assert message.sandbox.HasField("auto_allow_bash_if_sandboxed")
    assert message.sandbox.ignore_violations["*"].values == ["y"]
    assert message.plugins == ["/p"]
    assert dict(message.extra_args) == {"flag": "", "key": "value"}
    assert message.interactions.timeout.seconds == 60
    assert message.interactions.on_timeout == pb.ON_TIMEOUT_INTERRUPT
    assert message.cwd == "/work"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"system_prompt": "be kind"}, pb.AgentOptions(system_prompt=pb.SystemPrompt(text="be kind"))),
        ({"system_prompt": {"type": "custom", "prompt": "p"}}, pb.AgentOptions(system_prompt={"text": "p"})),
        ({"tools": []}, pb.AgentOptions(tools=["none"])),
        ({"tools": {"type": "preset", "preset": "claude_code"}}, pb.AgentOptions(tools=["default"])),
        ({"skills": []}, pb.AgentOptions(skills=["none"])),
        ({"output_schema": {"a": 1}}, pb.AgentOptions(output_schema_json='{"a": 1}')),
        ({"output_format": {"type": "json_schema", "schema": {}}}, pb.AgentOptions(output_schema_json="{}")),
        ({"settings": {"a": 1}}, pb.AgentOptions(settings_json='{"a": 1}')),
        ({"task_budget": {"total": 5}}, pb.AgentOptions(task_budget_tokens=5)),
        ({"max_thinking_tokens": 0}, pb.AgentOptions(thinking={"mode": pb.THINKING_MODE_DISABLED})),
        ({"resume_session_at": "u"}, pb.AgentOptions(resume_at_message_uuid="u")),
        ({"permission_mode": "PERMISSION_MODE_DONT_ASK"}, pb.AgentOptions(permission_mode=5)),
        ({"permission_mode": "dontAsk"}, pb.AgentOptions(permission_mode=5)),
        ({"permission_mode": pb.PERMISSION_MODE_PLAN}, pb.AgentOptions(permission_mode=3)),
        ({"interactions": True}, pb.AgentOptions(interactions={"permissions": True, "questions": True})),
        ({"model": None}, pb.AgentOptions()),
    ],
)
def test_other_ways_to_say_it(given, meant):
    assert agent_options(**given) == meant


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"max_turn": 1}, TypeError, "did you mean max_turns"),
        ({"resume": "s"}, TypeError, "session_id="),
        ({"can_use_tool": print}, TypeError, "interactions=True"),
        ({"allowed_tools": "Bash"}, TypeError, "allowed_tools takes a list, not str"),
        ({"max_turns": "three"}, TypeError, "max_turns does not take str"),
        ({"permission_mode": "yolo"}, ValueError, "accept_edits"),
        ({"thinking": {"budget": 1}}, TypeError, "budget_tokens"),
        ({"mcp_servers": {"a": {"type": "sdk"}}}, TypeError, "stdio, sse or http"),
        ({"env": ["K=V"]}, TypeError, "env takes a dict"),
        ({"system_prompt": {"type": "file", "path": "/x"}}, TypeError, "pass its text"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_hint(given, error, text):
    with pytest.raises(error, match=text):
        agent_options(**given)


def test_a_wrong_type_never_shows_the_value():
    with pytest.raises(TypeError) as caught:
        agent_options(env={"TOKEN": 12345678})
    assert "12345678" not in str(caught.value)


def test_a_request_takes_fields_and_options_side_by_side(tmp_path):
    picture = tmp_path / "a.png"
    picture.write_bytes(b"png")
    request = execute_request(
        "hi",
        model="m",
        labels={"a": "b"},
        on_busy="enqueue",
        mode="create",
        restart_policy="resume",
        execution_timeout=90,
        ttl=timedelta(days=1),
        attachments=[picture, {"media_type": "image/png", "url": "https://x"}],
    )
    assert (request.prompt, request.options.model, dict(request.labels)) == ("hi", "m", {"a": "b"})
    assert (request.on_busy, request.mode) == (pb.ON_BUSY_ENQUEUE, pb.EXECUTE_MODE_CREATE)
    assert (request.execution_timeout.seconds, request.ttl.seconds) == (90, 86400)
    assert request.attachments[0] == pb.Attachment(media_type="image/png", data=b"png", title="a.png")


def test_ready_made_options_are_passed_as_they_are():
    ready = pb.AgentOptions(model="m", max_turns=2)
    assert execute_request("x", options=ready).options == ready
    with pytest.raises(TypeError, match="not both"):
        execute_request("x", options=ready, model="other")


def test_a_list_emptied_on_resume_is_cleared_not_inherited():
    assert execute_request("x", session_id="s", allowed_tools=[], env={}).clear_options == ["allowed_tools", "env"]
    assert not execute_request("x", allowed_tools=[]).clear_options


def _fields(kind):
    return {field.name for field in kind.DESCRIPTOR.fields}
