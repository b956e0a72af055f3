"""Trees of files that an agent left: removing and copying them, whatever the agent made of them.

An agent may make directories of any depth, paths longer than a system call takes (4,096 bytes), directories without
permissions, and names that are no text. So nothing here recurses, every name is relative to an open directory, and
permissions are taken first. Symbolic links are never followed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import NamedTuple

PASSES = 5
"""How often a directory is looked through again when somebody goes on filling it."""
BLOCK = 512
"""Unit of st_blocks, in bytes, whatever the file system's blocks are."""
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove(path: Path) -> int:
    """Remove a file or a whole directory, if it is there; the bytes it occupied on the disk.

    Raises OSError for the first thing that the host does not let go; everything else is gone then.
    """
    with suppress(FileNotFoundError), _directory(path.parent) as parent:
        return _Removal(os.fstat(parent).st_dev).remove(parent, path.name)
    return 0


def copy(source: Path, target: Path) -> list[str]:
    """Copy a directory into a new one; what could not be copied, each with its reason.

    What vanishes meanwhile, and what is neither file, directory nor symbolic link, is left out and not named.
    """
    return _Copy().copy(source, target)


class _Removal:
    """Removes one tree. Directories within directories are moved up first, so that no path grows long."""

    def __init__(self, device: int) -> None:
        self._device = device
        self._freed = 0
        self._error: OSError | None = None
        self._numbers = count()

    def remove(self, parent: int, name: str) -> int:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if not stat.S_ISDIR(found.st_mode):
            self._unlink(parent, name, found)
        else:
            self._remove_directory(parent, name)
        if self._error is not None:
            raise self._error
        return self._freed

    def _remove_directory(self, parent: int, name: str) -> None:
        with self._opened(parent, name) as root:
            for _ in range(PASSES):
                while self._flatten(root):
                    pass
                if self._error is not None or not os.listdir(root):
                    break
            self._count(os.fstat(root))
        if self._error is None:
            os.rmdir(name, dir_fd=parent)

    def _flatten(self, root: int) -> bool:
        """Empty every directory right below the root into it; whether there was any that could be removed."""
        progress = False
        for name in os.listdir(root):
            try:
                found = os.stat(name, dir_fd=root, follow_symlinks=False)
                if not stat.S_ISDIR(found.st_mode):
                    self._unlink(root, name, found)
                    continue
                with self._opened(root, name) as directory:
                    self._lift(directory, root)
                os.rmdir(name, dir_fd=root)
                self._count(found)
                progress = True
            except FileNotFoundError:
                pass
            except OSError as error:
                self._failed(error)
        return progress

    def _lift(self, directory: int, root: int) -> None:
        """Remove a directory's files, and move its directories up into the root."""
        for name in os.listdir(directory):
            try:
                found = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    self._move_up(directory, name, root)
                else:
                    self._unlink(directory, name, found)
            except FileNotFoundError:
                pass
            except OSError as error:
                self._failed(error)

    def _move_up(self, directory: int, name: str, root: int) -> None:
        with self._opened(directory, name):  # a directory without permissions cannot be moved either
            pass
        while True:
            free = f".removing-{next(self._numbers)}"
            try:
                os.stat(free, dir_fd=root, follow_symlinks=False)
            except FileNotFoundError:
                os.rename(name, free, src_dir_fd=directory, dst_dir_fd=root)
                return

    @contextmanager
    def _opened(self, parent: int, name: str) -> Iterator[int]:
        """A directory, with permission to change what is in it."""
        _permit(parent, name)
        descriptor = os.open(name, DIRECTORY, dir_fd=parent)
        try:
            if os.fstat(descriptor).st_dev != self._device:
                raise OSError(f"another file system is mounted at {name!r}")
            yield descriptor
        finally:
            os.close(descriptor)

    def _unlink(self, parent: int, name: str, found: os.stat_result) -> None:
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except OSError as error:
            self._failed(error)
            return
        if found.st_nlink == 1:
            self._count(found)

    def _count(self, found: os.stat_result) -> None:
        self._freed += found.st_blocks * BLOCK

    def _failed(self, error: OSError) -> None:
        self._error = self._error or error


