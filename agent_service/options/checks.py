"""Validation of each option: all violations at once, each with its path in the proto and the accepted values."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from agentpb import agent_pb2 as pb
from google.protobuf.descriptor import EnumDescriptor

from agent_service.errors import FieldViolation
from agent_service.options.merging import is_blank
from agent_service.options.output_check import schema_problem
from agent_service.options.paths import leaves, quoted
from agent_service.options.references import check_references
from agent_service.options.remembered import CLEAR
from agent_service.options.reserved import refused_env, refused_flag, refused_server_env
from agent_service.options.settings_check import settings_problem
from agent_service.options.skills import skill_problem
from agent_service.options.strict_json import LOST_KEYS
from agent_service.options.words import (
    MAX_NAME,
    duration_problem,
    is_http_url,
    is_one_rule,
    is_uuid,
    is_word,
    seconds_of,
)

MAX_ARGUMENT = 131_071
"""Bytes of one argument or one `NAME=value` of the environment: the kernel's MAX_ARG_STRLEN less its final NUL."""
MAX_SPAWN = 1 << 20
"""Bytes of all arguments and the whole environment: half of the kernel's default limit."""
MAX_TURNS = 10_000
MIN_THINKING_TOKENS = 1024
AGENTS_OWN_SERVERS = frozenset({"claude-in-chrome", "computer-use", "workspace"})
"""Names of MCP servers that the CLI drops from a configuration without a word."""

_FLAG = re.compile(r"[a-z][a-z0-9-]*")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SERVER_NAME = re.compile(r"[A-Za-z0-9_-]{1,56}")
"""The API takes 64 characters of `mcp__SERVER__TOOL`."""
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_PRINTABLE_ASCII = re.compile(r"[ -~]*")

Say = Callable[[str, str], None]
"""Adds a violation: a field's path, and the accepted values."""


def check(options: pb.AgentOptions, path: str = "options") -> list[FieldViolation]:
    """Every bad field of the options. Looks at nothing but them: see `check_directories` for the host's part."""
    found: list[FieldViolation] = []

    def say(field: str, accepted: str) -> None:
        found.append(FieldViolation(f"{path}.{field}" if field else path, accepted))

    for where, field, value in leaves(options):
        if field.enum_type is not None:
            _check_enum(field.enum_type, value, where, say)
        elif isinstance(value, str) and "\0" in value:
            say(where, "must not contain the character NUL")
        elif value in LOST_KEYS and where.endswith(f"[{quoted(value)}]"):
            say(where, f"is a name that the agent cannot have and would drop: {value}")
    _check_model(options, say)
    _check_system_prompt(options, say)
    _check_tools(options, say)
    _check_limits(options, say)
    _check_thinking(options, say)
    _check_json(options, say)
    _check_paths(options, say)
    _check_env(options.env, "env", say, refused_env)
    for name, server in options.mcp_servers.items():
        _check_mcp_server(name, server, say)
    for name, agent in options.agents.items():
        _check_agent(name, agent, say)
    _check_skills(options.skills, "skills", say, words=("all", "none"))
    _check_extra_args(options.extra_args, say)
    check_references(options, say)
    _check_the_rest(options, say)
    _check_size(options, say)
    return found


def check_clear(clear: Sequence[str], path: str = "clear_options") -> list[FieldViolation]:
    """Every name that is no field of AgentOptions."""
    known = pb.AgentOptions.DESCRIPTOR.fields_by_name
    return [
        FieldViolation(f"{path}[{index}]", f"{name!r} is no field of AgentOptions, and not {CLEAR}")
        for index, name in enumerate(clear)
        if name not in known and name != CLEAR
    ]


def _check_enum(kind: EnumDescriptor, number: int, where: str, say: Say) -> None:
    refused = {0} if where.startswith("setting_sources[") else set[int]()
    if number not in kind.values_by_number or number in refused:
        names = ", ".join(value.name for value in kind.values if value.number not in refused)
        say(where, f"{number} is not accepted; accepted are {names}")


def _check_model(options: pb.AgentOptions, say: Say) -> None:
    for name, model in (("model", options.model), ("fallback_model", options.fallback_model)):
        if not is_word(model):
            say(name, f"must be a model's name: no spaces, no leading '-', at most {MAX_NAME} characters")
    for index, beta in enumerate(options.betas):
        if not beta or not is_word(beta) or "," in beta:
            say(f"betas[{index}]", "must be one beta's name, such as context-1m-2025-08-07")


def _check_system_prompt(options: pb.AgentOptions, say: Say) -> None:
    prompt = options.system_prompt
    if is_blank(prompt):
        return
    if prompt.WhichOneof("kind") == "preset":
        if prompt.preset != "claude_code":
            say("system_prompt.preset", 'must be "claude_code", the only one')
        _check_argument(prompt.append, "system_prompt.append", say)
    else:
        if prompt.append:
            say("system_prompt.append", "goes with a preset; put it into system_prompt.text")
        if prompt.exclude_dynamic_sections:
            say("system_prompt.exclude_dynamic_sections", "goes with a preset")


