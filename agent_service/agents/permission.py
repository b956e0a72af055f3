"""An answer to the agent's question whether it may use a tool, in the words of the SDK."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agentpb import agent_pb2 as pb
from claude_agent_sdk import PermissionResult, PermissionResultAllow, PermissionResultDeny, PermissionUpdate
from claude_agent_sdk.types import PermissionRuleValue


@dataclass(frozen=True)
class Answer:
    """The answer to the agent's permission request: allowed with an input and rules, or denied with a text."""

    allowed: bool
    updated_input: dict[str, Any] | None = None
    updated_permissions: tuple[pb.PermissionUpdate, ...] = ()
    message: str = ""
    interrupt: bool = False


def permission_result(answer: Answer) -> PermissionResult:
    """Return the answer as the SDK's callback gives it."""
    if not answer.allowed:
        return PermissionResultDeny(message=answer.message, interrupt=answer.interrupt)
    return PermissionResultAllow(
        updated_input=answer.updated_input,
        updated_permissions=[_permission_update(update) for update in answer.updated_permissions] or None,
    )


def _permission_update(update: pb.PermissionUpdate) -> PermissionUpdate:
    return PermissionUpdate(
        type=update.type,  # type: ignore[arg-type]
        rules=[
            PermissionRuleValue(rule.tool_name, rule.rule_content if rule.HasField("rule_content") else None)
            for rule in update.rules
        ]
        or None,
        behavior=update.behavior or None,  # type: ignore[arg-type]
        mode=update.mode or None,  # type: ignore[arg-type]
        directories=list(update.directories) or None,
        destination="session",
    )
