"""Compares a turn's options with the agent's init notice, and warns of what is missing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from agentpb import agent_pb2 as pb

from agent_service.options.paths import quoted
from agent_service.options.translation import PERMISSION_MODES

MAX_WARNINGS = 64
"""Warnings of one turn."""

_MAX_TEXT = 1000
"""Characters of a warning's sentence."""

_TOOL_ALIASES = {"Agent": "Task"}
"""Tools that the agent lists under another name."""


def missing(frame: Mapping[str, Any], options: pb.AgentOptions) -> list[pb.Warning]:
    """Return warnings of what the options ask for and a system frame of the agent lacks."""
    if frame.get("subtype") == "init":
        return list(islice(_missing(frame, options), MAX_WARNINGS))
    if frame.get("tag") == "settings_not_in_effect":
        return [_warning("SETTINGS_NOT_IN_EFFECT", str(frame.get("content", "")), "options.settings_json")]
    return []


def _missing(init: Mapping[str, Any], options: pb.AgentOptions) -> Iterator[pb.Warning]:
    yield from _servers(init, options)
    for name in sorted(set(options.agents) - set(_names(init, "agents"))):
        yield _warning("AGENT_MISSING", f"the agent has no subagent {quoted(name)}", f"options.agents[{quoted(name)}]")
    for index, name in enumerate(options.skills):
        if name not in ("all", "none") and name not in _names(init, "skills"):
            yield _warning("SKILL_MISSING", f"the agent has no skill {quoted(name)}", f"options.skills[{index}]")
    yield from _plugins(init, options)
    yield from _tools(init, options)
    mode = PERMISSION_MODES.get(options.permission_mode)
    if mode is not None and init.get("permissionMode") not in (mode, None):
        text = f"the agent is in the permission mode {init['permissionMode']}, not in {mode}"
        yield _warning("PERMISSION_MODE_NOT_IN_FORCE", text, "options.permission_mode")


def _plugins(init: Mapping[str, Any], options: pb.AgentOptions) -> Iterator[pb.Warning]:
    if not options.plugins:
        return
    # Plugins of the agent's own have a name in place of a path, and the working directory of the service may be gone.
    paths = [str(plugin.get("path")) for plugin in _entries(init, "plugins")]
    loaded = {os.path.realpath(path) for path in paths if os.path.isabs(path)}
    for index, path in enumerate(options.plugins):
        if os.path.realpath(path) not in loaded:
            yield _warning("PLUGIN_MISSING", f"the agent did not load the plugin {path}", f"options.plugins[{index}]")


def _servers(init: Mapping[str, Any], options: pb.AgentOptions) -> Iterator[pb.Warning]:
    status = {str(server.get("name")): str(server.get("status")) for server in _entries(init, "mcp_servers")}
    for name in sorted(options.mcp_servers):
        field, server = f"options.mcp_servers[{quoted(name)}]", f"the MCP server {quoted(name)}"
        match status.get(name):
            case None:
                yield _warning("MCP_SERVER_MISSING", f"the agent does not know {server}", field)
            case "connected":
                if not _has_tools(name, init, options):
                    text = f"{server} is connected without a tool; one invalid inputSchema takes all tools along"
                    yield _warning("MCP_SERVER_WITHOUT_TOOLS", text, field)
            case "pending":
                text = f"{server} was not connected yet when the turn began, which has none of its tools"
                yield _warning("MCP_SERVER_PENDING", text, field)
            case other:
                text = f"{server} is not connected ({other}), and the turn has none of its tools"
                yield _warning("MCP_SERVER_FAILED", text, field)


def _has_tools(name: str, init: Mapping[str, Any], options: pb.AgentOptions) -> bool:
    """Return whether the agent has a tool of the server, or was told to have none."""
    prefix = "mcp__" + re.sub(r"[^A-Za-z0-9_-]", "_", name)
    taken = any(rule.split("(")[0].startswith(prefix) for rule in options.disallowed_tools)
    return taken or any(tool.startswith(f"{prefix}__") for tool in _names(init, "tools"))


def _tools(init: Mapping[str, Any], options: pb.AgentOptions) -> Iterator[pb.Warning]:
    there = set(_names(init, "tools"))
    for index, name in enumerate(options.tools):
        known = name in there or _TOOL_ALIASES.get(name) in there
        if not known and name not in ("none", "default", *options.disallowed_tools):
            yield _warning("TOOL_MISSING", f"the agent has no tool {quoted(name)}", f"options.tools[{index}]")


def _entries(init: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    entries = init.get(name)
    return [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []


def _names(init: Mapping[str, Any], name: str) -> list[str]:
    names = init.get(name)
    return [each for each in names if isinstance(each, str)] if isinstance(names, list) else []


def _warning(code: str, message: str, field: str) -> pb.Warning:
    text = message.encode("utf-8", "replace").decode()
    return pb.Warning(code=code, message=text[:_MAX_TEXT], field=field[:_MAX_TEXT])
