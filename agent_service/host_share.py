"""What the service's own process takes of its host: as many descriptors as it may, memory only while it is needed."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

log = logging.getLogger(__name__)

GROWN = 64 << 20
"""Bytes by which the process must have grown before memory is given back: to look for it takes up to 0.1 s."""
INTERVAL = 2.0
"""Seconds between looks at its size: 20 µs each."""
LONGEST_LOAD = 30.0
"""Seconds after which memory is given back although the process still grows."""
LONGEST_PAUSE = 600.0
"""Seconds until what could not be given back is tried again, after many tries."""

_PAGE = os.sysconf("SC_PAGE_SIZE")


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one; the limit that holds.

    The usual soft limit of 1,024 is for programs that use select(); each caller, agent and transcript takes one.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
    return soft


def calm_collector() -> None:
    """Collect circular garbage less often: little is made, and a collection takes longer the more sessions there are.

    Objects that exist at the start are never traversed again: that alone takes 0.1 s.
    """
    gc.freeze()
    gc.set_threshold(20_000, 25, 100)
    gc.enable()


async def give_memory_back() -> NoReturn:
    """Give freed memory back to the host whenever load is over.

    Calls leave circular garbage, which is seldom collected, and the C library keeps what was freed in each thread's
    arena: after 8 s of hostile headers 2.8 of 2.9 GB were free and nobody else's.
    """
    keeper = Keeper(resident_bytes, time.monotonic)
    while True:
        await asyncio.sleep(INTERVAL)
        if keeper.is_due():
            gc.collect()
            await asyncio.to_thread(trim)
            keeper.given_back()


class Keeper:
    """Decides when memory is given back: the process has grown, and grows no more.

    What cannot be given back now, as calls still hold it, is tried again after pauses that grow.
    """

    def __init__(self, size: Callable[[], int], clock: Callable[[], float]) -> None:
        """Ask `size` for the bytes of the process, and `clock` for seconds."""
        self._size = size
        self._clock = clock
        self._least = self._before = self._after = size()
        self._grows_since = self._retry_at = clock()
        self._pause = INTERVAL

    def is_due(self) -> bool:
        """Return whether it should be done now."""
        now, before, time = self._size(), self._before, self._clock()
        self._before, self._least = now, min(self._least, now)
        if now - self._least < GROWN:
            self._grows_since, self._pause = time, INTERVAL
            return False
        if now - self._after >= GROWN:
            self._pause = INTERVAL
            return now <= before or time - self._grows_since >= LONGEST_LOAD
        return time >= self._retry_at

    def given_back(self) -> None:
        """Measure from here."""
        self._before = self._after = self._size()
        self._grows_since = self._clock()
        self._retry_at = self._grows_since + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def trim() -> None:
    """Return free memory of the C library to the host, where that library can."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
