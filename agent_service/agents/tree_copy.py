"""Copying a tree of files that an agent left, or still changes: for backups.

As in trees.py nothing recurses, every name is relative to an open directory, and symbolic links are not followed.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

from agent_service.agents.trees import DIRECTORY

MAX_PROBLEMS = 1000
"""Files that could not be copied and are named; the rest is counted."""


def copy(source: Path, target: Path) -> list[str]:
    """Copy a directory into a new one; what could not be copied, each with its reason.

    What vanishes meanwhile, and what is neither file, directory nor symbolic link, is left out and not named.
    """
    copying = _Copy(source)
    copying.copy(target)
    return copying.problems()


class _Level(NamedTuple):
    """A directory that is being copied."""

    found: os.stat_result
    directories: list[str]
    """The directories in it that are still to be copied."""


class _Copy:
    """Copies one tree, with two open directories: the one that is read and its copy."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._problems: list[str] = []
        self._unnamed = 0
        self._behind = 0
        """By how many levels the open directory is deeper than its open copy."""

    def problems(self) -> list[str]:
        return [*self._problems, f"and {self._unnamed} more"] if self._unnamed else self._problems

    def copy(self, target: Path) -> None:
        target.mkdir(mode=0o700)
        here = os.open(self._source, DIRECTORY)
        there = os.open(target, DIRECTORY)
        names: list[str] = []
        levels = [_Level(os.fstat(here), self._copy_entries(here, there, names))]
        try:
            while levels:
                if levels[-1].directories and self._behind:
                    here = self._catch_up(here, levels, names)
                elif levels[-1].directories:
                    names.append(levels[-1].directories.pop())
                    below = self._descend(here, there, names)
                    if below is None:
                        names.pop()
                        continue
                    here, there = below
                    levels.append(_Level(os.fstat(here), self._copy_entries(here, there, names)))
                else:
                    os.fchmod(there, stat.S_IMODE(levels.pop().found.st_mode))
                    if levels:
                        names.pop()
                        there = _replaced(there, "..")
                        self._behind += 1
        finally:
            os.close(here)
            os.close(there)

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

    def _catch_up(self, here: int, levels: list[_Level], names: list[str]) -> int:
        """Go up to the directory whose copy is open, which an agent may have moved meanwhile."""
        while self._behind:
            try:
                here = _replaced(here, "..")
            except OSError:
                break
            self._behind -= 1
        if not self._behind and os.path.samestat(os.fstat(here), levels[-1].found):
            return here
        os.close(here)
        return self._from_the_top(levels, names)

    def _from_the_top(self, levels: list[_Level], names: list[str]) -> int:
        """Go down to the directory again; what is left of one that is nowhere to be found is not copied."""
        here = os.open(self._source, DIRECTORY)
        for depth, name in enumerate(names, 1):
            found = _opened(here, name)
            if found is None or not os.path.samestat(os.fstat(found), levels[depth].found):
                if found is not None:
                    os.close(found)
                for lost in range(depth, len(levels)):
                    if levels[lost].directories:
                        self._failed(names[:lost], OSError("was moved while it was copied"))
                        levels[lost].directories.clear()
                self._behind = depth - len(levels)  # these levels are left without going up
                return here
            os.close(here)
            here = found
        self._behind = 0
        return here

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
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(f"{'/'.join(place)[:500]}: {error.strerror or error}")
        else:
            self._unnamed += 1


def _replaced(descriptor: int, name: str) -> int:
    following = os.open(name, DIRECTORY, dir_fd=descriptor)
    os.close(descriptor)
    return following


def _opened(directory: int, name: str) -> int | None:
    try:
        return os.open(name, DIRECTORY, dir_fd=directory)
    except OSError:
        return None


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
