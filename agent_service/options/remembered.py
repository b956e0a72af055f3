"""Permission rules that answers made for a session: kept as a list of updates, given to an agent in its settings.

The agent keeps them for as long as its process lives. Another process of the same session is told them before its first
prompt, as settings of its own beside those that it was started with: only such settings can be taken back. No settings
file has them.
"""

from __future__ import annotations

from collections.abc import Iterable

from agentpb import agent_pb2 as pb

from agent_service.errors import InvalidField

MAX_BYTES = 64 << 10
"""Bytes of a session's remembered permissions together."""

CLEAR = "remembered_permissions"
"""Name in ExecuteRequest.clear_options that forgets them."""

_BEHAVIORS = ("allow", "deny", "ask")
_TAKES_AWAY = frozenset({"replaceRules", "removeRules", "removeDirectories"})

_DIRECTORIES = "additionalDirectories"

Rule = tuple[str, str]
"""A tool, and what its use must be like; empty: any use."""


class _Fold:
    """The sum of a list of updates."""

    def __init__(self) -> None:
        self.rules: dict[str, list[Rule]] = {behavior: [] for behavior in _BEHAVIORS}
        self.directories: list[str] = []

    def apply(self, update: pb.PermissionUpdate) -> None:
        kept = self.rules.get(update.behavior, [])
        given = [(rule.tool_name, rule.rule_content) for rule in update.rules]
        match update.type:
            case "addRules":
                kept.extend(rule for rule in given if rule not in kept)
            case "replaceRules":
                kept[:] = dict.fromkeys(given)
            case "removeRules":
                kept[:] = [rule for rule in kept if rule not in given]
            case "addDirectories":
                self.directories.extend(each for each in update.directories if each not in self.directories)
            case "removeDirectories":
                self.directories = [each for each in self.directories if each not in update.directories]


def remember(
    remembered: Iterable[pb.PermissionUpdate], updates: Iterable[pb.PermissionUpdate]
) -> list[pb.PermissionUpdate]:
    """The rules and directories in force after `updates`: at most one update for each behavior and one for directories.

    A mode is not among them: it is the session's mode. Raises InvalidField when they are too large together.
    """
    fold = _Fold()
    for update in (*remembered, *updates):
        fold.apply(update)
    kept = [
        pb.PermissionUpdate(
            type="addRules",
            behavior=behavior,
            destination="session",
            rules=[_rule(tool, content) for tool, content in rules],
        )
        for behavior, rules in fold.rules.items()
        if rules
    ]
    if fold.directories:
        kept.append(pb.PermissionUpdate(type="addDirectories", directories=fold.directories, destination="session"))
    if sum(update.ByteSize() for update in kept) > MAX_BYTES:
        raise InvalidField.of(
            "allow.updated_permissions", f"the session would remember more than {MAX_BYTES} bytes of rules"
        )
    return kept


def takes_away(updates: Iterable[pb.PermissionUpdate]) -> bool:
    """Return whether an update removes something, which an agent does not do with rules that it was told."""
    return any(update.type in _TAKES_AWAY for update in updates)


def permissions(remembered: Iterable[pb.PermissionUpdate]) -> dict[str, list[str]]:
    """The remembered rules as the "permissions" of an agent's settings: every kind, so that none is left over."""
    result: dict[str, list[str]] = {name: [] for name in (*_BEHAVIORS, _DIRECTORIES)}
    for update in remembered:
        result[update.behavior or _DIRECTORIES] += [*map(_text, update.rules), *update.directories]
    return result


def _rule(tool: str, content: str) -> pb.PermissionRule:
    return pb.PermissionRule(tool_name=tool, rule_content=content or None)


def _text(rule: pb.PermissionRule) -> str:
    r"""A rule as settings have it, such as Bash(make \(all\))."""
    if not rule.rule_content:
        return rule.tool_name
    content = rule.rule_content.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
    return f"{rule.tool_name}({content})"


def effect(update: pb.PermissionUpdate) -> str:
    """Return the effect of an update as a sentence for people; empty for one without effect."""
    match update.type:
        case "addRules" | "replaceRules":
            uses = "; ".join(_use(rule) for rule in update.rules)
            what = {
                "allow": "is done without asking",
                "deny": "is denied without asking",
                "ask": "is asked about every time",
            }.get(update.behavior, "")
            only = ", and no earlier rule of that kind holds" if update.type == "replaceRules" else ""
            return f"In this session, {uses} {what}{only}." if uses and what else ""
        case "removeRules":
            return f"Forgets the {update.behavior} rules for {'; '.join(_use(rule) for rule in update.rules)}."
        case "setMode":
            return _MODE_EFFECTS.get(update.mode, f"Switches the session to the permission mode {update.mode}.")
        case "addDirectories":
            return f"In this session, the agent may also work in {', '.join(update.directories)}."
        case "removeDirectories":
            return f"In this session, the agent may no longer work in {', '.join(update.directories)}."
    return ""


_MODE_EFFECTS = {
    "acceptEdits": (
        "Switches the session to acceptEdits: it edits, creates, moves and deletes files in its directories without "
        "asking, from now on and in later turns."
    ),
    "bypassPermissions": "Switches the session to bypassPermissions: it uses every tool without asking.",
    "dontAsk": "Switches the session to dontAsk: what is not allowed by a rule is denied without asking.",
    "plan": "Switches the session to plan mode: it reads and plans, and changes nothing.",
    "default": "Switches the session to the default mode: it asks before it changes anything.",
    "auto": "Switches the session to auto: a classifier decides what is asked about.",
}


def _use(rule: pb.PermissionRule) -> str:
    return f"{rule.tool_name}({rule.rule_content})" if rule.rule_content else f"any use of {rule.tool_name}"
