"""Bearer tokens: how they are made, and the digest that the access file has instead of them."""

from __future__ import annotations

import hashlib
import secrets

PREFIX = "ast_"
"""Begins every token that the service makes, so that scanners for secrets find them."""
DIGEST_PREFIX = "sha256:"
ID_DIGITS = 6


def new_token() -> str:
    """Make a token of 256 random bits: the prefix, and 43 characters of base64url.

    So much randomness needs no slow hash: argon2id would cost 159 ms a call, SHA-256 takes 1 µs.
    """
    return PREFIX + secrets.token_urlsafe(32)


def digest_of(token: str) -> str:
    """Return a token's digest as the access file has it, `sha256:` and 64 hexadecimal digits."""
    return DIGEST_PREFIX + hashlib.sha256(token.encode()).hexdigest()


def token_id(digest: str) -> str:
    """Return what logs call a token: the first six hexadecimal digits of its digest."""
    return digest.removeprefix(DIGEST_PREFIX)[:ID_DIGITS]
