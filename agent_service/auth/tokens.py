"""Bearer tokens: how they are made, and the digest that the access file has instead of them."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping

from agent_service.auth.credentials import Credentials
from agent_service.auth.principal import Principal

PREFIX = "ast_"
"""Begins every token that the service makes, so that scanners for secrets find them."""
DIGEST_PREFIX = "sha256:"
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
ID_DIGITS = 6


def new_token() -> str:
    """Make a token of 256 random bits: the prefix, and 43 characters of base64url.

    So much randomness needs no slow hash: argon2id would cost 159 ms a call, SHA-256 takes 1 µs.
    """
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(token: str) -> str:
    """Return a token's digest as the access file has it, `sha256:` and 64 hexadecimal digits."""
    return DIGEST_PREFIX + hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def token_id(digest: str) -> str:
    """Return what logs call a token: the first six hexadecimal digits of its digest."""
    return digest.removeprefix(DIGEST_PREFIX)[:ID_DIGITS]


class Tokens:
    """Authenticates the bearers of tokens by the tokens' digests: the time of a look-up tells nothing of a token."""

    def __init__(self, principals: Mapping[str, Principal]) -> None:
        """Take principals by the digest of their tokens."""
        self._principals = dict(principals)

    async def principal(self, credentials: Credentials) -> Principal | None:
        """Return the principal whose token this is."""
        if not credentials.bearer:
            return None
        return self._principals.get(digest_of(credentials.bearer))
