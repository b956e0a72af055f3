"""Drain: how far a shutdown of the service has come, for all who must know."""

from __future__ import annotations

import asyncio

from agent_service import errors


class Drain:
    """Begun, then over: in between no turn begins; after it nothing runs, and watches end."""

    def __init__(self) -> None:
        """Not begun."""
        self.begun = False
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def is_over(self) -> bool:
        """Whether every ending is written."""
        return self.over.done()

    def finish(self) -> None:
        """Say that every ending is written."""
        if not self.over.done():
            self.over.set_result(None)

    def check(self) -> None:
        """Raise ServerDraining once it has begun."""
        if self.begun:
            raise errors.ServerDraining("the service is shutting down; try again elsewhere or later", retry_after=1.0)
