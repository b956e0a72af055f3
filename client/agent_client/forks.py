"""Use after fork: gRPC's threads and locks do not survive one, and a call in the child would hang past its deadline.

gRPC's own handlers for forks do nothing for asyncio channels but start threads in the child that serve the parent's
connections: the child crashes, and the parent waits for what the child has read. So they are turned off, and what a
child inherits of gRPC is never touched, not even by a destructor.
"""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager

SWITCH = "GRPC_ENABLE_FORK_SUPPORT"


@contextmanager
def _without_fork_handlers() -> Iterator[None]:
    """Set the switch while grpc is imported, which is when it is read; programs started later do not inherit it."""
    if SWITCH in os.environ:
        yield
        return
    os.environ[SWITCH] = "0"
    try:
        yield
    finally:
        os.environ.pop(SWITCH, None)


with _without_fork_handlers():
    import grpc.aio  # noqa: F401


class ForkedAfterUse(RuntimeError):
    """This process was forked after its parent had used a client; gRPC works in no such process."""

    def __init__(self) -> None:
        """Name the cause and the ways out."""
        super().__init__(
            "this process was forked after its parent had made a call with agent_client, and gRPC does not survive "
            "a fork; make the first call after the fork (gunicorn: no call at import when it preloads the "
            'application; multiprocessing: the start method "spawn")'
        )


_used_by = 0


def use_grpc() -> None:
    """Note that this process uses gRPC; raise ForkedAfterUse in one that was forked from a process that had used it."""
    global _used_by  # a fact about the process
    if broken():
        raise ForkedAfterUse
    _used_by = os.getpid()


def broken() -> bool:
    """Return whether a parent had used gRPC before it forked this process: what it left must not be touched."""
    return _used_by not in {0, os.getpid()}


def _immortalise() -> None:
    """Keep all that gRPC left in a child for ever: destructors would shut down sockets that the parent uses."""
    if not broken():
        return
    for each in gc.get_objects():
        if str(type(each).__module__).startswith("grpc."):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_immortalise)
