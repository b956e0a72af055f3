"""Backends: which model answers the agents, and the environment variables that tell the CLI so."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from agent_service.errors import CannotServe

CREDENTIALS = (
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_VERTEX",
    "CLAUDE_CODE_USE_FOUNDRY",
)
"""Variables any one of which gives the CLI a way to reach Claude."""
_LEFT_OUT_OFFLINE = ("ANTHROPIC_", "CLAUDE_CODE_", "AWS_", "GOOGLE_", "CLOUD_ML_", "HTTP", "http", "ALL_PROXY")
"""Prefixes of variables that would lead the CLI away from the offline model."""


@dataclass(frozen=True)
class Backend:
    """One source of answers."""

    name: str
    """`claude` or `offline`, as GetServerInfo reports it."""
    environment: Mapping[str, str]
    """The variables every agent starts with."""
    url: str = ""
    """Address of the offline model; empty for Claude."""
    default_model: str = ""
    """Model of sessions that name none; empty: the CLI's own default."""


@asynccontextmanager
async def open_backend(wanted: str, environment: Mapping[str, str]) -> AsyncIterator[Backend]:
    """Open the backend that `wanted` (claude, offline or auto) stands for, and close it when the block ends.

    Raises CannotServe when Claude is wanted and `environment` has no credentials.
    """
    credentials = has_credentials(environment)
    if wanted == "claude" and not credentials:
        raise CannotServe(
            "no credentials for Claude were found: set ANTHROPIC_API_KEY (or ANTHROPIC_AUTH_TOKEN, "
            "CLAUDE_CODE_OAUTH_TOKEN, CLAUDE_CODE_USE_BEDROCK, CLAUDE_CODE_USE_VERTEX), or try the service with "
            "--model offline, which needs none"
        )
    if wanted == "claude" or (wanted == "auto" and credentials):
        yield Backend("claude", dict(environment))
        return
    from agent_service.offline import OFFLINE_MODEL_NAME, OfflineModel  # imports a web server, which Claude needs not

    key = f"offline-{secrets.token_urlsafe(32)}"  # every process of the host reaches the port
    async with OfflineModel(key=key) as offline:
        kept = {key: value for key, value in environment.items() if not key.startswith(_LEFT_OUT_OFFLINE)}
        access = {"ANTHROPIC_BASE_URL": offline.url, "ANTHROPIC_API_KEY": key}
        yield Backend("offline", {**kept, **access}, offline.url, OFFLINE_MODEL_NAME)


def has_credentials(environment: Mapping[str, str]) -> bool:
    """Return whether an environment tells the CLI how to reach Claude."""
    return any(environment.get(name) for name in CREDENTIALS)


def cli_bounds(*, api_retries: int, api_timeout: float, sdk_version: str) -> dict[str, str]:
    """Variables that bound the CLI's patience with the API (`api_timeout` in seconds), and stop its other traffic.

    They also keep the way to the API, and the credentials for it, the operator's.
    """
    return {
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS": "1",
        "CLAUDE_CODE_ENTRYPOINT": "sdk-py",
        # A project's .claude/settings.json may name a proxy, another key or provider, and an apiKeyHelper: the agent
        # sent the operator's key to that proxy, and ran that helper. With this the CLI takes all of it from here alone.
        "CLAUDE_CODE_PROVIDER_MANAGED_BY_HOST": "1",
        "CLAUDE_AGENT_SDK_VERSION": sdk_version,
        "CLAUDE_CODE_MAX_RETRIES": str(api_retries),
        "API_TIMEOUT_MS": str(round(api_timeout * 1000)),
        "CLAUDE_BYTE_STREAM_IDLE_TIMEOUT_MS": "60000",
        # The CLI's runtime would collect garbage 0.5 s after each turn: 0.15 CPU-seconds, a third of what a whole short
        # session costs, taken from those that start meanwhile. Collecting because it needs memory is not touched.
        "BUN_GC_TIMER_INTERVAL": "10000",
    }
