"""Secrets: reads the values that `secret://NAME` stands for from the operator's directory, when an agent starts.

The value of NAME is the content of SECRETS_DIR/TENANT/NAME, less one newline at its end; the tenant without a name has
the directory `default`. Files may be links as a Kubernetes mount makes them, as long as they stay in the directory.
Each start reads them again. No error, log line or record has a value.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

from agentpb import agent_pb2 as pb

from agent_service.agents.failures import AgentFailed
from agent_service.agents.masks import Masks
from agent_service.errors import FieldViolation
from agent_service.options import Reference, filled, references

MAX_SECRET = 64 << 10
"""Bytes of a secret."""

_MISSING = "there is none of this name"
_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_IN_A_HEADER = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


class Resolved(NamedTuple):
    """Options with the values of their secrets, and what masks them in the agent's words; None when there are none."""

    options: pb.AgentOptions
    masks: Masks | None


class _Unusable(Exception):
    """A secret cannot be used; the text says why, and never its value."""


class Secrets:
    """The operator's secrets, a directory for each tenant."""

    def __init__(self, directory: Path | None) -> None:
        """Read from `directory`; without one, no secret can be named."""
        self._directory = directory

    def check(self, options: pb.AgentOptions, tenant: str, path: str = "options") -> list[FieldViolation]:
        """Every field that names a secret which the tenant cannot use."""
        return self._read(options, tenant, path)[1]

    def resolve(self, options: pb.AgentOptions, tenant: str) -> Resolved:
        """The options to start an agent with. Raises AgentFailed when a secret has gone since it was checked."""
        values, problems = self._read(options, tenant, "options")
        if problems:
            raise AgentFailed("INVALID_FIELD", f"{problems[0].field}: {problems[0].description}")
        return Resolved(filled(options, values), Masks(values.values())) if values else Resolved(options, None)

    def _read(self, options: pb.AgentOptions, tenant: str, path: str) -> tuple[dict[str, str], list[FieldViolation]]:
        values, problems = dict[str, str](), list[FieldViolation]()
        for reference in references(options):
            try:
                values[reference.name] = self._value(reference, tenant)
            except _Unusable as problem:
                problems.append(FieldViolation(f"{path}.{reference.path}", f"secret {reference.name}: {problem}"))
        return values, problems

    def versions(self, options: pb.AgentOptions, tenant: str) -> tuple[object, ...]:
        """Fingerprint the files of the secrets that the options name; their contents have no part in it."""
        return tuple(_version(self._file(reference.name, tenant)) for reference in references(options))

    def _value(self, reference: Reference, tenant: str) -> str:
        if self._directory is None:
            raise _Unusable("the service has no secrets; the operator gives it some with --secrets-dir")
        value = _read(self._directory, self._file(reference.name, tenant))
        if reference.in_header and not _IN_A_HEADER.fullmatch(value):
            raise _Unusable("its value is not one line of ASCII or Latin-1 characters, as a header needs")
        return value

    def _file(self, name: str, tenant: str) -> Path | None:
        folder = tenant or "default"
        if self._directory is None or tenant == "default" or not _TENANT.fullmatch(folder):
            return None
        return self._directory / folder / name


def _read(directory: Path, file: Path | None) -> str:
    if file is None:
        raise _Unusable(_MISSING)
    try:
        real = Path(os.path.realpath(file, strict=True))
        if not real.is_relative_to(os.path.realpath(file.parent)):
            raise _Unusable("its file is a link that leads out of the tenant's directory of secrets")
        body = _body(directory, real)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        raise _Unusable(
            "there is none of this name" if missing else f"its file cannot be read: {error.strerror}"
        ) from None
    return _text(body)


def _text(body: bytes) -> str:
    try:
        text = body.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise _Unusable("its file is not UTF-8") from None
    if not text or "\0" in text:
        raise _Unusable("its file is empty, or has the character NUL")
    return text


def _body(directory: Path, file: Path) -> bytes:
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as opened:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _Unusable("it is not a file")
        # A mount, as Kubernetes and systemd make them, is guarded as a whole; its files have their own modes.
        mounted = status.st_dev != os.stat(directory.parent).st_dev
        if not mounted and (status.st_mode & 0o077 or status.st_uid not in (0, os.geteuid())):
            raise _Unusable("its file must be the service's own and readable by nobody else (chmod 600)")
        body = opened.read(MAX_SECRET + 1)
    if len(body) > MAX_SECRET:
        raise _Unusable(f"its file has more than {MAX_SECRET} bytes")
    return body


def _version(file: Path | None) -> tuple[int, int, int] | None:
    try:
        status = os.stat(file) if file is not None else None
    except OSError:
        return None
    return (status.st_ino, status.st_size, status.st_mtime_ns) if status is not None else None
