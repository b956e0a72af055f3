"""Watching a session through every cut of the connection: no durable event is lost, none comes twice."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, cast

import grpc
import grpc.aio
from agentpb import agent_pb2 as pb

from agent_client import errors, forks, retry
from agent_client.connection import Connection, Metadata

# The service sends a heartbeat every 15 s at least. After three times that in silence the stream is taken for dead.
SILENCE = 50.0
# A stream that lived this long was worth having: its cut begins a new count.
STEADY = 5.0

Sleep = Callable[[float], Coroutine[Any, Any, None]]


class SessionWatch:
    """An iterator over a session's events which reconnects by itself.

    It stops when the session is at rest (unless `follow`) or deleted; `end` then says which, and how it was.
    Leave it whenever you like: `async with`, `aclose()`, or simply break.
    """

    def __init__(
        self,
        connection: Connection,
        request: pb.WatchSessionRequest,
        *,
        patience: retry.Patience,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """Prepare to watch; the first stream opens with the first event asked for."""
        self.last_sequence = request.after_sequence
        self.end: pb.WatchEnd | None = None
        self._connection = connection
        self._request = request
        self._patience = patience
        self._backoff = retry.Backoff(patience)
        self._sleep = sleep
        self._started: pb.WatchStarted | None = None
        self._events: deque[pb.SessionEvent] = deque()
        self._stream: Any = None
        self._sent: Metadata = []
        self._opened_at = 0.0
        self._closed = False

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> pb.SessionEvent:
        """Return the next event, however many streams it takes."""
        while not self._events:
            if self.end is not None or self._closed:
                raise StopAsyncIteration
            await self._advance()
        return self._events.popleft()

    async def started(self) -> pb.WatchStarted:
        """Return where the first stream began: the session as it was, and the last sequence that is replayed."""
        while self._started is None and self.end is None and not self._closed:
            await self._advance()
        return self._started or pb.WatchStarted()

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave."""
        await self.aclose()

    async def aclose(self) -> None:
        """Leave: the service forgets this watch."""
        self._closed = True
        self._events.clear()
        self._drop_stream()

    def __del__(self) -> None:
        """Leave when the watch was left by a plain break."""
        self._drop_stream()

    async def _advance(self) -> None:
        try:
            response = await self._read()
        except grpc.aio.AioRpcError as error:
            await self._recover(error)
        except TimeoutError:
            await self._recover(None)
        except asyncio.CancelledError:
            self._drop_stream()
            if not self._closed or _is_being_cancelled():
                raise
        else:
            if response is grpc.aio.EOF:
                await self._recover(None)
            else:
                self._accept(cast(pb.WatchSessionResponse, response))

    async def _read(self) -> Any:
        if self._stream is None:
            self._request.after_sequence = self.last_sequence
            self._sent = self._connection.metadata()
            self._stream = self._connection.stub().WatchSession(self._request, metadata=self._sent)
            self._opened_at = time.monotonic()
        async with asyncio.timeout(SILENCE):
            return await self._stream.read()

    def _accept(self, response: pb.WatchSessionResponse) -> None:
        self._patience.answered = True
        if self._started is None and response.HasField("started"):
            self._started = response.started
        for event in response.events:
            if event.ephemeral:
                self._events.append(event)
            elif event.sequence > self.last_sequence:
                self.last_sequence = event.sequence
                self._events.append(event)
        if response.events:
            self._backoff.reset()
        # A service that drains ends the stream; what follows is a cut like any other.
        if response.HasField("end") and response.end.reason != pb.WATCH_END_REASON_DRAINING:
            self.end = response.end
            self._drop_stream()

    async def _recover(self, error: grpc.aio.AioRpcError | None) -> None:
        """Wait for the next try, or raise what cannot be mended. Without `error` the stream was merely cut."""
        self._drop_stream()
        if error is not None and self._connection.renewed(error, self._sent):
            return  # there is another token: a restarted service has another
        if time.monotonic() - self._opened_at > STEADY:
            self._backoff.reset()
        delay = self._backoff.next_delay() if error is None else retry.delay_after(error, self._backoff)
        if delay is not None:
            await self._sleep(delay)
        elif error is not None:
            raise self._connection.failure(error) from error
        else:
            raise errors.Unavailable("the service keeps ending the watch before the session is at rest")

    def _drop_stream(self) -> None:
        stream, self._stream = getattr(self, "_stream", None), None
        if stream is not None and not forks.broken():
            stream.cancel()


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
