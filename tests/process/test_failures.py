"""What goes wrong with the model's API ends the turn with the contract's state and reason; the next turn resumes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from agentpb import agent_pb2 as pb

from tests.conftest import Service

pytestmark = pytest.mark.process


@pytest.mark.parametrize(
    ("prompt", "reason", "status", "retryable"),
    [
        ("fail: 401", "AUTHENTICATION_FAILED", 401, False),
        ("fail: 429", "RATE_LIMITED", 429, True),
        ("fail: 500", "API_ERROR", 500, True),
        ("fail: 529", "OVERLOADED", 529, True),
        ("cut", "API_ERROR", None, True),
    ],
)
async def test_a_failing_api_fails_the_turn_with_its_status_and_cost_kept(
    service: Service,
    options: Callable[..., pb.AgentOptions],
    prompt: str,
    reason: str,
    status: int | None,
    retryable: bool,
) -> None:
    failed = await service.run(f"bash: echo paid\n{prompt}", options=options("Bash"))
    assert (failed.state, failed.session.phase) == (pb.SESSION_STATE_ERROR, pb.SESSION_PHASE_FAILED)
    error = failed.turn.error
    assert (error.reason, error.retryable) == (reason, retryable)
    assert (error.api_error_status if error.HasField("api_error_status") else None) == status
    assert error.message
    assert failed.session.error == error
    assert failed.session.total_cost_usd == failed.turn.result.cost_usd > 0
    resumed = await service.run("say: again", session_id=failed.session_id)
    assert resumed.state == pb.SESSION_STATE_COMPLETED
    assert not resumed.session.HasField("error")
    assert resumed.session.total_cost_usd == pytest.approx(failed.turn.result.cost_usd + resumed.turn.result.cost_usd)


async def test_a_silent_agent_is_ended_as_timed_out_and_can_be_resumed(start: Callable[..., Any]) -> None:
    service = await start(stall_timeout=1.0)
    stalled = await service.run("wait: 600")
    assert (stalled.state, stalled.session.phase) == (pb.SESSION_STATE_ERROR, pb.SESSION_PHASE_TIMED_OUT)
    assert stalled.turn.error.reason == "STALLED"
    assert (await service.run("say: again", session_id=stalled.session_id)).state == pb.SESSION_STATE_COMPLETED


async def test_execution_timeout_bounds_a_turn_that_keeps_talking(service: Service) -> None:
    request = pb.ExecuteRequest(prompt="slow: 60")
    request.execution_timeout.FromSeconds(1)
    request.wait.FromSeconds(20)
    ended = await service.stub.Execute(request)
    assert ended.session.phase == pb.SESSION_PHASE_TIMED_OUT
    assert ended.turn.error.reason == "EXECUTION_TIMEOUT"
    assert ended.turn.result.cost_usd > 0


async def test_queue_timeout_ends_a_turn_that_waited_too_long(start: Callable[..., Any]) -> None:
    service = await start(max_sessions=1)
    await service.execute("slow: 30")
    request = pb.ExecuteRequest(prompt="say: late")
    request.queue_timeout.FromMilliseconds(200)
    request.wait.FromSeconds(10)
    ended = await service.stub.Execute(request)
    assert ended.session.phase == pb.SESSION_PHASE_TIMED_OUT
    assert ended.turn.error.reason == "QUEUE_TIMEOUT"
    assert not ended.turn.HasField("start_time")


async def test_a_session_is_deleted_when_its_time_to_live_is_over_and_not_before(service: Service) -> None:
    request = pb.ExecuteRequest(prompt="say: short life")
    request.ttl.FromMilliseconds(4000)
    request.wait.FromSeconds(30)
    short = (await service.stub.Execute(request)).session
    assert short.expire_time.ToMilliseconds() - short.rest_time.ToMilliseconds() == 4000
    kept = (await service.run("say: long life")).session
    assert not kept.HasField("expire_time")
    registry = service.running.registry
    assert await registry.deletion.expire(lambda _: 0) == 0
    while not await registry.deletion.expire(lambda _: 0):
        await asyncio.sleep(0.05)
    assert time.time() > short.expire_time.ToMilliseconds() / 1000
    assert (await service.stub.ListSessions(pb.ListSessionsRequest())).sessions[0].session_id == kept.session_id
    assert list(service.data_dir.rglob(f"{short.agent_session_id}*")) == []


async def test_a_turn_without_a_time_to_live_takes_it_from_the_session(service: Service) -> None:
    request = pb.ExecuteRequest(prompt="say: one")
    request.ttl.FromSeconds(1000)
    request.wait.FromSeconds(30)
    first = await service.stub.Execute(request)
    second = await service.run("say: two", session_id=first.session_id)
    assert not second.session.HasField("expire_time")


async def test_a_timeout_of_nanoseconds_is_short_and_not_none_at_all(service: Service) -> None:
    request = pb.ExecuteRequest(prompt="wait: 600")
    request.execution_timeout.FromNanoseconds(1)
    request.wait.FromSeconds(60)
    response = await service.stub.Execute(request)
    assert response.session.phase == pb.SESSION_PHASE_TIMED_OUT
