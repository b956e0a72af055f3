"""The lock of a data directory: one service at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from agent_service.ledger.store import LedgerUnusable

LOCK = "lock"


def take(directory: Path) -> int:
    """Make a directory and lock it, for as long as the returned descriptor is open. Raises LedgerUnusable."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _lock(directory / LOCK)
    except OSError as error:
        raise LedgerUnusable(f"{directory} cannot be used: {error}") from error


def _lock(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise LedgerUnusable(
            f"{path.parent} is in use by another agent-service (process {holder}). "
            "Stop that one, or use another directory."
        ) from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor
