"""Certificates for tests: an authority, and certificates that it signs for 127.0.0.1 and localhost."""

from __future__ import annotations

import datetime
import ipaddress
import os
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HOSTS: tuple[x509.GeneralName, ...] = (
    x509.DNSName("localhost"),
    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
)


class Authority:
    """A certificate authority; `ca` is the file to trust."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        """Make its key and its certificate."""
        self._directory = directory
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        built = _builder(self._name, self._name, self._key, days=1)
        constraint = x509.BasicConstraints(ca=True, path_length=None)
        self._certificate = built.add_extension(constraint, critical=True).sign(self._key, hashes.SHA256())
        self.ca = directory / f"{name}.pem"
        self.ca.write_bytes(self._certificate.public_bytes(Encoding.PEM))

    def issue(
        self, name: str, *names: x509.GeneralName, days: float = 1, usage: x509.ObjectIdentifier | None = None
    ) -> tuple[Path, Path]:
        """Write a certificate and its key, also over older ones of this name; return both files.

        `names` are its subject alternative names, those of this host if none is given; `days` below 0: expired;
        `usage` restricts it, such as to `ExtendedKeyUsageOID.SERVER_AUTH`.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        built = _builder(subject, self._name, key, days=days)
        built = built.add_extension(x509.SubjectAlternativeName(names or HOSTS), critical=False)
        usages = [usage] if usage else [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        built = built.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        certificate = built.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return self._write(f"{name}.pem", certificate), self._write(f"{name}.key", private)

    def _write(self, name: str, content: bytes) -> Path:
        """Replace a file as certificate managers do: by a rename."""
        file = self._directory / name
        fresh = file.with_suffix(".new")
        fresh.write_bytes(content)
        os.replace(fresh, file)
        return file


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, days: float
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + datetime.timedelta(days=days))
    )
