"""Validation: every field of every request, before anything is looked up. All violations at once, with their paths."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from itertools import chain, islice
from typing import Any

from agentpb import agent_pb2 as pb
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from agent_service import options as translate
from agent_service.api.attachments import check_attachments
from agent_service.api.counts import ACCEPTED, is_groupable
from agent_service.api.limits import (
    MAX_FIELD_PATH,
    MAX_GRACE_SECONDS,
    MAX_HOLD_SECONDS,
    MAX_LABEL_KEY,
    MAX_LABEL_VALUE,
    MAX_LISTED,
    MAX_PAGE_SIZE,
    MAX_PREPARED,
    MAX_PROMPT_BYTES,
    MAX_REASON,
    MAX_REQUEST_ID,
    MAX_TITLE,
)
from agent_service.errors import FieldViolation, InvalidField

SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
MAX_VIOLATIONS = 50
"""Violations that are collected at most: more of them are one mistake made many times."""
EVENT_TYPES = frozenset(
    [
        "state.changed",
        "turn.queued",
        "turn.started",
        "turn.completed",
        "interaction.requested",
        "interaction.resolved",
        "message.user",
        "message.assistant",
        "message.system",
        "message.partial",
        "task.started",
        "task.progress",
        "task.notification",
        "task.updated",
        "hook.started",
        "hook.response",
        "rate_limit",
        "conversation.reset",
        "stderr",
        "unknown",
        "warning",
    ]
)
_TYPE_GROUPS = frozenset(name.split(".")[0] + ".*" for name in EVENT_TYPES if "." in name)

Violations = list[FieldViolation]


def check(request: Message) -> None:
    """Validate the request of any RPC. Raises InvalidField with all violations."""
    found = list(islice(chain(_check_request(request), _check_common(request, "")), MAX_VIOLATIONS))
    if found:
        raise InvalidField(found)


def check_host(request: pb.ExecuteRequest) -> None:
    """Raise InvalidField for directories that are not there: the first look at the host that a request causes.

    It belongs behind whatever decides if the caller may use these directories, so that no refusal tells which exist.
    """
    if found := translate.check_directories(request.options)[:MAX_VIOLATIONS]:
        raise InvalidField(found)


def _check_common(message: Message, path: str) -> Iterable[FieldViolation]:
    """Checks by type, for fields of any message: enum numbers, durations, timestamps."""
    for field, value in message.ListFields():
        where = f"{path}{field.name}"
        if field.name == "options" and isinstance(value, pb.AgentOptions):
            yield from translate.check(value, where)
        elif field.type == FieldDescriptor.TYPE_ENUM:
            for number in value if field.is_repeated else [value]:
                yield from _check_enum(field, number, where)
        elif isinstance(value, Duration):
            yield from _check_duration(value, where)
        elif isinstance(value, Timestamp):
            yield from _check_timestamp(value, where)
        elif field.type == FieldDescriptor.TYPE_MESSAGE and not field.is_repeated:
            yield from _check_common(value, f"{where}.")


def _check_enum(field: FieldDescriptor, number: int, where: str) -> Iterable[FieldViolation]:
    assert field.enum_type is not None
    if number not in field.enum_type.values_by_number:
        names = ", ".join(value.name for value in field.enum_type.values if value.number)
        yield FieldViolation(where, f"{number} is not a value of {field.enum_type.name}; accepted are {names}")


def _check_duration(value: Duration, where: str) -> Iterable[FieldViolation]:
    if problem := translate.duration_problem(value):
        yield FieldViolation(where, problem)


def _check_timestamp(value: Timestamp, where: str) -> Iterable[FieldViolation]:
    if not 0 <= value.nanos <= 999_999_999 or not -62135596800 <= value.seconds <= 253402300799:
        yield FieldViolation(where, "must be a timestamp from year 1 to year 9999, with nanos from 0 to 999,999,999")


def _check_request(request: Message) -> Iterable[FieldViolation]:
    if "request_id" in request.DESCRIPTOR.fields_by_name:
        yield from _check_length("request_id", request.request_id, MAX_REQUEST_ID)  # type: ignore[attr-defined]
    if isinstance(request, pb.ExecuteRequest):
        yield from _check_execute(request)
        return
    if "session_id" in request.DESCRIPTOR.fields_by_name and not request.session_id:  # type: ignore[attr-defined]
        yield FieldViolation("session_id", "must name a session")
    checker = _CHECKERS.get(type(request))
    if checker is not None:
        yield from checker(request)


def _check_execute(request: pb.ExecuteRequest) -> Iterable[FieldViolation]:
    if not request.prompt.strip() and not request.attachments:
        yield FieldViolation("prompt", "must hold something besides white space")
    if len(request.prompt.encode()) > MAX_PROMPT_BYTES:
        yield FieldViolation("prompt", f"must have at most {MAX_PROMPT_BYTES} bytes")
    for name in ("session_id", "fork_from"):
        value = getattr(request, name)
        if value and not SESSION_ID.fullmatch(value):
            yield FieldViolation(name, "must have 1 to 128 of A-Z a-z 0-9 _ . - and begin with a letter or digit")
    yield from _check_profile(request.profile)
    if request.fork_from and request.fork_from == request.session_id:
        yield FieldViolation("fork_from", "must be another session than session_id")
    if request.fork_at_turn_id and not request.fork_from:
        yield FieldViolation("fork_at_turn_id", "must go with fork_from: it is a turn of that session")
    if request.fork_at_turn_id and not translate.is_uuid(request.fork_at_turn_id):
        yield FieldViolation("fork_at_turn_id", "must be the id of a turn, a UUID")
    if request.fork_at_turn_id and request.options.resume_at_message_uuid:
        yield FieldViolation(
            "options.resume_at_message_uuid", "must be unset with fork_at_turn_id, which names a message too"
        )
    if request.fork_from and request.mode == pb.EXECUTE_MODE_RESUME:
        yield FieldViolation("mode", "must not be EXECUTE_MODE_RESUME with fork_from: a fork is a new session")
    if request.HasField("execution_timeout") and not request.execution_timeout.ToNanoseconds():
        yield FieldViolation("execution_timeout", "must be more than 0")
    yield from _check_length("title", request.title, MAX_TITLE)
    yield from _check_labels(request.labels, "labels")
    yield from check_attachments(request.attachments)
    if problem := translate.too_large(request.options):
        yield FieldViolation("options", problem)
    yield from translate.check_clear(request.clear_options)


def _check_profile(name: str) -> Iterable[FieldViolation]:
    if name and not SESSION_ID.fullmatch(name):
        yield FieldViolation("profile", "must be the name of a profile of the operator's")


def _check_length(name: str, value: str, longest: int) -> Iterable[FieldViolation]:
    if len(value) > longest:
        yield FieldViolation(name, f"must have at most {longest} characters, not {len(value)}")


def _check_count(where: str, values: Sized) -> Iterable[FieldViolation]:
    if len(values) > MAX_LISTED:
        yield FieldViolation(where, f"must have at most {MAX_LISTED} entries, not {len(values)}")


def _check_labels(labels: Mapping[str, str], where: str) -> Iterable[FieldViolation]:
    yield from _check_count(where, labels)
    for key, value in labels.items():
        if not 1 <= len(key) <= MAX_LABEL_KEY:
            yield FieldViolation(f"{where}[{key[:20]!r}]", f"keys must have 1 to {MAX_LABEL_KEY} characters")
        if len(value) > MAX_LABEL_VALUE:
            yield FieldViolation(
                f"{where}[{key[:MAX_LABEL_KEY]!r}]", f"values must have at most {MAX_LABEL_VALUE} characters"
            )


def _check_status(request: pb.GetStatusRequest) -> Iterable[FieldViolation]:
    if request.HasField("history_limit") and not 0 <= request.history_limit <= MAX_PAGE_SIZE:
        yield FieldViolation("history_limit", f"must be from 0 to {MAX_PAGE_SIZE}")
    yield from _check_cursor(request.after_sequence)


def _check_cursor(after_sequence: int) -> Iterable[FieldViolation]:
    if after_sequence < 0:
        yield FieldViolation("after_sequence", "must not be negative")


def _check_types(types: Sequence[str]) -> Iterable[FieldViolation]:
    yield from _check_count("event_types", types)
    for index, name in enumerate(types):
        if name not in EVENT_TYPES and name not in _TYPE_GROUPS:
            accepted = ", ".join(sorted(EVENT_TYPES | _TYPE_GROUPS))
            yield FieldViolation(f"event_types[{index}]", f"{name[:64]!r} is no event type; accepted are {accepted}")


def _check_watch(request: pb.WatchSessionRequest) -> Iterable[FieldViolation]:
    yield from _check_cursor(request.after_sequence)
    yield from _check_types(request.event_types)


def _check_list_events(request: pb.ListEventsRequest) -> Iterable[FieldViolation]:
    yield from _check_cursor(request.after_sequence)
    yield from _check_types(request.event_types)
    yield from _check_page_size(request.page_size)


def _check_page_size(page_size: int) -> Iterable[FieldViolation]:
    if not 0 <= page_size <= MAX_PAGE_SIZE:
        yield FieldViolation("page_size", f"must be from 1 to {MAX_PAGE_SIZE}, or 0 for the default")


def _check_list_sessions(request: pb.ListSessionsRequest) -> Iterable[FieldViolation]:
    yield from _check_page_size(request.page_size)
    yield from _check_filter(request.filter)


def _check_filter(wanted: pb.SessionFilter) -> Iterable[FieldViolation]:
    yield from _check_labels(wanted.labels, "filter.labels")
    yield from _check_length("filter.title_contains", wanted.title_contains, MAX_TITLE)
    yield from _check_length("filter.created_by", wanted.created_by, MAX_TITLE)
    yield from _check_count("filter.states", wanted.states)
    yield from _check_count("filter.phases", wanted.phases)


def _check_cancel(request: pb.CancelRequest) -> Iterable[FieldViolation]:
    yield from _check_length("reason", request.reason, MAX_REASON)
    if (request.grace.seconds, request.grace.nanos) > (MAX_GRACE_SECONDS, 0):
        yield FieldViolation("grace", "must be at most 5 minutes")


def _check_count_sessions(request: pb.CountSessionsRequest) -> Iterable[FieldViolation]:
    yield from _check_filter(request.filter)
    yield from _check_length("group_by", request.group_by, MAX_LABEL_KEY + len("labels."))
    if not is_groupable(request.group_by):
        yield FieldViolation("group_by", f"must be {ACCEPTED}")


def _check_cancel_sessions(request: pb.CancelSessionsRequest) -> Iterable[FieldViolation]:
    yield from _check_filter(request.filter)
    yield from _check_length("reason", request.reason, MAX_REASON)
    if not request.filter.ListFields():
        yield FieldViolation("filter", "must have a condition, such as labels: what has none would name every session")


def _check_prepare(request: pb.PrepareAgentsRequest) -> Iterable[FieldViolation]:
    yield from _check_profile(request.profile)
    if not 1 <= request.count <= MAX_PREPARED:
        yield FieldViolation("count", f"must be from 1 to {MAX_PREPARED}")
    hold = (request.hold.seconds, request.hold.nanos)
    if request.HasField("hold") and not (0, 0) < hold <= (MAX_HOLD_SECONDS, 0):
        yield FieldViolation("hold", "must be more than 0 and at most 10 minutes")
    if problem := translate.too_large(request.options):
        yield FieldViolation("options", problem)


def _check_cleanup(request: pb.CleanupRequest) -> Iterable[FieldViolation]:
    yield from _check_filter(request.filter)
    if request.limit < 0:
        yield FieldViolation("limit", "must not be negative")


def _check_send(request: pb.SendMessageRequest) -> Iterable[FieldViolation]:
    if not request.text.strip() and not request.attachments:
        yield FieldViolation("text", "must hold something besides white space")
    if len(request.text.encode()) > MAX_PROMPT_BYTES:
        yield FieldViolation("text", f"must have at most {MAX_PROMPT_BYTES} bytes")
    yield from check_attachments(request.attachments)


def _check_read_field(request: pb.ReadFieldRequest) -> Iterable[FieldViolation]:
    if not request.field:
        yield FieldViolation("field", "must name a field, as truncated_fields does")
    yield from _check_length("field", request.field, MAX_FIELD_PATH)
    if request.HasField("sequence") and request.sequence < 1:
        yield FieldViolation("sequence", "must be the sequence of an event, from 1")


def _check_respond(request: pb.RespondToInteractionRequest) -> Iterable[FieldViolation]:
    if not request.interaction_id:
        yield FieldViolation("interaction_id", "must name an interaction")
    if request.WhichOneof("answer") is None:
        yield FieldViolation("answer", "must have exactly one of allow and deny")
    yield from translate.check_allow(request.allow)


_CHECKERS: dict[type[Message], Callable[[Any], Iterable[FieldViolation]]] = {
    pb.GetStatusRequest: _check_status,
    pb.WatchSessionRequest: _check_watch,
    pb.ListEventsRequest: _check_list_events,
    pb.ListSessionsRequest: _check_list_sessions,
    pb.CancelRequest: _check_cancel,
    pb.CountSessionsRequest: _check_count_sessions,
    pb.CancelSessionsRequest: _check_cancel_sessions,
    pb.PrepareAgentsRequest: _check_prepare,
    pb.CleanupRequest: _check_cleanup,
    pb.SendMessageRequest: _check_send,
    pb.RespondToInteractionRequest: _check_respond,
    pb.ReadFieldRequest: _check_read_field,
}
