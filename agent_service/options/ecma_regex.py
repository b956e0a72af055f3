"""Patterns of JSON Schema, which are JavaScript's, for Python: the same meaning, in bounded time, or refused.

The agent compiles patterns with the flag `u`, where an escape without need, such as `\\-`, is an error that voids the
whole schema. The `regex` package searches with a time limit and gives other threads their turn meanwhile; `re` has
neither.
"""

from __future__ import annotations

import re as _re
from collections.abc import Iterator

import regex

MAX_PATTERN = 1000
"""Characters of a pattern."""
MAX_UNROLLED = 10_000
"""Characters of a pattern with its counted repeats written out: `((a{1000}){1000}){1000}` fills the memory."""

_ESCAPE = (
    r"\\(?:u\{[0-9a-fA-F]{1,6}\}|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|c[A-Za-z]|[pP]\{[^{}]*\}|k<[^<>]*>|[1-9][0-9]*|.?)"
)
_TOKEN = _re.compile(
    _ESCAPE + r"|\((?:\?(?:<?[=!]|:|<[A-Za-z_$][A-Za-z0-9_$]*>|.?))?|[*+?]\??|\{[0-9]{1,4}(?:,(?:[0-9]{1,4})?)?\}\??|.",
    _re.DOTALL,
)
_CLASS = _re.compile(rf"\[(\^?)((?:{_ESCAPE}|[^\]\\])*)(\]?)", _re.DOTALL)
_CLASS_TOKEN = _re.compile(_ESCAPE + "|.", _re.DOTALL)
_SYNTAX = frozenset("^$\\.*+?()[]{}|/")
_CONTROLS = {"f": r"\f", "n": r"\n", "r": r"\r", "t": r"\t", "v": r"\v", "0": r"\x00"}
_CLASSES = {
    "d": "0-9",
    "w": "A-Za-z0-9_",
    "s": r"\t\n\v\f\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff",
}
_BOUNDARY = r"(?:(?<=[A-Za-z0-9_])(?![A-Za-z0-9_])|(?<![A-Za-z0-9_])(?=[A-Za-z0-9_]))"


class BadPattern(ValueError):
    """Why a pattern is refused."""


def compiled(pattern: str) -> regex.Pattern[str]:
    """The pattern as JavaScript understands it with the flag `u`. Raises BadPattern."""
    if len(pattern) > MAX_PATTERN:
        raise BadPattern(f"it has {len(pattern)} characters of at most {MAX_PATTERN}")
    try:
        return regex.compile("".join(_translated(pattern)), regex.V0)
    except (regex.error, OverflowError, RecursionError) as error:
        raise BadPattern(str(error)) from None


def _translated(pattern: str) -> Iterator[str]:
    position, repeatable, unrolled = 0, False, _Unrolled()
    while position < len(pattern):
        in_class = _CLASS.match(pattern, position)
        match = in_class or _TOKEN.match(pattern, position)
        assert match is not None
        token, place = match[0], f"column {position + 1}"
        if in_class is not None:
            yield _class(in_class, place)
            repeatable = True
        elif token[0] in "*+?" or (token[0] == "{" and len(token) > 1):
            if not repeatable:
                raise BadPattern(f"there is nothing to repeat at {place}")
            yield token
            repeatable = False
        else:
            yield _outside(token, place)
            repeatable = token[0] not in "|(^$"
        unrolled.take(token)
        position = match.end()


class _Unrolled:
    """Counts the characters of a pattern whose counted repeats are written out."""

    def __init__(self) -> None:
        self._groups = [0]
        self._last = 0

    def take(self, token: str) -> None:
        """Count one token. Raises BadPattern beyond MAX_UNROLLED."""
        if token[0] == "(":
            self._groups.append(0)
        elif token == ")" and len(self._groups) > 1:
            self._add(self._groups.pop())
        elif token[0] == "{":
            self._groups[-1] += self._last * (max(map(int, _re.findall("[0-9]+", token))) - 1)
        else:
            self._add(1)
        if self._groups[-1] > MAX_UNROLLED:
            raise BadPattern(f"with its repeats written out it has more than {MAX_UNROLLED} characters")

    def _add(self, size: int) -> None:
        self._last = size
        self._groups[-1] += size


def _class(match: _re.Match[str], place: str) -> str:
    if not match[3]:
        raise BadPattern(f"the [ at {place} is not closed")
    if not match[2]:
        return r"[^\x00-\U0010ffff]" if not match[1] else r"[\x00-\U0010ffff]"
    signs = [each[0] for each in _CLASS_TOKEN.finditer(match[2])]
    inside = [_escape(sign, place, inside=True) if sign[0] == "\\" else _in_class(sign) for sign in signs]
    return f"[{match[1]}{''.join(inside)}]"


def _in_class(sign: str) -> str:
    return sign if sign == "-" else regex.escape(sign)


def _outside(token: str, place: str) -> str:
    if token[0] == "\\":
        return _escape(token, place, inside=False)
    if token in "{}]":
        raise BadPattern(f"write \\{token} for the {token} at {place}")
    if token.startswith("(?") and token[2:] not in (":", "=", "!", "<=", "<!") and not token.startswith("(?<"):
        raise BadPattern(f"{token} at {place} is not JavaScript's")
    if token == "$":
        return r"\Z"
    if token == ".":
        return r"[^\n\r\u2028\u2029]"
    return token if len(token) > 1 or token in "^|()" else regex.escape(token)


def _escape(token: str, place: str, *, inside: bool) -> str:
    kind = token[1:2]
    if kind in ("u", "x") and len(token) > 2:
        return regex.escape(chr(_code_point(token)))
    if kind in ("p", "P") and len(token) > 2:
        return token.replace("Script_Extensions=", "Script=").replace("scx=", "sc=")
    if kind == "c" and len(token) == 3:
        return regex.escape(chr(ord(token[2]) % 32))
    if kind.lower() in _CLASSES and len(token) == 2:
        signs = _CLASSES[kind.lower()]
        if kind.islower():
            return signs if inside else f"[{signs}]"
        if inside:
            raise BadPattern(f"{token} within [] at {place} is not supported; write the characters")
        return f"[^{signs}]"
    if kind in _CONTROLS:
        return _CONTROLS[kind]
    if kind == "b" or (kind == "B" and not inside):
        return r"\x08" if inside else _BOUNDARY if kind == "b" else f"(?!{_BOUNDARY})"
    if not inside and (kind.isdigit() or (kind == "k" and len(token) > 2)):
        return f"(?P={token[3:-1]})" if kind == "k" else f"(?:{token})"
    if kind in _SYNTAX or (inside and kind == "-"):
        return regex.escape(kind)
    raise BadPattern(f"the escape {token} at {place} is an error in JavaScript; write {kind or 'no backslash'}")


def _code_point(token: str) -> int:
    point = int(token[2:].strip("{}"), 16)
    if point > 0x10FFFF or 0xD800 <= point <= 0xDFFF:
        raise BadPattern(f"{token} is no character")
    return point
