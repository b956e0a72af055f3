"""Ceilings: what a grant says of each option. A field of AgentOptions is in CEILINGS or, with the reason, in FREE.

What is set beyond a ceiling is a violation, never cut down in silence; what is unset is filled in by defaults.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from agentpb import agent_pb2 as pb

from agent_service.options import quoted, seconds_of
from agent_service.policy.document import DEFAULT
from agent_service.policy.grant import Grant
from agent_service.policy.tables import matches
from agent_service.policy.words import EFFORTS, MODES, SOURCES, mode_of_agent


class Violation(NamedTuple):
    """A field beyond its ceiling: its path, what is allowed, and the key of the access file that says so."""

    field: str
    description: str
    rule: str

    @property
    def is_path(self) -> bool:
        """Whether it is about a directory."""
        return self.rule.endswith((".cwd_roots", ".plugins"))


class Asked:
    """The options that are held against a grant, and the violations found so far."""

    def __init__(self, options: pb.AgentOptions, grant: Grant, *, resolve: bool) -> None:
        """Look at names of paths only, or, with `resolve`, at where their symbolic links lead."""
        self.options = options
        self.grant = grant
        self.resolve = resolve
        self.found: list[Violation] = []

    def refuse(self, field: str, description: str, key: str) -> None:
        """Note that `options.field` is beyond the grant's `key`."""
        self.found.append(violation(self.grant, f"options.{field}", description, key))

    def one_of(self, field: str, value: str, allowed: Sequence[str] | None, key: str) -> None:
        """Refuse a value that matches none of the patterns."""
        if allowed is not None and not matches(value, allowed):
            self.refuse(field, f"{value!r} is not allowed; {_allowed(allowed)}", key)

    def at_most(self, field: str, value: float, most: float | None, key: str) -> None:
        """Refuse a number above the ceiling."""
        if most is not None and value > most:
            self.refuse(field, f"must be at most {most:g}", key)

    def below(self, field: str, path: str, roots: Sequence[str] | None, key: str) -> None:
        """Refuse a path that is not below one of the directories."""
        if roots is not None and not is_below(path, roots, resolve=self.resolve):
            where = f"must be below {' or '.join(roots)}" if roots else "must be unset: no directory is open to callers"
            self.refuse(field, where, key)


def violation(grant: Grant, field: str, description: str, key: str) -> Violation:
    """Make a violation that names the table of the access file where `key` is set, or could be."""
    rule = f"{grant.places.get(key) or f'tenant.{grant.tenant or DEFAULT}'}.{key}"
    return Violation(field, f"{description} ({rule})", rule)


def beyond(options: pb.AgentOptions, grant: Grant, *, resolve: bool) -> list[Violation]:
    """Every option that goes beyond the grant. Without `resolve`, nothing of the host is looked at."""
    asked = Asked(options, grant, resolve=resolve)
    for field, _ in options.ListFields():
        if (check := CEILINGS.get(field.name)) is not None:
            check(asked)
    return asked.found


def is_below(path: str, roots: Iterable[str], *, resolve: bool) -> bool:
    """Return whether a path is one of the roots or below one: by its name, and with `resolve` by its links too."""
    named = [os.path.normpath(root) for root in roots]
    if not _is_below(os.path.normpath(path), named):
        return False  # decided by the name alone, so that no answer tells what there is outside
    if not resolve:
        return True
    real = os.path.realpath(path)
    # Most roots are no links: then they are named by their real paths, and need not be looked up.
    return _is_below(real, named) or _is_below(real, [os.path.realpath(root) for root in named])


def _is_below(path: str, roots: Sequence[str]) -> bool:
    return any(path == root or path.startswith(root.rstrip("/") + "/") for root in roots)


