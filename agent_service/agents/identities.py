"""Identities: the user that a tenant's agents are, where its policy names one, and what belongs to that user.

Only root can start a process as another user. Files that root made in a session's directories are given to it; a
directory that the caller named is left as it is.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from agent_service.agents.workspace import Directories
from agent_service.processes.view import SandboxUnavailable

FIRST, LAST = 200_000, 265_535
"""The ids that "auto" gives to tenants, one each."""


class User(NamedTuple):
    """A user of the host, by number."""

    uid: int
    gid: int


class Identities:
    """The users of tenants. Those of "auto" are noted beside the data, so that files keep their owner."""

    def __init__(self, directory: Path) -> None:
        """Note the ids of "auto" in files of `directory`."""
        self._directory = directory
        self._lock = Lock()

    def of(self, run_as: str | None, tenant: str) -> User | None:
        """Return the user of a tenant's agents; None for that of the service. Raises SandboxUnavailable, OSError."""
        if run_as is None:
            return None
        if os.geteuid() != 0:
            raise SandboxUnavailable("run_as needs a service that runs as root")
        if run_as == "auto":
            with self._lock:
                uid = self._noted(tenant)
            return _known(User(uid, uid))
        try:
            entry = pwd.getpwnam(run_as)
        except KeyError as error:
            raise SandboxUnavailable(f"run_as: there is no user {run_as!r} on this host") from error
        if entry.pw_uid == 0:
            raise SandboxUnavailable("run_as: root is what the agents are without it")
        return _known(User(entry.pw_uid, entry.pw_gid))

    def _noted(self, tenant: str) -> int:
        """The id of a tenant: the one noted, or the next that nobody has."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"={tenant}"  # no name is a name for a file without something before it
        taken = {file.name: int(file.readlink().name) for file in self._directory.iterdir() if file.is_symlink()}
        if name in taken:
            return taken[name]
        uid = max(taken.values(), default=FIRST - 1) + 1
        if uid > LAST:
            raise SandboxUnavailable(f"run_as: all ids from {FIRST} to {LAST} are given to tenants")
        (self._directory / name).symlink_to(str(uid))  # a link is made whole or not at all
        return uid


def _known(user: User) -> User:
    """Return the user if this service's user namespace has it. Raises SandboxUnavailable."""
    for kind, number in (("uid", user.uid), ("gid", user.gid)):
        ranges = [
            [int(each) for each in line.split()] for line in Path(f"/proc/self/{kind}_map").read_text().splitlines()
        ]
        if not any(first <= number < first + count for first, _, count in ranges):
            raise SandboxUnavailable(f"run_as: the service's user namespace has no {kind} {number}")
    return user


def give(directories: Directories, user: User, *, own_cwd: bool) -> None:
    """Let the directories of one agent, and what this service put into them, belong to its user."""
    roots = [directories.home, directories.config, directories.scratch, directories.tmp]
    for root in [*roots, *([directories.cwd] if own_cwd else [])]:
        _give_tree(root, user)


def _give_tree(root: Path, user: User) -> None:
    """Give away what belongs to this service's user; a file with two names may be another's, and stays."""
    for _, directories, files, descriptor in os.fwalk(root, follow_symlinks=False):
        here = os.fstat(descriptor)
        if here.st_uid != user.uid:
            os.fchown(descriptor, user.uid, user.gid)
        for name in (*directories, *files):
            with suppress(FileNotFoundError):
                found = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
                if found.st_uid == os.geteuid() and (stat.S_ISLNK(found.st_mode) or found.st_nlink == 1):
                    os.chown(name, user.uid, user.gid, dir_fd=descriptor, follow_symlinks=False)


def let_through(paths: Iterable[Path]) -> None:
    """Let other users pass through directories on their way to their own, without seeing what is in them."""
    for path in paths:
        mode = stat.S_IMODE(path.stat().st_mode)
        if not mode & stat.S_IXOTH:
            path.chmod(mode | stat.S_IXOTH)
