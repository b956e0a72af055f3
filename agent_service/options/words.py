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


MAX_DURATION_SECONDS = 10 * 365 * 86400
"""Seconds of any duration in a request."""


def duration_problem(duration: Duration) -> str | None:
    """Say why a duration in a request is refused; None when it is not."""
    if duration.seconds < 0 or duration.nanos < 0:
        return "must not be negative"
    if duration.nanos > 999_999_999 or duration.seconds > MAX_DURATION_SECONDS:
        return "must be a duration of at most 10 years, with nanos from 0 to 999,999,999"
    return None


def seconds_of(duration: Duration) -> float:
    """A duration in seconds, rounded up to microseconds: what is more than 0 stays so, and 0 often means no bound."""
    return -(-duration.ToNanoseconds() // 1000) / 1e6
