"""Pages: a token gives back its cursor to its own question, and to no other."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
from agentpb import agent_pb2 as pb
from hypothesis import given, settings

from agent_service.api.pages import MAX_TOKEN, make_token, read_token
from agent_service.errors import InvalidPageToken

CURSORS = st.integers(1, 2**62) | st.tuples(st.integers(0, 2**62), st.integers(0, 2**62).map(str)).map(list)


@settings(max_examples=50, deadline=None)
@given(cursor=CURSORS)
def test_a_token_brings_its_cursor_back_whatever_the_page_size(cursor: Any) -> None:
    token = make_token(pb.ListSessionsRequest(page_size=5, filter={"labels": {"a": "b", "c": "d"}}), cursor)
    assert len(token) < MAX_TOKEN
    again = pb.ListSessionsRequest(page_token=token, page_size=9, filter={"labels": {"c": "d", "a": "b"}})
    assert read_token(again) == cursor


@settings(max_examples=50, deadline=None)
@given(cursor=CURSORS, data=st.data())
def test_a_changed_token_is_refused(cursor: Any, data: st.DataObject) -> None:
    token = make_token(pb.ListSessionsRequest(), cursor)
    place = data.draw(st.integers(0, len(token) - 2))
    letter = data.draw(st.sampled_from("ABCxyz019-_").filter(lambda letter: letter != token[place]))
    with pytest.raises(InvalidPageToken):
        read_token(pb.ListSessionsRequest(page_token=token[:place] + letter + token[place + 1 :]))


@settings(max_examples=50, deadline=None)
@given(token=st.text(min_size=1))
def test_a_token_of_somebody_elses_making_is_refused(token: str) -> None:
    with pytest.raises(InvalidPageToken):
        read_token(pb.ListEventsRequest(session_id="a", page_token=token.encode(errors="replace").decode()))


def test_no_cursor_is_no_token_and_no_token_is_no_cursor() -> None:
    assert make_token(pb.ListSessionsRequest(), None) == ""
    assert read_token(pb.ListSessionsRequest()) is None


@pytest.mark.parametrize(
    "other",
    [
        pb.ListEventsRequest(session_id="b"),
        pb.ListEventsRequest(session_id="a", newest_first=True),
        pb.ListEventsRequest(session_id="a", event_types=["stderr"]),
        pb.ListEventsRequest(session_id="a", after_sequence=1),
        pb.ListSessionsRequest(),
    ],
)
def test_another_question_does_not_take_it(other: Any) -> None:
    other.page_token = make_token(pb.ListEventsRequest(session_id="a"), 7)
    with pytest.raises(InvalidPageToken, match="another question"):
        read_token(other)
