"""The local token: who has it, where it lies, and what is open without it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from agent_client import AgentClient
from agentpb import agent_pb2 as pb
from agentpb import agent_pb2_grpc

from agent_service import maintenance
from agent_service.access import LocalToken
from tests.conftest import Service, start_service
from tests.rpc import refused, token_in


def bare(service: Service) -> tuple[grpc.aio.Channel, Any]:
    """A channel that carries no token, and its stub."""
    channel = grpc.aio.insecure_channel(service.running.address)
    return channel, agent_pb2_grpc.AgentServiceStub(channel)


async def test_without_the_token_the_versions_are_told_and_nothing_else(service: Service) -> None:
    channel, stub = bare(service)
    info = await stub.GetServerInfo(pb.GetServerInfoRequest())
    told = {field.name for field, _ in info.ListFields()}
    assert told == {"server_version", "api_version", "sdk_version", "cli_version", "authentication"}
    assert list(info.authentication) == ["local token"]
    refusal = await refused(stub.ListSessions(pb.ListSessionsRequest()))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_MISSING")
    assert f'-H "authorization: Bearer $(cat {service.data_dir}/local.token)"' in refusal.text
    await channel.close()


async def test_with_the_token_the_caller_is_local_and_may_do_everything(service: Service) -> None:
    caller = (await service.stub.GetServerInfo(pb.GetServerInfoRequest())).caller
    assert (caller.principal, caller.tenant, list(caller.tenants)) == ("local", "", [])
    assert {"Execute", "RespondToInteraction", "Cleanup"} <= set(caller.rpcs)
    assert list(caller.rights) == ["answer_for_others", "other_owners"]
    refusal = await refused(
        service.stub.ListSessions(pb.ListSessionsRequest(), metadata=(("agent-tenant", "somebody"),))
    )
    assert refusal.reason == "RPC_NOT_ALLOWED"


async def test_clients_find_it_while_the_service_runs_and_a_restart_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data = tmp_path / "run", tmp_path / "data"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run))
    async with start_service(data) as service:
        name = service.running.address.replace(":", "_") + ".token"
        copy = run / "agent-service" / name
        assert copy.read_text().strip() == token_in(data)
        assert [file.stat().st_mode & 0o777 for file in (copy, data / "local.token", copy.parent)] == [0o600] * 2 + [
            0o700
        ]
        async with AgentClient(service.running.address) as client:
            assert (await client.run("say: found")).text == "found"
        before = token_in(data)
        maintenance.backup(data, tmp_path / "copy")
    assert not copy.exists()
    assert not (tmp_path / "copy" / "local.token").exists()
    async with start_service(data):
        assert token_in(data) == before


async def test_auth_none_asks_for_nothing_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with start_service(tmp_path / "data", auth="none") as service:
        info = await service.stub.GetServerInfo(pb.GetServerInfoRequest())
        assert (list(info.authentication), info.caller.principal) == (["none"], "local")
        assert not (tmp_path / "data" / "local.token").exists()
        origin = (("origin", "http://localhost:3000"),)
        refusal = await refused(service.stub.ListSessions(pb.ListSessionsRequest(), metadata=origin))
        assert refusal.reason == "RPC_NOT_ALLOWED"
    assert "NOBODY IS ASKED FOR A CREDENTIAL" in caplog.text


async def test_an_agent_cannot_call_the_service_that_runs_it(start: Any, options: Any) -> None:
    service: Service = await start(sandbox="off")  # a sandbox hides the program as well
    waiting = await service.execute("write: x y", options=options(interactions={"permissions": True}))
    agentctl = Path(sys.executable).with_name("agentctl")
    asked = f"{agentctl} --server {service.running.address} approve {waiting.session_id} 2>&1; echo code $?"
    done = await service.run(f"bash: {asked}\nresult", options=options("Bash"))
    assert "no token was given" in done.turn.result.result
    assert "code 0" not in done.turn.result.result


def test_a_token_that_others_could_read_is_replaced(tmp_path: Path) -> None:
    first = LocalToken(tmp_path).text
    assert (first[:4], len(first)) == ("ast_", 47)
    assert LocalToken(tmp_path).text == first
    (tmp_path / "local.token").chmod(0o640)
    second = LocalToken(tmp_path).text
    assert second != first
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "local.token").rename(elsewhere)
    (tmp_path / "local.token").symlink_to(elsewhere)
    third = LocalToken(tmp_path).text
    assert third != second
    assert elsewhere.read_text().strip() == second, "a link is replaced, not followed"


@pytest.mark.parametrize(
    ("field", "request_with"),
    [
        ('options.env["KEY"]', lambda token: pb.ExecuteRequest(prompt="x", options={"env": {"KEY": token}})),
        ("options.settings_json", lambda token: pb.ExecuteRequest(options={"settings_json": f'{{"x": "{token}"}}'})),
        (
            'options.mcp_servers["x"].http.headers["authorization"]',
            lambda token: pb.ExecuteRequest(
                options={
                    "mcp_servers": {"x": {"http": {"url": "http://x", "headers": {"authorization": f"Bearer {token}"}}}}
                }
            ),
        ),
        ("options.add_dirs[1]", lambda token: pb.ExecuteRequest(options={"add_dirs": ["/", f"/{token}"]})),
        ("prompt", lambda token: pb.ExecuteRequest(prompt=f"use {token}")),
    ],
)
async def test_a_caller_cannot_hand_its_own_token_to_an_agent(service: Service, field: str, request_with: Any) -> None:
    refusal = await refused(service.stub.Execute(request_with(token_in(service.data_dir))))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert list(refusal.fields) == [field]
    assert token_in(service.data_dir) not in refusal.text
