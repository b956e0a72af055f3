"""Errors as google.rpc.Status, for every door: ErrorInfo always, further details where they fit, all of it small."""

from __future__ import annotations

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2  # type: ignore[import-untyped]

from agent_service import errors

MAX_DETAILS = 3800
"""Bytes of a status with its details: under 4 KiB, since above 8 KiB the client loses the error itself."""
MAX_TEXT, MAX_NAME, MAX_REMARK, MAX_VIOLATION = 1000, 200, 250, 600
"""Bytes of a status's message, a resource's name, a metadata value or description, and a field violation."""


def rich_status(error: errors.RequestError) -> status_pb2.Status:
    """The google.rpc status of an error: always ErrorInfo, and what else fits."""
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code.name), message=_cut(error.message, MAX_TEXT))
    metadata = {key: _cut(value, MAX_REMARK) for key, value in error.metadata.items()}
    info = error_details_pb2.ErrorInfo(domain=errors.DOMAIN, reason=error.reason, metadata=metadata)
    for detail in (info, *_details(error)):
        _add(status, detail)
    if isinstance(error, errors.FieldError):
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


def _bad_request(error: errors.FieldError, room: int) -> error_details_pb2.BadRequest:
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
    if error.code.name == "FAILED_PRECONDITION":
        violation = error_details_pb2.PreconditionFailure.Violation(
            type=error.reason, subject=resource, description=message
        )
        details.append(error_details_pb2.PreconditionFailure(violations=[violation]))
    if error.code.name == "RESOURCE_EXHAUSTED":
        quota = error_details_pb2.QuotaFailure.Violation(subject=error.reason, description=message)
        details.append(error_details_pb2.QuotaFailure(violations=[quota]))
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(error.retry_after * 1000))
        details.append(retry)
    return details
