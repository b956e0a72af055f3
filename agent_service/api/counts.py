"""Counts: what CountSessions groups by, and how its values are named."""

from __future__ import annotations

from typing import Any

from agentpb import agent_pb2 as pb

from agent_service.ledger import Counted, GroupBy

MAX_COUNTED = 1000
"""Values that a count lists."""
_LABEL = "labels."
_COLUMNS: dict[str, Any] = {"state": pb.SessionState, "phase": pb.SessionPhase}
ACCEPTED = "state, phase, labels.KEY, or empty"


def is_groupable(text: str) -> bool:
    """Whether sessions can be grouped by this property."""
    return not text or text in _COLUMNS or (text.startswith(_LABEL) and len(text) > len(_LABEL))


def group_by(text: str) -> GroupBy:
    """The property that a valid `group_by` names."""
    return GroupBy(label=text.removeprefix(_LABEL)) if text.startswith(_LABEL) else GroupBy(column=text)


def counts_response(grouped_by: str, counted: Counted) -> pb.CountSessionsResponse:
    """The response of a count; states and phases by their names."""
    response = pb.CountSessionsResponse(total=counted.total, truncated=counted.truncated)
    names = _COLUMNS.get(grouped_by)
    for value, count in counted.counts if grouped_by else ():
        response.counts.add(value=names.Name(int(value)) if names else value, count=count)
    return response
