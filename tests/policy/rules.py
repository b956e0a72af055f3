"""Rules: the tables of an access file for tests of the policy, changed while the service runs."""

from __future__ import annotations

import tomllib
from typing import Any

from agent_service.access import Access
from agent_service.policy import Grant, McpTable, TenantTable, grant


class Rules(Access):
    """An Access that asks for no credential: the grants of tables that a test sets, or those without an access file."""

    def __init__(self) -> None:
        """Begin without an access file."""
        super().__init__()
        self._grants: dict[str, Grant] = {}
        self._raw: dict[str, Any] | None = None

    @property
    def version(self) -> str:
        """The version of the file."""
        return "a1b2c3d4e5f6" if self._raw is not None else ""

    def set(self, text: str | None) -> None:
        """Put the tables of this TOML text in force; None: no access file."""
        self._raw = tomllib.loads(text) if text is not None else None
        self._grants = {}

    def grant(self, tenant: str) -> Grant:
        """What a tenant may ask for."""
        if tenant not in self._grants:
            self._grants[tenant] = self._grant(tenant)
        return self._grants[tenant]

    def _grant(self, tenant: str) -> Grant:
        if self._raw is None:
            return Grant.dev(tenant)
        tables = {name: TenantTable(**table) for name, table in self._raw.get("tenant", {}).items()}
        servers = {name: McpTable(**table) for name, table in self._raw.get("mcp", {}).items()}
        return grant(tenant, tables, servers)
