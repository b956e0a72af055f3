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
_AWS, _GOOGLE, _AZURE = ("AWS_",), ("GOOGLE_", "GCLOUD_", "CLOUD_ML_"), ("AZURE_",)
_PROVIDERS: Mapping[str, tuple[str, ...]] = {
    "CLAUDE_CODE_USE_ANTHROPIC_AWS": (*_AWS, "ANTHROPIC_AWS_"),
    "CLAUDE_CODE_USE_ANTHROPIC_GOOGLE_CLOUD": (*_GOOGLE, "ANTHROPIC_GOOGLE_CLOUD_"),
    "CLAUDE_CODE_USE_BEDROCK": (*_AWS, "ANTHROPIC_BEDROCK_"),
    "CLAUDE_CODE_USE_FOUNDRY": (*_AZURE, "ANTHROPIC_FOUNDRY_"),
    "CLAUDE_CODE_USE_MANTLE": (*_AWS, "ANTHROPIC_BEDROCK_"),
    "CLAUDE_CODE_USE_VERTEX": (*_GOOGLE, "ANTHROPIC_VERTEX_"),
}
"""The variable that chooses a provider of Claude → beginnings of the variables with its address and credentials."""
OF_THE_API_ITSELF = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")
"""Credentials for the Messages API, which need no signature of each request."""
_LEFT_OUT_OFFLINE = ("ANTHROPIC_", "CLAUDE_CODE_", *_AWS, *_GOOGLE, *_AZURE, "HTTP", "http", "ALL_PROXY")
"""Prefixes of variables that would lead the CLI away from the offline model."""

CERT_STORE = "CLAUDE_CODE_CERT_STORE"
"""The variable that says which authorities the CLI trusts: "bundled" with it, "system", or both with a comma."""
_TLS = ("SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS")


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
        yield Backend("claude", without_unused_credentials(environment))
        return
    from agent_service.offline import OFFLINE_MODEL_NAME, OfflineModel  # imports a web server, which Claude needs not

    key = f"offline-{secrets.token_urlsafe(32)}"  # every process of the host reaches the port
    async with OfflineModel(key=key) as offline:
        kept = {key: value for key, value in environment.items() if not key.startswith(_LEFT_OUT_OFFLINE)}
        access = {"ANTHROPIC_BASE_URL": offline.url, "ANTHROPIC_API_KEY": key}
        yield Backend("offline", {**kept, **access, **_trust(environment)}, offline.url, OFFLINE_MODEL_NAME)


def _trust(environment: Mapping[str, str]) -> dict[str, str]:
    """Return which authorities an agent trusts that needs no TLS to reach its model: the CLI's own, which are quicker.

    To read the host's takes 20 ms of CPU at each start, a sixteenth of it. What the operator chose holds.
    """
    if chosen := environment.get(CERT_STORE):
        return {CERT_STORE: chosen}
    return {} if any(environment.get(name) for name in _TLS) else {CERT_STORE: "bundled"}


def without_unused_credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """Leave out what belongs to providers of Claude that are not chosen: an agent's tools read its environment."""
    chosen = [switch for switch in _PROVIDERS if _is_on(environment.get(switch, ""))]
    needed = tuple(prefix for switch in chosen for prefix in _PROVIDERS[switch])
    others = tuple({prefix for prefixes in _PROVIDERS.values() for prefix in prefixes} - set(needed))
    # A gateway in front of a provider may be what the token of the API is for.
    gateway = any(_is_on(environment.get(switch.replace("_USE_", "_SKIP_") + "_AUTH", "")) for switch in chosen)
    unused = OF_THE_API_ITSELF if chosen and not gateway else ()
    return {key: value for key, value in environment.items() if not key.startswith(others) and key not in unused}


def provider_in_use(environment: Mapping[str, str]) -> str:
    """Return the provider whose requests the CLI signs itself, such as "Bedrock"; empty for the Messages API."""
    chosen = (switch for switch in _PROVIDERS if _is_on(environment.get(switch, "")))
    return next(chosen, "").removeprefix("CLAUDE_CODE_USE_").replace("_", " ").title()


def _is_on(value: str) -> bool:
    """Return whether the CLI takes a variable as set."""
    return value.strip().lower() in ("1", "true", "yes", "on")


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
