"""Skill names, as the SDK accepts them in `options.skills`: each becomes a rule `Skill(NAME)` in one argument.

The SDK has the same check under a private name and makes it when the agent starts; here a bad name is refused before.
"""

from __future__ import annotations

import re

_SEPARATORS = re.compile(r"[(),\x00-\x1f\x7f-\x9f\ufeff]")
_SURROGATES = re.compile("[\ud800-\udfff]")


def skill_problem(name: str) -> str:
    """Say why no skill can have this name; empty when one can."""
    if not name.strip():
        return "it is empty"
    if name != name.strip():
        return "it begins or ends with white space"
    if _SEPARATORS.search(name) or _SURROGATES.search(name):
        return "parentheses, commas, control characters, byte-order marks and surrogates are not allowed"
    if name == "*" or name.endswith((":*", " *")):
        return "wildcards are not allowed"
    if name.startswith("/"):
        return "a name has no leading slash, other than the slash command"
    if "\\\\" in name or name.endswith("\\"):
        return "backslashes must be single, and not at the end"
    return ""
