"""Key sets: the public keys (JWKS) of an issuer of tokens, from a file or an https URL.

A set that was read stays good while it cannot be read again, up to `max_stale`: an issuer that is down for a moment
locks nobody out, and one whose keys cannot be checked for long does. Nothing is fetched on the event loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jwt

from agent_service.auth.sources import fetch, read_file
from agent_service.errors import IdentityUnavailable

log = logging.getLogger(__name__)

ALGORITHMS = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519", "Ed448"}
)
"""Signatures by a private key. No algorithm with a shared secret: whoever checks such a token could make it."""

Keys = Mapping[str, jwt.PyJWK]
Clock = Callable[[], float]


class KeySet:
    """The keys of one issuer. `pause` is the shortest time between two reads, in seconds; so are all durations."""

    def __init__(self, source: str, *, max_stale: float, clock: Clock = time.monotonic) -> None:
        """Read from `source`, a path or an https URL, when a key is first asked for."""
        self.source, self.max_stale = source, max_stale
        is_url = source.startswith(("https://", "http://"))
        self._read: Callable[[str], bytes] = fetch if is_url else read_file
        self.pause, self._max_age = (30.0, 300.0) if is_url else (1.0, 2.0)
        self._clock = clock
        self._keys: Keys = {}
        self._raw = b""
        self._read_at: float | None = None
        self._tried_at: float | None = None
        self._reading: asyncio.Task[None] | None = None
        self.version = 0
        """Counts the sets that differed from the one before."""

    async def key(self, kid: str | None) -> jwt.PyJWK | None:
        """Return the key of a token; one without `kid` means the only key. Raises IdentityUnavailable."""
        await self.refresh()
        found = self._find(kid)
        if found is None and await self._read_again():
            found = self._find(kid)
        self.check()
        return found

    async def refresh(self) -> None:
        """Read a stale set, or the first; have one that is old read meanwhile. Raises IdentityUnavailable."""
        if self._age() > self.max_stale:
            await self._read_again()
        elif self._age() > self._max_age and self._may_read():
            self._start()
        self.check()

    def check(self) -> None:
        """Raise IdentityUnavailable when no set was read, or none for longer than `max_stale`."""
        if self._age() > self.max_stale:
            raise IdentityUnavailable(
                "the keys of the token's issuer cannot be read, so the token cannot be checked", retry_after=self.pause
            )

    def _age(self) -> float:
        return math.inf if self._read_at is None else self._clock() - self._read_at

    def _find(self, kid: str | None) -> jwt.PyJWK | None:
        if kid is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(kid)

    def _may_read(self) -> bool:
        return self._tried_at is None or self._clock() - self._tried_at >= self.pause

    async def _read_again(self) -> bool:
        """Read, or wait for the read that is under way; False when the last one was too short ago."""
        if self._reading is None and not self._may_read():
            return False
        await asyncio.shield(self._start())
        return True

    def _start(self) -> asyncio.Task[None]:
        if self._reading is None:
            self._tried_at = self._clock()
            self._reading = asyncio.create_task(self._load(), name="key set")
        return self._reading

    async def _load(self) -> None:
        try:
            raw = await asyncio.to_thread(self._read, self.source)
            if raw != self._raw:
                self._keys, self._raw = _parse(raw), raw
                self.version += 1
            self._read_at = self._clock()
        except (OSError, ValueError, jwt.PyJWTError) as error:
            log.warning("the key set %s cannot be read, the last one is kept: %s", self.source, error)
        finally:
            self._reading = None


def _parse(raw: bytes) -> Keys:
    """The keys that check signatures, by their kid. Keys of other kinds are left out."""
    document = json.loads(raw)
    if not isinstance(document, dict) or not isinstance(document.get("keys"), list):
        raise ValueError('it is no JWKS: a JSON object with a list "keys"')
    found: dict[str, jwt.PyJWK] = {}
    for index, each in enumerate(document["keys"]):
        key = _signing_key(each)
        if key is not None:
            found.setdefault(str(each.get("kid", f"#{index}")), key)
    if not found:
        raise ValueError("it has no key that checks signatures")
    return found


def _signing_key(data: Any) -> jwt.PyJWK | None:
    if not isinstance(data, dict) or data.get("kty") == "oct" or data.get("use", "sig") != "sig":
        return None
    try:
        key = jwt.PyJWK(data)
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    return key if key.algorithm_name in ALGORITHMS else None