def _permit(parent: int, name: str) -> None:
    """Give the owner all permissions on a directory, without following a link that took its place."""
    descriptor = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        if mode & stat.S_IRWXU != stat.S_IRWXU:
            os.chmod(f"/proc/self/fd/{descriptor}", mode | stat.S_IRWXU)
    finally:
        os.close(descriptor)


class _Copy:
    """Copies one tree, with two open directories: the one that is read and its copy."""

    def __init__(self) -> None:
        self._problems: list[str] = []

    def copy(self, source: Path, target: Path) -> list[str]:
        target.mkdir(mode=0o700)
        here = os.open(source, DIRECTORY)
        there = os.open(target, DIRECTORY)
        names: list[str] = []
        levels = [_Level(os.fstat(here), self._copy_entries(here, there, names))]
        try:
            while levels:
                if levels[-1].directories:
                    names.append(levels[-1].directories.pop())
                    below = self._descend(here, there, names)
                    if below is None:
                        names.pop()
                        continue
                    here, there = below
                    levels.append(_Level(os.fstat(here), self._copy_entries(here, there, names)))
                    continue
                os.fchmod(there, stat.S_IMODE(levels.pop().found.st_mode))
                if levels:
                    names.pop()
                    here, there = _replaced(here, ".."), _replaced(there, "..")
                    if not os.path.samestat(os.fstat(here), levels[-1].found):
                        raise OSError(f"{source} was changed while it was copied")
        finally:
            os.close(here)
            os.close(there)
        return self._problems

    def _descend(self, here: int, there: int, names: list[str]) -> tuple[int, int] | None:
        """Go to the last of the names, in both; None when it cannot be read or is gone."""
        try:
            following = os.open(names[-1], DIRECTORY, dir_fd=here)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._failed(names, error)
            return None
        os.close(here)
        return following, _replaced(there, names[-1])

    def _copy_entries(self, here: int, there: int, place: list[str]) -> list[str]:
        """Copy files and links, and make the directories; the names of those."""
        directories = []
        for name in os.listdir(here):
            try:
                if self._copy_entry(here, there, name):
                    directories.append(name)
            except FileNotFoundError:
                pass
            except OSError as error:
                self._failed([*place, name], error)
        return directories

    def _copy_entry(self, here: int, there: int, name: str) -> bool:
        found = os.stat(name, dir_fd=here, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            os.mkdir(name, 0o700, dir_fd=there)
            return True
        if stat.S_ISLNK(found.st_mode):
            os.symlink(os.readlink(name, dir_fd=here), name, dir_fd=there)
        elif stat.S_ISREG(found.st_mode):
            _copy_file(here, there, name, found)
        return False

    def _failed(self, place: list[str], error: OSError) -> None:
        self._problems.append(f"{'/'.join(place)[:500]}: {error.strerror or error}")


class _Level(NamedTuple):
    """A directory on the way down, and those in it that are still to be copied."""

    found: os.stat_result
    directories: list[str]


def _replaced(descriptor: int, name: str) -> int:
    following = os.open(name, DIRECTORY, dir_fd=descriptor)
    os.close(descriptor)
    return following


def _copy_file(here: int, there: int, name: str, found: os.stat_result) -> None:
    reading = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=here)
    try:
        writing = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=there)
        try:
            _copy_data(reading, writing, found.st_size)
            os.fchmod(writing, stat.S_IMODE(found.st_mode))
            os.utime(writing, ns=(found.st_atime_ns, found.st_mtime_ns))
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def _copy_data(source: int, target: int, size: int) -> None:
    """Copy what a file occupies; its holes stay holes."""
    place = 0
    while place < size:
        try:
            place = os.lseek(source, place, os.SEEK_DATA)
        except OSError:  # nothing but a hole is left
            break
        end = min(size, os.lseek(source, place, os.SEEK_HOLE))
        while place < end and (piece := os.pread(source, min(1 << 20, end - place), place)):
            place += os.pwrite(target, piece, place)
        if place < end:  # it has become shorter
            break
    os.ftruncate(target, size)


@contextmanager
def _directory(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
