"""The certificate of a call's peer, which TLS has verified."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import grpc.aio

from agent_service.auth import names_of

_URIS, _HOSTS, _PEM = "peer_uri", "peer_dns", "x509_pem_cert"


class PeerCertificate(NamedTuple):
    """What identity needs of a certificate."""

    names: frozenset[str]
    serial: str
    expires: float | None
    """In seconds of the epoch. TLS looks at it when a connection opens, and no more."""


NO_CERTIFICATE = PeerCertificate(frozenset(), "", None)


def certificate(context: grpc.aio.ServicerContext[Any, Any]) -> PeerCertificate:
    """Return the certificate of the peer, or NO_CERTIFICATE."""
    found = {name: tuple(values) for name, values in context.auth_context().items()}
    if not found.get(_PEM):
        return NO_CERTIFICATE
    return _read(found[_PEM][0], found.get(_URIS, ()), found.get(_HOSTS, ()))


@functools.lru_cache(maxsize=1000)
def _read(pem: bytes, uris: tuple[bytes, ...], hosts: tuple[bytes, ...]) -> PeerCertificate:
    from cryptography import x509  # 1.3 MB of memory, for services with such listeners only

    names = names_of(*([each.decode(errors="replace") for each in kind] for kind in (uris, hosts)))
    read = x509.load_pem_x509_certificate(pem)
    return PeerCertificate(names, f"{read.serial_number:x}", read.not_valid_after_utc.timestamp())
