"""What a caller's options become: checked, merged, and said in the SDK's words."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import claude_agent_sdk.types as sdk
import pytest
from agentpb import agent_pb2 as pb
from claude_agent_sdk import AgentDefinition, ClaudeAgentOptions
from claude_agent_sdk._internal.transport.subprocess_cli import SubprocessCLITransport
from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_service import options
from agent_service.options import NOT_EXPOSED, PLACED_ELSEWHERE
from agent_service.options.checks import MAX_ARGUMENT
from agent_service.options.translation import EFFORTS, PERMISSION_MODES, SETTING_SOURCES

HERE = str(Path(__file__).parent)

FULL = f"""
    model: "m" fallback_model: "f" system_prompt {{ text: "be brief" }} tools: "Bash" allowed_tools: "Read"
    disallowed_tools: "Write" permission_mode: PERMISSION_MODE_PLAN max_turns: 3 max_budget_usd: 1.5
    task_budget_tokens: 9 thinking {{ mode: THINKING_MODE_ENABLED budget_tokens: 2048 display: "omitted" }}
    effort: EFFORT_HIGH output_schema_json: '{{"type":"object"}}' cwd: "{HERE}" add_dirs: "{HERE}"
    env {{ key: "A" value: "b" }}
    mcp_servers {{ key: "x" value {{ stdio {{ command: "c" args: "-v" env {{ key: "K" value: "v" }} }} }} }}
    strict_mcp_config: false skills: "s" setting_sources: SETTING_SOURCE_USER settings_json: '{{"model":"m"}}'
    agents {{ key: "helper" value {{
        description: "d" prompt: "p" tools: "Read" disallowed_tools: "Bash" model: "haiku" skills: "s"
        memory: SETTING_SOURCE_LOCAL mcp_servers: "x" initial_prompt: "i" max_turns: 2 background: true
        effort: EFFORT_LOW permission_mode: PERMISSION_MODE_DONT_ASK }} }}
    sandbox {{
        enabled: true auto_allow_bash_if_sandboxed: false excluded_commands: "git" allow_unsandboxed_commands: false
        ignore_violations {{ key: "*" value {{ values: "/etc" }} }} enable_weaker_nested_sandbox: true
        fail_if_unavailable: false network {{
            allowed_domains: "a" denied_domains: "b" allow_unix_sockets: "c" allow_all_unix_sockets: true
            allow_local_binding: true http_proxy_port: 1 socks_proxy_port: 2 allow_managed_domains_only: true
            allow_mach_lookup: "d" }} }}
    plugins: "{HERE}" betas: "context-1m-2025-08-07" include_partial_messages: true include_hook_events: true
    forward_subagent_text: true enable_file_checkpointing: true
    resume_at_message_uuid: "11111111-2222-3333-4444-555555555555"
    extra_args {{ key: "debug" value: "" }} client_app: "app/1" verbatim_prompts: true
    file_mentions: true
    interactions {{ permissions: true questions: false timeout {{ seconds: 5 }} on_timeout: ON_TIMEOUT_INTERRUPT }}
"""
"""Every option there is, each with an acceptable value."""

WITHOUT_EFFECT = {
    "resume_at_message_uuid": "the pool sets it together with resume",
    "file_mentions": "the pool gives the agent a variable",
    "cwd": "the workspace decides between it and a directory of the session's own, and gives the outcome",
}
"""Fields of AgentOptions that to_sdk does not read, with the reason."""


def full() -> pb.AgentOptions:
    return text_format.Parse(FULL, pb.AgentOptions())


def parsed(text: str) -> pb.AgentOptions:
    return text_format.Parse(text, pb.AgentOptions())


def sdk_of(given: pb.AgentOptions, scratch: Path, **more: Any) -> ClaudeAgentOptions:
    arguments: dict[str, Any] = {"cwd": Path("/srv/work"), "env": {"PATH": "/bin"}, "default_model": None, **more}
    return options.to_sdk(given, scratch=scratch, **arguments)


def read(translated: ClaudeAgentOptions) -> dict[str, Any]:
    """The SDK's options as values, with the content of the files they name."""
    shown = dict(vars(translated))
    del shown["debug_stderr"]
    if isinstance(shown["mcp_servers"], str):
        shown["mcp_servers"] = json.loads(Path(shown["mcp_servers"]).read_text())
    if given := shown["settings"]:
        shown["settings"] = json.loads(given if given.startswith("{") else Path(given).read_text())
    prompt = shown["system_prompt"]
    if prompt and prompt["type"] == "file":
        shown["system_prompt"] = Path(prompt["path"]).read_text()
    return shown


def violations(given: pb.AgentOptions) -> dict[str, str]:
    found = options.check(given) or options.check_directories(given)
    return {violation.field: violation.description for violation in found}


# --------------------------------------------------------------------------------------------------- nothing forgotten


