"""Markers: how a process says to which tree it belongs, in its environment: `owner:instance:session`."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

MARKER = "AGENT_SERVICE_MARKER"
"""The environment variable that names the tree a process belongs to."""

_MARKER_FORM = re.compile(r"[A-Za-z0-9_.-]+(:[A-Za-z0-9_.-]+){0,2}")


def owner_id(data_directory: Path) -> str:
    """The first part of a marker: one data directory on one host, whatever path leads to it."""
    path = data_directory.resolve(strict=True)
    status = path.stat()
    return hashlib.sha256(f"{path}\0{status.st_dev}\0{status.st_ino}".encode()).hexdigest()[:16]


def session_marker(owner: str, instance: str, session: str) -> str:
    """The marker of one session's tree. Raises ValueError for a part not made of `[A-Za-z0-9_.-]`."""
    return checked(f"{owner}:{instance}:{session}")


def checked(text: str) -> str:
    """The text, if it is a marker or the first parts of one; else raises ValueError."""
    if not _MARKER_FORM.fullmatch(text):
        raise ValueError(f"not a process marker: {text!r}")
    return text


def within(value: str, prefix: str) -> bool:
    """Whether a marker begins with these parts."""
    return value == prefix or value.startswith(f"{prefix}:")
