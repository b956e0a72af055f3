"""A tool call's whole input as text: every field of every tool, long ones folded with their length."""

from __future__ import annotations

import json
from typing import Any

from agent_client.visible import visible, visible_line

FOLDED_LINES = 12
FOLDED_WIDTH = 500
BAR = "  │ "

# The field of a well-known tool that says what it does; it stands beside the tool's name.
_MAIN = {
    "Agent": "description",
    "Bash": "command",
    "Edit": "file_path",
    "Glob": "pattern",
    "Grep": "pattern",
    "NotebookEdit": "notebook_path",
    "Read": "file_path",
    "Task": "description",
    "WebFetch": "url",
    "WebSearch": "query",
    "Write": "file_path",
}


def tool_input(tool: str, input_json: str, *, fold: bool = True) -> str:
    """Return a tool's input for people: the field that matters most first, then a line or a block for each other.

    With `fold`, long texts are cut and say how long they are.
    """
    try:
        values = json.loads(input_json or "{}", object_pairs_hook=_Pairs)
    except (ValueError, RecursionError):
        return _text(input_json, fold=fold)
    if not isinstance(values, _Pairs):
        return _text(input_json, fold=fold)
    main = _MAIN.get(tool, "")
    at = next((at for at, (name, value) in enumerate(values) if name == main and isinstance(value, str)), None)
    rest = [pair for place, pair in enumerate(values) if place != at]
    head = "" if at is None else _text(values[at][1], fold=fold)
    return "\n".join([head, *(_field(name, value, fold=fold) for name, value in rest)]) if rest else head


def narrow(line: str, width: int) -> str:
    """Cut a long line, and say how much is left out."""
    more = len(line) - width
    return line if more <= 0 else f"{line[:width]} … ({more} more characters)"


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as it stands: a key that comes twice is seen twice."""


def _field(name: str, value: Any, *, fold: bool) -> str:
    return f"  {visible_line(name)}: {_text(_value(value), fold=fold)}"


def _value(value: Any) -> str:
    """Return a string as it is, unless it would read as another value; all else as JSON."""
    if isinstance(value, str) and value.strip() and not _reads_as_json(value):
        return value
    return json.dumps(_plain(value), ensure_ascii=False)


def _reads_as_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _plain(value: Any) -> Any:
    if isinstance(value, _Pairs):
        return {name: _plain(each) for name, each in value}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _text(text: str, *, fold: bool) -> str:
    """Return a text on the line it begins on, or below it as a block that no text within can break out of."""
    lines = visible(text).split("\n")
    shown = lines[:FOLDED_LINES] if fold else lines
    shown = [narrow(line, FOLDED_WIDTH) for line in shown] if fold else shown
    if len(lines) == 1:
        return shown[0]
    size = f"({len(lines)} lines, {len(text)} characters)"
    left_out = [f"{BAR}… {len(lines) - len(shown)} more lines"] if len(lines) > len(shown) else []
    return "\n".join([size, *(BAR + line for line in shown), *left_out])