def host_of(url: str) -> str:
    """The host of a URL, in small letters; "" for what is no URL."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def is_host(host: str, patterns: Sequence[str]) -> bool:
    """Return whether a host is one of "mcp.example.com" or, for "*.example.com", any below that domain."""
    return bool(host) and any(
        host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern.strip("[]") for pattern in patterns
    )


def _allowed(values: Sequence[str]) -> str:
    return f"allowed are {', '.join(values) or 'none'}"


def _models(asked: Asked) -> None:
    for name in ("model", "fallback_model"):
        if value := getattr(asked.options, name):
            asked.one_of(name, value, asked.grant.models, "models")


def _tools(asked: Asked) -> None:
    for index, tool in enumerate(asked.options.tools):
        if tool == "none":
            continue
        if tool == "default" and asked.grant.tools is not None:
            asked.refuse(f"tools[{index}]", f"is every tool; {_allowed(asked.grant.tools)}", "tools")
        else:
            asked.one_of(f"tools[{index}]", tool, asked.grant.tools, "tools")


def _mode(asked: Asked, field: str, mode: str) -> None:
    if mode == "bypass_permissions" and asked.grant.sandbox == "off":
        asked.refuse(field, "bypass_permissions needs a sandbox, and this tenant's agents have none", "sandbox")
    else:
        asked.one_of(field, mode, asked.grant.permission_modes, "permission_modes")


def _permission_mode(asked: Asked) -> None:
    _mode(asked, "permission_mode", MODES[asked.options.permission_mode])


def _max_turns(asked: Asked) -> None:
    asked.at_most("max_turns", asked.options.max_turns, asked.grant.max_turns, "max_turns")


def _max_budget_usd(asked: Asked) -> None:
    asked.at_most("max_budget_usd", asked.options.max_budget_usd, asked.grant.max_budget_usd, "max_budget_usd")


def _effort_at_most(asked: Asked, field: str, effort: int) -> None:
    most = asked.grant.max_effort
    if effort and most is not None and effort > EFFORTS[most]:
        asked.refuse(field, f"must be at most {most}", "max_effort")


def _effort(asked: Asked) -> None:
    _effort_at_most(asked, "effort", asked.options.effort)


def _cwd(asked: Asked) -> None:
    if asked.options.HasField("cwd"):
        asked.below("cwd", asked.options.cwd, asked.grant.cwd_roots, "cwd_roots")


def _add_dirs(asked: Asked) -> None:
    for index, path in enumerate(asked.options.add_dirs):
        asked.below(f"add_dirs[{index}]", path, asked.grant.cwd_roots, "cwd_roots")


def _plugins(asked: Asked) -> None:
    for index, path in enumerate(asked.options.plugins):
        asked.below(f"plugins[{index}]", path, asked.grant.plugins, "plugins")


def _env(asked: Asked) -> None:
    allowed = asked.grant.env
    for name in asked.options.env if allowed is not None else ():
        if not matches(name, allowed or ()):
            asked.refuse(f"env[{quoted(name)}]", f"is not allowed; {_allowed(allowed or ())}", "env")


def _mcp_servers(asked: Asked) -> None:
    for name, server in asked.options.mcp_servers.items():
        where, there = f"mcp_servers[{quoted(name)}]", f"there are {', '.join(sorted(asked.grant.servers)) or 'none'}"
        match server.WhichOneof("transport"):
            case "configured" if server.configured not in asked.grant.servers:
                asked.refuse(f"{where}.configured", f"{server.configured!r} is not available; {there}", "mcp_servers")
            case "stdio" if asked.grant.mcp_servers is not None:
                asked.refuse(f"{where}.stdio", f"commands are the operator's to name; {there}", "mcp_servers")
            case "http":
                _mcp_host(asked, f"{where}.http.url", server.http.url)
            case "sse":
                _mcp_host(asked, f"{where}.sse.url", server.sse.url)


def _mcp_host(asked: Asked, field: str, url: str) -> None:
    hosts = asked.grant.mcp_http_hosts
    if hosts is not None and not is_host(host_of(url), hosts):
        named = ", ".join(sorted(asked.grant.servers)) or "none"
        asked.refuse(field, f"its host is not allowed; {_allowed(hosts)}; by name there are {named}", "mcp_http_hosts")


def _strict_mcp_config(asked: Asked) -> None:
    if asked.grant.mcp_servers is not None and not asked.options.strict_mcp_config:
        asked.refuse("strict_mcp_config", "must be true or unset: servers come from the request alone", "mcp_servers")


def _agents(asked: Asked) -> None:
    for name, agent in asked.options.agents.items():
        where = f"agents[{quoted(name)}]"
        if agent.model not in ("", "inherit"):
            asked.one_of(f"{where}.model", agent.model, asked.grant.models, "models")
        for index, tool in enumerate(agent.tools):
            if not tool.startswith("mcp__"):
                asked.one_of(f"{where}.tools[{index}]", tool.split("(")[0], asked.grant.tools, "tools")
        asked.at_most(f"{where}.max_turns", agent.max_turns, asked.grant.max_turns, "max_turns")
        _effort_at_most(asked, f"{where}.effort", agent.effort)
        if agent.permission_mode:
            _mode(asked, f"{where}.permission_mode", MODES[agent.permission_mode])


def _setting_sources(asked: Asked) -> None:
    for index, source in enumerate(asked.options.setting_sources):
        field = f"setting_sources[{index}]"
        asked.one_of(field, SOURCES[source], asked.grant.setting_sources, "setting_sources")


def _settings_json(asked: Asked) -> None:
    """Refuse settings, or what they repeat of options beyond the options' own ceilings."""
    if not asked.grant.settings_json:
        asked.refuse("settings_json", "is not allowed", "settings_json")
        return
    settings = json.loads(asked.options.settings_json)
    permissions = settings.get("permissions") or {}
    if mode := permissions.get("defaultMode"):
        _mode(asked, "settings_json", mode_of_agent(mode))
    for path in permissions.get("additionalDirectories") or ():
        asked.below("settings_json", path, asked.grant.cwd_roots, "cwd_roots")
    if model := settings.get("model"):
        asked.one_of("settings_json", model, asked.grant.models, "models")


