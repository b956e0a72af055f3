"""Client certificates: principals by the subject alternative names of a certificate that TLS has verified.

The common name counts for nothing: authorities put into it whatever they are asked to, and gRPC falls back to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from agent_service.auth.credentials import Credentials
from agent_service.auth.principal import Principal


def names_of(uris: Iterable[str], hosts: Iterable[str]) -> frozenset[str]:
    """Return the names of a certificate by which principals are looked up."""
    return frozenset([*(f"uri:{uri}" for uri in uris), *(f"dns:{host.lower()}" for host in hosts)])


def name_of(text: str) -> str:
    """Return the name that an access file means: a URI such as `spiffe://corp.example/ci`, or a host. ValueError."""
    if not text or any(character.isspace() for character in text) or not text.isascii():
        raise ValueError("must be the URI or the host of a certificate, such as spiffe://corp.example/ci")
    if "=" in text.split("/")[0]:
        raise ValueError("must be a URI or a host among a certificate's subject alternative names, not its subject")
    return f"uri:{text}" if "://" in text or text.startswith("urn:") else f"dns:{text.lower()}"


class Certificates:
    """Authenticates callers of `mtls:` listeners."""

    def __init__(self, principals: Mapping[str, Principal]) -> None:
        """Take principals by the names that `name_of` returns."""
        self._principals = dict(principals)

    async def principal(self, credentials: Credentials) -> Principal | None:
        """Return the principal that the certificate names; None for none, and for a certificate that names several."""
        if credentials.authorization or not credentials.names:
            return None
        found = {each.name: each for name in credentials.names if (each := self._principals.get(name))}
        if len(found) != 1:
            return None
        return replace(found.popitem()[1], credential=credentials.serial, expires=credentials.expires)
