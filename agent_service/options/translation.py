"""Each option in the SDK's words, once and completely; a test walks both sides.

What travels in argv is visible to every user of the host and bounded by the kernel, so whatever the CLI also reads
from a file goes into a file that only this user can read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from agentpb import agent_pb2 as pb
from claude_agent_sdk import AgentDefinition, ClaudeAgentOptions
from google.protobuf.message import Message

from agent_service.options.merging import is_blank
from agent_service.options.output_schema import for_agent

MAX_BUFFER_SIZE = 32 << 20
"""Bytes of one line of the CLI. A longer one kills the SDK's reader, and one image is above its default of 1 MiB."""

FLAGS: Mapping[str, str | None] = {
    # By default the CLI records the first system prompt and sends it for ever, whatever a resume is given.
    "system-prompt-snapshot": "off",
}
"""Flags that every agent is started with, unless `extra_args` says otherwise."""

ALONE = {"CLAUDE_CODE_HARBOR_KITE": "0", "CLAUDE_CODE_DISABLE_CRON": "1"}
"""Variables that keep agents from working for each other. tests/test_agent_sdk.py is their canary.

The first, undocumented: no inbox, no tool that lists other agents, and SendMessage reaches the agents of its session
alone. Should it go, `crossSessionInbound` below, which is documented, still refuses every message; a session could then
see the sockets of others, but not make them act. The second: no schedules. The CLI keeps those in a file of the working
directory, and whichever agent is there when the time comes runs the prompt, with its own permissions.
"""

OWN_SETTINGS: Mapping[str, Any] = {"crossSessionInbound": "refuse", "env": ALONE}
"""Settings of every agent. They stand above those of a project and of a user, which could open the door again."""

NOT_EXPOSED = {
    "continue_conversation": "picks a conversation by directory; sessions are named here",
    "debug_stderr": "deprecated by the SDK and read by nobody",
    "hooks": "callbacks in the service's own process; settings_json takes hooks that are commands",
    "load_timeout_ms": "belongs to session_store",
    "max_thinking_tokens": "deprecated by the SDK in favour of thinking",
    "permission_prompt_tool_name": "taken by can_use_tool, which interactions stand for",
    "resume_drops_turn": "guards against what the session's own queue rules out",
    "session_store": "a second copy of the transcript; the ledger is the record, the local transcript the truth",
    "session_store_flush": "belongs to session_store",
    "user": "which user of the host an agent runs as is the operator's to say",
}
"""Fields of the SDK's options that no caller can set, with the reason."""

PLACED_ELSEWHERE = {
    "session_id": "the pool: Session.agent_session_id, for a conversation that is new",
    "resume": "the pool: Session.agent_session_id, for a conversation that goes on",
    "fork_session": "the pool: ExecuteRequest.fork_from",
    "resume_session_at": "the pool: options.resume_at_message_uuid, which makes sense with resume only",
    "can_use_tool": "the agent: options.interactions",
    "stderr": "the agent: events of type stderr, and SessionError.stderr_tail",
    "cli_path": "the agent: the operator's configuration",
}
"""Fields of the SDK's options that the service itself sets, with the place."""

PERMISSION_MODES: Mapping[int, Any] = {
    pb.PERMISSION_MODE_DEFAULT: "default",
    pb.PERMISSION_MODE_ACCEPT_EDITS: "acceptEdits",
    pb.PERMISSION_MODE_PLAN: "plan",
    pb.PERMISSION_MODE_BYPASS_PERMISSIONS: "bypassPermissions",
    pb.PERMISSION_MODE_DONT_ASK: "dontAsk",
    pb.PERMISSION_MODE_AUTO: "auto",
}
"""The SDK's word for each permission mode; unspecified has none."""

EFFORTS: Mapping[int, Any] = {
    pb.EFFORT_LOW: "low",
    pb.EFFORT_MEDIUM: "medium",
    pb.EFFORT_HIGH: "high",
    pb.EFFORT_XHIGH: "xhigh",
    pb.EFFORT_MAX: "max",
}

SETTING_SOURCES: Mapping[int, Any] = {
    pb.SETTING_SOURCE_USER: "user",
    pb.SETTING_SOURCE_PROJECT: "project",
    pb.SETTING_SOURCE_LOCAL: "local",
}

QUESTION_TOOL = "AskUserQuestion"