def _check_tools(options: pb.AgentOptions, say: Say) -> None:
    for index, tool in enumerate(options.tools):
        if tool in ("none", "default") and len(options.tools) > 1:
            say(f"tools[{index}]", f"{quoted(tool)} must stand alone")
        elif not tool or not is_word(tool) or any(sign in tool for sign in ",()"):
            say(f"tools[{index}]", 'must be the name of one built-in tool, such as "Bash"')
    for name in ("allowed_tools", "disallowed_tools"):
        for index, rule in enumerate(getattr(options, name)):
            if not is_one_rule(rule):
                say(f"{name}[{index}]", 'must be one tool or rule, such as "Read" or "Bash(git status)"')


def _check_limits(options: pb.AgentOptions, say: Say) -> None:
    if options.HasField("max_turns") and not 1 <= options.max_turns <= MAX_TURNS:
        say("max_turns", f"must be 1 to {MAX_TURNS}")
    if options.HasField("max_budget_usd") and not (
        math.isfinite(options.max_budget_usd) and options.max_budget_usd > 0
    ):
        say("max_budget_usd", "must be a number above 0")
    if options.HasField("task_budget_tokens") and options.task_budget_tokens < 1:
        say("task_budget_tokens", "must be at least 1")


def _check_thinking(options: pb.AgentOptions, say: Say) -> None:
    thinking = options.thinking
    if thinking.mode == pb.THINKING_MODE_ENABLED:
        if thinking.budget_tokens < MIN_THINKING_TOKENS:
            say("thinking.budget_tokens", f"must be at least {MIN_THINKING_TOKENS}")
    elif thinking.budget_tokens:
        say("thinking.budget_tokens", "goes with THINKING_MODE_ENABLED")
    if thinking.display not in ("", "summarized", "omitted"):
        say("thinking.display", 'must be "summarized" or "omitted"')
    elif thinking.display and thinking.mode not in (pb.THINKING_MODE_ADAPTIVE, pb.THINKING_MODE_ENABLED):
        say("thinking.display", "goes with THINKING_MODE_ADAPTIVE or THINKING_MODE_ENABLED")


def _check_json(options: pb.AgentOptions, say: Say) -> None:
    if options.settings_json and (problem := settings_problem(options.settings_json)):
        say("settings_json", problem)
    schema = options.output_schema_json
    if len(schema) > MAX_ARGUMENT:
        _check_argument(schema, "output_schema_json", say)
    elif schema and (problem := schema_problem(schema)):
        say("output_schema_json", f"must be a JSON Schema, which is a JSON object; {problem}")


def _check_paths(options: pb.AgentOptions, say: Say) -> None:
    for where, path in _directories(options):
        if not os.path.isabs(path):
            say(where, "must be an absolute path")
        _check_argument(path, where, say)


def check_directories(options: pb.AgentOptions, path: str = "options") -> list[FieldViolation]:
    """Every directory of options that passed `check` and is not there.

    The one check that looks at the host. It comes after all that decides whether the caller may know.
    """
    return [
        FieldViolation(f"{path}.{where}", "must be a directory that exists on the service's host")
        for where, directory in _directories(options)
        if not os.path.isdir(directory)
    ]


def _directories(options: pb.AgentOptions) -> Iterator[tuple[str, str]]:
    if options.HasField("cwd"):
        yield "cwd", options.cwd
    for name in ("add_dirs", "plugins"):
        for index, directory in enumerate(getattr(options, name)):
            yield f"{name}[{index}]", directory


def _check_env(env: Mapping[str, str], where: str, say: Say, refused: Callable[[str], str]) -> None:
    for name, value in env.items():
        at = f"{where}[{quoted(name)}]"
        if not _ENV_NAME.fullmatch(name):
            say(at, "must be named with letters, digits and '_', not beginning with a digit")
        elif reason := refused(name):
            say(at, reason)
        _check_argument(f"{name}={value}", at, say)


def _check_mcp_server(name: str, server: pb.McpServer, say: Say) -> None:
    where = f"mcp_servers[{quoted(name)}]"
    if not _SERVER_NAME.fullmatch(name):
        say(where, "must be named with 1 to 56 letters, digits, '_' and '-': the API takes 64 of mcp__SERVER__TOOL")
    elif name in AGENTS_OWN_SERVERS:
        say(where, f"must have another name: the agent keeps {', '.join(sorted(AGENTS_OWN_SERVERS))} for itself")
    match server.WhichOneof("transport"):
        case "stdio":
            if not server.stdio.command.strip():
                say(f"{where}.stdio.command", "must name a program")
            for index, argument in enumerate(server.stdio.args):
                _check_argument(argument, f"{where}.stdio.args[{index}]", say)
            _check_env(server.stdio.env, f"{where}.stdio.env", say, refused_server_env)
        case "sse":
            _check_http(server.sse, f"{where}.sse", say)
        case "http":
            _check_http(server.http, f"{where}.http", say)
        case "configured":
            if not is_word(server.configured) or not server.configured:
                say(f"{where}.configured", "must name an MCP server of the operator's")
        case _:
            say(where, "must have one of stdio, sse, http and configured")


