"""The access file as a document: tables of principals and of issuers of tokens; policy has those of tenants.

Everything is checked when the file is read, and named by its place. There is no secret in the file: tokens are
digests, and the operator's MCP servers refer to secrets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from agent_service.access.rpcs import expand
from agent_service.auth import DIGEST, RIGHTS, Claim, check_source, name_of
from agent_service.policy import McpTable, Seconds, Table, TenantTable, check_names

ANY_TENANT = "*"

_PRINCIPAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@:/+-]{0,127}")


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _digest(text: str) -> str:
    if not DIGEST.fullmatch(text):
        raise ValueError("must be sha256: and 64 hexadecimal digits, as `agent-service token NAME` prints them")
    return text


def _certificate(text: str) -> str:
    name_of(text)
    return text


def _path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError("must be the absolute path of a socket that the service listens on")
    return text


def _right(text: str) -> str:
    if text not in RIGHTS:
        raise ValueError(f"{text!r} is no right; known are {', '.join(sorted(RIGHTS))}")
    return text


def _claim(text: str) -> str:
    Claim.parse(text)
    return text


def _source(text: str) -> str:
    check_source(text)
    return text


Word = Annotated[str, Field(min_length=1)]


class PrincipalTable(Table):
    """`[principal.NAME]`. A credential is a text or a list: two tokens hold while one replaces the other."""

    token: Annotated[tuple[Annotated[str, AfterValidator(_digest)], ...], BeforeValidator(_several)] = ()
    certificate: Annotated[tuple[Annotated[str, AfterValidator(_certificate)], ...], BeforeValidator(_several)] = ()
    jwt: Annotated[tuple[Word, ...], BeforeValidator(_several)] = ()
    unix: Annotated[tuple[Annotated[str, AfterValidator(_path)], ...], BeforeValidator(_several)] = ()
    tenant: str = ""
    tenants: tuple[Word, ...] = ()
    rpcs: tuple[str, ...] | None = None
    rights: tuple[Annotated[str, AfterValidator(_right)], ...] = ()

    @model_validator(mode="after")
    def _can_call(self) -> PrincipalTable:
        if not (self.token or self.certificate or self.jwt or self.unix):
            raise ValueError("needs a credential: token, certificate, jwt or unix")
        if self.rpcs is not None:
            expand(self.rpcs)
        if ANY_TENANT in self.tenants and len(self.tenants) > 1:
            raise ValueError(f'tenants: "{ANY_TENANT}" stands for all, so it stands alone')
        if self.tenant and self.tenants and ANY_TENANT not in self.tenants and self.tenant not in self.tenants:
            raise ValueError("tenants: must have the principal's own tenant among them")
        return self


class JwtTable(Table):
    """`[jwt.NAME]`: an issuer whose tokens are accepted."""

    issuer: Word
    audience: Annotated[tuple[Word, ...], BeforeValidator(_several), Field(min_length=1)]
    jwks: Annotated[str, AfterValidator(_source)]
    tenant: Annotated[str, AfterValidator(_claim)] | None = None
    name: Word = "sub"
    max_stale: Seconds = 3600.0


class AccessFile(Table):
    """The whole file."""

    version: Literal[1] = 1
    unknown_tenants: Literal["deny", "default"] = "default"
    principal: dict[str, PrincipalTable] = Field(default_factory=dict)
    jwt: dict[str, JwtTable] = Field(default_factory=dict)
    tenant: dict[str, TenantTable] = Field(default_factory=dict)
    mcp: dict[str, McpTable] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits_together(self) -> AccessFile:
        check_names(self.tenant, self.mcp)
        for name, table in self.principal.items():
            if not _PRINCIPAL.fullmatch(name):
                raise ValueError(f"principal.{name}: must be 1 to 128 of A-Z a-z 0-9 _ . @ : / + -")
            self._check_tenants(name, table)
        self._check_issuers()
        self._check_doubles()
        return self

    def _check_tenants(self, name: str, table: PrincipalTable) -> None:
        for tenant in {table.tenant, *table.tenants} - {"", ANY_TENANT}:
            check_names({tenant: None}, {})
            if tenant == "default":
                raise ValueError(f"principal.{name}: default is no tenant, but what holds for all")
            if self.unknown_tenants == "deny" and tenant not in self.tenant:
                raise ValueError(f'principal.{name}: there is no [tenant.{tenant}], and unknown_tenants is "deny"')

    def _check_issuers(self) -> None:
        issuers = [table.issuer for table in self.jwt.values()]
        if len(set(issuers)) < len(issuers):
            raise ValueError("jwt: two tables have the same issuer")
        for name, table in self.principal.items():
            for text in table.jwt:
                self.issuer_of(name, text)

    def issuer_of(self, principal: str, text: str) -> tuple[str, str]:
        """Return the table and the name that a principal's `jwt` means: NAME, or TABLE:NAME. Raises ValueError."""
        table, colon, name = text.partition(":")
        if colon and table in self.jwt and name:
            return table, name
        if len(self.jwt) == 1:
            return next(iter(self.jwt)), text
        if not self.jwt:
            raise ValueError(f"principal.{principal}.jwt: there is no [jwt.NAME] that says who signs its tokens")
        raise ValueError(
            f"principal.{principal}.jwt: must say whose token it is, as TABLE:NAME; tables are {', '.join(self.jwt)}"
        )

    def _check_doubles(self) -> None:
        seen: dict[tuple[str, object], str] = {}
        for principal, credential in self._credentials():
            other = seen.setdefault(credential, principal)
            if other != principal:
                raise ValueError(f"principal.{principal}.{credential[0]}: principal.{other} has the same")

    def _credentials(self) -> Iterator[tuple[str, tuple[str, object]]]:
        for name, table in self.principal.items():
            yield from ((name, ("token", each)) for each in table.token)
            yield from ((name, ("certificate", name_of(each))) for each in table.certificate)
            yield from ((name, ("jwt", self.issuer_of(name, each))) for each in table.jwt)
            yield from ((name, ("unix", each)) for each in table.unix)
