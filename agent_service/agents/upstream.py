"""Upstream: the model API that agents are led to, the credentials for it, and the way there, by the environment."""

from __future__ import annotations

import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

PLACEHOLDER = "held-by-the-gateway"
"""The value of a credential in the environment of an agent that has the gateway instead of it."""

DEFAULT_URL = "https://api.anthropic.com"
CREDENTIALS = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")
PROVIDERS = {
    "CLAUDE_CODE_USE_BEDROCK": "Bedrock",
    "CLAUDE_CODE_USE_VERTEX": "Vertex",
    "CLAUDE_CODE_USE_FOUNDRY": "Foundry",
}
"""Variables that choose a provider whose requests the CLI signs itself."""
_ON = ("1", "true", "yes", "on")
_WAY = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")


@dataclass(frozen=True)
class Upstream:
    """One API that speaks the Messages API."""

    url: str
    """Without a slash at its end."""
    api_key: str = ""
    token: str = ""
    """Sent as a bearer token."""
    proxy: str = ""
    ca_files: tuple[str, ...] = ()

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Upstream:
        """Read from the variables that would lead the CLI there."""
        url = (environment.get("ANTHROPIC_BASE_URL") or DEFAULT_URL).rstrip("/")
        return cls(
            url=url,
            api_key=environment.get("ANTHROPIC_API_KEY", ""),
            token=environment.get("ANTHROPIC_AUTH_TOKEN") or environment.get("CLAUDE_CODE_OAUTH_TOKEN", ""),
            proxy=_proxy(url, environment),
            ca_files=tuple(
                environment[name] for name in ("SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS") if environment.get(name)
            ),
        )

    def __repr__(self) -> str:
        return f"<Upstream {self.url}>"

    @property
    def shown_url(self) -> str:
        """The URL that an agent is told: of the same host, by which the CLI knows the API, and in plain HTTP."""
        return f"http://{urlsplit(self.url).netloc.rpartition('@')[2]}"

    def tls(self) -> ssl.SSLContext:
        """Return what the API's certificate is checked by."""
        context = ssl.create_default_context()
        for file in self.ca_files:
            context.load_verify_locations(file)
        return context


def provider(environment: Mapping[str, str]) -> str:
    """Return the provider whose requests the CLI signs itself; empty for the Messages API."""
    return next((name for key, name in PROVIDERS.items() if environment.get(key, "").lower() in _ON), "")


def without_credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of an agent that reaches the API through the gateway: placeholders, and no proxies."""
    kept = {key: value for key, value in environment.items() if key.upper() not in _WAY}
    return kept | {name: PLACEHOLDER for name in CREDENTIALS if kept.get(name)}


def _proxy(url: str, environment: Mapping[str, str]) -> str:
    parts = urlsplit(url)
    proxies = {
        scheme: environment.get(f"{scheme}_proxy") or environment.get(f"{scheme}_proxy".upper(), "")
        for scheme in (parts.scheme, "no")
    }
    if urllib.request.proxy_bypass_environment(parts.netloc.rpartition("@")[2], proxies):  # type: ignore[attr-defined]
        return ""
    return proxies[parts.scheme]
