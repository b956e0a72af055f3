"""TLS of listeners: certificates that are read again for each new connection, once their files have changed.

gRPC asks for them on a thread of its own, one new connection at a time. Files that cannot be used leave the last good
ones in use. Connections that are open go on with what they began with.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import grpc

from agent_service.access import Stamp, stamp_of
from agent_service.errors import CannotServe

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TlsFiles:
    """The files of TLS; None for one that was not given."""

    cert: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None


class ServerTls:
    """Credentials of one listener; those of clients are required with `certified`."""

    def __init__(self, files: TlsFiles, *, certified: bool) -> None:
        """Read the files. Raises CannotServe when one is missing or cannot be used."""
        self._cert = _given(files.cert, "--tls-cert")
        self._key = _given(files.key, "--tls-key")
        self._ca = _given(files.client_ca, "--tls-client-ca") if certified else None
        self._certified = certified
        try:
            self._stamps = self._look()
            self._first = self._read()
        except (OSError, ValueError, TypeError) as error:
            raise CannotServe(f"the files of TLS cannot be used: {error}") from error

    def credentials(self) -> grpc.ServerCredentials:
        """Return what gRPC takes."""
        return grpc.dynamic_ssl_server_credentials(
            self._first,
            self._fetch,  # type: ignore[arg-type] # None is for "as before"; types-grpcio does not know
            require_client_authentication=self._certified,
        )

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """The files' content if it has changed and can be used; None: as before. Runs on a thread of gRPC's."""
        try:
            stamps = self._look()
            if stamps == self._stamps:
                return None
            fresh = self._read()
        except (OSError, ValueError, TypeError) as error:
            log.error("the files of TLS cannot be used, the last good ones stay in use: %s", error)
            return None
        self._stamps = stamps
        log.info("the files of TLS have changed: new connections get %s", self._cert)
        return fresh

    def _look(self) -> tuple[Stamp, ...]:
        return tuple(stamp_of(file) for file in (self._cert, self._key, self._ca) if file is not None)

    def _read(self) -> grpc.ServerCertificateConfiguration:
        """Read all files. ValueError for a pair that does not fit: half of it may be replaced already."""
        from cryptography import x509  # 1.3 MB of memory, for services with such listeners only
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        cert, key = self._cert.read_bytes(), self._key.read_bytes()
        ca = self._ca.read_bytes() if self._ca is not None else None
        leaf = x509.load_pem_x509_certificate(cert)
        if _public(load_pem_private_key(key, None).public_key()) != _public(leaf.public_key()):
            raise ValueError(f"{self._key} is not the key of the certificate in {self._cert}")
        if ca is not None:
            x509.load_pem_x509_certificates(ca)
        return grpc.ssl_server_certificate_configuration([(key, cert)], root_certificates=ca)


def _given(file: Path | None, flag: str) -> Path:
    if file is None:
        raise CannotServe(f"{flag} is needed for listeners with {'mtls:' if 'ca' in flag else 'tls: or mtls:'}")
    return file


def _public(key: object) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined, no-any-return]
