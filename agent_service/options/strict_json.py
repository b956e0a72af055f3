"""The one parser for JSON that callers write. Whatever it accepts reaches the agent as it was written.

Python's parser takes NaN, 1e999, the last of two equal keys and half of a surrogate pair; the agent's refuses them,
rounds them or drops them without a word. Each is refused here, with the place.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

MAX_DEPTH = 64
"""Arrays and objects within one another."""
MAX_TRACED = 1 << 18
"""Characters of a text in which the place of a fault is searched; a longer text is refused with what is wrong alone."""
MAX_PATH = 200
"""Characters of a path in a sentence."""
LOST_KEYS = frozenset({"__proto__", "__defineGetter__", "__defineSetter__", "__lookupGetter__", "__lookupSetter__"})
"""Keys that the agent's maps, objects of JavaScript, do not keep: an entry with one is dropped without a word."""

_TOKEN = re.compile(r'[ \t\r\n]*([{}\[\],:]|"(?:[^"\\]|\\.)*"|[^\s{}\[\],:"]+)')
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


class BadJson(ValueError):
    """Why a text is refused, and where: a sentence for the caller."""


class _Refused(ValueError):
    """A value within the text is one that JSON or the agent does not have."""


def parse(text: str, *, exact: bool = False) -> Any:
    """The value of a JSON text. Raises BadJson.

    `exact` refuses integers that a double cannot hold, which the agent would round.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_constant,
            parse_float=_float,
            parse_int=_exact_integer if exact else _integer,
        )
        _check_depth(value)
    except json.JSONDecodeError as error:
        raise BadJson(_first_fault(text, exact, error.pos) or f"{error.msg} at {_place(text, error.pos)}") from None
    except RecursionError:
        raise BadJson(_first_fault(text, exact) or _too_deep()) from None
    except _Refused as refused:
        raise BadJson(_first_fault(text, exact) or str(refused)) from None
    if _SURROGATE.search(text) and _has_half_a_pair(value):
        raise BadJson(_first_fault(text, exact) or _half_a_pair())
    return value


def parse_object(text: str, *, exact: bool = False) -> dict[str, Any]:
    """The object that a JSON text is. Raises BadJson."""
    value = parse(text, exact=exact)
    if not isinstance(value, dict):
        raise BadJson("it is not an object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise _Refused("an object has a key twice")
    for key in LOST_KEYS & value.keys():
        raise _Refused(_lost(key))
    return value


def _constant(word: str) -> None:
    raise _Refused(f"{word} is not JSON")


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise _Refused(_too_large())
    return number


def _integer(digits: str) -> int:
    if len(digits) > 309 or not math.isfinite(_as_float(digits)):
        raise _Refused(_too_large())
    return int(digits)


def _exact_integer(digits: str) -> int:
    number = _integer(digits)
    if int(float(number)) != number:
        raise _Refused(_inexact(digits))
    return number


def _as_float(digits: str) -> float:
    try:
        return float(digits)
    except (ValueError, OverflowError):
        return math.inf


def _check_depth(value: Any) -> None:
    level, depth = _containers([value]), 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise _Refused(_too_deep())
        level = [inner for each in level for inner in _containers(each.values() if isinstance(each, dict) else each)]


def _containers(values: Iterable[Any]) -> list[dict[str, Any] | list[Any]]:
    return [value for value in values if isinstance(value, (dict, list))]


def _has_half_a_pair(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


# --------------------------------------------------------------------------------------------- the place of a fault


@dataclass
class _Open:
    """An array or object that the search is in."""

    is_object: bool
    keys: set[str] = field(default_factory=set)
    at: str | int = 0
    expects_key: bool = False

    def step(self) -> str:
        if isinstance(self.at, int):
            return f"[{self.at}]"
        return f".{self.at}" if self.at.isidentifier() else f"[{json.dumps(self.at[:64])}]"


def _first_fault(text: str, exact: bool, end: int | None = None) -> str:
    """The first fault before `end` that is not one of syntax, with its place; empty when there is none."""
    if len(text) > MAX_TRACED:
        return ""
    opened: list[_Open] = []
    for match in _TOKEN.finditer(text):
        token, start = match[1], match.start(1)
        if end is not None and start >= end:
            return ""
        if (fault := _fault_of(token, opened, exact)) is not None:
            path = "$" + "".join(each.step() for each in opened)
            shown = path if len(path) <= MAX_PATH else f"{path[:MAX_PATH]}…"
            return f"{fault} at {shown} ({_place(text, start)})"
    return ""


def _fault_of(token: str, opened: list[_Open], exact: bool) -> str | None:
    """Return the fault of one token, None without; updates `opened`."""
    inside = opened[-1] if opened else None
    if token in "{[":
        opened.append(_Open(token == "{", expects_key=token == "{", at="" if token == "{" else 0))
        return _too_deep() if len(opened) > MAX_DEPTH else None
    if token in "}]":
        if opened:
            opened.pop()
    elif token == ",":
        if inside is not None and isinstance(inside.at, int):
            inside.at += 1
        elif inside is not None:
            inside.expects_key = True
    elif token.startswith('"'):
        return _fault_of_string(token, inside)
    elif token != ":":
        return _fault_of_word(token, exact)
    return None


def _fault_of_string(token: str, inside: _Open | None) -> str | None:
    try:
        text = json.loads(token)
    except ValueError:
        return None
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        return _half_a_pair()
    if inside is None or not inside.expects_key:
        return None
    inside.expects_key, inside.at = False, text
    if text in inside.keys:
        return "the key is there twice"
    inside.keys.add(text)
    return _lost(text) if text in LOST_KEYS else None


def _fault_of_word(word: str, exact: bool) -> str | None:
    try:
        json.loads(word, parse_constant=_constant, parse_float=_float, parse_int=_exact_integer if exact else _integer)
    except _Refused as refused:
        return str(refused)
    except ValueError:
        return None
    return None


def _place(text: str, offset: int) -> str:
    line = text.count("\n", 0, offset) + 1
    return f"line {line}, column {offset - text.rfind(chr(10), 0, offset)}"


def _too_deep() -> str:
    return f"nested more than {MAX_DEPTH} levels deep"


def _too_large() -> str:
    return "the number is too large"


def _half_a_pair() -> str:
    return "half of a surrogate pair is no character"


def _inexact(digits: str) -> str:
    return f"the agent would read {digits[:24]} as another number; send it as a string"


def _lost(key: str) -> str:
    return f'the agent cannot have an entry named "{key}" and would drop it'
