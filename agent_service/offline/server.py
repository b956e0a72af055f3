"""The offline model's server on loopback; does the I/O."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections import OrderedDict
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from .conversation import InvalidRequest, read
from .door import Door
from .script import Reply, next_reply
from .steps import Fail
from .wire import Drop, Part, Pause, failure_text, new_id, refusal, stream, whole

OFFLINE_MODEL_NAME = "offline"
BACKLOG = 2048  # connections that the kernel holds until they are accepted
KEEP_ALIVE = 300  # seconds; longer than a CLI keeps an idle connection for its next turn
REMEMBERED = 1024  # messages whose first attempt has gone wrong as it should


class OfflineModel:
    """Serves the Messages API on `url` while the block lasts; drops open streams at its end."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, key: str = "") -> None:
        """Answer requests whose API key is `key`; "" answers everybody who reaches the port."""
        self.requests = 0
        self.url = ""
        self._address = (host, port)
        self._answering = 0
        self._attempted: OrderedDict[str, None] = OrderedDict()
        self._state = ServerState()
        self._door = Door(key)
        self._server: asyncio.Server

    async def __aenter__(self) -> Self:
        host, port = self._address
        config = self._config()
        loop = asyncio.get_running_loop()
        listening = _listen(host, port)
        # asyncio accepts up to `backlog` connections in a row and goes on when one fails: without descriptors, 2,048
        # failures in the log each second. One at a time fails once a second; the kernel's queue is as long as before.
        self._server = await loop.create_server(
            lambda: self._door.connection(config, self._state), sock=listening, backlog=1
        )
        listening.listen(BACKLOG)
        port = listening.getsockname()[1]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        for connection in list(self._state.connections):
            connection.transport.abort()
        if self._state.tasks:
            await asyncio.wait(list(self._state.tasks))
        await self._server.wait_closed()

    def statistics(self) -> dict[str, int]:
        """Count the messages that were requested, and those being answered now."""
        return {"requests": self.requests, "answering": self._answering}

    def _config(self) -> uvicorn.Config:
        config = uvicorn.Config(
            self._door.guard(self._app()),
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="error",  # a line for each request that is no HTTP would be any process's to write
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=KEEP_ALIVE,
        )
        config.load()
        return config

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/messages", self._messages, methods=["POST"]),
                Route("/v1/messages/count_tokens", _count_tokens, methods=["POST"]),
                Route("/v1/models", _models),
                Route("/", _health),
            ],
            exception_handlers={HTTPException: _http_error, InvalidRequest: _invalid, ClientDisconnect: _left},
        )

    async def _messages(self, request: Request) -> Response:
        self.requests += 1
        body = _parse(await request.body())
        reply = self._reply(body)
        if reply.failure is not None:
            wait = reply.failure.retry_after
            return refusal(reply.failure.status, failure_text(reply.failure), {"retry-after": wait} if wait else {})
        if body.get("stream") is True:
            return Played(stream(reply), "text/event-stream", self._counted())
        failed = [step for step in reply.steps if isinstance(step, Fail)]
        if failed:
            return refusal(failed[0].status, failure_text(failed[0]))
        return Played(whole(reply), "application/json", self._counted())

    def _reply(self, body: dict[str, Any]) -> Reply:
        reply = next_reply(body)
        if not reply.only_first:
            return reply
        if reply.key in self._attempted:
            return next_reply(body, repeated=True)
        self._attempted[reply.key] = None
        if len(self._attempted) > REMEMBERED:
            self._attempted.popitem(last=False)
        return reply

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._answering += 1
        try:
            yield
        finally:
            self._answering -= 1


def _listen(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listening = socket.create_server((address[0], port), family=family, backlog=BACKLOG)
    # asyncio sets it for sockets that say they are TCP's; those of create_server do not, and each turn but the first of
    # a connection took 40 ms longer. Connections inherit it.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


class Played(Response):
    """Sends parts with their pauses, and ends early when the client leaves."""

    def __init__(
        self, parts: Iterator[Part], media_type: str, while_played: contextlib.AbstractContextManager[None]
    ) -> None:
        super().__init__(media_type=media_type, headers={"request-id": new_id("req"), "cache-control": "no-cache"})
        del self.headers["content-length"]
        self._parts = parts
        self._while_played = while_played

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(_disconnected(receive), name="offline model: wait for the caller to leave")
        try:
            with self._while_played:
                await self._play(scope, send, gone)
        finally:
            gone.cancel()
            await asyncio.wait([gone])

    async def _play(self, scope: Scope, send: Send, gone: asyncio.Task[None]) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        due = asyncio.get_running_loop().time()
        for part in self._parts:
            match part:
                case Pause(seconds):
                    due += seconds
                    await asyncio.wait([gone], timeout=max(0.0, due - asyncio.get_running_loop().time()))
                case Drop():
                    scope["state"]["connection"].transport.abort()
                    await gone
                case _:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                    await asyncio.sleep(0)  # a long answer at full speed lets others in
            if gone.done():
                return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def serve_forever(host: str, port: int, *, key: str = "") -> None:
    """Serve until SIGINT or SIGTERM; writes one line with the address to stdout."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        async with OfflineModel(host, port, key=key) as model:
            sys.stdout.write(f"offline model listening on {model.url}\n")
            sys.stdout.flush()
            await stop.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}") from error
    if not isinstance(body, dict):
        raise InvalidRequest("The request body is not a JSON object.")
    return body


async def _count_tokens(request: Request) -> Response:
    return JSONResponse({"input_tokens": read(_parse(await request.body())).input_tokens})


async def _models(request: Request) -> Response:
    model = {"type": "model", "id": OFFLINE_MODEL_NAME, "display_name": "Offline", "created_at": "2026-01-01T00:00:00Z"}
    return JSONResponse(
        {"data": [model], "has_more": False, "first_id": OFFLINE_MODEL_NAME, "last_id": OFFLINE_MODEL_NAME}
    )


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok", "model": OFFLINE_MODEL_NAME})


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return refusal(status, f"{request.method} {request.url.path}: not served by the offline model")


async def _left(request: Request, error: Exception) -> Response:
    return refusal(400, "The caller left before its request was complete.")  # seen by nobody


async def _invalid(request: Request, error: Exception) -> Response:
    return refusal(400, str(error))