T = TypeVar("T")


def to_sdk(
    options: pb.AgentOptions, *, cwd: Path, env: Mapping[str, str], scratch: Path, default_model: str | None
) -> ClaudeAgentOptions:
    """The SDK's options for options that passed `check`.

    `env` is the service's own part of the environment; the caller's goes over it. Files are written into `scratch`,
    which must stay until the agent is connected.
    """
    return ClaudeAgentOptions(
        model=options.model or default_model,
        fallback_model=options.fallback_model or None,
        system_prompt=_system_prompt(options.system_prompt, scratch),
        tools=_tools(options.tools),
        allowed_tools=list(options.allowed_tools),
        disallowed_tools=_disallowed_tools(options),
        permission_mode=PERMISSION_MODES.get(options.permission_mode),
        max_turns=_optional(options, "max_turns", options.max_turns),
        max_budget_usd=_optional(options, "max_budget_usd", options.max_budget_usd),
        task_budget={"total": options.task_budget_tokens} if options.HasField("task_budget_tokens") else None,
        thinking=_thinking(options.thinking),
        effort=EFFORTS.get(options.effort),
        output_format=_output_format(options.output_schema_json),
        cwd=cwd,
        add_dirs=list(options.add_dirs),
        env={**env, **options.env},
        mcp_servers=_mcp_servers(options.mcp_servers, scratch),
        strict_mcp_config=options.strict_mcp_config if options.HasField("strict_mcp_config") else True,
        agents={name: _agent(agent) for name, agent in options.agents.items()} or None,
        skills=_skills(options.skills),
        setting_sources=[SETTING_SOURCES[source] for source in options.setting_sources],
        settings=_settings(options, scratch),
        plugins=[{"type": "local", "path": path} for path in options.plugins],
        betas=cast(Any, list(options.betas)),
        include_partial_messages=options.include_partial_messages,
        include_hook_events=options.include_hook_events,
        forward_subagent_text=options.forward_subagent_text,
        enable_file_checkpointing=options.enable_file_checkpointing,
        verbatim_prompts=options.verbatim_prompts,
        extra_args={**FLAGS} | {flag: value or None for flag, value in options.extra_args.items()},
        client_app=_optional(options, "client_app", options.client_app),
        max_buffer_size=MAX_BUFFER_SIZE,
    )


def _optional(options: pb.AgentOptions, name: str, value: T) -> T | None:
    return value if options.HasField(name) else None  # type: ignore[arg-type]


def _system_prompt(prompt: pb.SystemPrompt, scratch: Path) -> Any:
    if is_blank(prompt):
        return None
    if prompt.WhichOneof("kind") == "text":
        return {"type": "file", "path": _spill(scratch, "system-prompt.txt", prompt.text)}
    preset: dict[str, Any] = {"type": "preset", "preset": prompt.preset}
    if prompt.append:
        preset["append"] = prompt.append
    if prompt.exclude_dynamic_sections:
        preset["exclude_dynamic_sections"] = True
    return preset


def _tools(tools: Sequence[str]) -> Any:
    match list(tools):
        case []:
            return None
        case ["none"]:
            return []
        case ["default"]:
            return {"type": "preset", "preset": "claude_code"}
        case named:
            return named


def _disallowed_tools(options: pb.AgentOptions) -> list[str]:
    taken = list(options.disallowed_tools)
    # The callback that asks for leave brings the tool for questions along, wanted or not.
    if options.interactions.permissions and not options.interactions.questions and QUESTION_TOOL not in taken:
        taken.append(QUESTION_TOOL)
    return taken


def _thinking(thinking: pb.Thinking) -> Any:
    config: dict[str, Any]
    match thinking.mode:
        case pb.THINKING_MODE_ADAPTIVE:
            config = {"type": "adaptive"}
        case pb.THINKING_MODE_ENABLED:
            config = {"type": "enabled", "budget_tokens": thinking.budget_tokens}
        case pb.THINKING_MODE_DISABLED:
            return {"type": "disabled"}
        case _:
            return None
    if thinking.display:
        config["display"] = thinking.display
    return config


def _output_format(schema_json: str) -> dict[str, Any] | None:
    if not schema_json:
        return None
    try:
        return {"type": "json_schema", "schema": for_agent(schema_json)}
    except ValueError:  # of a session of an earlier version: the agent says what it thinks of it
        return {"type": "json_schema", "schema": json.loads(schema_json)}


