"""The service explained by tests: queueing. So many sessions at once as there are places, the others in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
from agentpb import agent_pb2 as pb

from tests.conftest import Service
from tests.invariants import check_log
from tests.rpc import refused, taken_apart


async def test_twenty_at_once_run_four_at_a_time_in_order_of_admission(start: Callable[..., Any]) -> None:
    service: Service = await start(max_sessions=4, idle_timeout=0.0)
    started = await asyncio.gather(*(service.execute(f"say: {number}") for number in range(20)))
    assert all(each.state == pb.SESSION_STATE_PENDING for each in started)
    ended = await asyncio.gather(*(service.rest(each.session_id, 100) for each in started))
    assert {each.state for each in ended} == {pb.SESSION_STATE_COMPLETED}
    logs = [await service.events(each.session_id) for each in started]
    for log, each in zip(logs, ended, strict=True):
        check_log(log, each.session)

    # Admission is the order in which the turns became durable; a place is held from STARTING to the end.
    by_admission = sorted(logs, key=lambda log: time_of(log, "turn.queued"))
    places = [time_of_phase(log, pb.SESSION_PHASE_STARTING) for log in by_admission]
    assert places == sorted(places)
    ends = [time_of(log, "turn.completed") for log in by_admission]
    for place in places:
        assert sum(begin <= place < end for begin, end in zip(places, ends, strict=True)) <= 4
    assert all(each.turn.create_time.ToNanoseconds() for each in ended)


async def test_beyond_the_queue_a_turn_is_refused_with_when_to_come_again(start: Callable[..., Any]) -> None:
    service: Service = await start(max_sessions=1, max_queued=2, idle_timeout=0.0)

    async def attempt() -> pb.ExecuteResponse | grpc.aio.AioRpcError:
        try:
            return await service.execute("wait: 60")
        except grpc.aio.AioRpcError as error:
            return error

    outcomes = await asyncio.gather(*(attempt() for _ in range(8)))
    accepted = [each for each in outcomes if isinstance(each, pb.ExecuteResponse)]
    refusals = [taken_apart(each) for each in outcomes if isinstance(each, grpc.aio.AioRpcError)]
    assert len(accepted) == 3
    for refusal in refusals:
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
        assert refusal.kinds == ("ErrorInfo", "QuotaFailure", "RetryInfo")
        assert refusal.retry_after == 1.0
        assert refusal.pushback_ms == 1000
    dry = await refused(service.stub.Execute(pb.ExecuteRequest(prompt="say: x", validate_only=True)))
    assert dry.reason == "QUEUE_FULL"
    load = (await service.stub.GetServerInfo(pb.GetServerInfoRequest())).load
    assert (load.running, load.queued) == (1, 2)
    for each in accepted:
        await service.stub.Cancel(pb.CancelRequest(session_id=each.session_id, force=True))
    assert (await service.run("say: room again")).state == pb.SESSION_STATE_COMPLETED


async def test_a_turn_that_waits_too_long_ends_without_having_begun(start: Callable[..., Any]) -> None:
    service: Service = await start(max_sessions=1)
    first = await service.execute("wait: 60")
    second = await service.execute("say: never", queue_timeout={"nanos": 200_000_000})
    ended = await service.rest(second.session_id)
    assert ended.session.phase == pb.SESSION_PHASE_TIMED_OUT
    assert ended.error.reason == "QUEUE_TIMEOUT"
    assert not ended.turn.HasField("start_time")
    check_log(await service.events(second.session_id), ended.session)
    await service.stub.Cancel(pb.CancelRequest(session_id=first.session_id, force=True))


def time_of(log: list[pb.SessionEvent], kind: str) -> int:
    return next(event.time.ToNanoseconds() for event in log if event.type == kind)


def time_of_phase(log: list[pb.SessionEvent], phase: pb.SessionPhase) -> int:
    return next(event.time.ToNanoseconds() for event in log if event.state_changed.phase == phase)
