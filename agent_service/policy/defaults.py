"""Defaults: what a grant fills in where a request says nothing, with a sentence about each for the caller.

What is filled in is of one turn, never of the session's record: a later turn has what the grant then says.
"""

from __future__ import annotations

from agentpb import agent_pb2 as pb

from agent_service.options import may_choose_mode
from agent_service.policy.ceilings import Violation, violation
from agent_service.policy.grant import Grant
from agent_service.policy.tables import matches
from agent_service.policy.words import EFFORTS, mode_number

_USUAL_EFFORT = "high"
"""The most that the agent makes by itself."""


def fill(options: pb.AgentOptions, grant: Grant, default_model: str) -> tuple[pb.AgentOptions, list[str]]:
    """Options as an agent gets them: with the grant's defaults, denials and servers. Also says what was filled in."""
    filled, said = pb.AgentOptions(), list[str]()
    filled.CopyFrom(options)

    def say(field: str, value: object, key: str) -> None:
        rule = violation(grant, field, "", key).rule
        said.append(f"options.{field}: {value}, since the request says nothing ({rule})")

    if grant.max_turns is not None and not options.HasField("max_turns"):
        filled.max_turns = grant.max_turns
        say("max_turns", grant.max_turns, "max_turns")
    if grant.max_budget_usd is not None and not options.HasField("max_budget_usd"):
        filled.max_budget_usd = grant.max_budget_usd
        say("max_budget_usd", f"{grant.max_budget_usd:g}", "max_budget_usd")
    if grant.tools is not None and not options.tools:
        filled.tools.extend(grant.tools)
        say("tools", ", ".join(grant.tools), "tools")
    if effort := _effort(options, grant):
        filled.effort = EFFORTS[effort]  # type: ignore[assignment]
        say("effort", effort, "max_effort")
    if mode := _mode(options, grant):
        filled.permission_mode = mode_number(mode)
        say("permission_mode", mode, "permission_modes")
    if model := _model(options, grant, default_model):
        filled.model = model
        say("model", model, "models")
    asks = options.interactions.permissions or options.interactions.questions
    if grant.max_interaction_wait is not None and asks and not options.interactions.HasField("timeout"):
        filled.interactions.timeout.FromMicroseconds(round(grant.max_interaction_wait * 1e6))
        say("interactions.timeout", f"{grant.max_interaction_wait:g} s", "max_interaction_wait")
    filled.disallowed_tools.extend(rule for rule in grant.tools_deny if rule not in options.disallowed_tools)
    for server in filled.mcp_servers.values():
        if (known := grant.servers.get(server.configured)) is not None:
            server.CopyFrom(known)
    return filled, said


def without_model(options: pb.AgentOptions, grant: Grant, default_model: str) -> list[Violation]:
    """A violation when the agent would choose a model by itself, and no default of the operator's is allowed."""
    if grant.models is None or options.model or _model(options, grant, default_model):
        return []
    if default_model and matches(default_model, grant.models):
        return []
    text = f"must be set: allowed are {', '.join(grant.models) or 'none'}"
    return [violation(grant, "options.model", text, "models")]


def _model(options: pb.AgentOptions, grant: Grant, default_model: str) -> str:
    """The model to fill in: the first that is named without a wildcard. Empty when none is needed, or none is there."""
    if grant.models is None or options.model or (default_model and matches(default_model, grant.models)):
        return ""
    return next((model for model in grant.models if not set(model) & set("*?[")), "")


def _mode(options: pb.AgentOptions, grant: Grant) -> str:
    """The permission mode to fill in where the agent's own, or one that a project's settings name, is not allowed."""
    if grant.permission_modes is None or options.permission_mode or not grant.permission_modes:
        return ""
    if "default" in grant.permission_modes:
        return "default" if may_choose_mode(options) else ""
    return grant.permission_modes[0]


def _effort(options: pb.AgentOptions, grant: Grant) -> str:
    most = grant.max_effort
    return most if most is not None and not options.effort and EFFORTS[most] < EFFORTS[_USUAL_EFFORT] else ""
