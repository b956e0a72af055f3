"""Permissions: the SDK's question whether a tool may be used, as an Interaction, and a caller's answer for the SDK."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agentpb import agent_pb2 as pb

from agent_service import errors, events
from agent_service.agents.agent import Answer, PermissionContext
from agent_service.options import DESTINATION, effect, parse_object
from agent_service.session.questions import answered_input, questions_of

QUESTION_TOOL = "AskUserQuestion"
"""The tool by which the agent asks questions; its permission request carries them."""


def may_ask(policy: pb.InteractionPolicy, tool: str) -> bool:
    """Return whether people may be asked about a use of `tool`."""
    return policy.questions if tool == QUESTION_TOOL else policy.permissions


def interaction_of(
    tool: str, tool_input: Mapping[str, Any], context: PermissionContext, *, turn_id: str
) -> pb.Interaction:
    """An interaction from the SDK's callback: a question for the question tool, otherwise permission to use `tool`."""
    interaction = pb.Interaction(
        kind=pb.INTERACTION_KIND_QUESTION if tool == QUESTION_TOOL else pb.INTERACTION_KIND_PERMISSION,
        turn_id=turn_id,
        tool_name=events.clean(tool),
        tool_use_id=context.tool_use_id or "",
        input_json=json.dumps(tool_input),
        title=events.clean(context.title or context.display_name or tool),
        description=events.clean(context.description or ""),
        reason=events.clean(context.decision_reason or ""),
        blocked_path=events.clean(context.blocked_path or ""),
        suggestions=[_suggestion(suggestion) for suggestion in context.suggestions],
    )
    if interaction.kind == pb.INTERACTION_KIND_QUESTION:
        interaction.questions.extend(questions_of(tool_input))
    return interaction


def _suggestion(update: Any) -> pb.PermissionUpdate:
    suggestion = pb.PermissionUpdate(
        type=update.type,
        rules=[
            pb.PermissionRule(tool_name=rule.tool_name, rule_content=rule.rule_content) for rule in update.rules or ()
        ],
        behavior=update.behavior or "",
        mode=update.mode or "",
        directories=update.directories or (),
        destination=DESTINATION,  # the agent proposes settings files, which the service neither writes nor loads
    )
    suggestion.effect = events.clean(effect(suggestion))
    return suggestion


def answer_of(
    request: pb.RespondToInteractionRequest, interaction: pb.Interaction, tool_input: dict[str, Any]
) -> Answer:
    """The answer in a request, checked against what was asked. Unset is an error, never a yes."""
    which = request.WhichOneof("answer")
    if which is None:
        raise errors.InvalidField.of("answer", "set exactly one of allow and deny")
    if which == "deny":
        return Answer(False, message=request.deny.message or "Denied.", interrupt=request.deny.interrupt)
    allow = request.allow
    question = interaction.kind == pb.INTERACTION_KIND_QUESTION
    if allow.answers and not question:
        raise errors.InteractionKindMismatch("answers are for questions; this interaction asks for leave to use a tool")
    if question and not allow.answers and not allow.updated_input_json:
        raise errors.InteractionKindMismatch("this interaction is a question: set allow.answers, or deny it")
    updated = _updated_input(allow.updated_input_json)
    if question:
        updated = answered_input(tool_input, allow.answers, updated)
    return Answer(True, updated_input=updated, updated_permissions=tuple(allow.updated_permissions))


def _updated_input(text: str) -> dict[str, Any] | None:
    return parse_object(text, exact=True) if text else None
