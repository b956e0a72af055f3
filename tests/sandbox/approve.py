"""Tries to approve what another agent asks, with every token that can be found; prints how often that worked.

approve.py TARGET DATA RUNTIME_DIR SESSION INTERACTION
"""

import sys
from pathlib import Path

import grpc
from agentpb import agent_pb2 as pb
from agentpb import agent_pb2_grpc

TRIES = 20


def tokens(data: str, runtime: str) -> list[str]:
    """Return every text that could be a token, and none at all."""
    found = [""]
    for place in (*Path(data).glob("*.token"), *Path(runtime).rglob("*.token"), *Path.home().rglob("*.token")):
        try:
            found.append(place.read_text().strip())
        except OSError:
            continue
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = environment.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        found += [each.partition("=")[2] for each in variables if "TOKEN" in each.partition("=")[0]]
    return found


def succeeds(stub: agent_pb2_grpc.AgentServiceStub, request: pb.RespondToInteractionRequest, token: str) -> bool:
    """Return whether an answer with this token is taken, or would have been: an earlier try was faster."""
    try:
        stub.RespondToInteraction(request, timeout=5, metadata=(("authorization", f"Bearer {token}"),) if token else ())
    except grpc.RpcError as error:
        return bool(error.code() is grpc.StatusCode.FAILED_PRECONDITION)
    return True


def main(target: str, data: str, runtime: str, session: str, interaction: str) -> None:
    request = pb.RespondToInteractionRequest(session_id=session, interaction_id=interaction, allow=pb.PermissionAllow())
    with grpc.insecure_channel(target) as channel:
        stub = agent_pb2_grpc.AgentServiceStub(channel)
        candidates = tokens(data, runtime)
        worked = sum(any(succeeds(stub, request, token) for token in candidates) for _ in range(TRIES))
    sys.stdout.write(f"{worked} of {TRIES}")


if __name__ == "__main__":
    main(*sys.argv[1:])
