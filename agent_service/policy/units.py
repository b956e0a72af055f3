"""Units of the access file: durations, sizes and rates as people write them, and back again."""

from __future__ import annotations

import re

from agent_service.options import MAX_DURATION_SECONDS

SHORTEST = 0.001
"""Seconds: in a request a duration has microseconds, and one that is rounded to 0 would often be no bound."""

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_PER = {"s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(value: object) -> float:
    """Return the seconds of "90s", "30m", "1h" or "7d"; a bare number is refused, since nobody can tell its unit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", value) if isinstance(value, str) else None
    given = float(match[1]) * _SECONDS[match[2]] if match is not None else 0.0
    if not SHORTEST <= given <= MAX_DURATION_SECONDS:
        raise ValueError('must be a duration above 0, such as "90s", "30m", "1h" or "7d": 1 ms to 10 years')
    return given


def byte_count(value: object) -> int:
    """Return the bytes of "512m", "2g" or a whole number."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    match = re.fullmatch(r"(\d+)([kmgt]?)", text.lower())
    if match is None or not int(match[1]):
        raise ValueError('must be a size above 0, such as "512m" or "2g"')
    return int(match[1]) * _BYTES[match[2]]


def per_second(value: object) -> float:
    """Return the calls a second of "30/m", "5/s" or "1000/h"."""
    match = re.fullmatch(r"(\d+)/([smh])", value) if isinstance(value, str) else None
    if match is None or not int(match[1]):
        raise ValueError('must be a rate above 0, such as "30/m", "5/s" or "1000/h"')
    return int(match[1]) / _PER[match[2]]


def duration_text(value: float) -> str:
    """Return seconds as the access file has them."""
    for unit in ("d", "h", "m", "s"):
        if value % _SECONDS[unit] == 0:
            return f"{value / _SECONDS[unit]:.0f}{unit}"
    return f"{value * 1000:.0f}ms"


def size_text(value: int) -> str:
    """Return bytes as the access file has them."""
    unit = next((unit for unit in ("t", "g", "m", "k") if value % _BYTES[unit] == 0), "")
    return f"{value // _BYTES[unit]}{unit}"


def rate_text(value: float) -> str:
    """Return calls a second as the access file has them."""
    unit = next((unit for unit, per in _PER.items() if abs(value * per - round(value * per)) < 1e-6), "h")
    return f"{value * _PER[unit]:.0f}/{unit}"
