"""Grant: what one tenant may ask for, its defaults merged in. None means: no limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from agentpb import agent_pb2 as pb
from pydantic import BaseModel, ConfigDict

SandboxLevel = Literal["off", "workspace", "sealed"]
PermissionMode = Literal["default", "accept_edits", "plan", "bypass_permissions", "dont_ask", "auto"]
Effort = Literal["low", "medium", "high", "xhigh", "max"]
SettingSource = Literal["user", "project", "local"]


class SessionQuota(BaseModel):
    """How many sessions a tenant may have; None means: no limit but the service's own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at_work: int | None = None
    """Sessions at work at once."""
    queued: int | None = None
    """Turns that wait for a place."""
    kept: int | None = None
    """Sessions in the ledger."""


class Grant(BaseModel):
    """One tenant's rights and ceilings. Durations are seconds, sizes are bytes."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    tenant: str = ""
    limited: bool = False
    """Whether there is an access file: without one, nothing is looked at."""
    places: Mapping[str, str] = {}
    """Field → the table that sets it, such as "tenant.payments"; a field that no table sets is not in it."""
    models: tuple[str, ...] | None = None
    """Patterns of models, such as "claude-haiku-*"."""
    permission_modes: tuple[PermissionMode, ...] | None = None
    """As in the contract, in lower case and without prefix: "default", "accept_edits"."""
    cwd_roots: tuple[str, ...] | None = None
    """Directories below which `cwd` and `add_dirs` may lie; the session's own directory is always allowed."""
    tools: tuple[str, ...] | None = None
    """The built-in tools that may be named, and what a request has that names none."""
    tools_deny: tuple[str, ...] = ()
    """Tools and rules that are denied to every agent of the tenant."""
    max_turns: int | None = None
    """At most, and what holds when a request says nothing; so with every "max_"."""
    max_budget_usd: float | None = None
    max_effort: Effort | None = None
    env: tuple[str, ...] | None = None
    """Patterns of variables that may be set."""
    mcp_servers: tuple[str, ...] | None = None
    """Patterns of names of the operator's MCP servers; None also lets callers bring their own."""
    servers: Mapping[str, pb.McpServer] = {}
    """The operator's MCP servers that may be named. Secrets in them are references."""
    mcp_http_hosts: tuple[str, ...] | None = None
    """Hosts of MCP servers over HTTP that callers may bring: "mcp.example.com" or "*.example.com"."""
    attachment_hosts: tuple[str, ...] | None = None
    """Hosts from which attachments may be fetched."""
    settings_json: bool = True
    setting_sources: tuple[SettingSource, ...] | None = None
    plugins: tuple[str, ...] | None = None
    """Directories below which plugins may lie."""
    extra_args: tuple[str, ...] | None = None
    """Flags of the CLI that may be set, of those that are open to callers at all."""
    file_mentions: bool = True
    max_execution: float | None = None
    """Bounds `execution_timeout`."""
    max_queue: float | None = None
    """Bounds `queue_timeout`."""
    max_ttl: float | None = None
    max_interaction_wait: float | None = None
    """Bounds `interactions.timeout`."""
    sandbox: SandboxLevel | None = None
    """The walls around agents; None: as the service's own flag says."""
    cli_sandbox: Literal["required"] | None = None
    """Whether commands must run in the CLI's own sandbox too."""
    egress: tuple[str, ...] = ()
    """Hosts that a sealed agent may reach."""
    run_as: str | None = None
    """The user of the agent's processes; "auto": one uid for each tenant."""
    sessions: SessionQuota = SessionQuota()
    execute_rate: float | None = None
    """Execute calls a second, on average over a minute."""
    retention: float | None = None
    """How long sessions at rest are kept that ask for no `ttl`."""
    memory: int | None = None
    """Bytes of all processes of an agent."""
    processes: int | None = None
    """Processes of an agent."""
    profiles: tuple[str, ...] | None = None
    """Patterns of the operator's profiles that may be used."""
    require_profile: bool = False
    """Whether every session must have a profile."""

    @classmethod
    def dev(cls, tenant: str = "") -> Grant:
        """The grant without an access file: nothing is limited beyond what is reserved for everybody."""
        return cls(tenant=tenant)
