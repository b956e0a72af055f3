"""JSON Web Tokens: principals by the claims of tokens that an issuer has signed.

Checked are the signature by a key of the issuer's set, with the algorithm of that key; issuer, audience, expiry, and
the times before which a token does not count. All three claims must be there.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jwt

from agent_service.auth.claims import Claim, name_in
from agent_service.auth.credentials import Credentials
from agent_service.auth.keysets import ALGORITHMS, KeySet
from agent_service.auth.principal import Principal

SKEW = 10.0
"""Seconds by which an issuer's clock may be ahead of ours. Expiry is exact."""
MAX_CACHED = 10_000
"""Verified tokens that are remembered until they expire: a signature takes 60 to 140 µs, a look-up 2 µs."""

_BAD = (jwt.PyJWTError, ValueError, TypeError, KeyError, OverflowError, RecursionError)
"""What PyJWT, json and cryptography raise for tokens that somebody has tampered with."""


@dataclass(frozen=True)
class Issuer:
    """One `[jwt.NAME]` of the access file."""

    table: str
    issuer: str
    audience: tuple[str, ...]
    keys: KeySet
    name: str
    """The claim that names the principal."""
    tenant: Claim | None
    """The claim that names the tenant; None admits only tokens of principals that the access file has."""


@dataclass(frozen=True, slots=True)
class _Verified:
    principal: Principal
    issuer: Issuer
    key_version: int


class Jwt:
    """Authenticates the bearers of signed tokens."""

    def __init__(
        self,
        issuers: Sequence[Issuer],
        principals: Mapping[tuple[str, str], Principal],
        is_tenant: Callable[[str], bool],
        taken: Collection[str] = (),
    ) -> None:
        """Take principals by table and name; other names become principals of the tenant that their token says.

        A token whose tenant `is_tenant` refuses is not valid, nor is one whose name is `taken`.
        """
        self._issuers = {each.issuer: each for each in issuers}
        self._principals = dict(principals)
        self._taken = frozenset(taken)
        self._is_tenant = is_tenant
        self._verified: dict[bytes, _Verified] = {}

    async def principal(self, credentials: Credentials) -> Principal | None:
        """Return the principal of a valid token. Raises IdentityUnavailable without the issuer's keys."""
        token = credentials.bearer
        if token.count(".") != 2:
            return None
        digest = hashlib.sha256(token.encode()).digest()
        known = self._verified.get(digest)
        if known is not None:
            await known.issuer.keys.refresh()
            if known.key_version == known.issuer.keys.version:
                return known.principal
            del self._verified[digest]
        return await self._verify(token, digest)

    async def _verify(self, token: str, digest: bytes) -> Principal | None:
        issuer, kid = self._peek(token)
        if issuer is None:
            return None
        key = await issuer.keys.key(kid)
        version = issuer.keys.version
        claims = _checked(token, key, issuer) if key is not None else None
        principal = self._of(claims, issuer) if claims is not None else None
        if principal is not None:
            self._remember(digest, _Verified(principal, issuer, version))
        return principal

    def _peek(self, token: str) -> tuple[Issuer | None, str | None]:
        """The issuer and the key that a token claims to be from. Nothing is believed of it yet."""
        try:
            header = jwt.get_unverified_header(token)
            claims = jwt.decode(token, options={"verify_signature": False})
            kid = header.get("kid")
            if header.get("alg") not in ALGORITHMS:
                return None, None
            return self._issuers.get(claims["iss"]), kid
        except _BAD:
            return None, None

    def _of(self, claims: Mapping[str, Any], issuer: Issuer) -> Principal | None:
        name = name_in(claims, issuer.name)
        expires, jti = float(claims["exp"]), str(claims.get("jti", ""))[:64]
        known = self._principals.get((issuer.table, name))
        if known is not None:
            return replace(known, expires=expires, credential=jti)
        tenants = issuer.tenant.values(claims) if issuer.tenant else ()
        if not name or name in self._taken or not tenants or not all(map(self._is_tenant, tenants)):
            return None
        one, several = (tenants[0], ()) if len(tenants) == 1 else ("", tenants)
        return Principal(name=name, tenant=one, tenants=several, via="jwt", expires=expires, credential=jti)

    def _remember(self, digest: bytes, verified: _Verified) -> None:
        if len(self._verified) >= MAX_CACHED:
            now = time.time()
            alive = {
                key: each
                for key, each in self._verified.items()
                if each.principal.expires and each.principal.expires > now
            }
            self._verified = alive if len(alive) < MAX_CACHED else {}
        self._verified[digest] = verified


def _checked(token: str, key: jwt.PyJWK, issuer: Issuer) -> Mapping[str, Any] | None:
    """The claims of a token, once all of it is checked; expiry is left to the authenticator, which asks each time."""
    try:
        claims = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            audience=issuer.audience,
            issuer=issuer.issuer,
            leeway=SKEW,
            options={"require": ["exp", "iss", "aud"], "enforce_minimum_key_length": True},
        )
        return claims if isinstance(claims["exp"], int | float) and claims["exp"] > time.time() else None
    except _BAD:
        return None
