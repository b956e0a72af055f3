"""Sources of key sets: a file, or a URL that is asked with a bound on time and size."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 20
FETCH_TIMEOUT = 10.0


def check_source(source: str) -> None:
    """Raise ValueError unless this is an absolute path, or a URL that nobody on the way can change."""
    if source.startswith(("https://", "/", "http://127.0.0.1:", "http://localhost:", "http://[::1]:")):
        return
    raise ValueError("must be an https URL or the absolute path of a file")


def read_file(path: str) -> bytes:
    """Return the content of a file. Raises OSError, ValueError."""
    with Path(path).open("rb") as file:
        return _bounded(file.read(MAX_BYTES + 1))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: keys come from the place that the operator named."""

    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        return None


def fetch(url: str) -> bytes:
    """Return what is behind a URL; takes its time. Raises OSError, ValueError."""
    opener = urllib.request.build_opener(_NoRedirect)
    with opener.open(url, timeout=FETCH_TIMEOUT) as response:
        return _bounded(response.read(MAX_BYTES + 1))


def _bounded(data: bytes) -> bytes:
    if len(data) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES} bytes")
    return data
