"""Sandboxes for tests. Where the host has none, a test is skipped with the reason; in CI it fails."""

from __future__ import annotations

import functools
import os
import subprocess

import pytest

from agent_service.processes.bubblewrap import Bubblewrap
from agent_service.processes.hidden import Hidden
from agent_service.processes.landlock_sandbox import Landlock
from agent_service.processes.view import SandboxUnavailable


def bubblewrap(hidden: Hidden, *, own_processes: bool = True) -> Bubblewrap:
    """Return this host's bubblewrap."""
    if reason := _without_bubblewrap():
        absent(reason)
    return Bubblewrap(hidden, own_processes=own_processes)


def landlock(hidden: Hidden) -> Landlock:
    """Return this host's Landlock; a kernel without it is no fault of CI's."""
    try:
        return Landlock(hidden)
    except SandboxUnavailable as error:
        pytest.skip(str(error))


def absent(reason: str) -> None:
    """Skip the test, or fail it in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@functools.cache
def _without_bubblewrap() -> str:
    try:
        argv = [Bubblewrap().bwrap, "--ro-bind", "/", "/", "--unshare-user", "--unshare-net", "true"]
    except SandboxUnavailable as error:
        return str(error)
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"bubblewrap does not work here: {done.stderr.strip()}"