def test_every_field_of_the_sdk_is_translated_or_placed_elsewhere_or_not_exposed(tmp_path: Path) -> None:
    fields = {field.name for field in dataclasses.fields(ClaudeAgentOptions)}
    unset = read(ClaudeAgentOptions())
    translated = {"sandbox"}  # joined into settings
    for sample in (full(), pb.AgentOptions()):
        translated |= {name for name, value in read(sdk_of(sample, tmp_path)).items() if value != unset[name]}
    assert translated | set(PLACED_ELSEWHERE) | set(NOT_EXPOSED) == fields
    assert not translated & set(PLACED_ELSEWHERE)
    assert not translated & set(NOT_EXPOSED)
    assert not set(PLACED_ELSEWHERE) & set(NOT_EXPOSED)


def test_every_field_of_every_option_has_an_effect(tmp_path: Path) -> None:
    whole = read(sdk_of(full(), tmp_path))
    idle = {path for path, smaller in _each_without(full()) if read(sdk_of(smaller, tmp_path)) == whole}
    alone = {
        "interactions.timeout",  # of use to the session only
        "interactions.on_timeout",
        "mcp_servers[].stdio",  # taken away, it is an empty http one
    }
    assert idle - alone == set(WITHOUT_EFFECT)


def _each_without(message: Message) -> Iterator[tuple[str, pb.AgentOptions]]:
    """Copies of the whole, each with one field less, however deep it is."""
    for path in _paths(message, ()):
        copy = pb.AgentOptions()
        copy.CopyFrom(message)
        inner: Any = copy
        for step in path[:-1]:
            inner = inner[step] if step in getattr(inner, "keys", list)() else getattr(inner, str(step))
        inner.ClearField(path[-1])
        name = ".".join(path)
        for key in ("x", "helper", "*"):
            name = name.replace(f".{key}.", "[].")
        yield name, copy


def _paths(message: Message, prefix: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for field, value in message.ListFields():
        yield (*prefix, field.name)
        if field.message_type is None or field.message_type.full_name.startswith("google."):
            continue
        if field.message_type.GetOptions().map_entry:
            for key, each in value.items():
                if isinstance(each, Message):
                    yield from _paths(each, (*prefix, field.name, key))
        elif not field.is_repeated:
            yield from _paths(value, (*prefix, field.name))


def test_the_sample_of_all_options_is_complete_and_good() -> None:
    missing = list(_unset(full(), ""))
    other_kinds = {"system_prompt.preset", "system_prompt.append", "system_prompt.exclude_dynamic_sections"}
    other_kinds |= {"mcp_servers[].sse", "mcp_servers[].http", "interactions.questions"}
    other_kinds |= {"mcp_servers[].configured"}
    assert set(missing) == other_kinds
    assert options.check(full()) == []


def _unset(message: Message, prefix: str) -> Iterator[str]:
    seen = {field.name: value for field, value in message.ListFields()}
    for field in message.DESCRIPTOR.fields:
        optional = field.has_presence and field.containing_oneof is not None and field.name in seen
        if field.name not in seen and not optional:
            if field.name not in ("strict_mcp_config",):
                yield prefix + field.name
            continue
        value = seen[field.name]
        if field.message_type is None or field.message_type.full_name.startswith("google."):
            continue
        if field.message_type.GetOptions().map_entry:
            for each in value.values():
                if isinstance(each, Message):
                    yield from _unset(each, f"{prefix}{field.name}[].")
        elif not field.is_repeated:
            yield from _unset(value, f"{prefix}{field.name}.")


def test_enums_say_all_that_the_sdk_can() -> None:
    assert set(PERMISSION_MODES.values()) == set(sdk.PermissionMode.__args__)
    assert set(EFFORTS.values()) == set(sdk.EffortLevel.__args__)
    assert set(SETTING_SOURCES.values()) == set(sdk.SettingSource.__args__)
    assert set(PERMISSION_MODES) == set(pb.PermissionMode.values()) - {0}
    assert set(EFFORTS) == set(pb.Effort.values()) - {0}
    assert set(SETTING_SOURCES) == set(pb.SettingSource.values()) - {0}


def test_an_agent_says_all_that_the_sdk_can(tmp_path: Path) -> None:
    agents = sdk_of(full(), tmp_path).agents
    assert agents is not None
    unset = [field.name for field in dataclasses.fields(AgentDefinition) if not getattr(agents["helper"], field.name)]
    assert unset == []


def test_the_sandbox_says_all_that_the_sdk_can(tmp_path: Path) -> None:
    sandbox = read(sdk_of(full(), tmp_path))["settings"]["sandbox"]
    assert set(sdk.SandboxSettings.__annotations__) | {"failIfUnavailable"} == set(sandbox)
    assert set(sdk.SandboxNetworkConfig.__annotations__) == set(sandbox["network"])


# --------------------------------------------------------------------------------------------------------- translation


def test_unset_options_are_the_services_defaults(tmp_path: Path) -> None:
    translated = sdk_of(pb.AgentOptions(), tmp_path, default_model="default")
    assert translated.model == "default"
    assert translated.setting_sources == []
    assert translated.strict_mcp_config is True
    assert translated.max_buffer_size == 32 << 20
    assert translated.env == {"PATH": "/bin"}
    assert translated.cwd == Path("/srv/work")
    assert translated.extra_args == {"system-prompt-snapshot": "off"}
    assert (translated.system_prompt, translated.tools, translated.skills) == (None,) * 3
    assert json.loads(translated.settings or "") == options.OWN_SETTINGS
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", None),
        ('tools: "none"', []),
        ('tools: "default"', {"type": "preset", "preset": "claude_code"}),
        ('tools: ["Bash", "Read"]', ["Bash", "Read"]),
    ],
)
def test_tools(given: str, expected: object, tmp_path: Path) -> None:
    assert sdk_of(parsed(given), tmp_path).tools == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [("", None), ('skills: "all"', "all"), ('skills: "none"', []), ('skills: ["a", "b:c"]', ["a", "b:c"])],
)
def test_skills(given: str, expected: object, tmp_path: Path) -> None:
    assert sdk_of(parsed(given), tmp_path).skills == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ('text: " \\n"', None),
        ('preset: "claude_code"', {"type": "preset", "preset": "claude_code"}),
        (
            'preset: "claude_code" append: "more" exclude_dynamic_sections: true',
            {"type": "preset", "preset": "claude_code", "append": "more", "exclude_dynamic_sections": True},
        ),
    ],
)
def test_system_prompts(given: str, expected: object, tmp_path: Path) -> None:
    assert sdk_of(parsed(f"system_prompt {{ {given} }}"), tmp_path).system_prompt == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("mode: THINKING_MODE_ADAPTIVE", {"type": "adaptive"}),
        ('mode: THINKING_MODE_ADAPTIVE display: "omitted"', {"type": "adaptive", "display": "omitted"}),
        ("mode: THINKING_MODE_ENABLED budget_tokens: 2000", {"type": "enabled", "budget_tokens": 2000}),
        ("mode: THINKING_MODE_DISABLED", {"type": "disabled"}),
        ("", None),
    ],
)
def test_thinking(given: str, expected: object, tmp_path: Path) -> None:
    assert sdk_of(parsed(f"thinking {{ {given} }}"), tmp_path).thinking == expected


