"""The service explained by tests: counting sessions, and cancelling all that a filter names."""

from __future__ import annotations

import grpc.aio
import pytest
from agentpb import agent_pb2 as pb

from tests.conftest import Service
from tests.rpc import refused

NIGHTLY = {"job": "nightly"}


async def counts(service: Service, group_by: str = "", **filters: object) -> dict[str, int]:
    response = await service.stub.CountSessions(
        pb.CountSessionsRequest(filter=pb.SessionFilter(**filters), group_by=group_by)
    )
    return {"total": response.total, **{each.value: each.count for each in response.counts}}


async def cancel_all(
    service: Service, request: pb.CancelSessionsRequest
) -> tuple[dict[str, pb.CancelReceipt], pb.CancelSessionsSummary]:
    responses = [each async for each in service.stub.CancelSessions(request)]
    assert responses[-1].HasField("summary")
    return {each.cancelled.session_id: each.cancelled.receipt for each in responses[:-1]}, responses[-1].summary


async def test_sessions_are_counted_in_all_by_state_by_phase_and_by_a_label(service: Service) -> None:
    for job in ("nightly", "nightly", "hourly"):
        await service.run("say: done", labels={"job": job}, title=f"the {job} one")
    await service.run("fail: 401")
    assert await counts(service) == {"total": 4}
    by_state = {"total": 4, "SESSION_STATE_COMPLETED": 3, "SESSION_STATE_ERROR": 1}
    assert await counts(service, "state") == by_state
    assert (await counts(service, "phase"))["SESSION_PHASE_FAILED"] == 1
    assert await counts(service, "labels.job") == {"total": 4, "nightly": 2, "hourly": 1}
    assert await counts(service, "labels.job", states=[pb.SESSION_STATE_COMPLETED]) == {
        "total": 3,
        "nightly": 2,
        "hourly": 1,
    }
    assert await counts(service, "state", labels=NIGHTLY) == {"total": 2, "SESSION_STATE_COMPLETED": 2}
    assert await counts(service, "labels.job", labels=NIGHTLY) == {"total": 2, "nightly": 2}
    assert await counts(service, "state", states=[pb.SESSION_STATE_ERROR, pb.SESSION_STATE_COMPLETED]) == by_state
    assert await counts(service, "labels.job", title_contains="HOURLY") == {"total": 1, "hourly": 1}
    assert await counts(service, "labels.nothing") == {"total": 4}


@pytest.mark.parametrize("group_by", ["labels.", "title", "State"])
async def test_a_property_that_cannot_be_counted_by_is_refused_with_those_that_can(
    service: Service, group_by: str
) -> None:
    refusal = await refused(service.stub.CountSessions(pb.CountSessionsRequest(group_by=group_by)))
    assert (refusal.code, "group_by: must be state, phase, labels.KEY, or empty" in refusal.text) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        True,
    )


async def test_all_sessions_at_work_that_a_filter_names_are_cancelled_each_with_its_receipt(service: Service) -> None:
    done = await service.run("say: done", labels=NIGHTLY)
    other = await service.stub.Execute(pb.ExecuteRequest(prompt="wait: 60", labels={"job": "hourly"}))
    running = [
        (await service.stub.Execute(pb.ExecuteRequest(prompt="wait: 60", labels=NIGHTLY))).session_id for _ in range(12)
    ]  # more than have a place
    asked = pb.CancelSessionsRequest(filter=pb.SessionFilter(labels=NIGHTLY), reason="the night is over", dry_run=True)
    listed, summary = await cancel_all(service, asked)
    assert list(listed) == running
    assert summary == pb.CancelSessionsSummary(matched=12)
    assert not any(receipt.ListFields() for receipt in listed.values())

    asked.dry_run = False
    receipts, summary = await cancel_all(service, asked)
    assert set(receipts) == set(running)
    assert summary == pb.CancelSessionsSummary(matched=12, cancelled=12)
    assert all(receipt.outcome != pb.CANCEL_OUTCOME_UNSPECIFIED for receipt in receipts.values())
    for session_id in running:
        assert (await service.status(session_id)).session.state == pb.SESSION_STATE_CANCELLED
    assert (await service.status(done.session_id)).session.state == pb.SESSION_STATE_COMPLETED
    assert not (await service.status(other.session_id)).session.HasField("rest_time")

    assert await cancel_all(service, asked) == ({}, pb.CancelSessionsSummary())


async def test_a_filter_without_a_condition_cancels_nothing(service: Service) -> None:
    refusal = await refused(service.stub.CancelSessions(pb.CancelSessionsRequest(filter=pb.SessionFilter())))
    assert (refusal.code, "filter: must have a condition" in refusal.text) == (grpc.StatusCode.INVALID_ARGUMENT, True)


async def test_all_are_cancelled_when_the_caller_leaves_after_the_first(service: Service) -> None:
    started = [await service.stub.Execute(pb.ExecuteRequest(prompt="wait: 60", labels=NIGHTLY)) for _ in range(3)]
    call = service.stub.CancelSessions(pb.CancelSessionsRequest(filter=pb.SessionFilter(labels=NIGHTLY), force=True))
    assert (await call.read()).HasField("cancelled")
    call.cancel()
    for each in started:
        rest = pb.GetStatusRequest(session_id=each.session_id, wait={"seconds": 20})
        assert (await service.stub.GetStatus(rest)).session.state == pb.SESSION_STATE_CANCELLED