def _check_http(server: pb.McpHttpServer, where: str, say: Say) -> None:
    if not is_http_url(server.url):
        say(f"{where}.url", "must be an http or https URL with a host; credentials go into headers")
    for name, value in server.headers.items():
        at = f"{where}.headers[{quoted(name)}]"
        if not _HEADER_NAME.fullmatch(name):
            say(at, "must be a header's name")
        if not _HEADER_VALUE.fullmatch(value):
            say(at, "must be one line of ASCII or Latin-1 characters: the agent cannot send another header")


def _check_agent(name: str, agent: pb.AgentDefinition, say: Say) -> None:
    where = f"agents[{quoted(name)}]"
    if not name.strip() or not name.isprintable() or len(name) > MAX_NAME:
        say(where, f"must have a name of 1 to {MAX_NAME} printable characters")
    for field in ("description", "prompt"):
        if not getattr(agent, field).strip():
            say(f"{where}.{field}", "must not be blank")
    if not 0 <= agent.max_turns <= MAX_TURNS:
        say(f"{where}.max_turns", f"must be 1 to {MAX_TURNS}, or 0 for no limit")
    if not is_word(agent.model):
        say(f"{where}.model", "must be sonnet, opus, haiku, inherit or a model's id")
    for field in ("tools", "disallowed_tools", "mcp_servers"):
        for index, entry in enumerate(getattr(agent, field)):
            if not entry.strip():
                say(f"{where}.{field}[{index}]", "must not be blank")
    _check_skills(agent.skills, f"{where}.skills", say)


def _check_skills(skills: Sequence[str], where: str, say: Say, words: Sequence[str] = ()) -> None:
    for index, name in enumerate(skills):
        if name in words:
            if len(skills) > 1:
                say(f"{where}[{index}]", f"{quoted(name)} must stand alone")
            continue
        if problem := skill_problem(name):
            say(f"{where}[{index}]", f"must be a skill's exact name: {problem}")


def _check_extra_args(extra_args: Mapping[str, str], say: Say) -> None:
    for flag, value in extra_args.items():
        where = f"extra_args[{quoted(flag)}]"
        if not _FLAG.fullmatch(flag):
            say(
                where,
                "must be a flag of the CLI without \"--\": small letters, digits and '-', beginning with a letter",
            )
        elif reason := refused_flag(flag):
            say(where, reason)
        _check_argument(f"--{flag}={value}", where, say)


def _check_the_rest(options: pb.AgentOptions, say: Say) -> None:
    if options.resume_at_message_uuid and not is_uuid(options.resume_at_message_uuid):
        say("resume_at_message_uuid", "must be a UUID")
    if len(options.client_app) > MAX_NAME or not _PRINTABLE_ASCII.fullmatch(options.client_app):
        say("client_app", f"must be at most {MAX_NAME} printable ASCII characters")
    for name in ("http_proxy_port", "socks_proxy_port"):
        if not 0 <= getattr(options.sandbox.network, name) <= 65535:
            say(f"sandbox.network.{name}", "must be 1 to 65535, or 0 for none")
    timeout = options.interactions.timeout
    if options.interactions.HasField("timeout") and (duration_problem(timeout) or not seconds_of(timeout)):
        say("interactions.timeout", "must be above 0 and at most 10 years, or unset to wait for ever")


def _check_argument(text: str, where: str, say: Say) -> None:
    size = len(text) if text.isascii() else len(text.encode())
    if size > MAX_ARGUMENT:
        say(where, f"is {size} bytes as one argument of the agent's process; at most {MAX_ARGUMENT} are possible")


def _check_size(options: pb.AgentOptions, say: Say) -> None:
    """Check the size of options that are joined into one argument, and of everything together."""
    skills = [f"Skill({name})" for name in options.skills]
    for name, joined in (
        ("tools", ",".join(options.tools)),
        ("allowed_tools", ",".join([*options.allowed_tools, *skills])),
        ("disallowed_tools", ",".join(options.disallowed_tools)),
        ("betas", ",".join(options.betas)),
    ):
        _check_argument(joined, name, say)
    on_the_side = pb.AgentOptions()
    on_the_side.CopyFrom(options)
    for name in ("mcp_servers", "agents", "settings_json", "sandbox"):
        on_the_side.ClearField(name)  # type: ignore[arg-type]
    on_the_side.system_prompt.text = ""
    if on_the_side.ByteSize() > MAX_SPAWN:
        say("", f"arguments and environment are above {MAX_SPAWN} bytes together, more than a process can be given")
