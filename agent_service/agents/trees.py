"""Trees of files that an agent left: moving them out of the way and removing them, whatever the agent made of them.

An agent may make directories of any depth, paths longer than a system call takes (4,096 bytes), directories without
permissions, files that are immutable, names that are no text, and may go on making files. So nothing here recurses,
every name is relative to an open directory, what forbids a removal is taken away first, and each removal has a time
limit. Symbolic links are never followed. Copying is in tree_copy.py.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from uuid import uuid4

PASSES = 5
"""How often a directory is looked through again when somebody goes on filling it."""
PATIENCE = 60.0
"""Seconds that a removal may take unless its caller says otherwise."""
BLOCK = 512
"""Unit of st_blocks, in bytes, whatever the file system's blocks are."""
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

# linux/fs.h, as chattr uses them; Python has no names for them. The argument is an int, although the numbers say long.
GET_FLAGS, SET_FLAGS = (0x80086601, 0x40086602) if struct.calcsize("l") == 8 else (0x80046601, 0x40046602)
IMMUTABLE_OR_APPEND_ONLY = 0x10 | 0x20


class TookTooLong(TimeoutError):
    """A removal was not over within its time; a second call goes on."""


class _OutOfTime(Exception):
    pass


def remove(path: Path, *, patience: float = PATIENCE) -> int:
    """Remove a file or a whole directory, if it is there; the bytes it occupied on the disk.

    Raises OSError for the first thing that the host does not let go; everything else is gone then. Raises TookTooLong,
    which is an OSError too, after `patience` seconds.
    """
    with suppress(FileNotFoundError), _directory(path.parent) as parent:
        try:
            return _Removal(os.fstat(parent).st_dev, time.monotonic() + patience).remove(parent, path.name)
        except _OutOfTime:
            raise TookTooLong(errno.ETIMEDOUT, f"there was more than can be removed in {patience:g} s") from None
    return 0


def move(path: Path, target: Path) -> None:
    """Give a file or a directory another name in its file system, whatever the permissions. Raises OSError."""
    with _directory(path.parent) as parent:
        try:
            os.rename(path.name, target, src_dir_fd=parent)
        except PermissionError:  # its `..` changes, so a directory that may not be written cannot be moved
            with suppress(NotADirectoryError):
                _permit(parent, path.name)
            _thawing(parent, path.name, lambda: os.rename(path.name, target, src_dir_fd=parent))


class _Removal:
    """Removes one tree. Directories within directories are moved up first, so that no path grows long."""

    def __init__(self, device: int, deadline: float) -> None:
        self._device = device
        self._deadline = deadline
        self._freed = 0
        self._error: OSError | None = None
        self._prefix = f".removing-{uuid4().hex[:8]}"
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
                if self._error is not None or not any(self._names(root)):
                    break
            self._count(os.fstat(root))
        if self._error is None:
            self._rmdir(parent, name)

    def _names(self, directory: int) -> Iterator[str]:
        """Names of a directory's entries. They are not read all at once: there may be millions."""
        with os.scandir(directory) as entries:
            for entry in entries:
                if time.monotonic() > self._deadline:
                    raise _OutOfTime
                yield entry.name

    def _flatten(self, root: int) -> bool:
        """Empty every directory right below the root into it; whether another look makes sense."""
        progress = False
        for name in self._names(root):
            try:
                found = os.stat(name, dir_fd=root, follow_symlinks=False)
                if not stat.S_ISDIR(found.st_mode):
                    self._unlink(root, name, found)
                    continue
                with self._opened(root, name) as directory:
                    emptied = self._lift(directory, root)
                progress = self._remove_emptied(root, name, found, emptied) or progress
            except FileNotFoundError:
                pass
            except OSError as error:
                self._failed(error)
        return progress

    def _remove_emptied(self, root: int, name: str, found: os.stat_result, emptied: bool) -> bool:
        """Remove a directory that should be empty; whether it is gone, or was filled again meanwhile."""
        try:
            self._rmdir(root, name)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or not emptied:
                raise
        else:
            self._count(found)
        return True

    def _lift(self, directory: int, root: int) -> bool:
        """Remove a directory's files, and move its directories up into the root; whether nothing was refused."""
        emptied = True
        for name in self._names(directory):
            try:
                found = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode):
                    self._move_up(directory, name, root)
                else:
                    emptied = self._unlink(directory, name, found) and emptied
            except FileNotFoundError:
                pass
            except OSError as error:
                emptied = False
                self._failed(error)
        return emptied

    def _move_up(self, directory: int, name: str, root: int) -> None:
        with self._opened(directory, name):  # a directory without permissions cannot be moved either
            pass
        free = f"{self._prefix}-{next(self._numbers)}"
        _thawing(directory, name, lambda: os.rename(name, free, src_dir_fd=directory, dst_dir_fd=root))

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

    def _unlink(self, parent: int, name: str, found: os.stat_result) -> bool:
        try:
            _thawing(parent, name, lambda: os.unlink(name, dir_fd=parent))
        except FileNotFoundError:
            return True
        except OSError as error:
            self._failed(error)
            return False
        if found.st_nlink == 1:
            self._count(found)
        return True

    @staticmethod
    def _rmdir(parent: int, name: str) -> None:
        _thawing(parent, name, lambda: os.rmdir(name, dir_fd=parent))

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
            path = f"/proc/self/fd/{descriptor}"
            _thawing(parent, name, lambda: os.chmod(path, mode | stat.S_IRWXU))
    finally:
        os.close(descriptor)


def _thawing(parent: int, name: str, change: Callable[[], None]) -> None:
    """Change an entry of a directory; what is immutable or for appending only (chattr) is made an ordinary file first.

    Only root can give files these attributes, and only root can take them away.
    """
    try:
        change()
    except PermissionError:
        if not any([_thaw(parent), _thaw_entry(parent, name)]):
            raise
        change()


def _thaw_entry(parent: int, name: str) -> bool:
    with suppress(OSError):
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
        try:
            return _thaw(descriptor)
        finally:
            os.close(descriptor)
    return False


def _thaw(descriptor: int) -> bool:
    """Take these attributes from an open file; whether it had any."""
    with suppress(OSError):
        (flags,) = struct.unpack("i", fcntl.ioctl(descriptor, GET_FLAGS, bytes(4)))
        if flags & IMMUTABLE_OR_APPEND_ONLY:
            fcntl.ioctl(descriptor, SET_FLAGS, struct.pack("i", flags & ~IMMUTABLE_OR_APPEND_ONLY))
            return True
    return False


@contextmanager
def _directory(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
