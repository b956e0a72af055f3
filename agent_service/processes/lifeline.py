"""Lifeline: how a process that was started learns that this one has died, whatever else reaches its descriptors."""

from __future__ import annotations

import fcntl
import os
import weakref
from collections.abc import Iterable

_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Lifeline:
    """A lock that this process holds until it closes it or dies; `end` is for the one process that waits for it.

    Of a pipe's two ends anybody can make the other: with one pipe for all agents, `echo > /proc/1/fd/10` in one tool
    ended the agents of all. A lock is not released by what others write, and each agent has its own.
    """

    def __init__(self) -> None:
        """Take the lock. Raises OSError."""
        held = os.memfd_create("lifeline", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        fcntl.flock(held, fcntl.LOCK_EX)
        fcntl.fcntl(held, fcntl.F_ADD_SEALS, _SEALS)
        self.end = another_end(held)
        """A descriptor on which a shared lock is had once this process has let go; for the child."""
        self._close = weakref.finalize(self, os.close, held)

    def close(self) -> None:
        """Let go: the guard that waits ends its tree."""
        self._close()


def memory_file(name: str, content: bytes) -> int:
    """Return a descriptor that reads `content` from memory: nothing of it is on a disk or in a command line."""
    written = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(written, "wb", closefd=False) as file:
            file.write(content)
        fcntl.fcntl(written, fcntl.F_ADD_SEALS, _SEALS)
        return another_end(written)
    finally:
        os.close(written)


def another_end(descriptor: int) -> int:
    """Open a descriptor's file again, for reading and from its beginning; locks are not shared."""
    return os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)


def close_all(descriptors: Iterable[int]) -> None:
    """Close these descriptors."""
    for descriptor in descriptors:
        os.close(descriptor)
