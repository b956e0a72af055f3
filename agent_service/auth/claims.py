"""Claims: which tenants and which name the claims of a token stand for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_NAME = 128

_FORM = re.compile(r"(?P<claim>[^\[\]]+)(\[(?P<before>[^\[\]*]*)\*(?P<after>[^\[\]*]*)\])?")


@dataclass(frozen=True)
class Claim:
    """A claim of a token, written `org`, or `groups[agents-*]` for what the star stands for in a list of texts."""

    path: str
    before: str = ""
    after: str = ""

    @classmethod
    def parse(cls, text: str) -> Claim:
        """Read the form of the access file. Raises ValueError."""
        match = _FORM.fullmatch(text)
        if match is None:
            raise ValueError("must be a claim, such as org, or a list with a pattern, such as groups[agents-*]")
        return cls(match["claim"], match["before"] or "", match["after"] or "")

    def values(self, claims: Mapping[str, Any]) -> tuple[str, ...]:
        """Return what the claim stands for, without doubles; none where it is missing or of another kind."""
        value = _at(claims, self.path)
        texts = [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]
        fits = (self._meant(text) for text in texts)
        return tuple(dict.fromkeys(each for each in fits if each))

    def _meant(self, text: str) -> str:
        if not (text.startswith(self.before) and text.endswith(self.after)):
            return ""
        return text[len(self.before) : len(text) - len(self.after)]


def name_in(claims: Mapping[str, Any], claim: str) -> str:
    """Return the name in a claim; "" where it is none, or an e-mail address that the issuer has not verified."""
    value = _at(claims, claim)
    if (
        not isinstance(value, str)
        or not 0 < len(value) <= MAX_NAME
        or not value.isprintable()
        or value != value.strip()
    ):
        return ""
    if claim == "email" and claims.get("email_verified", True) not in (True, "true"):
        return ""
    return value


def _at(claims: Mapping[str, Any], path: str) -> Any:
    """The claim of this name, or the one that the path's dots lead to."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
