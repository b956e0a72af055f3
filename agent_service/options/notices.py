"""Warnings about options that are accepted but may surprise, for people."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

from agentpb import agent_pb2 as pb

from agent_service.options.merging import SECRET
from agent_service.options.paths import quoted


def warnings(options: pb.AgentOptions) -> list[str]:
    """Sentences about options, as merged, that do less or more than they seem to on this host."""
    return [*_about_leave(options), *_about_confinement(options), *_about_names(options), *_about_secrets(options)]


def _about_leave(options: pb.AgentOptions) -> Iterator[str]:
    bypass = options.permission_mode == pb.PERMISSION_MODE_BYPASS_PERMISSIONS
    if bypass and os.geteuid() == 0:
        yield "permission_mode: bypassing permissions while the service runs as root gives the agent the whole host"
    if bypass and "restricted" in options.extra_args:
        yield 'extra_args["restricted"]: the agent refuses to start with it when permissions are bypassed'
    if not options.interactions.permissions:
        return
    if bypass or options.permission_mode == pb.PERMISSION_MODE_DONT_ASK:
        mode = pb.PermissionMode.Name(options.permission_mode)
        yield f"interactions.permissions: nobody is asked in {mode}"
        return
    unasked = [rule for rule in options.allowed_tools if _allows_whole_tool(rule)]
    if list(options.skills) == ["all"]:
        unasked.append("Skill")
    if unasked:
        tools = ", ".join(dict.fromkeys(unasked))
        yield f"interactions.permissions: nobody is asked about {tools}, which need no leave"


def _allows_whole_tool(rule: str) -> bool:
    return "(" not in rule or rule.endswith(("()", "(*)"))


def _about_confinement(options: pb.AgentOptions) -> Iterator[str]:
    sandbox = options.sandbox
    # Looked for only when it matters: it takes longer than all the rest of an admission.
    if sandbox.enabled and (missing := [program for program in ("bwrap", "socat") if shutil.which(program) is None]):
        fails = sandbox.fail_if_unavailable if sandbox.HasField("fail_if_unavailable") else True
        outcome = "the turn will fail" if fails else "commands will run unconfined"
        yield f"sandbox: this host lacks {' and '.join(missing)}, so {outcome}"
    if options.HasField("sandbox") and '"sandbox"' in options.settings_json:
        yield "settings_json: its sandbox is replaced by options.sandbox"


def _about_names(options: pb.AgentOptions) -> Iterator[str]:
    if options.skills and list(options.skills) != ["none"] and not options.setting_sources and not options.plugins:
        yield "skills: none are found without setting_sources or plugins"
    only_these = options.strict_mcp_config if options.HasField("strict_mcp_config") else True
    for name, agent in sorted(options.agents.items()):
        for server in agent.mcp_servers:
            if only_these and server not in options.mcp_servers:
                yield f"agents[{quoted(name)}].mcp_servers: there is no MCP server {quoted(server)}"


def _about_secrets(options: pb.AgentOptions) -> Iterator[str]:
    """Somebody may have read a session's options and sent them back."""
    for name, value in sorted(options.env.items()):
        if value == SECRET:
            yield f'env[{quoted(name)}]: the value is "{SECRET}", which stands for a secret that is not shown'
    for name, server in sorted(options.mcp_servers.items()):
        if SECRET in [*server.stdio.env.values(), *server.sse.headers.values(), *server.http.headers.values()]:
            yield f'mcp_servers[{quoted(name)}]: a value is "{SECRET}", which stands for a secret that is not shown'
