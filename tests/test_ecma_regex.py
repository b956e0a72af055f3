"""Patterns of schemas mean what they mean in JavaScript, or are refused; none holds the service up."""

from __future__ import annotations

import pytest

from agent_service.options.ecma_regex import MAX_PATTERN, BadPattern, compiled

MEANINGS = [
    (r"^\d{3}-\d{2}$", "123-45", "123-45\n"),
    (r"^\d$", "1", "\u0661"),
    (r"^[\w.+-]+@[a-z]+\.[a-z]{2,}$", "a.b@c.de", "a@b"),
    (r"^\w$", "a", "é"),
    (r"^\p{L}+$", "é", "1"),
    (r"^(?:a(?=b))b$", "ab", "ac"),
    (r"(?<!\d)x", "ax", "1x"),
    (r"[^\]]", "x", "]"),
    (r"^[(?]$", "(", "x"),
    (r"^[[:]$", "[", "a"),
    (r"^\+\*\/$", "+*/", "++/"),
    (r"\bfoo\b", "a foo", "afoo"),
    (r"^.$", "é", "\u2028"),
    (r"^[\u{1F600}]$", "😀", "x"),
    (r"(?<y>a)\k<y>", "aa", "ab"),
    (r"^(a)\1$", "aa", "a1"),
    (r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "a-b", "-"),
    (r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", "01234567-0123-0123-0123-0123456789ab", "0"),
    (r"^\S+$", "x", "\ufeff"),
    (r"^[A-Z]{2}(?:,[A-Z]+)*?$", "AB,CD", "A"),
]


@pytest.mark.parametrize(("pattern", "met", "unmet"), MEANINGS)
def test_a_pattern_means_what_it_means_in_javascript(pattern: str, met: str, unmet: str) -> None:
    assert compiled(pattern).search(met)
    assert not compiled(pattern).search(unmet)


BAD = [
    "(",
    ")",
    "a++",
    r"\-",
    "(?i)a",
    "(?P<x>a)",
    "a{1",
    "}",
    "]",
    "[a",
    r"\Z",
    "*a",
    "\\",
    r"\1\2(a)",
    "[z-a]",
    "(?>a)",
]


@pytest.mark.parametrize(
    "pattern", [*BAD, "((a{1000}){1000}){1000}", "a{9999}{9999}", "x" * (MAX_PATTERN + 1), "(" * 900]
)
def test_what_javascript_does_not_take_or_what_never_ends_is_refused(pattern: str) -> None:
    with pytest.raises(BadPattern):
        compiled(pattern)


def test_a_search_that_would_not_end_is_given_up() -> None:
    with pytest.raises(TimeoutError):
        compiled("^(a|a)*$").search("a" * 60 + "b", timeout=0.05)
