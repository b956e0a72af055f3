"""Credentials: what a caller shows of itself, read by the door that the call came through."""

from __future__ import annotations

from dataclasses import dataclass

MAX_BEARER = 8192
"""Bytes of a bearer token. A longer one is refused unread: libraries took minutes for tokens of megabytes."""
_SCHEME = "bearer "


@dataclass(frozen=True, slots=True)
class Credentials:
    """All credentials of one call. A bearer token goes before a certificate, and both before a socket."""

    authorization: str = ""
    """The header of that name, as sent."""
    bearer: str = ""
    """The token of the header; empty when there is none, or none that can be a token."""
    names: frozenset[str] = frozenset()
    """Subject alternative names of a verified client certificate: "uri:spiffe://…" and "dns:…"."""
    serial: str = ""
    """The serial number of that certificate, hexadecimal."""
    expires: float | None = None
    """When that certificate expires, in seconds of the epoch."""
    socket: str = ""
    """The path of the Unix socket that the call came through."""

    @property
    def is_empty(self) -> bool:
        """Whether the caller has shown nothing. A socket is no credential unless the access file names it."""
        return not self.authorization and not self.names


NOTHING = Credentials()


def bearer_of(authorization: str) -> str:
    """Return the token of an `authorization` header; "" for another scheme, or a text that can be no token."""
    if len(authorization) > MAX_BEARER + len(_SCHEME) or authorization[: len(_SCHEME)].lower() != _SCHEME:
        return ""
    token = authorization[len(_SCHEME) :].strip()
    return token if token.isascii() and token.isprintable() and " " not in token else ""
