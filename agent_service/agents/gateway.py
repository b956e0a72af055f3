"""Gateway: passes an agent's requests on to the model API and puts the credentials in, so that no agent has them.

Each agent has a Unix socket of its own, on which only its CLI is answered: its tools reach the socket as well, and what
they asked would be spent beyond every budget. The kernel says who has connected (SO_PEERCRED).
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
from collections.abc import Callable, Mapping
from typing import Any, Self

import aiohttp
from aiohttp import web
from yarl import URL

from agent_service.agents.few_lines import FewLines
from agent_service.agents.upstream import Upstream

log = logging.getLogger(__name__)

MAX_BODY = 32 << 20
"""Bytes of a request, as the API has it."""
MAX_CONNECTIONS = 64
"""Connections of one agent."""
CONNECT_TIMEOUT = 30.0
BODY_TIMEOUT = 60.0
"""Seconds in which a request's body must have arrived."""
PIECE = 64 << 10

_PATHS = {
    "POST": re.compile(r"/v1/messages(/count_tokens)?"),
    "GET": re.compile(r"/(v1/models(/[A-Za-z0-9._:@-]+)?)?"),
    "HEAD": re.compile(r"/"),
}
"""What the CLI asks of the API; everything else there is about accounts, files and usage."""

_OF_ONE_CONNECTION = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer"}
    | {"transfer-encoding", "upgrade", "expect", "host", "content-length"}
)
_CREDENTIALS = frozenset({"x-api-key", "authorization", "cookie", "set-cookie"})

IsTheirs = Callable[[socket.socket], bool]
"""Whether the other end of a connection is the agent's own process."""


class Gateway:
    """The way to the model API for all agents that have no credentials."""

    def __init__(self, upstream: Upstream) -> None:
        """Lead to `upstream`."""
        self._upstream = upstream
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        """Open the pool of connections; none is made before the first request."""
        connector = aiohttp.TCPConnector(limit=0, ssl=self._upstream.tls())
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT)
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("user-agent", "accept", "accept-encoding", "content-type"),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self._session.close()

    @property
    def shown_url(self) -> str:
        """The URL of the API that agents are told."""
        return self._upstream.shown_url

    async def serve(self, listener: socket.socket, is_theirs: IsTheirs) -> GatewaySocket:
        """Answer on a listening socket until it is closed; only those whom `is_theirs` names."""
        gate = GatewaySocket(self, is_theirs)
        await gate.open(listener)
        return gate

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Pass one request on, and its answer back as it comes."""
        path = request.raw_path.partition("?")[0]  # as it was sent: nothing is normalised before it is compared
        if not (allowed := _PATHS.get(request.method)) or not allowed.fullmatch(path):
            log.info("an agent asked its model gateway for %s %s, which it does not serve", request.method, path[:200])
            return _error(404, "not_found_error", f"{request.method} {path}: the gateway serves the Messages API alone")
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                body = await _body(request)
        except TimeoutError:
            return _error(408, "timeout_error", "the request's body did not arrive in time")
        if body is None:
            return _error(413, "request_too_large", f"the request is above {MAX_BODY} bytes")
        try:
            answer = await self._ask(request, body)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            log.warning("the model API cannot be reached: %s", error)
            return _error(502, "api_error", f"the service cannot reach the model API: {type(error).__name__}")
        async with answer:
            return await _pass_back(request, answer)

    async def _ask(self, request: web.BaseRequest, body: bytes) -> aiohttp.ClientResponse:
        """Send the request; once more if a kept connection was closed before it answered, as HTTP has it."""
        for last in (False, True):
            try:
                return await self._session.request(
                    request.method,
                    URL(f"{self._upstream.url}{request.raw_path}", encoded=True),
                    headers=self._headers(request.headers),
                    data=body or None,
                    allow_redirects=False,
                    proxy=self._upstream.proxy or None,
                )
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                if last or isinstance(error, aiohttp.ClientConnectorError):
                    raise
        raise AssertionError("not reached")

    def _headers(self, given: Mapping[str, str]) -> list[tuple[str, str]]:
        """The request's headers with the credentials in place of the placeholders, of the kind that was sent."""
        own = {name.lower() for name, _ in self._upstream.headers}
        left_out = _OF_ONE_CONNECTION | _CREDENTIALS | own
        headers = [(name, value) for name, value in given.items() if name.lower() not in left_out]
        named = {name.lower() for name in given}
        if self._upstream.api_key and ("x-api-key" in named or not self._upstream.token):
            headers.append(("x-api-key", self._upstream.api_key))
        if self._upstream.token and ("authorization" in named or not self._upstream.api_key):
            headers.append(("authorization", f"Bearer {self._upstream.token}"))
        return [*headers, *self._upstream.headers]


