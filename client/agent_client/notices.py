"""The agent's own notices as lines for people: tools that are missing, and by whose rule a tool call was denied."""

from __future__ import annotations

import json
from typing import Any

from agentpb import agent_pb2 as pb

from agent_client.visible import visible_line

# A server that is pending connects while the agent works.
_THERE = frozenset({"connected", "pending", "disabled"})

# See docs/agent-rules.md.
_DENIED_BY = {
    "safetyCheck": "by a rule of the agent's own, which allowed tools do not lift; with --ask it asks instead",
    "rule": "by a rule of the session's options",
    "subcommandResults": "by a rule of the session's options",
    "mode": "by the session's permission mode",
    "classifier": "by the model that decides in this permission mode",
}
_NOBODY_ASKED = "since nothing allows it and nobody can be asked; allow it with --allow, or pass --ask"


def notices(notice: pb.SystemMessage) -> list[str]:
    """Return what a notice tells people, in lines; none when it is not what it should be."""
    try:
        data = json.loads(notice.data_json)
        return _missing_servers(data) if notice.subtype == "init" else [_denial(data)]
    except (ValueError, TypeError, KeyError, AttributeError):
        return []


def _missing_servers(init: dict[str, Any]) -> list[str]:
    return [
        f"MCP server {visible_line(each['name'])}: {visible_line(each['status'])}; its tools are missing"
        for each in init.get("mcp_servers") or ()
        if each["status"] not in _THERE
    ]


def _denial(denied: dict[str, Any]) -> str:
    kind = str(denied.get("decision_reason_type") or "")
    by = _DENIED_BY.get(kind, f"by the agent ({visible_line(kind)})" if kind else _NOBODY_ASKED)
    return f"{visible_line(denied['tool_name'])} denied {by}"