def _mcp_servers(servers: Mapping[str, pb.McpServer], scratch: Path) -> Any:
    if not servers:
        return {}
    configs = {name: _mcp_server(server) for name, server in sorted(servers.items())}
    return _spill(scratch, "mcp.json", json.dumps({"mcpServers": configs}))


def _mcp_server(server: pb.McpServer) -> dict[str, Any]:
    match server.WhichOneof("transport"):
        case "stdio":
            return _filled({"type": "stdio", "command": server.stdio.command}, server.stdio, "args", "env")
        case "sse":
            return _filled({"type": "sse", "url": server.sse.url}, server.sse, "headers")
        case _:
            return _filled({"type": "http", "url": server.http.url}, server.http, "headers")


def _filled(config: dict[str, Any], message: Message, *names: str) -> dict[str, Any]:
    """`config` with those of the repeated fields and maps that are not empty."""
    for name in names:
        if value := getattr(message, name):
            config[name] = dict(sorted(value.items())) if hasattr(value, "items") else list(value)
    return config


def _agent(agent: pb.AgentDefinition) -> AgentDefinition:
    return AgentDefinition(
        description=agent.description,
        prompt=agent.prompt,
        tools=list(agent.tools) or None,
        disallowedTools=list(agent.disallowed_tools) or None,
        model=agent.model or None,
        skills=list(agent.skills) or None,
        memory=SETTING_SOURCES.get(agent.memory),
        mcpServers=list(agent.mcp_servers) or None,
        initialPrompt=agent.initial_prompt or None,
        maxTurns=agent.max_turns or None,
        background=agent.background or None,
        effort=EFFORTS.get(agent.effort),
        permissionMode=PERMISSION_MODES.get(agent.permission_mode),
    )


def _skills(skills: Sequence[str]) -> list[str] | Literal["all"] | None:
    match list(skills):
        case []:
            return None
        case ["all"]:
            return "all"
        case ["none"]:
            return []
        case named:
            return named


def _settings(options: pb.AgentOptions, scratch: Path) -> str:
    """The agent's settings: the path of one file, sandbox included; the service's own alone are no secret.

    Given apart, the SDK would put settings and sandbox both into argv.
    """
    settings: dict[str, Any] = json.loads(options.settings_json) if options.settings_json else {}
    if options.HasField("sandbox"):
        settings["sandbox"] = _sandbox(options.sandbox)
    if not settings:
        return json.dumps(OWN_SETTINGS)
    env = {**settings.get("env", {}), **ALONE}  # a session of an earlier version may have variables here
    return _spill(scratch, "settings.json", json.dumps({**settings, **OWN_SETTINGS, "env": env}))


def _sandbox(sandbox: pb.Sandbox) -> dict[str, Any]:
    config: dict[str, Any] = {
        "enabled": sandbox.enabled,
        # The CLI's own default is to run unconfined where it cannot confine; the SDK's type lacks the key.
        "failIfUnavailable": sandbox.fail_if_unavailable if sandbox.HasField("fail_if_unavailable") else True,
    }
    if sandbox.HasField("auto_allow_bash_if_sandboxed"):
        config["autoAllowBashIfSandboxed"] = sandbox.auto_allow_bash_if_sandboxed
    if sandbox.HasField("allow_unsandboxed_commands"):
        config["allowUnsandboxedCommands"] = sandbox.allow_unsandboxed_commands
    if sandbox.excluded_commands:
        config["excludedCommands"] = list(sandbox.excluded_commands)
    if sandbox.HasField("network"):
        config["network"] = _sandbox_network(sandbox.network)
    if sandbox.ignore_violations:
        config["ignoreViolations"] = {name: list(texts.values) for name, texts in sandbox.ignore_violations.items()}
    if sandbox.enable_weaker_nested_sandbox:
        config["enableWeakerNestedSandbox"] = True
    return config


def _sandbox_network(network: pb.SandboxNetwork) -> dict[str, Any]:
    """Every field that is set, under its camelCase name, which is the SDK's."""
    return {field.json_name: list(value) if field.is_repeated else value for field, value in network.ListFields()}


def _spill(scratch: Path, name: str, text: str) -> str:
    """Write a file that only this user can read, and give its path."""
    path = scratch / name
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
        file.write(text)
    return str(path)
