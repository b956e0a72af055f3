"""Every method that the server has, with every kind of credential: what is not granted is refused, before all else."""

from __future__ import annotations

import time

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from agent_service.access import GROUPS, RPCS
from agent_service.api.chain import SERVICE
from agent_service.api.reflection import SERVICES, Descriptors
from tests.identity.conftest import Metadata, OfficeWorld, bearer

CREDENTIALS = (
    "nothing",
    "garbage",
    "another scheme",
    "expired",
    "other audience",
    "other tenant",
    "RPC not allowed",
    "two headers",
    "a web page's",
    "right",
    "right, signed",
)
MISSING = "UNAUTHENTICATED CREDENTIALS_MISSING"
INVALID = "UNAUTHENTICATED CREDENTIALS_INVALID"
DENIED = "PERMISSION_DENIED RPC_NOT_ALLOWED"
REFUSED = {
    "nothing": MISSING,
    "garbage": INVALID,
    "another scheme": INVALID,
    "expired": INVALID,
    "other audience": INVALID,
    "other tenant": DENIED,
    "RPC not allowed": DENIED,
    "two headers": INVALID,
    "a web page's": DENIED,
}
OPEN_ON_LOOPBACK = {
    f"/{SERVICE}/GetServerInfo": {"nothing"},
    "/grpc.health.v1.Health/Check": set(CREDENTIALS),
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": {"nothing", "RPC not allowed"},
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": {"nothing", "RPC not allowed"},
}
NOT_ASKED = {"/grpc.health.v1.Health/Watch", "/grpc.health.v1.Health/List"}
"""Open to all, as Check is: Watch has no end of its own, and List the library declares but does not answer."""


def methods() -> list[str]:
    """Every method of every service of the server."""
    files: list[FileDescriptorProto] = list(Descriptors().files.values())
    found = [
        f"/{file.package}.{service.name}/{method.name}"
        for file in files
        for service in file.service
        for method in service.method
        if f"{file.package}.{service.name}" in SERVICES
    ]
    assert {path.split("/")[1] for path in found} == set(SERVICES), "every service that the server lists"
    return sorted(found)


METHODS = [method for method in methods() if method not in NOT_ASKED]


def shown(office: OfficeWorld, credential: str) -> Metadata:
    """The metadata of a call."""
    issuer, right = office.office.issuer, office.office.token_of("red")
    return {
        "nothing": (),
        "garbage": bearer("ast_" + "x" * 43),
        "another scheme": (("authorization", f"Basic {right}"),),
        "expired": bearer(issuer.token(exp=time.time() - 1)),
        "other audience": bearer(issuer.token(aud="another-service")),
        "other tenant": bearer(right, ("agent-tenant", "blue")),
        "RPC not allowed": bearer(office.office.token_of("nothing")),
        "two headers": (*bearer(right), *bearer(right)),
        "a web page's": bearer(right, ("origin", "http://localhost:3000")),
        "right": bearer(right),
        "right, signed": bearer(issuer.token()),
    }[credential]


def request_of(method: str) -> bytes:
    """A request that has an end."""
    if "Reflection" in method:
        return reflection_pb2.ServerReflectionRequest(list_services="*").SerializeToString()
    return health_pb2.HealthCheckRequest().SerializeToString() if "Health" in method else b""


@pytest.mark.parametrize("credential", CREDENTIALS)
@pytest.mark.parametrize("method", METHODS)
def test_who_may_call_what(office: OfficeWorld, method: str, credential: str) -> None:
    outcome = office.call(method, request_of(method), shown(office, credential))
    if credential in REFUSED and credential not in OPEN_ON_LOOPBACK.get(method, set()):
        assert outcome == REFUSED[credential]
    else:
        assert not outcome.startswith(("UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED", "INTERNAL")), outcome


def test_the_matrix_is_whole() -> None:
    assert len(METHODS) * len(CREDENTIALS) >= 84
    assert set(OPEN_ON_LOOPBACK) | NOT_ASKED <= set(methods())


def test_every_rpc_is_in_one_group() -> None:
    grouped = [rpc for group in GROUPS.values() for rpc in group]
    assert sorted(grouped) == sorted(RPCS), "an RPC is in no group or in two: add it to access/rpcs.py"


def test_a_reader_reads_and_does_nothing_else(office: OfficeWorld) -> None:
    metadata = bearer(office.office.token_of("reader"))
    outcomes = {rpc: office.call(f"/{SERVICE}/{rpc}", b"", metadata) for rpc in RPCS}
    assert {rpc for rpc, outcome in outcomes.items() if outcome != DENIED} == GROUPS["@read"]


def test_a_stranger_is_refused_before_its_request_is_parsed(office: OfficeWorld) -> None:
    assert office.call(f"/{SERVICE}/Execute", b"\xff\xff garbage") == MISSING
    metadata = bearer(office.office.token_of("red"))
    assert office.call(f"/{SERVICE}/Execute", b"\xff\xff garbage", metadata) == "INVALID_ARGUMENT MALFORMED_REQUEST"
