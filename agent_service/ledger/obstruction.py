"""Obstruction: another process holds a lock on the database, so that nothing can be written until it lets go.

Commits wait for the end of it, since a log must have no gap. Calls do not: within `bounded` they end as UNAVAILABLE
once it has lasted for seconds. What a call has handed over already is written later, and a retry with its request id
finds it.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from agent_service.errors import StoreUnavailable

RETRY = 5.0
"""Seconds after which a caller may try again."""


class Obstruction:
    """The obstruction of one ledger, and the calls that would wait for its end."""

    def __init__(self) -> None:
        """Begin without one."""
        self.lasts = False
        self._waits: set[asyncio.Timeout] = set()

    def note(self, lasts: bool) -> None:
        """Take note that it has lasted for seconds, or that it is over."""
        self.lasts = lasts
        if lasts:
            for wait in self._waits:
                if not wait.expired():  # of an obstruction a moment ago
                    wait.reschedule(asyncio.get_running_loop().time())

    def bounded(self) -> Bounded:
        """Return a context for a call that writes. Entering and leaving it raise StoreUnavailable."""
        return Bounded(self, self._waits)


class Bounded:
    """A block that an obstruction ends."""

    __slots__ = ("_obstruction", "_timeout", "_waits")

    def __init__(self, obstruction: Obstruction, waits: set[asyncio.Timeout]) -> None:
        """End when `obstruction` lasts; while entered, be one of `waits`."""
        self._obstruction = obstruction
        self._waits = waits
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        """Begin, unless it lasts already."""
        if self._obstruction.lasts:
            raise _unavailable()
        await self._timeout.__aenter__()
        self._waits.add(self._timeout)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; of an obstruction the caller hears."""
        self._waits.discard(self._timeout)
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise _unavailable() from None


def _unavailable() -> StoreUnavailable:
    return StoreUnavailable(
        "another process holds a lock on the ledger; try again, with the same request_id where there is one",
        retry_after=RETRY,
    )
