"""Errors as statuses: whatever an error says, its status fits into the headers that it travels in."""

from __future__ import annotations

import base64
from urllib.parse import quote

import hypothesis.strategies as st
from google.rpc import error_details_pb2
from hypothesis import given, settings

from agent_service import errors
from agent_service.api.rpc_status import rich_status

TEXTS = st.text(max_size=50) | st.text(min_size=1, max_size=5).map(lambda text: text * 2000)
VIOLATIONS = st.lists(st.builds(errors.FieldViolation, TEXTS, TEXTS), min_size=1, max_size=60)


@settings(max_examples=100, deadline=None)
@given(
    error=st.builds(errors.InvalidField, VIOLATIONS)
    | st.builds(errors.SessionNotFound, TEXTS)
    | st.builds(errors.SessionBusy, TEXTS, resource=TEXTS, metadata=st.dictionaries(st.sampled_from("ab"), TEXTS))
    | st.builds(errors.QueueFull, TEXTS, retry_after=st.floats(0, 100))
)
def test_a_status_is_small_whatever_it_says(error: errors.RequestError) -> None:
    status = rich_status(error)
    encoded = status.SerializeToString()
    assert len(encoded) < 4096
    assert len(quote(status.message)) + len(base64.b64encode(encoded)) < 7000, "8 KiB hold all headers together"


def test_each_violation_is_told_as_far_as_there_is_room() -> None:
    few = errors.InvalidField([errors.FieldViolation("a", "must be b"), errors.FieldViolation("c", "must be d")])
    assert violations(few) == [("a", "must be b"), ("c", "must be d")]
    many = errors.InvalidField([errors.FieldViolation(f"field[{number}]", "must not be") for number in range(1000)])
    assert 20 < len(violations(many)) < 200
    long = errors.InvalidField([errors.FieldViolation("ü" * 10_000, "ß" * 10_000)])
    assert len(violations(long)) == 1


def violations(error: errors.InvalidField) -> list[tuple[str, str]]:
    bad_request = error_details_pb2.BadRequest()
    assert rich_status(error).details[1].Unpack(bad_request)
    return [(each.field, each.description) for each in bad_request.field_violations]
