"""Hidden places of the host: what no agent sees unless an option names something in it."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PLACES = ("/root", "/home", "/run", "/var/run", "/tmp", "/var/tmp")
"""Homes, the sockets of the host's daemons (a read-only mount does not stop a connect), others' temporary files."""

_PRIVATE = (("/", 1), ("/etc", 6), ("/var", 2), ("/opt", 2), ("/srv", 2))
"""Where root keeps files that no other user may read, and how deep: keys, password hashes, logs, backups."""

_LINKS = ("/etc/resolv.conf", "/etc/hosts", "/etc/localtime", "/etc/nsswitch.conf")

_NEVER = frozenset({"/", "/usr", "/etc", "/bin", "/sbin", "/lib", "/lib64", "/dev", "/proc", "/sys", "/var", "/opt"})


@dataclass(frozen=True)
class Hidden:
    """Files and directories of the host that a view leaves out, by canonical paths."""

    secret: tuple[Path, ...] = ()
    """The service's own, those that it has yet to make among them: no option can name anything in them."""
    places: tuple[Path, ...] = ()
    """Others': shown where an option names something in them."""

    def all(self) -> tuple[Path, ...]:
        """Return all that are there now."""
        return tuple(path for path in (*self.secret, *self.places) if os.path.exists(path))


def hidden_places(secret: Iterable[Path]) -> Hidden:
    """Look for the places of this host that agents have no business in, besides `secret`; takes some milliseconds."""
    own = tuple(dict.fromkeys(Path(os.path.realpath(path)) for path in secret))
    homes = [home for home in _homes_of_user() if _is_home(home)]
    places = _existing([*_PLACES, *homes, *(_of_root_alone() if os.geteuid() == 0 else ())])
    return Hidden(own, tuple(path for path in dict.fromkeys(places) if path not in own))


def needed_in(hidden: Sequence[Path]) -> list[Path]:
    """Return the files in hidden places that every program needs: often /etc has links to them, as to /run/systemd."""
    found = (Path(os.path.realpath(name)) for name in _LINKS)
    return [path for path in found if path.is_file() and any(path.is_relative_to(place) for place in hidden)]


def _existing(paths: Iterable[str | Path]) -> list[Path]:
    return [Path(os.path.realpath(path)) for path in paths if os.path.lexists(path) and os.path.exists(path)]


def _homes_of_user() -> Iterator[str]:
    """Yield the home that the service was started with, and that of its user; a container's user may have neither."""
    yield os.path.expanduser("~")
    with suppress(KeyError):
        yield pwd.getpwuid(os.geteuid()).pw_dir


def _is_home(path: str | Path) -> bool:
    real = os.path.realpath(path)
    return os.path.isdir(real) and real not in _NEVER and not real.startswith(("/usr/", "/proc/", "/dev/", "/sys/"))


def _of_root_alone() -> Iterator[Path]:
    """Yield what belongs to root and that nobody else may read. An agent of root's without capabilities could."""
    for top, depth in _PRIVATE:
        yield from _private_below(Path(top), depth)


def _private_below(folder: Path, depth: int) -> Iterator[Path]:
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if entry.is_symlink() or entry.path in _NEVER or entry.path in ("/lost+found",):
            continue
        try:
            mode = entry.stat(follow_symlinks=False).st_mode
        except OSError:
            continue
        wanted = stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH
        if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
            if not mode & wanted:
                yield Path(entry.path)
            elif stat.S_ISDIR(mode) and depth > 1:
                yield from _private_below(Path(entry.path), depth - 1)
