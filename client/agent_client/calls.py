"""Calls: deadlines, retries and pages of RPCs, over a connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar
from uuid import uuid4

import grpc.aio

from agent_client import retry
from agent_client.connection import Connection, Metadata

# A stream of many megabytes, or of many cancels, may take this many times as long as a call.
SLOW_READ = 10

T = TypeVar("T")


class Calls:
    """Makes RPCs and tries them again while the service restarts; errors are those of errors.py."""

    def __init__(self, connection: Connection, patience: retry.Patience, timeout: float) -> None:
        """Give each try `timeout` seconds, beside what the call itself is told to wait."""
        self._connection = connection
        self._patience = patience
        self._timeout = timeout

    async def unary(self, method: str, request: Any, *, extra: float = 0.0) -> Any:
        """Call an RPC that has one response; `extra` is how many seconds the service may wait."""
        if "request_id" in request.DESCRIPTOR.fields_by_name and not request.request_id:
            request.request_id = str(uuid4())  # one for all attempts of a call: it takes effect once

        async def attempt(metadata: Metadata) -> Any:
            call = getattr(self._connection.stub(), method)
            response = await call(request, timeout=self._timeout + extra, metadata=metadata)
            self._patience.answered = True
            return response

        return await self._retried(attempt)

    async def stream(self, method: str, request: Any, *, resumes: bool = False) -> list[Any]:
        """Call an RPC with a stream of responses and return all. `resumes`: a new try sends only what is left."""
        found: list[Any] = []

        async def attempt(metadata: Metadata) -> list[Any]:
            if not resumes:
                found.clear()
            call = getattr(self._connection.stub(), method)
            async for response in call(request, timeout=self._timeout * SLOW_READ, metadata=metadata):
                self._patience.answered = True
                found.append(response)
            return found

        return await self._retried(attempt)

    async def pages(self, method: str, request: Any, items: str, limit: int | None) -> AsyncIterator[Any]:
        """Iterate over the items of all pages; `limit` ends it sooner."""
        sent = 0
        while True:
            response = await self.unary(method, request)
            for item in getattr(response, items):
                if limit is not None and sent >= limit:
                    return
                sent += 1
                yield item
            if not response.next_page_token or (limit is not None and sent >= limit):
                return
            request.page_token = response.next_page_token

    async def _retried(self, attempt: Callable[[Metadata], Awaitable[T]]) -> T:
        backoff = retry.Backoff(self._patience)
        while True:
            sent = self._connection.metadata()
            try:
                return await attempt(sent)
            except grpc.aio.AioRpcError as error:
                if self._connection.renewed(error, sent):
                    continue  # it has read another token: a restarted service has another
                delay = retry.delay_after(error, backoff)
                if delay is None:
                    raise self._connection.failure(error) from error
            await asyncio.sleep(delay)
