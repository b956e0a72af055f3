"""Grant: what one tenant may ask for, its defaults merged in. None means: no limit."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

SandboxLevel = Literal["off", "workspace", "sealed"]


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

    model_config = ConfigDict(extra="forbid", frozen=True)

    tenant: str = ""
    models: tuple[str, ...] | None = None
    """Patterns of models, such as "claude-haiku-*"."""
    permission_modes: tuple[str, ...] | None = None
    """As in the contract, in lower case and without prefix: "default", "accept_edits"."""
    cwd_roots: tuple[str, ...] | None = None
    """Directories below which `cwd` and `add_dirs` may lie; the session's own directory is always allowed."""
    tools: tuple[str, ...] | None = None
    tools_deny: tuple[str, ...] = ()
    max_turns: int | None = None
    max_budget_usd: float | None = None
    max_effort: str | None = None
    env: tuple[str, ...] | None = None
    """Patterns of variables that may be set."""
    mcp_servers: tuple[str, ...] | None = None
    """Names of the operator's MCP servers; None also lets callers bring their own."""
    mcp_http_hosts: tuple[str, ...] | None = None
    attachment_hosts: tuple[str, ...] | None = None
    settings_json: bool = True
    setting_sources: tuple[str, ...] | None = None
    plugins: tuple[str, ...] | None = None
    """Directories below which plugins may lie."""
    extra_args: tuple[str, ...] | None = None
    file_mentions: bool = True
    max_execution: float | None = None
    max_queue: float | None = None
    max_ttl: float | None = None
    max_interaction_wait: float | None = None
    sandbox: SandboxLevel | None = None
    """The walls around agents; None: as the service's own flag says."""
    cli_sandbox: Literal["required"] | None = None
    egress: tuple[str, ...] = ()
    """Hosts that a sealed agent may reach."""
    run_as: str | None = None
    """The user of the agent's processes; "auto": one uid for each tenant."""
    sessions: SessionQuota = SessionQuota()
    execute_rate: float | None = None
    """Execute calls a second, on average over a minute."""
    retention: float | None = None
    memory: int | None = None
    processes: int | None = None
    profiles: tuple[str, ...] | None = None
    require_profile: bool = False

    @classmethod
    def dev(cls, tenant: str = "") -> Grant:
        """The grant without an access file: nothing is limited beyond what is reserved for everybody."""
        return cls(tenant=tenant)
