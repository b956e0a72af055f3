"""Credentials of a client: where its token is looked for, how it is sent, and how it is read again.

A token given to the client goes before the variables AGENT_TOKEN and AGENT_TOKEN_FILE, and these before the file that
a service on this host leaves for its callers. Values are kept out of `repr`, messages and logs.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from agent_client.targets import local_addresses

TOKEN, TOKEN_FILE = "AGENT_TOKEN", "AGENT_TOKEN_FILE"
MAX_TOKEN = 8192
# Hosts under which a service on this host may have been told to listen, beside the one that the caller names.
LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::")

_TOKEN_TEXT = re.compile(rf"[\x21-\x7e]{{1,{MAX_TOKEN}}}")


class Hidden(str):
    """A text that tracebacks and debuggers do not show: its `repr` is a mask."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return a mask."""
        return "'***'"


def discovery_name(host: str, port: str | int) -> str:
    """Name of the file in which a service that listens at HOST:PORT leaves its local token for callers on this host.

    The rule, for services and for clients in any language: the host as `--listen` has it, without brackets, an
    underscore, the port, and `.token`, such as `127.0.0.1_50051.token` and `::1_50051.token`; for a Unix socket `unix`
    and its absolute path with `_` for `/`, such as `unix_run_agents_ci.sock.token`. The file lies in
    `$XDG_RUNTIME_DIR/agent-service`; where that variable is not set, in `~/.local/state/agent-service`.
    """
    if host.startswith("/"):
        return f"unix{host.replace('/', '_')}.token"
    return f"{host.strip('[]')}_{port}.token"


def discovery_directories(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """Directories in which a service may have left its token: that of the session, then that of the user.

    A service writes into the first. A caller looks into both, because a service that was started by cron or by su has
    no XDG_RUNTIME_DIR while its callers have.
    """
    bases = [environment[name] for name in ("XDG_RUNTIME_DIR",) if environment.get(name)]
    home = environment.get("HOME") or os.path.expanduser("~")
    return [Path(base) / "agent-service" for base in (*bases, os.path.join(home, ".local", "state"))]


@dataclass(frozen=True)
class TokenWanted:
    """What a caller said about its token; None leaves it to the environment, an empty token sends none."""

    token: str | None = None
    token_file: str | os.PathLike[str] | None = None

    def __repr__(self) -> str:
        """Show the file alone."""
        return f"TokenWanted(token_file={self.token_file!r})"


class _Source(NamedTuple):
    """One place that names a token: a text, or a file."""

    name: str
    text: Hidden = Hidden()
    file: Path | None = None


class Token:
    """The token of one client, read when it is first needed and again when the service refuses it."""

    def __init__(
        self, target: str, wanted: TokenWanted, *, discover: bool = True, environment: Mapping[str, str] = os.environ
    ) -> None:
        """Look at what was given and at the variables; `discover` tells whether to look for the service's own file."""
        self._source = _named_source(wanted, environment)
        self._places = [*_places(target, environment)] if discover and self._source is None else []
        self._read: Hidden | None = None
        self._origin = self._source.name if self._source else ""

    def text(self) -> Hidden:
        """Return the token; empty when none was found. Raises OSError, ValueError for a named one that is unusable."""
        if self._read is None:
            self._read = self._from_source() if self._source else self._discovered()
        return self._read

    def renew(self, refused: Hidden) -> bool:
        """Read the file again after `refused` was not accepted; tell whether there is another token now."""
        file = self._source.file if self._source else None
        if self._source is not None and (file is None or not _is_regular(file)):
            return False  # a pipe has nothing for a second reader
        try:
            found = self._from_source() if self._source else self._discovered()
        except (OSError, ValueError):
            return False
        if not found or found == refused:
            return False
        self._read = found
        return True

    def where(self) -> str:
        """Say where the token came from, or where it was looked for in vain, and what to do."""
        if self._read:
            return f"the token that was sent is that of {self._origin}"
        if self._source:
            return f"{self._source.name} say to send none"
        file = f", and there is no file {self._places[0][1]}" if self._places else ""
        return (
            f"no token was given, {TOKEN} and {TOKEN_FILE} are not set{file}; set {TOKEN_FILE} to a file that holds a "
            "token, such as local.token in the service's data directory"
        )

    def _from_source(self) -> Hidden:
        assert self._source is not None
        if self._source.file is None:
            return _checked(self._source.text, self._source.name)
        found = _checked(_content(self._source.file, self._source.name), self._source.name)
        if not found:
            raise ValueError(f"{self._source.name} is empty")
        return found

    def _discovered(self) -> Hidden:
        for _, place in sorted(self._places, key=lambda each: (each[0], _age(each[1]))):
            try:
                found = _checked(_content(place, str(place)), str(place))
            except (OSError, ValueError):
                continue
            self._origin = str(place)
            return found
        return Hidden()


def bearer(token: Hidden) -> Hidden:
    """Return the value of the `authorization` header for a token."""
    return Hidden(f"Bearer {token}")


def _named_source(wanted: TokenWanted, environment: Mapping[str, str]) -> _Source | None:
    if wanted.token is not None:
        return _Source("the client's arguments", text=Hidden(wanted.token))
    if wanted.token_file is not None:
        return _Source(f"the token file {os.fspath(wanted.token_file)}", file=Path(wanted.token_file))
    if environment.get(TOKEN):
        return _Source(f"the variable {TOKEN}", text=Hidden(environment[TOKEN]))
    if environment.get(TOKEN_FILE):
        file = environment[TOKEN_FILE]
        return _Source(f"the file {file} that {TOKEN_FILE} names", file=Path(file))
    return None


def _places(target: str, environment: Mapping[str, str]) -> Iterator[tuple[int, Path]]:
    """Yield the files in which a service at a target on this host may have left its token; 0 marks the exact host."""
    for host, port in local_addresses(target):
        others = () if host.startswith("/") else LOOPBACK_HOSTS
        for each in dict.fromkeys((host, *others)):
            for directory in discovery_directories(environment):
                yield int(each != host), directory / discovery_name(each, port)


def _content(file: Path, name: str) -> Hidden:
    try:
        with file.open(encoding="ascii", errors="replace") as opened:
            return Hidden(opened.read(4 * MAX_TOKEN))
    except OSError as error:
        raise type(error)(error.errno, f"{name} cannot be read: {error.strerror}") from None


def _checked(text: Hidden, name: str) -> Hidden:
    """Return a token without the blanks around it; errors never quote it, as those of gRPC would."""
    token = Hidden(text.strip())
    if token and not _TOKEN_TEXT.fullmatch(token):
        raise ValueError(
            f"{name} holds no token: a token is one word of at most {MAX_TOKEN} printable ASCII characters"
        )
    return token


def _age(file: Path) -> float:
    """Order files by age, the newest first: a service that crashed leaves its file, the next one writes another."""
    try:
        return -file.stat().st_mtime
    except OSError:
        return 0.0


def _is_regular(file: Path) -> bool:
    try:
        return stat.S_ISREG(file.stat().st_mode)
    except OSError:
        return False
