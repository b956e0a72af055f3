"""Durations of a request that a grant fills in: how long a turn may run and wait, how long its session is kept."""

from __future__ import annotations

from dataclasses import dataclass

from agentpb import agent_pb2 as pb

from agent_service.policy.ceilings import violation
from agent_service.policy.grant import Grant
from agent_service.policy.units import duration_text


@dataclass(frozen=True)
class Bounds:
    """What the service's own configuration says for requests that say nothing, in seconds; 0 for no bound."""

    execution_timeout: float = 0.0
    queue_timeout: float = 0.0
    retention: float = 0.0


def bounded(request: pb.ExecuteRequest, grant: Grant, service: Bounds) -> list[str]:
    """Fill a request's durations in, where the grant's are shorter than the service's. Says which, for the caller."""
    wanted: list[tuple[str, float | None, float, str]] = [
        ("execution_timeout", grant.max_execution, service.execution_timeout, "max_execution"),
        ("queue_timeout", grant.max_queue, service.queue_timeout, "max_queue"),
    ]
    if grant.retention is not None and (grant.max_ttl is None or grant.retention <= grant.max_ttl):
        wanted.append(("ttl", grant.retention, 0.0, "retention"))
    else:
        wanted.append(("ttl", grant.max_ttl, service.retention, "max_ttl"))
    said = []
    for name, most, usual, key in wanted:
        if most is None or request.HasField(name) or 0 < usual <= most:  # type: ignore[arg-type]
            continue
        getattr(request, name).FromMicroseconds(round(most * 1e6))
        rule = violation(grant, name, "", key).rule
        said.append(f"{name}: {duration_text(most)}, since the request says nothing ({rule})")
    return said
