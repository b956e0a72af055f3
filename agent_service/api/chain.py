"""Chain: what surrounds every RPC, whichever door it came through.

The order is: the links, the size, the parsing, the validation, the handler. A door gives bytes and a Call, and gets
bytes or a RequestError. Doors do not parse: grpc's own parser answers malformed bytes with UNKNOWN and Python's text.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from agentpb import agent_pb2 as pb
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from agent_service import errors
from agent_service.api.call import Call, CallerLeft
from agent_service.api.limits import MAX_MESSAGE_BYTES
from agent_service.api.own_credential import check_own_credential
from agent_service.api.validation import check

log = logging.getLogger(__name__)

DESCRIPTOR = pb.DESCRIPTOR.services_by_name["AgentService"]
SERVICE = DESCRIPTOR.full_name

Around = Callable[[Call], AbstractAsyncContextManager[None]]
"""A link of the chain: entered before the request is parsed, left with the answer or the RequestError.

Entering may raise a RequestError, which is the answer then. A link must not swallow an error.
"""
Handler = Callable[[Any, Call], Awaitable[Message | bytes | None]]
Answer = Callable[[Call, bytes], Awaitable[bytes]]


class Chain:
    """Answers the RPCs of agentservice.v1 by the methods of `handlers`, with `around` as links, the outermost first."""

    def __init__(self, handlers: object, around: Sequence[Around] = ()) -> None:
        """Take one method of `handlers` for each RPC, under the RPC's name."""
        self.answers: Mapping[str, Answer] = {
            method.name: _chained(getattr(handlers, method.name), GetMessageClass(method.input_type), around)
            for method in DESCRIPTOR.methods
        }
        """By the name of the RPC: the answer to a request's bytes; empty when a stream was written instead.

        Raises RequestError, and CallerLeft.
        """


def _chained(handler: Handler, request_class: type[Message], around: Sequence[Around]) -> Answer:
    answer = _parsing(handler, request_class)
    for link in (_Known, *reversed(around), _Known) if around else (_Known,):
        answer = _within(link, answer)
    return answer


def _parsing(handler: Handler, request_class: type[Message]) -> Answer:
    async def answer(call: Call, data: bytes) -> bytes:
        call.request = request = _parsed(request_class, data)
        check_own_credential(request, data, call.credentials.bearer)
        check(request)
        response = await handler(request, call)
        if response is not None:
            call.response = response
        return response.SerializeToString() if isinstance(response, Message) else response or b""

    return answer


def _parsed(request_class: type[Message], data: bytes) -> Message:
    if len(data) > MAX_MESSAGE_BYTES:
        raise errors.RequestTooLarge(
            f"the request has {len(data)} bytes; the most is {MAX_MESSAGE_BYTES}",
            metadata={"max_message_bytes": str(MAX_MESSAGE_BYTES)},
        )
    try:
        return request_class.FromString(data)
    except DecodeError:
        raise errors.MalformedRequest(
            f"the request's bytes are not a {request_class.DESCRIPTOR.name}; check the stub against proto/agent.proto"
        ) from None


def _within(link: Around, inner: Answer) -> Answer:
    async def answer(call: Call, data: bytes) -> bytes:
        async with link(call):
            return await inner(call, data)

    return answer


class _Known:
    """The innermost and the outermost link: every failure leaves it as a RequestError or as CallerLeft."""

    __slots__ = ("_call",)

    def __init__(self, call: Call) -> None:
        self._call = call

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, errors.RequestError | CallerLeft | asyncio.CancelledError):
            return
        if not isinstance(error, Exception):
            return  # the end of the process
        if self._call.has_left:  # whatever failed on the way failed because of that
            log.debug("%s: the caller left: %r", self._call.method, error)
            raise CallerLeft from error
        raise _internal(self._call.method, error) from error


def _internal(method: str, error: Exception) -> errors.RequestError:
    incident = errors.new_incident()
    log.error("%s failed, incident %s", method, incident, exc_info=error)
    return errors.RequestError(f"internal error, incident {incident}", metadata={"incident": incident})
