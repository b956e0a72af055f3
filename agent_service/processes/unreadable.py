"""Hides this process from others of its user: its memory, its environment and its descriptors under /proc."""

from __future__ import annotations

import ctypes
import logging
import os
import sys

log = logging.getLogger(__name__)

_PR_SET_DUMPABLE = 4


def hide() -> None:
    """Make this process one that no other process of the same user can trace or read, core dumps included.

    The service's environment has credentials and its memory the tokens of callers, and agents may run as its user.
    Privileged processes, root's agents among them, are not stopped by this: a sandbox hides /proc from those. What this
    process executes is not hidden.
    """
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        log.warning("the service cannot be hidden from other processes: %s", os.strerror(ctypes.get_errno()))
