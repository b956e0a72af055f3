"""Managed settings: what a grant says, in the words of the CLI's own highest tier of settings.

They are the second wall: the service refuses first, the sandbox holds last. The CLI has kept this tier above whatever a
caller or a project sets in every version tested, and has broken parts of it before: tests/policy/test_managed.py holds
the pinned CLI to each.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from agentpb import agent_pb2 as pb

from agent_service.policy.grant import Grant

FLAG = "managed-settings"
"""The flag of the CLI that takes them as JSON. Where a version lacks it, /etc/claude-code/managed-settings.json, bound
into the agent's view, is read instead."""


def managed_settings(grant: Grant, options: pb.AgentOptions, model: str) -> str:
    """Return the managed settings of an agent with these options, as JSON; empty without an access file.

    `model` is the one that it is started with; empty when it chooses by itself.
    """
    if not grant.limited:
        return ""
    settings: dict[str, Any] = {"permissions": _permissions(grant)}
    if grant.models is not None:
        settings["availableModels"] = _models(grant.models, options, model)
    if not _may_have_hooks(grant):
        settings["allowManagedHooksOnly"] = True
    if grant.mcp_servers is not None:
        settings["allowedMcpServers"] = [{"serverName": name} for name in sorted(options.mcp_servers)]
    if grant.cli_sandbox == "required":
        settings["sandbox"] = {"enabled": True, "failIfUnavailable": True, "allowUnsandboxedCommands": False}
    return json.dumps(settings)


def _models(allowed: Sequence[str], options: pb.AgentOptions, model: str) -> list[str]:
    """The models that a prompt may switch to ("/model NAME"), which no option names.

    The CLI knows names and beginnings of names, no patterns: of others, only models that the options name are allowed.
    """
    plain = [pattern.removesuffix("-*") for pattern in allowed]
    named = [model, options.fallback_model, *(agent.model for agent in options.agents.values())]
    known = {each for each in plain if not set(each) & set("*?[")} | set(named)
    return sorted(known - {"", "inherit"})


def _permissions(grant: Grant) -> dict[str, Any]:
    permissions: dict[str, Any] = {"deny": list(grant.tools_deny)}
    modes = grant.permission_modes
    if grant.sandbox == "off" or (modes is not None and "bypass_permissions" not in modes):
        permissions["disableBypassPermissionsMode"] = "disable"
    return permissions


def _may_have_hooks(grant: Grant) -> bool:
    """Whether hooks, which run commands, are open: with settings of the caller, or with plugins and no project."""
    no_project = grant.setting_sources == ()
    return grant.settings_json or (grant.plugins != () and no_project)
