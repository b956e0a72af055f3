"""Access: the rules in force, read again when their file changes.

A file that cannot be used changes nothing: the rules before it stay in force, and the log says so, once for each
content.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path

from agent_service.access.document import ANY_TENANT
from agent_service.access.rates import Rates
from agent_service.access.rules import AccessFileInvalid, KeySets, Rules, read_rules
from agent_service.auth import LOCAL, Credentials, Principal
from agent_service.errors import RpcNotAllowed
from agent_service.policy import Grant

log = logging.getLogger(__name__)

RELOAD_INTERVAL = 2.0
"""Seconds between two looks at the file."""

Stamp = tuple[str, int, int, int]
"""What changes with a file."""


class Access:
    """The rules in force."""

    def __init__(self, rules: Rules | None = None, file: Path | None = None) -> None:
        """Begin with the rules of `file`, or with `rules`; without both every call is the local principal's.

        Raises AccessFileInvalid.
        """
        self._file = file
        self._stamp = _stamp_or_none(file) if file else None  # before it is read, so that a change in between is seen
        self._keysets: KeySets = {}
        self._rules = read_rules(file, self._keysets) if file else rules or Rules()
        self._listeners: list[Callable[[], None]] = []
        self.rates = Rates()

    @property
    def version(self) -> str:
        """The first 12 hexadecimal digits of the access file's SHA-256; "" without a file."""
        return self._rules.version

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of credentials that are accepted; "none" where none is asked for."""
        return self._rules.authenticator.names if self._rules.authenticator else ("none",)

    @property
    def sockets(self) -> frozenset[str]:
        """The Unix sockets that stand for a principal."""
        return self._rules.sockets

    def grant(self, tenant: str) -> Grant:
        """Return what a tenant may ask for."""
        return self._rules.grant(tenant)

    async def authenticate(self, credentials: Credentials) -> Principal:
        """Return the principal of a call. Raises CredentialsMissing, CredentialsInvalid, IdentityUnavailable."""
        authenticator = self._rules.authenticator
        return LOCAL if authenticator is None else await authenticator.authenticate(credentials)

    def tenant_of(self, principal: Principal, wanted: str) -> str:
        """Return the tenant of a call that names `wanted`, or none (""). Raises RpcNotAllowed."""
        selects_any = ANY_TENANT in principal.tenants
        if not wanted:
            if principal.tenants and not principal.tenant and not selects_any:
                raise RpcNotAllowed(f"name the tenant in metadata agent-tenant: one of {', '.join(principal.tenants)}")
            tenant = principal.tenant
        elif wanted == principal.tenant or wanted in principal.tenants or selects_any:
            tenant = wanted
        else:
            raise RpcNotAllowed(f"{principal.name} may not call for the tenant that metadata agent-tenant names")
        if not self._rules.is_tenant(tenant):
            raise RpcNotAllowed("the access file has no such tenant")
        return tenant

    def listen(self, callback: Callable[[], None]) -> None:
        """Have `callback` called, on the event loop, after the rules have changed."""
        self._listeners.append(callback)

    async def watch(self) -> None:
        """Read the file again whenever it has changed, until cancelled. Returns at once without a file."""
        while self._file is not None:
            await asyncio.sleep(RELOAD_INTERVAL)
            try:
                await self.reload()
            except Exception:
                log.exception("the access file was not read again; it is tried again")

    async def reload(self) -> None:
        """Look at the file; take its rules if it has changed and can be used."""
        if self._file is None:
            return
        stamp = await asyncio.to_thread(_stamp_or_none, self._file)
        if stamp == self._stamp:
            return
        try:
            rules = await asyncio.to_thread(read_rules, self._file, self._keysets)
        except AccessFileInvalid as error:
            self._stamp = stamp
            log.error("the access file cannot be used, version %s stays in force: %s", self.version, error)
            return
        if await asyncio.to_thread(_stamp_or_none, self._file) == stamp:  # or it is still being written
            self._stamp = stamp
            self._take(rules)

    def _take(self, rules: Rules) -> None:
        if rules.version == self._rules.version:
            return
        log.info("access file: version %s is in force, instead of %s", rules.version, self.version)
        self._rules = rules
        for callback in self._listeners:
            callback()


def stamp_of(file: Path) -> Stamp:
    """Return what changes with a file, since ConfigMaps swap a link, editors rename, others write in place.

    Raises OSError.
    """
    resolved = os.path.realpath(file)
    found = os.stat(resolved)
    return resolved, found.st_ino, found.st_size, found.st_mtime_ns


def _stamp_or_none(file: Path) -> Stamp | None:
    try:
        return stamp_of(file)
    except OSError:
        return None
