"""Groups of RPCs, as `rpcs` of a principal names them. An RPC that reads is in @read by its idempotency level."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agentpb import agent_pb2 as pb
from google.protobuf.descriptor_pb2 import MethodOptions

METHODS = pb.DESCRIPTOR.services_by_name["AgentService"].methods
RPCS = frozenset(method.name for method in METHODS)
READING = frozenset(
    method.name for method in METHODS if method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
)

GROUPS: Mapping[str, frozenset[str]] = {
    "@read": READING,
    "@run": frozenset({"Execute", "SendMessage", "Interrupt", "Cancel", "CancelSessions", "PrepareAgents"}),
    "@answer": frozenset({"RespondToInteraction"}),
    "@delete": frozenset({"DeleteSession", "Cleanup"}),
    "@serve": frozenset(),
    "@admin": frozenset(),
}
"""Every RPC is in exactly one of these; a test fails for a new one without a group."""


def expand(words: Iterable[str]) -> frozenset[str]:
    """Return the RPCs that names of RPCs and groups stand for; "*" stands for all. Raises ValueError."""
    found: set[str] = set()
    for word in words:
        if word == "*":
            found |= RPCS
        elif word in GROUPS:
            found |= GROUPS[word]
        elif word in RPCS:
            found.add(word)
        else:
            known = ", ".join([*GROUPS, *sorted(RPCS)])
            raise ValueError(f"{word!r} is no RPC and no group of RPCs; known are {known}")
    return frozenset(found)
