"""What test_beyond_loopback.py runs in a network namespace: a host with an address that is not loopback's."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from agent_client import AgentClient
from agentpb import agent_pb2 as pb
from agentpb import agent_pb2_grpc
from cryptography import x509

from agent_service.errors import CannotServe
from tests.conftest import start_service
from tests.identity.conftest import Office, bearer, call
from tests.pki import Authority
from tests.rpc import refused

ADDRESS = "192.0.2.10"
"""Of a network for documentation (RFC 5737): nobody else has it, and no packet leaves the namespace."""
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"


def make_interface() -> None:
    """Give the namespace's one interface an address that other machines could have a route to."""
    for command in ("link set lo up", f"addr add {ADDRESS}/24 dev lo"):
        subprocess.run(["ip", *command.split()], check=True)


async def what_is_not_safe_is_not_served(directory: Path) -> None:
    """Without TLS, and with TLS but without an access file, the service does not start."""
    for listen, complaint in ((f"{ADDRESS}:0", "reachable from other machines"), (f"tls:{ADDRESS}:0", "access file")):
        with pytest.raises(CannotServe, match=complaint):
            async with start_service(directory / "unsafe", listen=(listen,)):
                pass


async def with_tls_and_an_access_file(directory: Path) -> None:
    """Health alone is open to strangers; a caller with a token runs an agent behind walls."""
    authority, office = Authority(directory), Office(directory)
    cert, key = authority.issue("server", x509.IPAddress(ip_address(ADDRESS)))
    office.write(f'[principal.red]\ntoken = "{office.digest_of("red")}"\ntenant = "red"\n[tenant.red]\n')
    listen = (f"tls:{ADDRESS}:0",)
    async with start_service(
        directory / "data", listen=listen, access=office.file, tls_cert=cert, tls_key=key
    ) as service:
        target = service.running.address.removeprefix("tls:")
        credentials = grpc.ssl_channel_credentials(authority.ca.read_bytes())
        async with grpc.aio.secure_channel(target, credentials) as channel:
            stub: Any = agent_pb2_grpc.AgentServiceStub(channel)
            assert await call(channel, "/grpc.health.v1.Health/Check")
            assert (await refused(stub.GetServerInfo(pb.GetServerInfoRequest()))).reason == "CREDENTIALS_MISSING"
            with pytest.raises(grpc.aio.AioRpcError, match="UNAUTHENTICATED"):
                await call(channel, REFLECTION)
            assert await call(channel, REFLECTION, metadata=bearer(office.token_of("red"))) is not None
        async with AgentClient(target, ca=authority.ca, token=office.token_of("red")) as client:
            run = await client.run("bash: echo from afar", allowed_tools=["Bash"])
            assert (run.session.owner, run.session.created_by) == ("red", "red")
            assert run.session.sandbox.startswith("workspace")
        with pytest.raises(ValueError, match="plain text"):
            await AgentClient(target, token=office.token_of("red")).server_info()


async def main(directory: Path) -> None:
    """Run all of it."""
    await what_is_not_safe_is_not_served(directory)
    await with_tls_and_an_access_file(directory)


if __name__ == "__main__":
    make_interface()
    asyncio.run(main(Path(sys.argv[1])))
