"""Text and JSON that are always valid, and values of any type read as what a field needs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

_INT32_MAX = (1 << 31) - 1
_INT64_MAX = (1 << 63) - 1

MAX_PARSED = 4 << 20
"""Bytes of JSON that are parsed in order to cut it: parsing takes about 10 ms per MiB."""


def clean(text: str) -> str:
    """The text as valid Unicode: a lone surrogate, which UTF-8 cannot hold, becomes U+FFFD."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def text_of(value: object) -> str:
    """A string as valid Unicode; anything else is empty."""
    return clean(value) if isinstance(value, str) else ""


def int64(value: object) -> int:
    """A number as int64, cut at its ends; anything else is 0."""
    return _bounded(value, _INT64_MAX)


def int32(value: object) -> int:
    """A number as int32, cut at its ends; anything else is 0."""
    return _bounded(value, _INT32_MAX)


def _bounded(value: object, most: int) -> int:
    if isinstance(value, float) and math.isfinite(value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    return max(-most - 1, min(most, value))


def number(value: object) -> float:
    """A finite number; anything else is 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    try:
        result = float(value)
    except OverflowError:
        return 0.0
    return result if math.isfinite(result) else 0.0


def mapping(value: object) -> Mapping[str, Any]:
    """A JSON object; anything else is an empty one."""
    return value if isinstance(value, Mapping) else {}


def to_json(value: object) -> str:
    """Compact JSON with ASCII escapes, valid whatever the value: what JSON cannot say is null, or its text."""
    try:
        return _dumps(value)
    except (TypeError, ValueError, RecursionError):
        pass
    try:
        return _dumps(_sayable(value))
    except (TypeError, ValueError, RecursionError):
        return '{"unreadable":true}'


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def _sayable(value: object) -> object:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if -_INT64_MAX <= value <= _INT64_MAX else number(value) or None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _sayable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_sayable(each) for each in value]
    return str(value)


def cut(text: str, size: int) -> str:
    """The beginning of a text that fits into `size` bytes of UTF-8."""
    if len(text) <= size // 4:
        return text
    encoded = text[:size].encode()
    if len(text) <= size and len(encoded) <= size:
        return text
    return encoded[:size].decode("utf-8", "ignore")


def cut_front(text: str, size: int) -> str:
    """The end of a text that fits into `size` bytes of UTF-8."""
    if len(text) <= size // 4:
        return text
    return text[-size:].encode()[-size:].decode("utf-8", "ignore")


def cut_json(text: str, size: int) -> str:
    """The same ASCII JSON with its long strings cut until it has `size` bytes; where that fails, a note of its size.

    JSON above MAX_PARSED bytes is not looked into.
    """
    if len(text) <= size and (text.isascii() or len(text.encode()) <= size):
        return text
    if len(text) > MAX_PARSED:
        return _dumps({"truncated": True, "bytes": len(text)})
    try:
        value = json.loads(text)
        for longest in (size // 2, size // 16, size // 128):
            shorter = _dumps(_cut_strings(value, longest))
            if len(shorter) <= size:
                return shorter
    except (ValueError, RecursionError):
        pass
    return _dumps({"truncated": True, "bytes": len(text)})


def _cut_strings(value: Any, longest: int) -> Any:
    if isinstance(value, str):
        return value[:longest]
    if isinstance(value, dict):
        return {key[:longest]: _cut_strings(each, longest) for key, each in value.items()}
    if isinstance(value, list):
        return [_cut_strings(each, longest) for each in value]
    return value
