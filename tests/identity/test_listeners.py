"""Listeners: several at once, TLS that is renewed under load, client certificates, Unix sockets."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from agentpb import agent_pb2 as pb
from agentpb import agent_pb2_grpc
from cryptography import x509

from agent_service.api.addresses import parse_address, parse_addresses
from agent_service.errors import CannotServe
from tests.conftest import Service, start_service
from tests.identity.conftest import Office, bearer, call
from tests.pki import Authority
from tests.rpc import refused, token_in

INFO = pb.GetServerInfoRequest()
SPIFFE = "spiffe://corp.example/ns/ci/sa/payments"
NO_RETRIES = (("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1))


class Doors:
    """A service with all kinds of listeners, and who may come through which."""

    def __init__(self, directory: Path) -> None:
        """Make the certificates and the access file."""
        self.directory = directory
        self.server, self.clients = Authority(directory, "server-ca"), Authority(directory, "client-ca")
        self.cert, self.key = self.server.issue("server")
        self.socket, self.shared = directory / "run" / "ci.sock", directory / "shared.sock"
        self.office = Office(directory)
        self.office.write(
            f"""
                [principal.red]
                token = "{self.office.digest_of("red")}"
                tenant = "red"
                [principal.ci]
                certificate = "{SPIFFE}"
                tenant = "red"
                rpcs = ["@read"]
                [principal.host]
                certificate = "ci.example.com"
                [principal.local]
                unix = "{self.socket}"
                tenant = "red"
            """
        )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Service]:
        """Run the service."""
        listen = ("127.0.0.1:0", "tls:127.0.0.1:0", "mtls:127.0.0.1:0", f"unix:{self.socket}", f"unix:{self.shared}")
        files = {"tls_cert": self.cert, "tls_key": self.key, "tls_client_ca": self.clients.ca}
        async with start_service(self.directory / "data", listen=listen, access=self.office.file, **files) as service:
            yield service

    def channel(self, address: str, client: tuple[Path, Path] | None = None) -> grpc.aio.Channel:
        """A channel to one address, with a connection of its own."""
        kind, _, place = address.partition(":")
        if kind not in ("tls", "mtls"):
            return grpc.aio.insecure_channel(address, options=NO_RETRIES)
        cert, key = (client[0].read_bytes(), client[1].read_bytes()) if client else (None, None)
        credentials = grpc.ssl_channel_credentials(self.server.ca.read_bytes(), key, cert)
        return grpc.aio.secure_channel(place, credentials, options=NO_RETRIES)

    async def caller(self, address: str, client: tuple[Path, Path] | None = None, **settings: Any) -> str:
        """Who a caller through an address is to the service; the status when it is refused."""
        async with self.channel(address, client) as channel:
            stub: Any = agent_pb2_grpc.AgentServiceStub(channel)
            try:
                answer = await stub.GetServerInfo(INFO, timeout=10, **settings)
            except grpc.aio.AioRpcError as error:
                return str(error.code().name)
            return answer.caller.principal or "nobody"


async def test_each_door_has_its_own_credential(tmp_path: Path) -> None:
    doors = Doors(tmp_path)
    uri, dns = x509.UniformResourceIdentifier(SPIFFE), x509.DNSName("ci.example.com")
    by_uri, by_host = doors.clients.issue("by-uri", uri), doors.clients.issue("by-host", dns)
    by_name = doors.clients.issue("ci.example.com", x509.DNSName("other.example.com"))
    both, expired = doors.clients.issue("both", uri, dns), doors.clients.issue("expired", uri, days=-1)
    foreign = doors.server.issue("foreign", uri)
    token = bearer(doors.office.token_of("red"))
    async with doors.open() as service:
        plain, tls, mtls, socket, shared = service.running.addresses
        assert [each.partition(":")[0] for each in (tls, mtls, socket)] == ["tls", "mtls", "unix"]
        assert await doors.caller(plain) == "nobody"
        assert await doors.caller(plain, metadata=token) == "red"
        assert await doors.caller(tls, metadata=token) == "red"
        assert await doors.caller(mtls, by_uri) == "ci"
        assert await doors.caller(mtls, by_host) == "host"
        assert await doors.caller(mtls, by_uri, metadata=token) == "red", "a token goes before a certificate"
        assert await doors.caller(mtls, by_uri, metadata=bearer("ast_" + "x" * 43)) == "UNAUTHENTICATED"
        assert await doors.caller(mtls, by_name) == "UNAUTHENTICATED", "a common name is no name"
        assert await doors.caller(mtls, both) == "UNAUTHENTICATED", "it stands for two principals"
        assert await doors.caller(mtls, expired) == "UNAVAILABLE"
        assert await doors.caller(mtls, foreign) == "UNAVAILABLE"
        assert await doors.caller(mtls) == "UNAVAILABLE"
        assert await doors.caller(socket) == "local"
        assert await doors.caller(shared) == "nobody"
        assert await doors.caller(shared, metadata=token) == "red"
        assert [path.stat().st_mode & 0o777 for path in (doors.socket.parent, doors.socket)] == [0o700, 0o660]
        async with doors.channel(mtls, by_uri) as channel:
            stub: Any = agent_pb2_grpc.AgentServiceStub(channel)
            refusal = await refused(stub.Execute(pb.ExecuteRequest(prompt="x")))
            assert (refusal.reason, "Execute" in refusal.text) == ("RPC_NOT_ALLOWED", True)
    assert not doors.socket.exists()


async def test_certificates_are_renewed_under_load_and_no_call_fails(tmp_path: Path) -> None:
    doors = Doors(tmp_path)
    uri = x509.UniformResourceIdentifier(SPIFFE)
    client = doors.clients.issue("client", uri)
    async with doors.open() as service:
        _, tls, mtls, *_ = service.running.addresses
        token, seen = bearer(doors.office.token_of("red")), []
        for _ in range(10):
            doors.server.issue("server")
            seen += await asyncio.gather(*(doors.caller(tls, metadata=token) for _ in range(50)))
            seen += await asyncio.gather(*(doors.caller(mtls, client) for _ in range(50)))
        assert (len(seen), set(seen)) == (1000, {"red", "ci"})
        async with doors.channel(mtls, client) as kept:
            stub: Any = agent_pb2_grpc.AgentServiceStub(kept)
            await stub.GetServerInfo(INFO)
            doors.cert.write_bytes(b"garbage")
            assert await doors.caller(tls, metadata=token) == "red", "the last good certificate stays in use"
            doors.server.issue("server")
            doors.clients.ca.write_bytes(doors.server.ca.read_bytes())
            assert await doors.caller(mtls, client) == "UNAVAILABLE", "its authority counts no more"
            await stub.GetServerInfo(INFO)  # what is open goes on


async def test_all_listeners_drain_together(tmp_path: Path) -> None:
    async with start_service(tmp_path / "data", listen=("127.0.0.1:0", "127.0.0.1:0")) as service:
        second = service.running.addresses[1]
        channel = grpc.aio.insecure_channel(second)
        metadata = (("authorization", f"Bearer {token_in(service.data_dir)}"),)
        stub: Any = agent_pb2_grpc.AgentServiceStub(channel)
        started = await stub.Execute(pb.ExecuteRequest(prompt="wait: 60"), metadata=metadata)
        watch = stub.WatchSession(pb.WatchSessionRequest(session_id=started.session_id), metadata=metadata)
        response = await watch.read()
    while not response.HasField("end"):
        response = await watch.read()
    assert response.end.reason == pb.WATCH_END_REASON_DRAINING
    await channel.close()


async def test_a_socket_that_another_service_listens_on_is_not_taken_away(tmp_path: Path) -> None:
    path, file = tmp_path / "a.sock", tmp_path / "file"
    file.write_text("precious")
    async with start_service(tmp_path / "one", listen=(f"unix:{path}",)):
        with pytest.raises(CannotServe, match="another process listens"):
            async with start_service(tmp_path / "two", listen=(f"unix:{path}",)):
                pass
        with pytest.raises(CannotServe, match="no socket"):
            async with start_service(tmp_path / "two", listen=(f"unix:{file}",)):
                pass
    assert file.read_text() == "precious"
    os.mknod(path, 0o600 | 0o140000)  # left behind by a process that was killed
    async with start_service(tmp_path / "one", listen=(f"unix:{path}",)) as service:
        assert service.running.address == f"unix:{path}"


async def test_beyond_loopback_health_alone_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_service.api.addresses._is_loopback", lambda host: False)
    reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    async with (
        start_service(tmp_path / "data", insecure=True) as service,
        grpc.aio.insecure_channel(service.running.address) as channel,
    ):
        stub: Any = agent_pb2_grpc.AgentServiceStub(channel)
        assert (await refused(stub.GetServerInfo(INFO))).reason == "CREDENTIALS_MISSING"
        with pytest.raises(grpc.aio.AioRpcError, match="UNAUTHENTICATED"):
            await call(channel, reflection)
        assert await call(channel, "/grpc.health.v1.Health/Check")
        assert await call(channel, reflection, metadata=bearer(token_in(service.data_dir))) is not None


@pytest.mark.parametrize(
    ("address", "insecure", "access", "complaint"),
    [
        ("tls:0.0.0.0:1", False, True, ""),
        ("mtls:[::]:1", False, True, ""),
        ("unix:/run/a.sock", False, False, ""),
        ("tls:127.0.0.1:1", False, False, ""),
        ("0.0.0.0:1", True, False, ""),
        ("0.0.0.0:1", False, True, "without TLS everybody on the way reads"),
        ("tls:0.0.0.0:1", False, False, "needs an access file"),
        ("tls:nonsense", False, True, "must be HOST:PORT"),
        ("unix:a.sock", False, True, "the absolute path"),
        ("unix:/run/../a.sock", False, True, "the absolute path"),
        ("unix:/" + "x" * 120, False, True, "the most that the system takes"),
    ],
)
def test_an_address_that_is_not_safe_is_not_served(address: str, insecure: bool, access: bool, complaint: str) -> None:
    if not complaint:
        assert str(parse_addresses((address,), insecure=insecure, access=access)[0]) == address
        return
    with pytest.raises(CannotServe, match=complaint):
        parse_addresses((address,), insecure=insecure, access=access)


def test_an_address_is_named_once() -> None:
    assert parse_address("localhost:1").is_local
    with pytest.raises(CannotServe, match="twice"):
        parse_addresses(("127.0.0.1:1", "127.0.0.1:1"), insecure=False, access=False)


async def test_tls_without_its_files_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CannotServe, match="--tls-cert is needed"):
        async with start_service(tmp_path / "data", listen=("tls:127.0.0.1:0",)):
            pass
    authority = Authority(tmp_path)
    cert, _ = authority.issue("one")
    _, key = authority.issue("two")
    with pytest.raises(CannotServe, match="is not the key of the certificate"):
        async with start_service(tmp_path / "data", listen=("tls:127.0.0.1:0",), tls_cert=cert, tls_key=key):
            pass
