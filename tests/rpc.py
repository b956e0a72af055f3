"""What tests need of gRPC beneath the stubs: refusals taken apart, and messages as the bytes that travel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from agentpb import agent_pb2 as pb
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

SERVICE = "/agentservice.v1.AgentService/"
UNARY = {
    "Execute": pb.ExecuteRequest,
    "GetStatus": pb.GetStatusRequest,
    "Cancel": pb.CancelRequest,
    "ListSessions": pb.ListSessionsRequest,
    "CountSessions": pb.CountSessionsRequest,
    "PrepareAgents": pb.PrepareAgentsRequest,
    "Cleanup": pb.CleanupRequest,
    "DeleteSession": pb.DeleteSessionRequest,
    "ListEvents": pb.ListEventsRequest,
    "SendMessage": pb.SendMessageRequest,
    "Interrupt": pb.InterruptRequest,
    "RespondToInteraction": pb.RespondToInteractionRequest,
    "GetServerInfo": pb.GetServerInfoRequest,
}
STREAMING = {
    "WatchSession": pb.WatchSessionRequest,
    "ReadField": pb.ReadFieldRequest,
    "CancelSessions": pb.CancelSessionsRequest,
}
ALL = {**UNARY, **STREAMING}


@dataclass(frozen=True)
class Refusal:
    """A call that failed, with its google.rpc details."""

    code: grpc.StatusCode
    text: str
    reason: str
    domain: str
    metadata: dict[str, str]
    fields: dict[str, str]
    retry_after: float | None
    pushback_ms: int | None
    resource: str
    kinds: tuple[str, ...]
    size: int


async def refused(call: Awaitable[Any] | AsyncIterator[Any]) -> Refusal:
    """Make a call that must fail; how it did."""
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return taken_apart(error)
    raise AssertionError("the call was not refused")


def taken_apart(error: grpc.aio.AioRpcError) -> Refusal:
    """A refusal's details, each of the kind the contract allows, all of them small."""
    trailers = {str(key): value for key, value in error.trailing_metadata() or ()}
    binary = trailers.get("grpc-status-details-bin", b"")
    assert isinstance(binary, bytes)
    status = status_pb2.Status.FromString(binary)
    found: dict[str, Any] = {}
    for detail in status.details:
        kind = detail.type_url.rsplit(".", 1)[-1]
        message = getattr(error_details_pb2, kind)()
        assert detail.Unpack(message)
        found[kind] = message
    info = found.get("ErrorInfo", error_details_pb2.ErrorInfo())
    fields = {each.field: each.description for each in getattr(found.get("BadRequest"), "field_violations", ())}
    retry = found["RetryInfo"].retry_delay.ToMilliseconds() / 1000 if "RetryInfo" in found else None
    pushback = trailers.get("grpc-retry-pushback-ms")
    return Refusal(
        code=error.code(),
        text=error.details() or "",
        reason=info.reason,
        domain=info.domain,
        metadata=dict(info.metadata),
        fields=fields,
        retry_after=retry,
        pushback_ms=int(pushback) if pushback is not None else None,
        resource=getattr(found.get("ResourceInfo"), "resource_name", ""),
        kinds=tuple(found),
        size=len(binary),
    )


class Carrying:
    """A channel whose calls carry a token. Its calls are gRPC's own, which an interceptor's are not."""

    def __init__(self, channel: Any, token: str) -> None:
        """Send `token` with each call of `channel`, of grpc or of grpc.aio; "" sends none."""
        self._channel = channel
        self._token = (("authorization", f"Bearer {token}"),) if token else ()

    def __getattr__(self, name: str) -> Any:
        """All else is the channel's."""
        found = getattr(self._channel, name)
        if name not in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            return found

        def make(*arguments: Any, **settings: Any) -> Any:
            method = found(*arguments, **settings)
            return lambda request, metadata=(), **more: method(request, metadata=(*self._token, *metadata), **more)

        return make


def token_in(data_dir: Path) -> str:
    """The token of the service of a data directory; "" when it asks for none."""
    file = data_dir / "local.token"
    return file.read_text().strip() if file.exists() else ""


def raw_call(channel: grpc.aio.Channel, method: str, data: bytes, **settings: Any) -> Any:
    """Call any RPC with bytes as they are; the answer is bytes, too."""
    make = channel.unary_stream if method in STREAMING else channel.unary_unary
    return make(SERVICE + method, request_serializer=None, response_deserializer=None)(data, **settings)


def split(data: bytes, field: int) -> list[bytes]:
    """The values of a message's length-delimited field, as they were sent."""
    found, at = [], 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 == 0:
            _, at = _varint(data, at)
            continue
        assert tag & 7 == 2, "no other wire types at the top of a response"
        size, at = _varint(data, at)
        if tag >> 3 == field:
            found.append(data[at : at + size])
        at += size
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


async def watch_bytes(channel: grpc.aio.Channel, request: Message) -> AsyncIterator[list[bytes]]:
    """Watch; the events of each response as the bytes that were sent."""
    async for data in raw_call(channel, "WatchSession", request.SerializeToString()):
        yield split(data, pb.WatchSessionResponse.EVENTS_FIELD_NUMBER)


async def all_bytes(channel: grpc.aio.Channel, session_id: str, **fields: Any) -> list[bytes]:
    """Watch to the end; the durable events as bytes."""
    request = pb.WatchSessionRequest(session_id=session_id, skip_partials=True, **fields)
    return [event async for events in watch_bytes(channel, request) for event in events]
