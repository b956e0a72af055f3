"""The tables of the access file that say what a tenant may ask for: `[tenant.NAME]` and `[mcp.NAME]`.

A table is checked whole when the file is read: a misspelt key, a wrong type or a unit that is missing is an error with
its place. `[tenant.default]` holds below each tenant's own table, field by field, and SILENT below both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from agentpb import agent_pb2 as pb
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from agent_service import options
from agent_service.policy.grant import Effort, PermissionMode, SandboxLevel, SettingSource
from agent_service.policy.units import byte_count, per_second, seconds

DEFAULT = "default"
"""The name of the table that holds below every other."""
RESERVED_NAMES = frozenset({DEFAULT, "operator"})
"""Names that no tenant can have."""
TENANT = "{tenant}"
"""Stands for the tenant's name in paths and in the operator's MCP servers."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_HOST = re.compile(r"(\*\.)?[a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\]")

_OF_SERVER = '.mcp_servers["x"].'

T = TypeVar("T")


def _or_any(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    return None if value == "any" else validate(value)


Limit = Annotated[T | None, WrapValidator(_or_any)]
"""A value, or "any" for none: then the field is None and set, whereas a silent one is not set."""
Count = Annotated[int, Field(strict=True, ge=1)]
Dollars = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, BeforeValidator(seconds)]
Bytes = Annotated[int, BeforeValidator(byte_count)]
Rate = Annotated[float, BeforeValidator(per_second)]


def _path(path: str) -> str:
    if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise ValueError("must be an absolute path without ..")
    if "{" in path.replace(TENANT, "") or "}" in path.replace(TENANT, ""):
        raise ValueError(f"must have no other placeholder than {TENANT}")
    return path


def _host(host: str) -> str:
    if not _HOST.fullmatch(host):
        raise ValueError('must be a host in small letters, such as "mcp.example.com" or "*.example.com"')
    return host


def _rule(rule: str) -> str:
    if not options.is_one_rule(rule):
        raise ValueError('must be one tool or rule, such as "WebFetch" or "Bash(sudo *)"')
    return rule


Word = Annotated[str, Field(min_length=1)]
Words = Limit[tuple[Word, ...]]
Paths = Limit[tuple[Annotated[str, AfterValidator(_path)], ...]]
Hosts = Limit[tuple[Annotated[str, AfterValidator(_host)], ...]]


class Table(BaseModel):
    """A table of the access file: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SessionsTable(Table):
    """`sessions` of a tenant."""

    at_work: Limit[Count] = None
    queued: Limit[Annotated[int, Field(strict=True, ge=0)]] = None
    kept: Limit[Count] = None


class RateTable(Table):
    """`rate` of a tenant."""

    execute: Limit[Rate] = None


class TenantTable(Table):
    """`[tenant.NAME]`; every field is explained in Grant. "any" means no limit, where that is possible."""

    models: Words = None
    permission_modes: Limit[tuple[PermissionMode, ...]] = None
    cwd_roots: Paths = None
    tools: Words = None
    tools_deny: tuple[Annotated[str, AfterValidator(_rule)], ...] | None = None
    max_turns: Limit[Count] = None
    max_budget_usd: Limit[Dollars] = None
    max_effort: Limit[Effort] = None
    env: Words = None
    mcp_servers: Words = None
    mcp_http_hosts: Hosts = None
    attachment_hosts: Hosts = None
    settings_json: bool | None = None
    setting_sources: Limit[tuple[SettingSource, ...]] = None
    plugins: Paths = None
    extra_args: Words = None
    file_mentions: bool | None = None
    max_execution: Limit[Seconds] = None
    max_queue: Limit[Seconds] = None
    max_ttl: Limit[Seconds] = None
    max_interaction_wait: Limit[Seconds] = None
    sandbox: SandboxLevel | None = None
    cli_sandbox: Limit[Literal["required"]] = None
    egress: tuple[Annotated[str, AfterValidator(_host)], ...] | None = None
    run_as: Word | None = None
    sessions: SessionsTable | None = None
    rate: RateTable | None = None
    retention: Limit[Seconds] = None
    memory: Limit[Bytes] = None
    processes: Limit[Count] = None
    profiles: Words = None
    require_profile: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_budgets_yet(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "spend" in data:
            raise ValueError("spend: this version has no budgets over time; max_budget_usd bounds each turn")
        return data

    @model_validator(mode="after")
    def _bypass_needs_a_sandbox(self) -> TenantTable:
        if self.sandbox == "off" and self.permission_modes and "bypass_permissions" in self.permission_modes:
            raise ValueError('permission_modes: bypass_permissions needs a sandbox, and sandbox is "off"')
        return self


class StdioTable(Table):
    """`stdio` of an MCP server of the operator's."""

    command: str
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}


class HttpTable(Table):
    """`http` or `sse` of an MCP server of the operator's."""

    url: str
    headers: dict[str, str] = {}


class McpTable(Table):
    """`[mcp.NAME]`: an MCP server that callers name and do not define."""

    stdio: StdioTable | None = None
    http: HttpTable | None = None
    sse: HttpTable | None = None

    @model_validator(mode="after")
    def _is_one_that_the_agent_takes(self) -> McpTable:
        if sum(kind is not None for kind in (self.stdio, self.http, self.sse)) != 1:
            raise ValueError("must have exactly one of stdio, http and sse")
        found = options.check(pb.AgentOptions(mcp_servers={"x": self.server("tenant")}), "")
        if found:
            raise ValueError("; ".join(f"{field.removeprefix(_OF_SERVER)}: {text}" for field, text in found))
        return self

    def server(self, tenant: str) -> pb.McpServer:
        """Return the server as the contract has it, for one tenant. Secrets are still references."""
        raw = self.model_dump(exclude_none=True)
        return pb.McpServer(**_for_tenant(raw, tenant))


def check_names(tenants: Mapping[str, object], servers: Mapping[str, object]) -> None:
    """Raise ValueError for a tenant or a server that cannot have its name."""
    for name in tenants:
        if name in RESERVED_NAMES - {DEFAULT} or not _NAME.fullmatch(name):
            raise ValueError(
                f"tenant.{name}: tenants are named with 1 to 128 of A-Z a-z 0-9 _ . - that begin with a letter or "
                f"digit; {' and '.join(sorted(RESERVED_NAMES))} are reserved"
            )
    for name in servers:
        probe = pb.AgentOptions(mcp_servers={name: pb.McpServer(stdio=pb.McpStdioServer(command="x"))})
        if found := options.check(probe, ""):
            raise ValueError(f"mcp.{name}: {found[0].description}")


def _for_tenant(value: T, tenant: str) -> T:
    """The value with the tenant's name in each text, however deep."""
    if isinstance(value, str):
        return value.replace(TENANT, tenant)  # type: ignore[return-value]
    if isinstance(value, dict):
        return {key: _for_tenant(each, tenant) for key, each in value.items()}  # type: ignore[return-value]
    if isinstance(value, tuple):
        return tuple(_for_tenant(each, tenant) for each in value)  # type: ignore[return-value]
    return value
