"""Upstream: the model API that agents are led to, the credentials for it, and the way there, by the environment."""

from __future__ import annotations

import ssl
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from agent_service.backends import OF_THE_API_ITSELF
from agent_service.errors import CannotServe

PLACEHOLDER = "held-by-the-gateway"
"""The value of a credential in the environment of an agent that has the gateway instead of it."""

DEFAULT_URL = "https://api.anthropic.com"
_OURS = (
    *("ANTHROPIC_CUSTOM_HEADERS", "CLAUDE_CODE_CLIENT_CERT", "CLAUDE_CODE_CLIENT_KEY"),
    *("CLAUDE_CODE_CLIENT_KEY_PASSPHRASE", "CLAUDE_CODE_OAUTH_REFRESH_TOKEN"),
)
"""Variables with credentials for the API or for what is in front of it, which the agent has no use for."""
_WAY = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")


@dataclass(frozen=True)
class Upstream:
    """One API that speaks the Messages API."""

    url: str
    """Without a slash at its end."""
    api_key: str = ""
    token: str = ""
    """Sent as a bearer token."""
    headers: tuple[tuple[str, str], ...] = ()
    """Further headers that the operator wants sent, such as the credential for a gateway in front of the API."""
    proxy: str = ""
    ca_file: str = ""
    """Certificates that are trusted besides those of the system."""
    certificate: tuple[str, str, str] | None = None
    """What the service shows of itself: a certificate, its key, and the key's passphrase."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Upstream:
        """Read from the variables that would lead the CLI there."""
        url = (environment.get("ANTHROPIC_BASE_URL") or DEFAULT_URL).rstrip("/")
        return cls(
            url=url,
            api_key=environment.get("ANTHROPIC_API_KEY", ""),
            token=environment.get("ANTHROPIC_AUTH_TOKEN") or environment.get("CLAUDE_CODE_OAUTH_TOKEN", ""),
            proxy=_proxy(url, environment),
            headers=tuple(_headers(environment.get("ANTHROPIC_CUSTOM_HEADERS", ""))),
            ca_file=environment.get("NODE_EXTRA_CA_CERTS", ""),
            certificate=_certificate(environment),
        )

    def __repr__(self) -> str:
        return f"<Upstream {self.shown_url}>"

    @property
    def shown_url(self) -> str:
        """The URL that an agent is told: of the same host, by which the CLI knows the API, and in plain HTTP."""
        return f"http://{urlsplit(self.url).netloc.rpartition('@')[2]}"

    def tls(self) -> ssl.SSLContext:
        """Return what the API's certificate is checked by, and this service's own. Raises CannotServe."""
        context = ssl.create_default_context()  # SSL_CERT_FILE and SSL_CERT_DIR are OpenSSL's to read
        try:
            if self.ca_file:
                context.load_verify_locations(self.ca_file)
            if self.certificate is not None:
                certificate, key, passphrase = self.certificate
                context.load_cert_chain(certificate, key or None, lambda: passphrase)
        except OSError as error:
            raise CannotServe(
                f"the model API: NODE_EXTRA_CA_CERTS or CLAUDE_CODE_CLIENT_CERT names nothing of use: {error}"
            ) from error
        return context


def without_credentials(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of an agent that reaches the API through the gateway: placeholders, and no proxies."""
    kept = {key: value for key, value in environment.items() if key.upper() not in _WAY and key not in _OURS}
    return kept | {name: PLACEHOLDER for name in OF_THE_API_ITSELF if kept.get(name)}


def _headers(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon and name.strip():
            yield name.strip(), value.strip()


def _certificate(environment: Mapping[str, str]) -> tuple[str, str, str] | None:
    if not (certificate := environment.get("CLAUDE_CODE_CLIENT_CERT")):
        return None
    key = environment.get("CLAUDE_CODE_CLIENT_KEY", "")
    return certificate, key, environment.get("CLAUDE_CODE_CLIENT_KEY_PASSPHRASE", "")


def _proxy(url: str, environment: Mapping[str, str]) -> str:
    parts = urlsplit(url)
    proxies = {
        scheme: environment.get(f"{scheme}_proxy") or environment.get(f"{scheme}_proxy".upper(), "")
        for scheme in (parts.scheme, "no")
    }
    if urllib.request.proxy_bypass_environment(parts.netloc.rpartition("@")[2], proxies):  # type: ignore[attr-defined]
        return ""
    return proxies[parts.scheme]