class GatewaySocket:
    """One agent's socket."""

    def __init__(self, gateway: Gateway, is_theirs: IsTheirs) -> None:
        """Serve `gateway` to those whom `is_theirs` names."""
        self._is_theirs = is_theirs
        self._http = web.Server(gateway.handle, handler_cancellation=True, access_log=None)
        self._server: asyncio.Server | None = None
        self._log = FewLines(log)

    async def open(self, listener: socket.socket) -> None:
        """Begin to answer."""
        loop = asyncio.get_running_loop()
        if listener.family == socket.AF_UNIX:
            self._server = await loop.create_unix_server(self._connection, sock=listener, backlog=MAX_CONNECTIONS)
        else:
            self._server = await loop.create_server(self._connection, sock=listener, backlog=MAX_CONNECTIONS)

    def _connection(self) -> asyncio.Protocol:
        if len(self._http.connections) >= MAX_CONNECTIONS:
            return _Refuse("503 Service Unavailable")
        return _OnlyTheirs(self._http(), self._may_ask)

    def _may_ask(self, connection: socket.socket) -> bool:
        if self._is_theirs(connection):
            return True
        self._log.warning("a process that is not the agent's own tried its model gateway")
        return False

    async def close(self) -> None:
        """Stop answering, and drop what is open."""
        if self._server is not None:
            self._server.close()
        await self._http.shutdown(timeout=0)


class _OnlyTheirs(asyncio.Protocol):
    """Hands a connection to `protocol` once it is known to come from the agent's CLI."""

    def __init__(self, protocol: Any, is_theirs: IsTheirs) -> None:
        self._protocol = protocol
        self._is_theirs = is_theirs

    def connection_made(self, transport: Any) -> None:
        protocol = self._protocol if self._is_theirs(transport.get_extra_info("socket")) else _Refuse("403 Forbidden")
        transport.set_protocol(protocol)
        protocol.connection_made(transport)


class _Refuse(asyncio.Protocol):
    """Answers a connection with a status, and closes it."""

    def __init__(self, status: str) -> None:
        self._status = status

    def connection_made(self, transport: Any) -> None:
        text = b"This socket is for the agent's own process alone.\n"
        head = f"HTTP/1.1 {self._status}\r\ncontent-length: {len(text)}\r\nconnection: close\r\n\r\n"
        transport.write(head.encode() + text)
        transport.close()


async def _body(request: web.BaseRequest) -> bytes | None:
    """The whole body; None when it is too long."""
    if (request.content_length or 0) > MAX_BODY:
        return None
    parts, size = [], 0
    async for part in request.content.iter_chunked(PIECE):
        size += len(part)
        if size > MAX_BODY:
            return None
        parts.append(part)
    return b"".join(parts)


async def _pass_back(request: web.BaseRequest, answer: aiohttp.ClientResponse) -> web.StreamResponse:
    """Hand the answer back as it comes: a cut one is cut here too, so that the CLI sees it."""
    response = web.StreamResponse(status=answer.status, reason=answer.reason)
    for name, value in answer.headers.items():
        if name.lower() not in _OF_ONE_CONNECTION | _CREDENTIALS:
            response.headers.add(name, value)
    if answer.content_length is not None and request.method != "HEAD":
        response.content_length = answer.content_length
    await response.prepare(request)
    try:
        async for part in answer.content.iter_any():
            await response.write(part)
    except (aiohttp.ClientError, OSError):
        if request.transport is not None:
            request.transport.abort()
        return response
    await response.write_eof()
    return response


def _error(status: int, kind: str, message: str) -> web.Response:
    text = json.dumps({"type": "error", "error": {"type": kind, "message": message}})
    return web.Response(status=status, text=text, content_type="application/json")
