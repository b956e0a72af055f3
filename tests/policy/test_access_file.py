"""The whole way: an access file on disk, principals of two tenants, and a change of the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from agentpb import agent_pb2 as pb

from agent_service.auth import digest_of, new_token
from tests.conftest import Service, start_service
from tests.rpc import refused

TABLES = """
version = 1
[tenant.default]
env = ["CI"]
[tenant.payments]
max_turns = {turns}
[principal.payments]
token = "{payments}"
tenant = "payments"
[principal.search]
token = "{search}"
tenant = "search"
"""


def as_(token: str) -> dict[str, Any]:
    return {"metadata": [("authorization", f"Bearer {token}")]}


async def test_each_tenant_is_held_to_its_own_table_as_the_file_has_it_now(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    file, payments, search = tmp_path / "access.toml", new_token(), new_token()

    def write(turns: int) -> None:
        file.write_text(TABLES.format(turns=turns, payments=digest_of(payments), search=digest_of(search)))

    write(50)
    service: Service = await start(access=file)
    request = pb.ExecuteRequest(prompt="say: hi", validate_only=True, options={"max_turns": 60, "env": {"CI": "1"}})
    answer = await refused(service.stub.Execute(request, **as_(payments)))
    assert answer.fields == {"options.max_turns": "must be at most 50 (tenant.payments.max_turns)"}
    assert answer.metadata == {
        "tenant": "payments",
        "rule": "tenant.payments.max_turns",
        "policy": service.running.access.version,
    }
    assert await service.stub.Execute(request, **as_(search))
    before = service.running.access.version
    write(60)
    await service.running.access.reload()
    assert service.running.access.version != before
    assert await service.stub.Execute(request, **as_(payments))
    file.write_text("[tenant.payments]\nmax_turn = 1")
    await service.running.access.reload()
    assert await service.stub.Execute(request, **as_(payments)), "a file with an error changes nothing"
    info = await service.stub.GetServerInfo(pb.GetServerInfoRequest(), **as_(payments))
    assert (info.caller.tenant, '"max_turns": 60' in info.caller.ceilings_json) == ("payments", True)


async def test_a_turn_that_a_restart_continues_is_held_against_the_file_of_now(tmp_path: Path) -> None:
    file, search = tmp_path / "access.toml", new_token()
    principal = f'[principal.search]\ntoken = "{digest_of(search)}"\ntenant = "search"\n'
    file.write_text(f'{principal}[tenant.search]\nenv = ["CI"]')
    busy = pb.ExecuteRequest(prompt="wait: 60", options={"env": {"CI": "1"}}, restart_policy=pb.RESTART_POLICY_RESUME)
    async with start_service(tmp_path / "data", access=file) as service:
        session_id = (await service.stub.Execute(busy, **as_(search))).session_id
    file.write_text(principal)
    async with start_service(tmp_path / "data", access=file) as service:
        status = pb.GetStatusRequest(session_id=session_id, wait={"seconds": 30})
        session = (await service.stub.GetStatus(status, **as_(search))).session
        assert session.error.reason == "POLICY_DENIED"
        assert 'options.env["CI"]: is not allowed' in session.error.message
        assert service.running.pool.statistics().cold_starts == 0
