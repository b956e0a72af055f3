"""Interactions as text for people: permissions with the tool's whole input, questions, what "always" would do."""

from __future__ import annotations

from collections.abc import Sequence

from agentpb import agent_pb2 as pb

from agent_client.tool_input import tool_input
from agent_client.visible import visible_line

_RULES = {
    ("addRules", "allow"): "allow {rules} without asking",
    ("addRules", "deny"): "deny {rules} without asking",
    ("addRules", "ask"): "ask each time for {rules}",
    ("replaceRules", "allow"): "allow without asking {rules}, and nothing else that was allowed before",
    ("replaceRules", "deny"): "deny {rules}, and nothing else that was denied before",
    ("replaceRules", "ask"): "ask each time for {rules}, and for nothing else that was asked for before",
    ("removeRules", "allow"): "no longer allow {rules} without asking",
    ("removeRules", "deny"): "no longer deny {rules}",
    ("removeRules", "ask"): "no longer ask each time for {rules}",
}
_MODES = {
    "acceptEdits": "every change of files is made without asking",
    "bypassPermissions": "everything is done without asking",
    "plan": "nothing is changed, only planned",
    "default": "what is not allowed is asked for",
    "dontAsk": "what is not allowed is denied without asking",
    "auto": "a model decides instead of people",
}


def question(interaction: pb.Interaction, *, fold: bool = True) -> str:
    """Say what an agent asks, with all that the answer decides; long texts are folded unless told otherwise."""
    if interaction.kind == pb.INTERACTION_KIND_QUESTION:
        return "\n".join(_choices(number, each) for number, each in enumerate(interaction.questions, 1))
    tool = visible_line(interaction.tool_name)
    lines = [f"? {tool} asks for permission: {tool_input(interaction.tool_name, interaction.input_json, fold=fold)}"]
    for name in ("reason", "description", "blocked_path"):
        text = visible_line(getattr(interaction, name))
        if text and text not in lines[0]:
            lines.append(f"  ({name.replace('_', ' ')}: {text})")
    if interaction.input_truncated:
        lines.append("  (cut: this is not all of it)")
    return "\n".join([*lines, *remembering(interaction.suggestions)])


def remembering(suggestions: Sequence[pb.PermissionUpdate]) -> list[str]:
    """Return a line for each thing that an answer may ask to be remembered, with its number."""
    if not suggestions:
        return []
    lines = [f"    {number}. {effect(each)}" for number, each in enumerate(suggestions, 1)]
    return ["  can be remembered for this session:", *lines]


def effect(update: pb.PermissionUpdate) -> str:
    """Say what a change of the permission rules does."""
    rules = ", ".join(_rule(rule) for rule in update.rules) or "nothing"
    places = ", ".join(visible_line(each) for each in update.directories) or "none"
    if update.type == "setMode":
        mode = visible_line(update.mode)
        return f"switch to the mode {mode}: {_MODES.get(update.mode, 'a mode that agentctl does not know')}"
    if update.type == "addDirectories":
        return f"let the agent use these directories, too: {places}"
    if update.type == "removeDirectories":
        return f"no longer let the agent use these directories: {places}"
    words = _RULES.get((update.type, update.behavior))
    if words is None:
        return f"{visible_line(update.type)} {visible_line(update.behavior)} {rules}"
    return words.format(rules=rules)


def has_rule(suggestions: Sequence[pb.PermissionUpdate]) -> bool:
    """Return whether "rule" names something of the suggestions."""
    return bool(_places(suggestions, "rule"))


def chosen(suggestions: Sequence[pb.PermissionUpdate], choice: str) -> list[pb.PermissionUpdate]:
    """Return the suggestions that "rule", "all" or numbers such as "1,3" name, for this session only.

    "rule" names those that allow something by a rule: no change of the mode, no directory. Raises ValueError with
    what there is.
    """
    picked = [suggestions[at] for at in _places(suggestions, choice)]
    if not picked:
        listed = "; ".join(f"{number}. {effect(each)}" for number, each in enumerate(suggestions, 1)) or "nothing"
        raise ValueError(f"{choice!r} names nothing to remember; the agent suggests: {listed}")
    copies = [pb.PermissionUpdate.FromString(each.SerializeToString()) for each in picked]
    for each in copies:
        each.destination = "session"
    return copies


def _places(suggestions: Sequence[pb.PermissionUpdate], choice: str) -> Sequence[int]:
    if choice == "all":
        return range(len(suggestions))
    if choice == "rule":
        return [at for at, each in enumerate(suggestions) if each.type == "addRules" and each.behavior == "allow"]
    numbers = choice.replace(",", " ").split()
    inside = all(each.isdecimal() and 1 <= int(each) <= len(suggestions) for each in numbers)
    return sorted({int(each) - 1 for each in numbers}) if inside else []


def _rule(rule: pb.PermissionRule) -> str:
    name = visible_line(rule.tool_name)
    return f"{name}({visible_line(rule.rule_content)})" if rule.HasField("rule_content") else f"every use of {name}"


def _choices(number: int, asked: pb.Question) -> str:
    options = [
        f"    {index}. {visible_line(option.label)}"
        + (f" - {visible_line(option.description)}" if option.description not in {"", option.label} else "")
        for index, option in enumerate(asked.options, 1)
    ]
    header = f"[{visible_line(asked.header)}] " if asked.header else ""
    several = " (several may be chosen)" if asked.multi_select else ""
    return "\n".join([f"? {number}. {header}{visible_line(asked.text)}{several}", *options])
