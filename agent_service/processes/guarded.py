"""Guarded files: settings in a caller's directory that an agent must be able neither to change nor to make.

What an agent writes there, the next program that works in the directory obeys: hooks that it runs, permissions that it
takes as given. A file that is there is shown read-only; for one that is not, an empty one is made and shown so, and is
taken away with the last agent there. The directory around it is a mount of its own, so that it cannot be moved aside.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import NamedTuple

EMPTY = b"{}\n"
_PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Guarded(NamedTuple):
    """A folder with guarded files, opened: the folder, and each file by its name."""

    folder: str
    descriptor: int
    files: tuple[tuple[str, int], ...]


@dataclass
class _Made:
    path: Path
    agents: int = 0


class GuardedFiles:
    """The guarded files of all agents: opens them, and knows which were made for how many."""

    def __init__(self, folder: str, names: Sequence[str]) -> None:
        """Guard the files `names` in `folder`, such as ".claude" and "settings.json", of every working directory."""
        self._folder = folder
        self._names = tuple(names)
        self._made: dict[tuple[int, int], _Made] = {}
        self._lock = Lock()

    def open(self, directory: int) -> tuple[Guarded | None, list[tuple[int, int]]]:
        """Open the guarded files of a directory, and make those that are not there.

        Returns also which of them `release` has to take away: those that were made, by this call or an earlier one.
        None for a directory in which this service may not write, and so no agent of its user; nothing is followed.
        """
        with self._lock:
            try:
                folder = _folder(directory, self._folder)
            except OSError:
                return None, []
            files, held = [], []
            for name in self._names:
                with suppress(OSError):
                    descriptor, made = _file(folder, name)
                    files.append((name, descriptor))
                    held += self._note(descriptor, made)
            return Guarded(self._folder, folder, tuple(files)), held

    def _note(self, descriptor: int, made: bool) -> list[tuple[int, int]]:
        found = os.fstat(descriptor)
        key = (found.st_dev, found.st_ino)
        if made:
            self._made[key] = _Made(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        if key not in self._made:
            return []
        self._made[key].agents += 1
        return [key]

    def release(self, held: Sequence[tuple[int, int]]) -> None:
        """Take note that an agent has ended: a file that was made is removed with the last one, if still empty."""
        with self._lock:
            for key in held:
                self._made[key].agents -= 1
                if not self._made[key].agents:
                    _take_away(self._made.pop(key).path, key)


def _folder(directory: int, name: str) -> int:
    with suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=directory)
        _give_as_its_directory(name, directory)
    return os.open(name, _PLACE | os.O_DIRECTORY, dir_fd=directory)


def _file(folder: int, name: str) -> tuple[int, bool]:
    """Open a file that is there, or make it; whether it was made. Raises OSError for what is no plain file."""
    with suppress(FileExistsError):
        with closing(os.fdopen(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=folder), "wb")) as new:
            new.write(EMPTY)
        _give_as_its_directory(name, folder)
        return os.open(name, _PLACE, dir_fd=folder), True
    descriptor = os.open(name, _PLACE, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{name} is no plain file")
    return descriptor, False


def _give_as_its_directory(name: str, directory: int) -> None:
    """Let what root made belong to whom the directory belongs to."""
    if os.geteuid() == 0:
        around = os.fstat(directory)
        os.chown(name, around.st_uid, around.st_gid, dir_fd=directory, follow_symlinks=False)


def _take_away(path: Path, key: tuple[int, int]) -> None:
    with suppress(OSError):
        found = path.lstat()
        if (found.st_dev, found.st_ino) == key and found.st_size == len(EMPTY) and path.read_bytes() == EMPTY:
            path.unlink()
            path.parent.rmdir()  # unless something else is in it


def descriptors(guarded: Guarded) -> Iterator[int]:
    """Yield the descriptors of a folder and its files."""
    yield guarded.descriptor
    for _, descriptor in guarded.files:
        yield descriptor
