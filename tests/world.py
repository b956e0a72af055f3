"""World: one real service for all examples of a hypothesis test, on an event loop of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

from tests.conftest import Service, start_service

T = TypeVar("T")


class World:
    """A service with `settings` that synchronous examples call; `patience` bounds each call, in seconds."""

    def __init__(self, directory: Path, *, patience: float, **settings: Any) -> None:
        """Start the service; `close` ends it."""
        self._loop = asyncio.new_event_loop()
        self._stack = AsyncExitStack()
        self._patience = patience
        self.directory = directory
        self.service: Service = self.run(self._stack.enter_async_context(start_service(directory, **settings)))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end."""
        return self._loop.run_until_complete(asyncio.wait_for(work, self._patience))

    def close(self) -> None:
        """End the service and the loop."""
        self.run(self._stack.aclose())
        self._loop.close()
