"""The caller, as GetServerInfo tells it."""

from __future__ import annotations

from agentpb import agent_pb2 as pb

from agent_service.access import RPCS
from agent_service.api.call import Call

VERSIONS = ("server_version", "api_version", "sdk_version", "cli_version", "authentication")
"""What is told without a credential."""


def versions(info: pb.GetServerInfoResponse) -> pb.GetServerInfoResponse:
    """Return what everybody may know of a service, and nothing else of it."""
    return pb.GetServerInfoResponse(**{name: getattr(info, name) for name in VERSIONS})


def caller(call: Call) -> pb.Caller:
    """Return the principal of a call, and what it may do."""
    principal = call.principal
    found = pb.Caller(
        principal=principal.name,
        tenant=call.owner,
        tenants=principal.tenants,
        rpcs=sorted(RPCS if principal.rpcs is None else principal.rpcs),
        rights=sorted(principal.rights),
    )
    if principal.expires is not None:
        found.expire_time.FromMicroseconds(round(principal.expires * 1e6))
    return found
