"""What surrounds every RPC: the request's bytes are parsed here, and errors become statuses with google.rpc details.

grpc's own parser answers malformed bytes with UNKNOWN and Python's text, before any handler runs; so it has none here.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
from agentpb import agent_pb2 as pb
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from agent_service import errors

log = logging.getLogger(__name__)

SERVICE = pb.DESCRIPTOR.services_by_name["AgentService"].full_name
MAX_DETAILS = 3800
"""Bytes of a status with its details: under 4 KiB, since above 8 KiB the client loses the error itself."""
MAX_TEXT, MAX_NAME, MAX_REMARK, MAX_VIOLATION = 1000, 200, 250, 600
"""Bytes of the message, of a name, of what is said of it, and of what is said of a field."""


class StatusInterceptor(grpc.aio.ServerInterceptor):
    """Parses requests, and turns what a handler raises into the status the contract names."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the handlers of AgentService; leave health and reflection alone."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith(f"/{SERVICE}/"):
            return handler
        name = handler_call_details.method.rsplit("/", 1)[-1]
        if handler.response_streaming:
            return handler._replace(  # type: ignore[attr-defined, no-any-return]
                request_deserializer=None,
                response_serializer=_pass_bytes,
                unary_stream=_guarded(name, handler.unary_stream, handler.request_deserializer),
            )
        return handler._replace(  # type: ignore[attr-defined, no-any-return]
            request_deserializer=None,
            response_serializer=_pass_bytes,
            unary_unary=_guarded(name, handler.unary_unary, handler.request_deserializer),
        )


def _pass_bytes(response: Message | bytes) -> bytes:
    return response if isinstance(response, bytes) else response.SerializeToString()


def _guarded(name: str, method: Any, parse: Any) -> Any:
    async def call(data: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await method(_parsed(data, parse), context)
        except errors.RequestError as error:
            await _abort(context, error)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception as error:
            if _caller_left(context, error):  # whatever broke on the way broke because of that
                log.debug("%s: the caller left: %r", name, error)
                raise
            await _abort(context, _internal(name, error))

    return call


def _caller_left(context: grpc.aio.ServicerContext[Any, Any], error: Exception) -> bool:
    """Whether nobody is there for the answer; a write to who has just left fails before the library says so."""
    return context.done() or isinstance(error, grpc.aio.InternalError)


def _parsed(data: bytes, parse: Any) -> Any:
    try:
        return parse(data)
    except DecodeError:
        raise errors.MalformedRequest(
            "the request's bytes are no message of this RPC's request type; check the stub against proto/agent.proto"
        ) from None


def _internal(name: str, error: Exception) -> errors.RequestError:
    incident = uuid4().hex[:12]
    log.error("%s failed, incident %s", name, incident, exc_info=error)
    return errors.RequestError(f"internal error, incident {incident}", metadata={"incident": incident})


async def _abort(context: grpc.aio.ServicerContext[Any, Any], error: errors.RequestError) -> None:
    if error.retry_after is not None:
        context.set_trailing_metadata((("grpc-retry-pushback-ms", str(round(error.retry_after * 1000))),))
    status = rpc_status.to_status(rich_status(error))
    trailing = tuple(context.trailing_metadata() or ()) + tuple(status.trailing_metadata)
    context.set_trailing_metadata(trailing)
    await context.abort(status.code, status.details)


def rich_status(error: errors.RequestError) -> status_pb2.Status:
    """The google.rpc status of an error: always ErrorInfo, and what else fits."""
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code.name), message=_cut(error.message, MAX_TEXT))
    metadata = {key: _cut(value, MAX_REMARK) for key, value in error.metadata.items()}
    info = error_details_pb2.ErrorInfo(domain=errors.DOMAIN, reason=error.reason, metadata=metadata)
    for detail in (info, *_details(error)):
        _add(status, detail)
    if isinstance(error, errors.InvalidField):
        _add(status, _bad_request(error, MAX_DETAILS - status.ByteSize()))
    return status


def _add(status: status_pb2.Status, detail: Message) -> None:
    packed = AnyMessage()
    packed.Pack(detail)
    status.details.append(packed)


def _cut(text: str, most: int) -> str:
    """So much of a text that it takes `most` bytes in a header, where each byte that is not ASCII takes three."""
    size = 0
    for index, character in enumerate(text[: most + 1]):
        size += 1 if " " <= character <= "~" else 3 * len(character.encode(errors="replace"))
        if size > most:
            return text[:index]
    return text


def _bad_request(error: errors.InvalidField, room: int) -> error_details_pb2.BadRequest:
    """The violations, as many as there is room for; at least the first."""
    details = error_details_pb2.BadRequest()
    room -= 100  # its wrapping
    for field, description in error.violations:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=_cut(field, MAX_NAME), description=_cut(description, MAX_VIOLATION)
        )
        room -= violation.ByteSize() + 4
        if room < 0 and details.field_violations:
            break
        details.field_violations.append(violation)
    return details


def _details(error: errors.RequestError) -> list[Message]:
    details: list[Message] = []
    resource, message = _cut(error.resource, MAX_NAME), _cut(error.message, MAX_REMARK)
    if error.resource_type:
        details.append(error_details_pb2.ResourceInfo(resource_type=error.resource_type, resource_name=resource))
    if error.code is grpc.StatusCode.FAILED_PRECONDITION:
        violation = error_details_pb2.PreconditionFailure.Violation(
            type=error.reason, subject=resource, description=message
        )
        details.append(error_details_pb2.PreconditionFailure(violations=[violation]))
    if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        quota = error_details_pb2.QuotaFailure.Violation(subject=error.reason, description=message)
        details.append(error_details_pb2.QuotaFailure(violations=[quota]))
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(error.retry_after * 1000))
        details.append(retry)
    return details
