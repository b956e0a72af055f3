"""The certificate of a call's peer, which TLS has verified: its subject alternative names and its serial number."""

from __future__ import annotations

import functools
from typing import Any

import grpc.aio
from cryptography import x509

from agent_service.auth import names_of

_URIS, _HOSTS, _PEM = "peer_uri", "peer_dns", "x509_pem_cert"


def certificate(context: grpc.aio.ServicerContext[Any, Any]) -> tuple[frozenset[str], str]:
    """Return the names of the peer's certificate and its serial number; nothing without a certificate."""
    found = {name: tuple(values) for name, values in context.auth_context().items()}
    if not found.get(_PEM):
        return frozenset(), ""
    return _read(found[_PEM][0], found.get(_URIS, ()), found.get(_HOSTS, ()))


@functools.lru_cache(maxsize=1000)
def _read(pem: bytes, uris: tuple[bytes, ...], hosts: tuple[bytes, ...]) -> tuple[frozenset[str], str]:
    names = names_of(*([each.decode(errors="replace") for each in kind] for kind in (uris, hosts)))
    return names, f"{x509.load_pem_x509_certificate(pem).serial_number:x}"
