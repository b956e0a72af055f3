"""Rules: what one version of the access file says, ready to be asked. Without a file: the local token, or nothing."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from agent_service import policy
from agent_service.access.document import AccessFile, PrincipalTable
from agent_service.access.rpcs import expand
from agent_service.auth import (
    LOCAL,
    Authenticator,
    Certificates,
    Claim,
    Kind,
    Principal,
    Sockets,
    Tokens,
    digest_of,
    name_of,
    token_id,
)
from agent_service.errors import CannotServe
from agent_service.policy import DEFAULT, Grant, check_names

if TYPE_CHECKING:
    from agent_service.auth import KeySet

T = TypeVar("T")

MAX_REMEMBERED = 10_000
"""Tenants whose grants are kept."""

KeySets = dict[tuple[str, float], "KeySet"]
"""Key sets by source and age, kept from one version of the file to the next."""


class AccessFileInvalid(CannotServe):
    """The access file cannot be read, or says what it must not; the text has the places."""


@dataclass(frozen=True)
class Rules:
    """What holds. `authenticator` is None where no credential is asked for: every call is the local principal's."""

    authenticator: Authenticator | None = None
    version: str = ""
    document: AccessFile | None = None
    _grants: dict[str, Grant] = field(default_factory=dict)
    _tenants: dict[str, bool] = field(default_factory=dict)

    def grant(self, tenant: str) -> Grant:
        """Return what a tenant may ask for."""
        return _remembered(self._grants, tenant, self._make_grant)

    def _make_grant(self, tenant: str) -> Grant:
        if self.document is None:
            return Grant.dev(tenant)
        return policy.grant(tenant, self.document.tenant, self.document.mcp)

    def is_tenant(self, tenant: str) -> bool:
        """Return whether sessions of a tenant of this name may be here; the empty one always."""
        return _remembered(self._tenants, tenant, lambda name: not name or _is_tenant(self.document, name))

    @property
    def sockets(self) -> frozenset[str]:
        """The Unix sockets that stand for a principal."""
        tables = self.document.principal.values() if self.document else ()
        return frozenset(path for table in tables for path in table.unix)


def _remembered(known: dict[str, T], tenant: str, make: Callable[[str], T]) -> T:
    if tenant not in known:
        if len(known) >= MAX_REMEMBERED:  # tenants may be named by tokens
            known.clear()
        known[tenant] = make(tenant)
    return known[tenant]


def local_rules(token: str, advice: str) -> Rules:
    """Return the rules without an access file: one token, of the local principal."""
    digest = digest_of(token)
    principal = replace(LOCAL, via="local token", credential=token_id(digest))
    return Rules(Authenticator([("local token", Tokens({digest: principal}))], advice))


def read_rules(file: Path, keysets: KeySets) -> Rules:
    """Return the rules of an access file. Raises AccessFileInvalid with each fault and its place."""
    try:
        raw = file.read_bytes()
        document = AccessFile(**tomllib.loads(raw.decode()))
    except ValidationError as error:
        raise AccessFileInvalid(f"{file}: {_faults(error)}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, TypeError) as error:
        raise AccessFileInvalid(f"{file}: {error}") from error
    kinds = list(_kinds(document, keysets).items())
    return Rules(Authenticator(kinds, _advice(dict(kinds))), hashlib.sha256(raw).hexdigest()[:12], document)


def _faults(error: ValidationError) -> str:
    faults = ((".".join(map(str, each["loc"])), each["msg"].removeprefix("Value error, ")) for each in error.errors())
    return "; ".join(f"{place}: {text}" if place else text for place, text in faults)


def _is_tenant(document: AccessFile | None, tenant: str) -> bool:
    try:
        check_names({tenant: None}, {})
    except ValueError:
        return False
    if tenant == DEFAULT:
        return False
    return document is None or document.unknown_tenants == "default" or tenant in document.tenant


def _kinds(document: AccessFile, keysets: KeySets) -> Mapping[str, Kind]:
    """The kinds of credentials that the file has principals for, or issuers."""
    tokens: dict[str, Principal] = {}
    certificates: dict[str, Principal] = {}
    sockets: dict[str, Principal] = {}
    signed: dict[tuple[str, str], Principal] = {}
    for name, table in document.principal.items():
        principal = _principal(name, table)
        tokens |= {each: replace(principal, via="token", credential=token_id(each)) for each in table.token}
        certificates |= {name_of(each): replace(principal, via="certificate") for each in table.certificate}
        sockets |= {each: replace(principal, via="unix socket") for each in table.unix}
        signed |= {document.issuer_of(name, each): replace(principal, via="jwt") for each in table.jwt}
    kinds: dict[str, Kind] = {}
    if tokens:
        kinds["token"] = Tokens(tokens)
    if certificates:
        kinds["certificate"] = Certificates(certificates)
    if document.jwt:
        kinds["jwt"] = _jwt(document, keysets, signed, lambda tenant: _is_tenant(document, tenant))
    if sockets:
        kinds["unix socket"] = Sockets(sockets)
    return kinds


def _principal(name: str, table: PrincipalTable) -> Principal:
    rpcs = None if table.rpcs is None else expand(table.rpcs)
    return Principal(name=name, tenant=table.tenant, tenants=table.tenants, rpcs=rpcs, rights=frozenset(table.rights))


def _jwt(
    document: AccessFile,
    keysets: KeySets,
    principals: Mapping[tuple[str, str], Principal],
    is_tenant: Callable[[str], bool],
) -> Kind:
    from agent_service.auth import Issuer, Jwt, KeySet

    issuers = []
    for name, table in document.jwt.items():
        place = (table.jwks, table.max_stale)
        keys = keysets.setdefault(place, KeySet(table.jwks, max_stale=table.max_stale))
        tenant = Claim.parse(table.tenant) if table.tenant else None
        issuers.append(Issuer(name, table.issuer, table.audience, keys, table.name, tenant))
    return Jwt(issuers, principals, is_tenant, taken=document.principal)


_SEND: Mapping[str, str] = {
    "token": "a token (metadata authorization: Bearer TOKEN)",
    "jwt": "a signed token of a known issuer (metadata authorization: Bearer JWT)",
    "certificate": "a client certificate on an mtls: listener",
    "unix socket": "a Unix socket of a principal",
}


def _advice(kinds: Mapping[str, Any]) -> str:
    if not kinds:
        return "the access file names no principal, so nobody can call"
    return "accepted are " + ", or ".join(_SEND[kind] for kind in kinds)
