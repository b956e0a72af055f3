"""Writes: the link of the chain that bounds the waiting of calls that write while the ledger cannot."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext

from agent_service.access import READING
from agent_service.api.call import Call
from agent_service.ledger import Obstruction

_UNBOUNDED: AbstractAsyncContextManager[None] = nullcontext()


class Writes:
    """Ends calls that write as UNAVAILABLE when `obstruction` has lasted for seconds; calls that read go on."""

    def __init__(self, obstruction: Obstruction) -> None:
        """Watch `obstruction`."""
        self._obstruction = obstruction

    def __call__(self, call: Call) -> AbstractAsyncContextManager[None]:
        """Return the context in which a call is answered."""
        return _UNBOUNDED if call.method in READING else self._obstruction.bounded()
