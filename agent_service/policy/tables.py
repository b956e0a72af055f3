"""From the tables of the access file to the Grant of one tenant, and from a Grant to the table as it holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from agent_service.policy.document import DEFAULT, TENANT, McpTable, RateTable, SessionsTable, TenantTable
from agent_service.policy.grant import Grant, SandboxLevel, SessionQuota
from agent_service.policy.units import duration_text, rate_text, size_text

SILENT: Mapping[str, Any] = {
    "permission_modes": ("default", "accept_edits", "plan", "dont_ask", "auto"),
    "cwd_roots": (),
    "max_turns": 200,
    "max_budget_usd": 10.0,
    "env": (),
    "mcp_servers": (),
    "mcp_http_hosts": (),
    "attachment_hosts": (),
    "settings_json": False,
    "setting_sources": (),
    "plugins": (),
    "extra_args": (),
    "file_mentions": False,
    "max_interaction_wait": 86400.0,
    "profiles": (),
}
"""What holds where neither the tenant's table nor `[tenant.default]` says anything. All other fields have no limit."""

_DURATIONS = frozenset({"max_execution", "max_queue", "max_ttl", "max_interaction_wait", "retention"})
_NOT_SHOWN = frozenset({"tenant", "limited", "places", "servers", "run_as", "execute_rate", "sessions"})


def grant(tenant: str, tables: Mapping[str, TenantTable], servers: Mapping[str, McpTable]) -> Grant:
    """Return what a tenant may ask for: its own table, over `[tenant.default]`, over SILENT, field by field."""
    layers = [(f"tenant.{name}", tables[name]) for name in (DEFAULT, tenant) if name in tables]
    values: dict[str, Any] = {**SILENT}
    places: dict[str, str] = {}
    sessions: dict[str, Any] = {}
    for place, table in layers:
        for name in table.model_fields_set:
            value = getattr(table, name)
            if isinstance(value, SessionsTable):
                sessions |= {each: getattr(value, each) for each in value.model_fields_set}
                places |= {f"sessions.{each}": place for each in value.model_fields_set}
            elif isinstance(value, RateTable):
                values["execute_rate"] = value.execute
                places["rate.execute"] = place
            else:
                values[name] = value
                places[name] = place
    for name in ("cwd_roots", "plugins"):
        if values[name] is not None:
            values[name] = _for_tenant(values[name], tenant)
    made = Grant(
        tenant=tenant,
        limited=True,
        places=places,
        servers=_servers(tenant, servers, values["mcp_servers"]),
        sessions=SessionQuota(**sessions),
        **values,
    )
    return made if made.sandbox is None else walled(made, made.sandbox)


def walled(held: Grant, sandbox: SandboxLevel) -> Grant:
    """The grant as it holds in a service whose agents have `sandbox` where the grant says nothing.

    A silent `setting_sources` is the project's then, which a sandbox holds; its hooks are off by managed settings.
    """
    changes: dict[str, Any] = {"sandbox": held.sandbox or sandbox}
    if "setting_sources" not in held.places and changes["sandbox"] != "off":
        changes["setting_sources"] = ("project",)
    return held.model_copy(update=changes)


def matches(value: str, patterns: Sequence[str]) -> bool:
    """Return whether a value is among the patterns of a list, case included."""
    return any(fnmatchcase(value, pattern) for pattern in patterns)


def table_json(held: Grant, profiles: Sequence[str]) -> str:
    """Return a tenant's table as it holds, as a JSON object; `profiles` are the names that it may use."""
    table: dict[str, Any] = {}
    for name in type(held).model_fields:
        if name not in _NOT_SHOWN:
            table[name] = _shown(name, getattr(held, name))
    table["mcp_servers"] = "any" if held.mcp_servers is None else sorted(held.servers)
    table["profiles"] = sorted(profiles)
    table["sessions"] = {name: "any" if value is None else value for name, value in held.sessions}
    table["rate"] = {"execute": "any" if held.execute_rate is None else rate_text(held.execute_rate)}
    return json.dumps(dict(sorted(table.items())))


def _shown(name: str, value: Any) -> Any:
    if value is None:
        return "any"
    if name in _DURATIONS:
        return duration_text(value)
    return size_text(value) if name == "memory" else value


def _for_tenant(paths: Sequence[str], tenant: str) -> tuple[str, ...]:
    """The paths of one tenant. The empty tenant has none of its own: without a name, a path would be everybody's."""
    return tuple(path.replace(TENANT, tenant) for path in paths if tenant or TENANT not in path)


def _servers(tenant: str, servers: Mapping[str, McpTable], allowed: Sequence[str] | None) -> dict[str, Any]:
    return {
        name: table.server(tenant)
        for name, table in servers.items()
        if (allowed is None or matches(name, allowed)) and (tenant or TENANT not in table.model_dump_json())
    }
