"""A service and its clients on one host: the token is found, after a restart too, and is gone with the service."""

from __future__ import annotations

import asyncio

import pytest
from agent_client import AgentClient, errors
from agent_client.cli import app
from agent_client.credentials import discovery_name
from typer.testing import CliRunner

from agent_service.access.local_token import copy_name
from tests.conftest import start_service


@pytest.fixture(autouse=True)
def runtime(monkeypatch, tmp_path):
    """The directory in which services leave their tokens, and no other place to find one."""
    for name in ("AGENT_TOKEN", "AGENT_TOKEN_FILE", "AGENT_CA", "AGENT_CERT", "AGENT_KEY", "AGENT_TENANT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "run" / "agent-service"


def serving(tmp_path, runtime, *listen):
    """A service that asks for its token, and leaves it where clients look."""
    return start_service(tmp_path / "data", auth="local", runtime_dir=runtime, listen=listen or ("127.0.0.1:0",))


@pytest.mark.parametrize(
    "address", ["127.0.0.1:50051", "localhost:1", "[::1]:50051", "0.0.0.0:80", "/run/agents/ci.sock"]
)
def test_service_and_clients_have_one_name_for_the_file(address):
    host, _, port = ("", "", "") if address.startswith("/") else address.rpartition(":")
    assert copy_name(address) == discovery_name(host or address, port)


async def test_clients_find_the_token_and_strangers_do_not_get_in(tmp_path, runtime):
    async with serving(tmp_path, runtime, "127.0.0.1:0", f"unix:{tmp_path}/a.sock") as service:
        port = service.running.address.rpartition(":")[2]
        for target in (f"127.0.0.1:{port}", f"localhost:{port}", f"unix:{tmp_path}/a.sock"):
            async with AgentClient(target) as client:
                assert [session async for session in client.list_sessions()] == []
        async with AgentClient(service.running.address, token="") as client:
            with pytest.raises(errors.CredentialsMissing, match="arguments say to send none"):
                [session async for session in client.list_sessions()]
        done = await asyncio.to_thread(CliRunner().invoke, app, ["ls", "--server", service.running.address])
        assert done.exit_code == 0, done.output
        assert {file.stat().st_mode & 0o777 for file in runtime.iterdir()} == {0o600}
    assert list(runtime.iterdir()) == [], "the copies are gone with the service"


async def test_a_client_goes_on_when_the_service_comes_back_with_another_token(tmp_path, runtime):
    async with serving(tmp_path, runtime) as service:
        address = service.running.address
        client = AgentClient(address)
        first = (await client.server_info()).caller.principal
    (tmp_path / "data" / "local.token").unlink()
    async with serving(tmp_path, runtime, address), client:
        assert (await client.server_info()).caller.principal == first == "local"
        assert [session async for session in client.list_sessions()] == []
