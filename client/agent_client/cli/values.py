"""Command-line values → Python values: durations, key=value pairs, options as JSON."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import typer

_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def duration(text: str) -> timedelta:
    """Read a duration such as 90s, 5m, 24h or 1h30m; a bare number is seconds."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return timedelta(seconds=float(text))
    if not re.fullmatch(f"({_PART.pattern})+", text):
        raise typer.BadParameter(f"{text!r} is no duration; write 90s, 5m, 24h or 1h30m")
    return sum((timedelta(**{_UNITS[unit]: float(number)}) for number, unit in _PART.findall(text)), timedelta())


def pairs(texts: Iterable[str]) -> dict[str, str]:
    """Read KEY=VALUE texts; the last one of a key counts."""
    split = [(text, *text.partition("=")) for text in texts]
    for text, key, equals, _ in split:
        if not key or not equals:
            raise typer.BadParameter(f"{text!r} is not KEY=VALUE")
    return {key: value for _, key, _, value in split}


def json_options(texts: Iterable[str]) -> dict[str, Any]:
    """Read NAME=JSON texts; what is no JSON and does not look like it is a string."""
    return {name: _json_or_string(name, value) for name, value in pairs(texts).items()}


def json_object(text: str) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise typer.BadParameter('a JSON object is needed, such as \'{"command": "ls"}\'')
    return value


def _json_or_string(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        if text.lstrip()[:1] in {"{", "[", '"'}:
            raise typer.BadParameter(f"{name}: not JSON: {error}") from error
        return text


def common_options(
    allow: list[str] | None,
    deny: list[str] | None,
    model: str | None,
    cwd: str | None,
    system: str | None,
    permission_mode: str | None,
    env: list[str] | None,
) -> dict[str, Any]:
    """Return the options of an agent that `run` and `prepare` have the same flags for."""
    return {
        "allowed_tools": allow or None,
        "disallowed_tools": deny or None,
        "model": model,
        "cwd": cwd,
        "system_prompt": system,
        "permission_mode": permission_mode,
        "env": pairs(env or ()) or None,
    }


def shows_partials(as_json: bool) -> bool | None:
    """Return whether text is shown as it comes, as on a terminal; None: as the service does by itself."""
    return True if sys.stdout.isatty() and not as_json else None
