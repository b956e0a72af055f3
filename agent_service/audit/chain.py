"""The form of a line: a JSON object whose last member, `chain`, is SHA-256 over the chain before it and the others.

An unkeyed chain shows a flipped byte, a dropped and a swapped line. A rewrite of all, or a tail that was cut, is shown
by a head that was noted elsewhere: the service writes it to its own log.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

START = "0" * 64
"""The chain before the first line of all."""
MAX_LINE = 1 << 16
OPENED = "opened"
"""The event of every file's first line; `previous` is the chain that it continues."""
REPAIRED = "repaired"
"""The event of the line after one that a crash had torn; `torn` is the SHA-256 of the torn bytes."""

FIRST_BYTES = b'{"time":"'
"""How every line begins."""

_SEPARATOR = ',"chain":"'
_LINE = re.compile(rb'(?P<body>\{.+),"chain":"(?P<chain>[0-9a-f]{64})"\}', re.DOTALL)
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class Line(NamedTuple):
    """A line that was made: its bytes, and its chain, which the next one continues."""

    data: bytes
    chain: str


def made(record: Mapping[str, Any], previous: str) -> Line:
    """Make the line of a record after the chain `previous`. All but ASCII is escaped, so a line is one line."""
    body = _encode(record)[:-1]
    chain = hashlib.sha256(f"{previous}{body}".encode()).hexdigest()
    return Line(f'{body}{_SEPARATOR}{chain}"}}\n'.encode(), chain)


def claimed(line: bytes) -> str:
    """Return the chain that a line without its newline says it has; "" when it has none."""
    match = _LINE.fullmatch(line)
    return match["chain"].decode() if match else ""


def holds(line: bytes, previous: str) -> bool:
    """Tell whether a line without its newline is what was written after the chain `previous`."""
    match = _LINE.fullmatch(line)
    return (
        match is not None and hashlib.sha256(previous.encode() + match["body"]).hexdigest().encode() == match["chain"]
    )


def torn_digest(piece: bytes) -> str:
    """Return what a repair says of the bytes that a crash had left without the rest of their line."""
    return hashlib.sha256(piece).hexdigest()
