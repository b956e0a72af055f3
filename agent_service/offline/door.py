"""The offline model's door: asks for the key, and bounds connections, bodies and the time that a request may take.

Every process of the host can reach a port on loopback. A connection that has not shown the key yet counts as a
stranger's: few of these are open at once, for a short time, and the oldest gives way to a new one, so that the
connections of agents stay open whatever strangers do.
"""

from __future__ import annotations

import asyncio
import hmac
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from .wire import refusal

MAX_BODY = 32 << 20
"""Bytes of a request, as the API has it."""

MAX_CONNECTIONS = 1024
MAX_STRANGERS = 64
STRANGER_TIME = 10.0
"""Seconds that a connection may take to show the key."""

REQUEST_TIME = 60.0
"""Seconds that a request's body may take to arrive."""


class Door:
    """The connections of one server, and which of them have shown the key."""

    def __init__(self, key: str) -> None:
        """Ask for `key` as the API key or bearer token of each request; "" asks for none."""
        self._key = key.encode()
        self._strangers: dict[Connection, asyncio.TimerHandle] = {}
        self._connections: set[Connection] = set()

    def connection(self, config: Config, state: ServerState) -> asyncio.Protocol:
        """Return the protocol of a new connection."""
        return Connection(self, config, state)

    def opened(self, connection: Connection) -> None:
        """Take a new connection in, as a stranger's."""
        if len(self._connections) >= MAX_CONNECTIONS:
            connection.transport.abort()
            return
        self._connections.add(connection)
        later = asyncio.get_running_loop().call_later(STRANGER_TIME, connection.transport.abort)
        self._strangers[connection] = later
        if len(self._strangers) > MAX_STRANGERS:
            oldest = next(iter(self._strangers))
            self._known(oldest)
            oldest.transport.abort()

    def closed(self, connection: Connection) -> None:
        """Forget a connection."""
        self._connections.discard(connection)
        self._known(connection)

    def _known(self, connection: Connection) -> None:
        if (timer := self._strangers.pop(connection, None)) is not None:
            timer.cancel()

    def guard(self, app: ASGIApp) -> ASGIApp:
        """Return `app` behind this door."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            if (refused := self._refused(scope)) is not None:
                await refused(scope, receive, send)
            else:
                await app(scope, _Body(receive, scope["state"]["connection"]).receive, send)

        return guarded

    def _refused(self, scope: Scope) -> Response | None:
        headers = dict(scope["headers"])
        shown = headers.get(b"x-api-key") or headers.get(b"authorization", b"").removeprefix(b"Bearer ")
        if self._key and not hmac.compare_digest(shown, self._key):
            return refusal(401, "invalid x-api-key: the offline model was given a key, and answers whoever knows it")
        self._known(scope["state"]["connection"])
        if int(headers.get(b"content-length", b"0")) > MAX_BODY:
            return refusal(413, f"The request is above {MAX_BODY} bytes.")
        return None


class Connection(H11Protocol):
    """One connection, which a handler finds in its scope's state, so that it can drop it."""

    def __init__(self, door: Door, config: Config, state: ServerState) -> None:
        super().__init__(config=config, server_state=state, app_state={"connection": self})
        self._door = door

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        super().connection_made(transport)
        self._door.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._door.closed(self)
        super().connection_lost(exc)


class _Body:
    """A request's body: a longer or slower one than allowed ends its connection."""

    def __init__(self, receive: Receive, connection: Connection) -> None:
        self._receive = receive
        self._connection = connection
        self._left = MAX_BODY
        self._complete = False
        self._deadline = asyncio.get_running_loop().time() + REQUEST_TIME

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            return self._drop()
        self._left -= len(message.get("body", b""))
        self._complete = not message.get("more_body", False)
        return message if self._left >= 0 else self._drop()

    def _drop(self) -> Message:
        self._complete = True
        self._connection.transport.abort()
        return {"type": "http.disconnect"}
