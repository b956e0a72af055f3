"""Certificates of a client: the authority it trusts and the certificate it shows, read again when their files change.

gRPC in Python reads certificates once per channel, so whoever wants new ones opens another channel.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import grpc

CA, CERT, KEY = "AGENT_CA", "AGENT_CERT", "AGENT_KEY"
SCHEMES = ("tls:", "mtls:")


def split_target(target: str) -> tuple[bool, str]:
    """Split off the `tls:` or `mtls:` that the service's `--listen` has before an address; tell whether it was there.

    `tls:` alone trusts the authorities that gRPC's own list or GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names.
    """
    for scheme in SCHEMES:
        if target.startswith(scheme):
            return True, target.removeprefix(scheme)
    return False, target


def chosen(
    ca: str | os.PathLike[str] | None,
    cert: str | os.PathLike[str] | None,
    key: str | os.PathLike[str] | None,
    encrypted: bool,
    environment: Mapping[str, str],
) -> CertificateFiles | None:
    """Return the files to use; None for a connection in plain text. Raises ValueError for a certificate without key."""
    found_ca = ca if ca is not None else environment.get(CA)
    found_cert = cert if cert is not None else environment.get(CERT)
    found_key = key if key is not None else environment.get(KEY)
    if bool(found_cert) != bool(found_key):
        raise ValueError(
            f"a client certificate needs its private key, and a key its certificate: cert= and key= (agentctl --cert, "
            f"--key; {CERT}, {KEY})"
        )
    if not (found_ca or found_cert or encrypted):
        return None
    return CertificateFiles(_path(found_ca), _path(found_cert), _path(found_key))


class CertificateFiles:
    """The PEM files of one client."""

    def __init__(self, ca: Path | None, cert: Path | None, key: Path | None) -> None:
        """Name them; they are read by `load`."""
        self.ca, self.cert, self.key = ca, cert, key
        self._loaded: tuple[tuple[int, int, int] | None, ...] = ()

    def changed(self) -> bool:
        """Tell whether a file is another one than when it was loaded; one that is missing has not changed."""
        now = self._stamps()
        return None not in now and now != self._loaded

    def load(self) -> grpc.ChannelCredentials:
        """Read them. Raises OSError for one that cannot be read, ValueError for one that is not PEM."""
        stamps = self._stamps()
        ca, cert, key = (
            _read(file, what)
            for file, what in ((self.ca, "authorities"), (self.cert, "certificate"), (self.key, "private key"))
        )
        self._loaded = stamps
        return grpc.ssl_channel_credentials(ca, key, cert)

    def _stamps(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stamp(file) for file in (self.ca, self.cert, self.key) if file is not None)


def _path(text: str | os.PathLike[str] | None) -> Path | None:
    return Path(text) if text else None


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _read(file: Path | None, what: str) -> bytes | None:
    if file is None:
        return None
    try:
        content = file.read_bytes()
    except OSError as error:
        raise type(error)(error.errno, f"the file of the {what}, {file}, cannot be read: {error.strerror}") from None
    if b"-----BEGIN " not in content:
        raise ValueError(f"the file of the {what}, {file}, has no PEM block (-----BEGIN …)")
    return content
