"""The gRPC door: makes a Call of each RPC's context, hands the bytes to the chain, and aborts with the status."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message
from grpc_status import rpc_status

from agent_service import errors
from agent_service.api.call import Call, CallerLeft, Door, Headers
from agent_service.api.chain import DESCRIPTOR, SERVICE, Answer, Chain
from agent_service.api.limits import MAX_MESSAGE_BYTES
from agent_service.api.peer_certificate import NO_CERTIFICATE, certificate
from agent_service.api.rpc_status import rich_status
from agent_service.auth import Credentials, bearer_of

MAX_RECEIVED_BYTES = 2 * MAX_MESSAGE_BYTES
"""Bytes of a request that gRPC takes in. Between the contract's limit and this one a caller is answered with ErrorInfo
(REQUEST_TOO_LARGE); what is larger is refused by gRPC itself with a bare RESOURCE_EXHAUSTED, before it takes memory."""

Context = grpc.aio.ServicerContext[Any, Any]


def add_to_server(chain: Chain, server: grpc.aio.Server, door: Door) -> None:
    """Have a server answer the RPCs of agentservice.v1 by a chain. Requests and responses pass as bytes."""
    handlers = {method.name: _handler(method, chain.answers[method.name], door) for method in DESCRIPTOR.methods}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


def _handler(method: Any, answer: Answer, door: Door) -> grpc.RpcMethodHandler[Any, Any]:
    async def serve(data: bytes, context: Context) -> bytes:
        try:
            return await answer(GrpcCall(method.name, context, door), data)
        except errors.RequestError as error:
            await abort(context, error)
            raise AssertionError("abort always raises") from error
        except CallerLeft:
            raise asyncio.CancelledError from None  # the one ending of a handler that gRPC neither answers nor logs

    async def serve_stream(data: bytes, context: Context) -> None:
        await serve(data, context)

    if method.server_streaming:
        # A coroutine that writes: a generator would be finalised in another task when the caller leaves.
        return grpc.unary_stream_rpc_method_handler(serve_stream)
    return grpc.unary_unary_rpc_method_handler(serve)


async def abort(context: Context, error: errors.RequestError) -> None:
    """End a call with an error and its details. Always raises."""
    if error.retry_after is not None:
        context.set_trailing_metadata((("grpc-retry-pushback-ms", str(round(error.retry_after * 1000))),))
    status = rpc_status.to_status(rich_status(error))
    trailing = tuple(context.trailing_metadata() or ()) + tuple(status.trailing_metadata)
    context.set_trailing_metadata(trailing)
    await context.abort(status.code, status.details)


def _only(before: str, value: str | bytes) -> str:
    """The value of a header that must stand once and be text; else "-", which is valid for none."""
    return value if isinstance(value, str) and not before else "-"


class GrpcCall(Call):
    """A call that came in by gRPC. What nobody asks for is not read from the context."""

    __slots__ = ("_context", "_door")

    def __init__(self, method: str, context: Context, door: Door) -> None:
        """Read from `context` what is asked for."""
        super().__init__(method)
        self._context = context
        self._door = door

    @property
    def door(self) -> Door:
        """The listener that the call came through."""
        return self._door

    @property
    def peer(self) -> str:
        """The address that the call came from, as gRPC writes it."""
        return self._context.peer() or ""

    @property
    def has_left(self) -> bool:
        """Whether the RPC is over for its caller."""
        return self._context.done()

    def metadata(self, key: str) -> str:
        """The first value of a metadata key."""
        for name, value in self._context.invocation_metadata() or ():
            if name == key:
                return value if isinstance(value, str) else ""
        return ""

    def headers(self) -> Headers:
        """Read the headers that say who calls, all in one go: gRPC makes the list anew each time."""
        authorization = tenant = origin = ""
        for name, value in self._context.invocation_metadata() or ():
            if name == "authorization":
                authorization = _only(authorization, value)
            elif name == "agent-tenant":
                tenant = _only(tenant, value)
            elif name == "origin":
                origin = str(value)
        names, serial, expires = certificate(self._context) if self._door.certified else NO_CERTIFICATE
        shown = Credentials(authorization, bearer_of(authorization), names, serial, expires, self._door.socket)
        return Headers(shown, tenant, origin)

    def time_remaining(self) -> float | None:
        """Seconds until the RPC's deadline."""
        return self._context.time_remaining()

    async def write(self, response: Message | bytes) -> None:
        """Send one response of a stream. Raises CallerLeft."""
        data = response if isinstance(response, bytes) else response.SerializeToString()
        try:
            await self._context.write(data)
        except grpc.aio.InternalError as error:  # raised a moment before the context says that it is done
            raise CallerLeft from error
