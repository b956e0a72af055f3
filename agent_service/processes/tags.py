"""Process tags: a variable in a process's environment that names its tree, `owner:instance:session`."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

MARKER = "AGENT_SERVICE_MARKER"
"""The environment variable that names the tree a process belongs to."""

_MARKER_FORM = re.compile(r"[A-Za-z0-9_.-]+(:[A-Za-z0-9_.-]+){0,2}")


def owner_id(data_directory: Path) -> str:
    """Return the first part of a marker: one data directory on one host, by whichever path."""
    path = data_directory.resolve(strict=True)
    status = path.stat()
    return hashlib.sha256(f"{path}\0{status.st_dev}\0{status.st_ino}".encode()).hexdigest()[:16]


def session_marker(owner: str, instance: str, session: str) -> str:
    """Return the marker of one session's tree. Raises ValueError for characters outside `[A-Za-z0-9_.-]`."""
    return checked(f"{owner}:{instance}:{session}")


def checked(text: str) -> str:
    """Return the text if it is a marker or a prefix of one; raises ValueError otherwise."""
    if not _MARKER_FORM.fullmatch(text):
        raise ValueError(f"not a process marker: {text!r}")
    return text


def within(value: str, prefix: str) -> bool:
    """Return whether a marker begins with these parts."""
    return value == prefix or value.startswith(f"{prefix}:")
