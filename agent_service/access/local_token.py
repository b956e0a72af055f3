"""The local token: made by the service, and left where its clients on this host find it.

It lies in the data directory, which backups leave out, and stays the same from start to start: clients with the token
in their environment live through a restart. Whoever removes the file gets another token at the next start.
"""

from __future__ import annotations

import logging
import os
import re
import tempfile
from pathlib import Path

from agent_service.auth import new_token

log = logging.getLogger(__name__)

FILE = "local.token"
_TOKEN = re.compile(r"ast_[A-Za-z0-9_-]{43}")


class LocalToken:
    """The token of one data directory, and the copies for its clients."""

    def __init__(self, data_dir: Path) -> None:
        """Read the token, or make one. Raises OSError."""
        self.file = data_dir / FILE
        self.text = _kept(self.file) or new_token()
        _write(self.file, self.text)
        self._copies: list[Path] = []

    def leave(self, directory: Path, address: str) -> None:
        """Leave a copy for clients of an address; one that cannot be written is a line of the log, and no more."""
        copy = directory / copy_name(address)
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(copy, self.text)
        except OSError as error:
            log.warning("clients have to be given the token of %s: it cannot be left in %s: %s", self.file, copy, error)
            return
        self._copies.append(copy)

    def take_away(self) -> None:
        """Remove the copies, unless another service has written its own in their place."""
        for copy in self._copies:
            try:
                if copy.read_text().strip() == self.text:
                    copy.unlink()
            except OSError:
                continue
        self._copies.clear()


def copy_name(address: str) -> str:
    """Return the name of the copy for an address: HOST_PORT.token, or the path of a Unix socket with _ for /."""
    if address.startswith("/"):
        return f"unix{address.replace('/', '_')}.token"
    host, _, port = address.rpartition(":")
    return f"{host.strip('[]') or '::'}_{port}.token"


def _kept(file: Path) -> str:
    """The token of an earlier start; "" when there is none, or others could have read it."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return ""
    with os.fdopen(descriptor, errors="replace") as opened:
        status = os.fstat(descriptor)
        text = opened.read(256).strip()
    is_ours = status.st_uid == os.geteuid() and not status.st_mode & 0o077
    return text if is_ours and _TOKEN.fullmatch(text) else ""


def _write(file: Path, text: str) -> None:
    """Write a file that only its owner can read, in one step; over a link, not through it."""
    descriptor, fresh = tempfile.mkstemp(dir=file.parent, prefix=".token-")  # mode 0600
    try:
        with os.fdopen(descriptor, "w") as opened:
            opened.write(text + "\n")
        os.replace(fresh, file)
    except BaseException:
        os.unlink(fresh)
        raise
