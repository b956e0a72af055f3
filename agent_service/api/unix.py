"""Unix sockets of listeners: who may open the file may call, so the file is made for its owner alone."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import grpc.aio

from agent_service.errors import CannotServe


def bind_socket(server: grpc.aio.Server, path: str) -> None:
    """Bind a server to a socket of mode 0600, or 0660 in a directory that is closed to others. Raises CannotServe.

    A directory that is missing is made for the owner alone. A file that another service listens on is not taken away.
    """
    directory = Path(path).parent
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_free(path)
        closed = not directory.stat().st_mode & stat.S_IXOTH
        before = os.umask(0o177)  # between bind and chmod nobody else can connect either
        try:
            server.add_insecure_port(f"unix:{path}")
        finally:
            os.umask(before)
        os.chmod(path, 0o660 if closed else 0o600)
    except (OSError, RuntimeError) as error:
        raise CannotServe(f"cannot listen on unix:{path}: {error}") from error


def _check_free(path: str) -> None:
    """Raise CannotServe for what is no socket, or is one that a process listens on; gRPC would take both away."""
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise CannotServe(f"cannot listen on unix:{path}: the file is there, and it is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return  # left behind by a process that has ended
    raise CannotServe(f"cannot listen on unix:{path}: another process listens there")
