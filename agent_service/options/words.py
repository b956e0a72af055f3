"""Predicates for single values: names, rules, URLs, UUIDs, durations."""

from __future__ import annotations

from urllib.parse import urlsplit
from uuid import UUID

from google.protobuf.duration_pb2 import Duration

MAX_NAME = 256
"""Characters of a name."""


def is_word(text: str) -> bool:
    """Return whether the text can be a name: no spaces, no leading dash, not too long. An empty text can."""
    return len(text) <= MAX_NAME and not text.startswith("-") and not any(map(str.isspace, text)) and text.isprintable()


def is_one_rule(rule: str) -> bool:
    """Return whether the CLI, which splits at commas and spaces outside parentheses, reads the text as one rule."""
    if not rule or rule.startswith("-") or not rule.isprintable():
        return False
    opened = rule.find("(")
    name = rule if opened < 0 else rule[:opened]
    if not name or "," in name or ")" in name or any(map(str.isspace, name)):
        return False
    return opened < 0 or (rule.endswith(")") and _closes_once(rule[opened:]))


def _closes_once(text: str) -> bool:
    """Return whether the parenthesis that opens `text` is closed by its last character and not before."""
    depth = 0
    for index, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if depth == 0:
            return index == len(text) - 1
    return False


def is_http_url(url: str) -> bool:
    """Return whether the text is an http or https URL without credentials whose host Python and JavaScript agree on.

    JavaScript takes a backslash for a slash, so that `https://a\\@b` names another host there; it fetches no URL with a
    user's name in it.
    """
    try:
        parts = urlsplit(url)
        port_is_good = parts.port is None or parts.port > 0
    except ValueError:
        return False
    has_host = bool(parts.hostname) and "@" not in parts.netloc
    plain = url.isprintable() and not any(sign.isspace() or sign == "\\" for sign in url)
    return parts.scheme in ("http", "https") and has_host and port_is_good and plain


def is_uuid(text: str) -> bool:
    """Return whether the text is a UUID in its usual form."""
    try:
        return str(UUID(text)) == text.lower()
    except ValueError:
        return False


def is_positive(duration: Duration) -> bool:
    """Return whether the duration is valid and above zero."""
    whole, part = duration.seconds, duration.nanos
    return 0 <= whole <= 315_576_000_000 and 0 <= part < 1_000_000_000 and (whole > 0 or part > 0)
