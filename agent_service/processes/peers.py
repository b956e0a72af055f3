"""Peers: the process at the other end of a connection, and the process of a tree that runs a program first."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from agent_service.processes.table import Process
from agent_service.processes.tree import ProcessTree

_CREDENTIALS = struct.Struct("3i")


def peer_of(connection: socket.socket) -> int:
    """Return the host's id of the process that connected a Unix socket, through PID and user namespaces."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid: int = _CREDENTIALS.unpack(credentials)[0]
    return pid


def first_of(tree: ProcessTree, program: str) -> Process | None:
    """Return the process of a tree that runs this program since the longest time: its tools may run it too, later.

    None when there is none, or when the host does not let us see what its processes run.
    """
    wanted = _file(program)
    running = [process for process in tree.processes() if wanted and _file(f"/proc/{process.pid}/exe") == wanted]
    return min(running, key=lambda process: (process.started, process.pid), default=None)


def holds(pid: int, connection: socket.socket) -> bool:
    """Return whether a process has the other end of a TCP connection on loopback, in its own network namespace."""
    ours, theirs = connection.getsockname()[1], connection.getpeername()[1]
    wanted = (f":{theirs:04X}", f":{ours:04X}")
    try:
        rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    except OSError:
        return False
    sockets = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(wanted[0]) and row[2].endswith(wanted[1])}
    return not sockets.isdisjoint(_descriptors(pid)) if sockets else False


def _descriptors(pid: int) -> Iterator[str]:
    with suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                yield os.readlink(f"/proc/{pid}/fd/{name}")


def _file(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