def _sandbox(asked: Asked) -> None:
    """Refuse what loosens the CLI's own sandbox, unless `cli_sandbox` is "any"."""
    if asked.grant.cli_sandbox is None and "cli_sandbox" in asked.grant.places:
        return
    sandbox, network = asked.options.sandbox, asked.options.sandbox.network
    loosening = {
        "enabled": not sandbox.enabled,
        "excluded_commands": bool(sandbox.excluded_commands),
        "allow_unsandboxed_commands": sandbox.allow_unsandboxed_commands,
        "network.allow_unix_sockets": bool(network.allow_unix_sockets),
        "network.allow_all_unix_sockets": network.allow_all_unix_sockets,
        "network.allow_local_binding": network.allow_local_binding,
        "network.http_proxy_port": bool(network.http_proxy_port),
        "network.socks_proxy_port": bool(network.socks_proxy_port),
        "network.allow_mach_lookup": bool(network.allow_mach_lookup),
        "ignore_violations": bool(sandbox.ignore_violations),
        "enable_weaker_nested_sandbox": sandbox.enable_weaker_nested_sandbox,
        "fail_if_unavailable": sandbox.HasField("fail_if_unavailable") and not sandbox.fail_if_unavailable,
    }
    for field, loosens in loosening.items():
        if loosens:
            asked.refuse(f"sandbox.{field}", "loosens the sandbox; callers may only tighten it", "cli_sandbox")


def _extra_args(asked: Asked) -> None:
    allowed = asked.grant.extra_args
    for flag in asked.options.extra_args if allowed is not None else ():
        if not matches(flag, allowed or ()):
            asked.refuse(f"extra_args[{quoted(flag)}]", f"is not allowed; {_allowed(allowed or ())}", "extra_args")


def _interactions(asked: Asked) -> None:
    policy, most = asked.options.interactions, asked.grant.max_interaction_wait
    if policy.HasField("timeout"):
        wait = seconds_of(policy.timeout)
        asked.at_most("interactions.timeout", wait, most, "max_interaction_wait")


def _file_mentions(asked: Asked) -> None:
    if asked.options.file_mentions and not asked.grant.file_mentions:
        asked.refuse("file_mentions", "is not allowed: it reads files that no tool was asked for", "file_mentions")


CEILINGS: Mapping[str, Callable[[Asked], None]] = {
    "model": _models,
    "fallback_model": lambda asked: None if asked.options.model else _models(asked),
    "tools": _tools,
    "permission_mode": _permission_mode,
    "max_turns": _max_turns,
    "max_budget_usd": _max_budget_usd,
    "effort": _effort,
    "cwd": _cwd,
    "add_dirs": _add_dirs,
    "env": _env,
    "mcp_servers": _mcp_servers,
    "strict_mcp_config": _strict_mcp_config,
    "agents": _agents,
    "setting_sources": _setting_sources,
    "settings_json": _settings_json,
    "sandbox": _sandbox,
    "plugins": _plugins,
    "extra_args": _extra_args,
    "interactions": _interactions,
    "file_mentions": _file_mentions,
}
"""Field of AgentOptions → what holds it against the grant; called for fields that are set."""

FREE: Mapping[str, str] = {
    "system_prompt": "text for the model",
    "allowed_tools": "what the managed settings deny stays denied, whatever is allowed here",
    "disallowed_tools": "only takes away; the tenant's tools_deny joins it",
    "task_budget_tokens": "max_budget_usd bounds what it may cost",
    "thinking": "max_budget_usd bounds what it may cost",
    "output_schema_json": "the form of an answer",
    "skills": "found only in setting_sources and plugins, which have ceilings",
    "betas": "max_budget_usd bounds what it may cost",
    "include_partial_messages": "what is told of the work",
    "include_hook_events": "what is told of the work",
    "forward_subagent_text": "what is told of the work",
    "enable_file_checkpointing": "copies of the session's own files",
    "resume_at_message_uuid": "a place in the session's own conversation",
    "client_app": "a name in the agent's requests",
    "verbatim_prompts": "takes slash commands away from a prompt",
}
"""Field of AgentOptions without a ceiling → why none is needed."""
