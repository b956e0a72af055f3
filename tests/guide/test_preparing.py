"""The service explained by tests: agents that are connected ahead of a burst of sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from agentpb import agent_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from agent_service.agents import pool
from agent_service.agents.host_memory import Memory
from tests.conftest import Service
from tests.rpc import refused


async def prepare(service: Service, count: int, **fields: Any) -> tuple[int, int, str]:
    response = await service.stub.PrepareAgents(pb.PrepareAgentsRequest(count=count, **fields))
    return response.ready, response.starting, response.limited_by


async def ready(service: Service, count: int, **fields: Any) -> None:
    """Ask again until so many are connected."""
    async with asyncio.timeout(60):
        while (await prepare(service, count, **fields))[0] < count:  # noqa: ASYNC110 - as a caller would
            await asyncio.sleep(0.02)


async def until_gone(service: Service) -> None:
    async with asyncio.timeout(60):
        while service.running.pool.waiting():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.01)


async def test_sessions_that_were_expected_all_begin_warm_and_cost_no_agent_more(start: Callable[..., Any]) -> None:
    service: Service = await start(max_sessions=3)
    options = pb.AgentOptions(allowed_tools=["Bash"])
    assert await prepare(service, 2, options=options) == (0, 2, "")
    await ready(service, 2, options=options)
    await asyncio.gather(*(service.run("say: hi", options=options) for _ in range(2)))
    figures = service.running.pool.statistics()
    assert (figures.warm_starts, figures.cold_starts, figures.retired) == (2, 0, 0)
    assert not service.running.pool.waiting()
    assert (await service.run("say: hi", options=options)).session.state == pb.SESSION_STATE_COMPLETED
    assert service.running.pool.statistics().cold_starts == 1, "it was not expected"


async def test_what_no_session_used_is_retired_after_its_hold(start: Callable[..., Any]) -> None:
    service: Service = await start()
    await ready(service, 1)
    service.running.pool.prepare_no_more()
    await until_gone(service)
    await prepare(service, 1, hold=Duration(nanos=1_000_000))
    await until_gone(service)
    assert service.running.pool.statistics().warm_starts == 0


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.PrepareAgentsRequest(), "count"),
        (pb.PrepareAgentsRequest(count=1001), "count"),
        (pb.PrepareAgentsRequest(count=1, hold=Duration(seconds=601)), "hold"),
        (pb.PrepareAgentsRequest(count=1, hold=Duration()), "hold"),
        (pb.PrepareAgentsRequest(count=1, profile="../x"), "profile"),
        (pb.PrepareAgentsRequest(count=1, options=pb.AgentOptions(cwd="relative")), "options.cwd"),
        (pb.PrepareAgentsRequest(count=1, options=pb.AgentOptions(cwd="/not/there")), "options.cwd"),
    ],
)
async def test_what_cannot_be_prepared_is_refused_with_its_field(
    service: Service, request_: pb.PrepareAgentsRequest, field: str
) -> None:
    refusal = await refused(service.stub.PrepareAgents(request_))
    assert (refusal.code, refusal.reason, [*refusal.fields]) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_FIELD",
        [field],
    )


async def test_what_keeps_agents_from_being_prepared_is_named(
    start: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".git").mkdir()
    service: Service = await start(max_prepared=2)
    assert await prepare(service, 1, options=pb.AgentOptions(cwd=str(tmp_path))) == (0, 0, "options")
    full = Memory(available=1 << 30, total=64 << 30)
    monkeypatch.setattr(pool, "memory", lambda: full)
    assert await prepare(service, 1) == (0, 0, "memory")
    monkeypatch.undo()
    assert await prepare(service, 5) == (0, 2, "max_warm")
    assert await prepare(service, 1, options=pb.AgentOptions(allowed_tools=["Bash"])) == (0, 0, "max_warm")
    assert await prepare(service, 1) == (0, 2, ""), "a smaller repeat takes nothing away"