def test_secrets_and_long_texts_travel_in_private_files_and_not_in_argv(tmp_path: Path) -> None:
    given = full()
    given.system_prompt.text = "long " * 100_000
    given.mcp_servers["h"].http.url = "https://example.com"
    given.mcp_servers["h"].http.headers["Authorization"] = "Bearer sesame"
    given.settings_json = '{"env":{"TOKEN":"sesame"}}'
    translated = sdk_of(given, tmp_path)
    command = _command(translated)
    assert max(map(len, command)) < 1000
    assert not [argument for argument in command if "sesame" in argument]
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["mcp.json", "settings.json", "system-prompt.txt"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    servers = read(translated)["mcp_servers"]["mcpServers"]
    assert servers["h"]["headers"] == {"Authorization": "Bearer sesame"}
    assert servers["x"] == {"type": "stdio", "command": "c", "args": ["-v"], "env": {"K": "v"}}


def _command(translated: ClaudeAgentOptions) -> list[str]:
    """The command line that the SDK makes of it."""
    transport = SubprocessCLITransport(prompt=_nothing(), options=dataclasses.replace(translated, cli_path="/bin/true"))
    return transport._build_command()


async def _nothing() -> Any:
    return
    yield


def test_no_settings_of_a_caller_let_other_sessions_in(tmp_path: Path) -> None:
    given = full()
    given.settings_json = '{"crossSessionInbound":"accept","env":{"TOKEN":"sesame","CLAUDE_CODE_HARBOR_KITE":"1"}}'
    settings = read(sdk_of(given, tmp_path))["settings"]
    assert settings["crossSessionInbound"] == "refuse"
    assert settings["env"] == {"TOKEN": "sesame", **options.ALONE}


def test_the_sdk_accepts_all_options(tmp_path: Path) -> None:
    command = _command(sdk_of(full(), tmp_path))
    for flag in ("--settings", "--mcp-config", "--system-prompt-file", "--json-schema", "--plugin-dir", "--debug"):
        assert flag in command


def test_a_sandbox_that_cannot_be_fails_the_turn_unless_the_caller_says_otherwise(tmp_path: Path) -> None:
    strict = read(sdk_of(parsed("sandbox { enabled: true }"), tmp_path))["settings"]
    assert strict == {"sandbox": {"enabled": True, "failIfUnavailable": True}, **options.OWN_SETTINGS}
    lax = read(sdk_of(parsed("sandbox { enabled: true fail_if_unavailable: false }"), tmp_path))["settings"]
    assert lax["sandbox"]["failIfUnavailable"] is False


def test_the_callers_environment_and_flags_go_over_the_services(tmp_path: Path) -> None:
    given = parsed('env { key: "PATH" value: "/opt" } extra_args { key: "system-prompt-snapshot" value: "on" }')
    translated = sdk_of(given, tmp_path)
    assert translated.env == {"PATH": "/opt"}
    assert translated.extra_args == {"system-prompt-snapshot": "on"}


def test_questions_are_taken_away_where_only_leave_is_asked(tmp_path: Path) -> None:
    only_leave = sdk_of(parsed("interactions { permissions: true }"), tmp_path)
    both = sdk_of(parsed("interactions { permissions: true questions: true }"), tmp_path)
    assert (only_leave.disallowed_tools, both.disallowed_tools) == (["AskUserQuestion"], [])


# --------------------------------------------------------------------------------------------------------------- check

BAD: list[tuple[str, str, str]] = [
    ("permission_mode: 77", "permission_mode", "PERMISSION_MODE_PLAN"),
    ("effort: 77", "effort", "EFFORT_MAX"),
    ("thinking { mode: 77 }", "thinking.mode", "THINKING_MODE_ADAPTIVE"),
    ("setting_sources: [1, 0]", "setting_sources[1]", "SETTING_SOURCE_USER"),
    ("setting_sources: 9", "setting_sources[0]", "SETTING_SOURCE_LOCAL"),
    ("interactions { on_timeout: 7 }", "interactions.on_timeout", "ON_TIMEOUT_DENY"),
    ('agents { key: "a" value { description: "d" prompt: "p" effort: 9 } }', 'agents["a"].effort', "EFFORT_LOW"),
    ('model: "two words"', "model", "name"),
    ('model: "--flag"', "model", "'-'"),
    ('fallback_model: "--flag"', "fallback_model", "'-'"),
    ('betas: "a,b"', "betas[0]", "one beta"),
    ('betas: ""', "betas[0]", "one beta"),
    ('system_prompt { preset: "other" }', "system_prompt.preset", "claude_code"),
    ('system_prompt { text: "t" append: "a" }', "system_prompt.append", "preset"),
    ('system_prompt { append: "a" }', "system_prompt.append", "preset"),
    ('system_prompt { text: "t" exclude_dynamic_sections: true }', "system_prompt.exclude_dynamic_sections", "preset"),
    ('tools: ["none", "Bash"]', "tools[0]", "alone"),
    ('tools: ["Bash", "default"]', "tools[1]", "alone"),
    ('tools: "Read,Bash"', "tools[0]", "one built-in tool"),
    ('tools: "Bash(ls)"', "tools[0]", "one built-in tool"),
    ('tools: ""', "tools[0]", "one built-in tool"),
    ('allowed_tools: "Read,Bash"', "allowed_tools[0]", "one tool or rule"),
    ('allowed_tools: "Read Bash"', "allowed_tools[0]", "one tool or rule"),
    ('allowed_tools: "Bash(ls) Write(x)"', "allowed_tools[0]", "one tool or rule"),
    ('allowed_tools: "Bash(ls"', "allowed_tools[0]", "one tool or rule"),
    ('disallowed_tools: "-x"', "disallowed_tools[0]", "one tool or rule"),
    ("max_turns: 0", "max_turns", "1 to 10000"),
    ("max_turns: -1", "max_turns", "1 to 10000"),
    ("max_turns: 10001", "max_turns", "1 to 10000"),
    ("max_budget_usd: 0", "max_budget_usd", "above 0"),
    ("max_budget_usd: nan", "max_budget_usd", "above 0"),
    ("max_budget_usd: inf", "max_budget_usd", "above 0"),
    ("task_budget_tokens: 0", "task_budget_tokens", "at least 1"),
    ("thinking { mode: THINKING_MODE_ENABLED budget_tokens: 1023 }", "thinking.budget_tokens", "1024"),
    ("thinking { mode: THINKING_MODE_ADAPTIVE budget_tokens: 2000 }", "thinking.budget_tokens", "ENABLED"),
    ('thinking { mode: THINKING_MODE_ADAPTIVE display: "x" }', "thinking.display", "summarized"),
    ('thinking { mode: THINKING_MODE_DISABLED display: "omitted" }', "thinking.display", "ADAPTIVE"),
    ("output_schema_json: '{\\n 1}'", "output_schema_json", "line 2, column 2"),
    ("output_schema_json: '[]'", "output_schema_json", "JSON object"),
    ("settings_json: '{\"a\": NaN}'", "settings_json", "NaN"),
    ("settings_json: 'x'", "settings_json", "line 1, column 1"),
    ('cwd: "relative"', "cwd", "absolute"),
    ('cwd: ""', "cwd", "absolute"),
    ('cwd: "/no/such/directory"', "cwd", "exists"),
    (f'cwd: "{__file__}"', "cwd", "directory"),
    (f'add_dirs: ["{HERE}", "x"]', "add_dirs[1]", "absolute"),
    ('plugins: "/no/such"', "plugins[0]", "exists"),
    ('env { key: "1A" value: "" }', 'env["1A"]', "letters"),
    ('env { key: "A=B" value: "" }', 'env["A=B"]', "letters"),
    ('env { key: "" value: "" }', 'env[""]', "letters"),
    ('env { key: "A" value: "a\\000b" }', 'env["A"]', "NUL"),
    ('env { key: "CLAUDE_CONFIG_DIR" value: "/" }', 'env["CLAUDE_CONFIG_DIR"]', "service's own"),
    ('env { key: "NODE_OPTIONS" value: "--require /x.js" }', 'env["NODE_OPTIONS"]', "runtime"),
    ('env { key: "BUN_OPTIONS" value: "x" }', 'env["BUN_OPTIONS"]', "runtime"),
    ('env { key: "LD_PRELOAD" value: "/x.so" }', 'env["LD_PRELOAD"]', "loads"),
    ('env { key: "BASH_ENV" value: "/x" }', 'env["BASH_ENV"]', "shell"),
    ('env { key: "ANTHROPIC_BASE_URL" value: "http://x" }', 'env["ANTHROPIC_BASE_URL"]', "operator"),
    ('env { key: "https_proxy" value: "http://x" }', 'env["https_proxy"]', "operator"),
    ('env { key: "OTEL_EXPORTER" value: "x" }', 'env["OTEL_EXPORTER"]', "operator"),
    ('env { key: "HOME" value: "/" }', 'env["HOME"]', "service's own"),
    ('env { key: "IS_SANDBOX" value: "1" }', 'env["IS_SANDBOX"]', "service's own"),
    ('env { key: "AGENT_SERVICE_MARKER" value: "x" }', 'env["AGENT_SERVICE_MARKER"]', "service's own"),
    (
        'env { key: "CLAUDE_CODE_DISABLE_FILE_MENTIONS" value: "0" }',
        'env["CLAUDE_CODE_DISABLE_FILE_MENTIONS"]',
        "file_mentions",
    ),
    ('env { key: "__proto__" value: "x" }', 'env["__proto__"]', "drop"),
    (
        'mcp_servers { key: "x" value { stdio { command: "c" env { key: "AGENT_SERVICE_MARKER" value: "" } } } }',
        'mcp_servers["x"].stdio.env["AGENT_SERVICE_MARKER"]',
        "service's own",
    ),
    (
        'mcp_servers { key: "x" value { http { url: "http://a" headers { key: "__proto__" value: "" } } } }',
        'mcp_servers["x"].http.headers["__proto__"]',
        "drop",
    ),
    ('mcp_servers { key: "__proto__" value { stdio { command: "c" } } }', 'mcp_servers["__proto__"]', "drop"),
    (
        'mcp_servers { key: "__defineGetter__" value { stdio { command: "c" } } }',
        'mcp_servers["__defineGetter__"]',
        "drop",
    ),
    ('mcp_servers { key: "workspace" value { stdio { command: "c" } } }', 'mcp_servers["workspace"]', "another name"),
    (
        'mcp_servers { key: "claude-in-chrome" value { stdio { command: "c" } } }',
        'mcp_servers["claude-in-chrome"]',
        "another name",
    ),
    (
        f'mcp_servers {{ key: "{"x" * 57}" value {{ stdio {{ command: "c" }} }} }}',
        f'mcp_servers["{"x" * 57}"]',
        "64 of mcp__SERVER__TOOL",
    ),
    ('agents { key: "__proto__" value { description: "d" prompt: "p" } }', 'agents["__proto__"]', "drop"),
    (
        'sandbox { ignore_violations { key: "__proto__" value { values: "/x" } } }',
        'sandbox.ignore_violations["__proto__"]',
        "drop",
    ),
    ('output_schema_json: \'{"a":1,"a":2}\'', "output_schema_json", "twice at $.a (line 1, column 8)"),
    ("settings_json: '{\"model\":5}'", "settings_json", "$.model"),
    ('settings_json: \'{"permisions":{"deny":["Bash"]}}\'', "settings_json", "is permissions meant?"),
    ('settings_json: \'{"permissions":{"denied":["Bash"]}}\'', "settings_json", "$.permissions"),
    ('settings_json: \'{"permissions":{"deny":"Bash"}}\'', "settings_json", "$.permissions.deny"),
    ('settings_json: \'{"permissions":{"deny":["Bash("]}}\'', "settings_json", "$.permissions.deny[0]"),
    ('settings_json: \'{"hooks":{"BeforeAll":[]}}\'', "settings_json", "BeforeAll"),
    ("settings_json: '{\"model\":null}'", "settings_json", "$.model"),
    ('settings_json: \'{"env":{"A":"b"}}\'', "settings_json", "option of its own: env"),
    ('settings_json: \'{"apiKeyHelper":"/x"}\'', "settings_json", "credentials"),
    ('settings_json: \'{"crossSessionInbound":"accept"}\'', "settings_json", "do not speak to each other"),
    ("settings_json: '{\"a\":1e999}'", "settings_json", "too large at $.a"),
    ("settings_json: '{\"__proto__\":{}}'", "settings_json", "__proto__"),
    ('extra_args { key: "plugin-url" value: "http://x" }', 'extra_args["plugin-url"]', "not open to callers"),
    ('extra_args { key: "debug-file" value: "/x" }', 'extra_args["debug-file"]', "not open to callers"),
    ('mcp_servers { key: "x" value {} }', 'mcp_servers["x"]', "one of stdio, sse, http and configured"),
    ('mcp_servers { key: "a b" value { stdio { command: "c" } } }', 'mcp_servers["a b"]', "letters"),
    ('mcp_servers { key: "x" value { stdio {} } }', 'mcp_servers["x"].stdio.command', "program"),
    (
        'mcp_servers { key: "x" value { stdio { command: "c" env { key: "=" value: "" } } } }',
        'mcp_servers["x"].stdio.env["="]',
        "letters",
    ),
    ('mcp_servers { key: "x" value { http { url: "ftp://a" } } }', 'mcp_servers["x"].http.url', "https"),
    ('mcp_servers { key: "x" value { sse { url: "http://" } } }', 'mcp_servers["x"].sse.url', "host"),
    ('mcp_servers { key: "x" value { sse { url: "http://a:99999" } } }', 'mcp_servers["x"].sse.url', "host"),
    (
        'mcp_servers { key: "x" value { http { url: "http://a" headers { key: "A" value: "b\\r\\nC: d" } } } }',
        'mcp_servers["x"].http.headers["A"]',
        "one line",
    ),
    (
        'mcp_servers { key: "x" value { http { url: "http://a" headers { key: "A:" value: "b" } } } }',
        'mcp_servers["x"].http.headers["A:"]',
        "header",
    ),
    (
        'mcp_servers { key: "x" value { http { url: "http://a" headers { key: "A" value: "\\342\\230\\203" } } } }',
        'mcp_servers["x"].http.headers["A"]',
        "Latin-1",
    ),
    (
        'mcp_servers { key: "x" value { http { url: "http://a" headers { key: "A" value: "b\\001" } } } }',
        'mcp_servers["x"].http.headers["A"]',
        "one line",
    ),
    ('mcp_servers { key: "x" value { http { url: "http://u:p@a/" } } }', 'mcp_servers["x"].http.url', "headers"),
    ('mcp_servers { key: "x" value { http { url: "http://a\\\\@b/" } } }', 'mcp_servers["x"].http.url', "host"),
    ('mcp_servers { key: "x" value { http { url: "http://a/\\001" } } }', 'mcp_servers["x"].http.url', "host"),
    ('agents { key: "a" value { prompt: "p" } }', 'agents["a"].description', "blank"),
    ('agents { key: "a" value { description: "d" prompt: " " } }', 'agents["a"].prompt', "blank"),
    ('agents { key: "" value { description: "d" prompt: "p" } }', 'agents[""]', "name"),
    ('agents { key: "a" value { description: "d" prompt: "p" max_turns: -1 } }', 'agents["a"].max_turns', "1 to"),
    ('agents { key: "a" value { description: "d" prompt: "p" model: "-x" } }', 'agents["a"].model', "haiku"),
    ('agents { key: "a" value { description: "d" prompt: "p" tools: " " } }', 'agents["a"].tools[0]', "blank"),
    ('agents { key: "a" value { description: "d" prompt: "p" skills: "a,b" } }', 'agents["a"].skills[0]', "exact"),
    ('skills: ["all", "x"]', "skills[0]", "alone"),
    ('skills: "a,b"', "skills[0]", "exact name"),
    ('skills: ""', "skills[0]", "exact name"),
    ('extra_args { key: "--x" value: "" }', 'extra_args["--x"]', "small letters"),
    ('extra_args { key: "x=y" value: "" }', 'extra_args["x=y"]', "small letters"),
    ('extra_args { key: "output-format" value: "json" }', 'extra_args["output-format"]', "service's own"),
    ('extra_args { key: "session-id" value: "x" }', 'extra_args["session-id"]', "service's own"),
    ('extra_args { key: "permission-prompt-tool" value: "x" }', 'extra_args["permission-prompt-tool"]', "own"),
    ('extra_args { key: "settings" value: "x" }', 'extra_args["settings"]', "settings_json"),
    (
        'extra_args { key: "dangerously-skip-permissions" value: "" }',
        'extra_args["dangerously-skip-permissions"]',
        "permission_mode",
    ),
    ('resume_at_message_uuid: "x"', "resume_at_message_uuid", "UUID"),
    ('client_app: "a\\nb"', "client_app", "printable"),
    ("sandbox { network { http_proxy_port: 70000 } }", "sandbox.network.http_proxy_port", "65535"),
    ("interactions { timeout {} }", "interactions.timeout", "above 0"),
    ("interactions { timeout { seconds: -5 } }", "interactions.timeout", "above 0"),
    ("interactions { timeout { seconds: 5 nanos: -5 } }", "interactions.timeout", "above 0"),
]


@pytest.mark.parametrize(("given", "field", "said"), BAD, ids=[f"{field}-{said}" for _, field, said in BAD])
def test_a_bad_field_is_named_with_what_is_accepted(given: str, field: str, said: str) -> None:
    found = violations(parsed(given))
    assert list(found) == [f"options.{field}"]
    assert said in found[f"options.{field}"]


@pytest.mark.parametrize(
    "given",
    [
        "",
        'system_prompt { text: "  " append: "" }',
        'model: ""',
        'model: "claude-opus-5[1m]"',
        'allowed_tools: ["Read", "Bash(git log, --oneline)", "mcp__x__y", "Bash(a (b) c)", "WebFetch(domain:a.b)"]',
        "max_turns: 1",
        "max_turns: 10000",
        'extra_args { key: "debug" value: "api" }',
        'extra_args { key: "restricted" value: "" }',
        'skills: ["all"]',
        'mcp_servers { key: "x" value { http { url: "https://[::1]:8443/mcp?x=1" } } }',
        'env { key: "CLAUDE_CODE_MAX_RETRIES" value: "2" }',
        'env { key: "PATH" value: "/opt/venv/bin:/usr/bin" }',
        'mcp_servers { key: "x" value { stdio { command: "node" env { key: "NODE_OPTIONS" value: "-r x" } } } }',
    ],
)
def test_good_options(given: str) -> None:
    assert violations(parsed(given)) == {}


@pytest.mark.parametrize(
    "name", ["system_prompt.append", 'env["A"]', 'extra_args["name"]', "output_schema_json", "allowed_tools", "tools"]
)
def test_what_must_go_into_argv_is_bounded(name: str) -> None:
    long = "x" * MAX_ARGUMENT
    given = pb.AgentOptions()
    match name:
        case "system_prompt.append":
            given.system_prompt.preset, given.system_prompt.append = "claude_code", long + "x"
        case 'env["A"]':
            given.env["A"] = long
        case 'extra_args["name"]':
            given.extra_args["name"] = long
        case "output_schema_json":
            given.output_schema_json = json.dumps({"description": long})
        case "allowed_tools" | "tools":
            getattr(given, name).extend(["Tool" * 50] * 1000)
    found = violations(given)
    assert list(found) == [f"options.{name}"]
    assert str(MAX_ARGUMENT) in found[f"options.{name}"]


def test_arguments_and_environment_are_bounded_together() -> None:
    given = pb.AgentOptions(env={f"A{number}": "x" * 100_000 for number in range(12)})
    assert list(violations(given)) == ["options"]


def test_what_goes_into_files_may_be_long() -> None:
    given = pb.AgentOptions(settings_json=json.dumps({"claudeMd": "y" * 2_000_000}))
    given.system_prompt.text = "x" * 2_000_000
    given.mcp_servers["x"].stdio.command = "c"
    given.mcp_servers["x"].stdio.args.extend(["y" * 100_000] * 20)
    assert violations(given) == {}


def test_json_that_is_nested_too_deeply_is_refused() -> None:
    assert "nested" in violations(pb.AgentOptions(settings_json='{"a":' * 100_000))["options.settings_json"]


def test_all_violations_are_found_at_once_under_the_path_asked_for() -> None:
    found = options.check(parsed('max_turns: 0 effort: 77 cwd: "x"'), path="options.inner")
    assert {violation.field.removeprefix("options.inner.") for violation in found} == {"max_turns", "effort", "cwd"}


def test_names_to_clear_must_be_fields() -> None:
    [violation] = options.check_clear(["allowed_tools", "allowed-tools"])
    assert violation.field == "clear_options[1]"


# --------------------------------------------------------------------------------------------------------------- merge

FIELDS = list(pb.AgentOptions.DESCRIPTOR.fields)


@st.composite
def some_options(draw: st.DrawFn) -> pb.AgentOptions:
    """A part of all options, some with another value."""
    whole, other = full(), pb.AgentOptions()
    for field in draw(st.sets(st.sampled_from(FIELDS))):
        if field.name == "system_prompt" and draw(st.booleans()):
            other.system_prompt.preset = "claude_code"
        elif field.name == "env" and draw(st.booleans()):
            other.env["OTHER"] = "value"
        elif field.name == "max_turns" and draw(st.booleans()):
            other.max_turns = 9
        else:
            _copy_field(whole, other, field)
    return other


def _copy_field(source: Message, target: Message, field: FieldDescriptor) -> None:
    only = type(source)()
    only.CopyFrom(source)
    for each, _ in source.ListFields():
        if each.name != field.name:
            only.ClearField(each.name)
    target.MergeFrom(only)


def fields_of(message: Message) -> dict[str, object]:
    return {field.name: value for field, value in message.ListFields()}


@settings(deadline=None)
@given(some_options(), some_options(), st.sets(st.sampled_from([field.name for field in FIELDS])))
def test_each_field_comes_from_what_was_given_or_else_is_inherited_unless_cleared(
    inherited: pb.AgentOptions, asked: pb.AgentOptions, clear: set[str]
) -> None:
    merged = fields_of(options.merge(inherited, asked, sorted(clear)))
    kept = {name: value for name, value in fields_of(inherited).items() if name not in clear}
    kept.pop("resume_at_message_uuid", None)
    assert merged == kept | fields_of(asked)


@settings(deadline=None)
@given(some_options())
def test_merging_nothing_changes_nothing(inherited: pb.AgentOptions) -> None:
    inherited.ClearField("resume_at_message_uuid")
    before = inherited.SerializeToString(deterministic=True)
    assert options.merge(inherited, pb.AgentOptions()) == inherited
    assert options.merge(pb.AgentOptions(), inherited) == inherited
    assert options.merge(inherited, inherited) == inherited
    assert inherited.SerializeToString(deterministic=True) == before


def test_lists_and_maps_are_replaced_as_a_whole() -> None:
    inherited = parsed('allowed_tools: ["A", "B"] env { key: "X" value: "1" } sandbox { enabled: true }')
    asked = parsed('allowed_tools: "C" env { key: "Y" value: "2" } sandbox {}')
    assert options.merge(inherited, asked) == asked


def test_a_blank_system_prompt_is_as_good_as_none() -> None:
    inherited, blank = parsed('system_prompt { text: "be brief" }'), parsed('system_prompt { text: " " }')
    assert options.merge(inherited, blank) == inherited


# ------------------------------------------------------------------------------------------------- shown and said


def test_secrets_are_not_shown() -> None:
    given = full()
    given.mcp_servers["h"].http.headers["Authorization"] = "sesame"
    given.mcp_servers["s"].sse.headers["Authorization"] = "sesame"
    shown = pb.AgentOptions()
    shown.CopyFrom(given)
    options.redact(shown)
    assert dict(shown.env) == {"A": "***"}
    assert dict(shown.mcp_servers["x"].stdio.env) == {"K": "***"}
    assert dict(shown.mcp_servers["h"].http.headers) == {"Authorization": "***"}
    assert dict(shown.mcp_servers["s"].sse.headers) == {"Authorization": "***"}
    assert shown.settings_json == "***"
    nothing = pb.AgentOptions()
    options.redact(nothing)
    assert nothing == pb.AgentOptions()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ('interactions { permissions: true } allowed_tools: ["Read", "Bash(ls)", "Edit(*)"]', "Read, Edit(*)"),
        ("interactions { permissions: true } permission_mode: PERMISSION_MODE_BYPASS_PERMISSIONS", "nobody is asked"),
        ("interactions { permissions: true } permission_mode: PERMISSION_MODE_DONT_ASK", "nobody is asked"),
        ('interactions { permissions: true } skills: "all" setting_sources: SETTING_SOURCE_USER', "Skill"),
        ('permission_mode: PERMISSION_MODE_BYPASS_PERMISSIONS extra_args { key: "restricted" value: "" }', "refuses"),
        ('skills: "x"', "setting_sources"),
        ('agents { key: "a" value { mcp_servers: "x" } }', 'no MCP server "x"'),
        ("sandbox {} settings_json: '{\"sandbox\":{}}'", "replaced"),
        ('env { key: "A" value: "***" }', "not shown"),
        ('mcp_servers { key: "x" value { http { headers { key: "A" value: "***" } } } }', "not shown"),
    ],
)
def test_what_may_surprise_is_said(given: str, said: str) -> None:
    assert any(said in warning for warning in options.warnings(parsed(given)))


def test_a_host_that_cannot_confine_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    [strict] = options.warnings(parsed("sandbox { enabled: true }"))
    [lax] = options.warnings(parsed("sandbox { enabled: true fail_if_unavailable: false }"))
    assert "bwrap and socat" in strict
    assert "will fail" in strict
    assert "unconfined" in lax


def test_root_that_bypasses_permissions_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    [warning] = options.warnings(parsed("permission_mode: PERMISSION_MODE_BYPASS_PERMISSIONS"))
    assert "root" in warning


def test_plain_options_give_no_warnings() -> None:
    assert options.warnings(parsed('interactions { permissions: true } allowed_tools: "Bash(git status)"')) == []


# ------------------------------------------------------------------------------------------------------------ spawn key
