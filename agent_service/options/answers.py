"""Validation of an answer to an interaction: all violations at once, before the interaction is looked up."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence

from agentpb import agent_pb2 as pb

from agent_service.errors import FieldViolation
from agent_service.options.paths import quoted
from agent_service.options.strict_json import LOST_KEYS, BadJson, parse_object
from agent_service.options.translation import PERMISSION_MODES

RULE_TYPES = frozenset({"addRules", "replaceRules", "removeRules"})
DIRECTORY_TYPES = frozenset({"addDirectories", "removeDirectories"})
UPDATE_TYPES = RULE_TYPES | DIRECTORY_TYPES | {"setMode"}
BEHAVIORS = frozenset({"allow", "deny", "ask"})
_TOOL_NAME = re.compile(r"[A-Z][A-Za-z0-9_-]*|mcp__[^\s(),]+")
"""What the agent takes for a tool's name in a rule; it skips a rule with another."""
DESTINATION = "session"
"""Where permission updates are kept. The agent knows settings files beside it; the service writes into none."""


def check_allow(allow: pb.PermissionAllow, path: str = "allow") -> Iterator[FieldViolation]:
    """Every bad field of a yes."""
    if allow.updated_input_json:
        try:
            parse_object(allow.updated_input_json, exact=True)
        except BadJson as bad:
            yield FieldViolation(f"{path}.updated_input_json", f"must be a JSON object; {bad}")
    for name in sorted(LOST_KEYS & set(allow.answers)):
        yield FieldViolation(
            f"{path}.answers[{quoted(name)}]", f"is a name that the agent cannot have and would drop: {name}"
        )
    yield from check_updates(allow.updated_permissions, f"{path}.updated_permissions")


def check_updates(updates: Sequence[pb.PermissionUpdate], path: str) -> Iterator[FieldViolation]:
    """Every bad field of permission updates. The agent drops all updates of a list that has one bad entry."""
    for index, update in enumerate(updates):
        yield from _check_update(update, f"{path}[{index}]")


def _check_update(update: pb.PermissionUpdate, where: str) -> Iterator[FieldViolation]:
    if update.type not in UPDATE_TYPES:
        yield FieldViolation(f"{where}.type", f"must be one of {', '.join(sorted(UPDATE_TYPES))}")
    if update.destination not in ("", DESTINATION):
        yield FieldViolation(
            f"{where}.destination", 'must be "session" or empty: the service writes into no settings file'
        )
    if update.type in RULE_TYPES or update.behavior:
        yield from _check_behavior(update, where)
    if update.type in RULE_TYPES:
        yield from _check_rules(update.rules, where)
    elif update.type == "setMode" and update.mode not in PERMISSION_MODES.values():
        yield FieldViolation(f"{where}.mode", f"must be one of {', '.join(sorted(PERMISSION_MODES.values()))}")
    elif update.type in DIRECTORY_TYPES:
        yield from _check_directories(update.directories, where)


def _check_behavior(update: pb.PermissionUpdate, where: str) -> Iterator[FieldViolation]:
    if update.behavior not in BEHAVIORS:
        yield FieldViolation(f"{where}.behavior", "must be allow, deny or ask")


def _check_rules(rules: Sequence[pb.PermissionRule], where: str) -> Iterator[FieldViolation]:
    if not rules:
        yield FieldViolation(f"{where}.rules", "must have at least one rule")
    for index, rule in enumerate(rules):
        if not _TOOL_NAME.fullmatch(rule.tool_name):
            yield FieldViolation(f"{where}.rules[{index}].tool_name", 'must be the name of a tool, such as "Bash"')
        elif rule.tool_name.startswith("mcp__") and rule.rule_content:
            # The agent skips such a rule when it reads it in its settings: a denial would be none.
            yield FieldViolation(f"{where}.rules[{index}].rule_content", "must be empty: the tool is an MCP server's")


def _check_directories(directories: Iterable[str], where: str) -> Iterator[FieldViolation]:
    for index, directory in enumerate(directories):
        if not os.path.isabs(directory) or "\0" in directory:
            yield FieldViolation(f"{where}.directories[{index}]", "must be an absolute path")
