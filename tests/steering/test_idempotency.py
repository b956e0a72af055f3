"""The same request again is one request: at once, later, after the service has died, and never with other content."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import grpc.aio
import pytest
from agentpb import agent_pb2 as pb

from agent_service import errors
from agent_service.ledger import RequestId
from agent_service.registry.idempotency import InFlightRequests, RequestKey
from tests.conftest import Service
from tests.process.live import serve
from tests.steering.conftest import BASH, details


async def test_twins_at_once_and_through_the_services_death_are_one_turn(tmp_path: Path) -> None:
    request = pb.ExecuteRequest(prompt="bash: echo once >> count\nslow: 20", options=BASH, request_id="the-one")
    request.options.cwd = str(tmp_path)
    async with serve(tmp_path / "data") as service:
        calls = [asyncio.ensure_future(service.stub.Execute(request)) for _ in range(12)]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        await service.kill()
        before = await asyncio.gather(*calls, return_exceptions=True)
    answered = [each for each in before if isinstance(each, pb.ExecuteResponse)]
    assert answered
    async with serve(tmp_path / "data") as service:
        after = await asyncio.gather(*(service.stub.Execute(request) for _ in range(20 - len(answered))))
        answers = [*answered, *after]
        assert len(answers) == 20
        assert len({(answer.session_id, answer.turn.turn_id) for answer in answers}) == 1
        assert len({answer.watch_after_sequence for answer in answers}) == 1
        assert sum(answer.deduplicated for answer in answers) == 19
        listed = await service.stub.ListSessions(pb.ListSessionsRequest())
        assert [session.turn_count for session in listed.sessions] == [1]


async def test_a_session_that_two_create_at_once_is_one(service: Service) -> None:
    calls = [service.execute(f"say: {number}", session_id="mine", on_busy=pb.ON_BUSY_ENQUEUE) for number in range(6)]
    answers = await asyncio.gather(*calls)
    assert sorted(answer.turn.number for answer in answers) == list(range(1, 7))
    status = await service.rest("mine")
    assert status.session.turn_count == 6
    events = await service.events("mine")
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert sum(event.type == "turn.completed" for event in events) == 6


async def test_of_many_that_create_one_session_one_does(service: Service) -> None:
    calls = [service.execute("say: hi", session_id="mine", mode=pb.EXECUTE_MODE_CREATE) for _ in range(6)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    refusals = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert len(refusals) == 5
    assert {details(refusal)[0] for refusal in refusals} == {"SESSION_ALREADY_EXISTS"}
    await service.rest("mine")


async def test_how_long_to_wait_is_not_what_is_asked(service: Service) -> None:
    first = await service.execute("say: hi", request_id="r")
    second = await service.run("say: hi", request_id="r")
    assert second.deduplicated
    assert second.turn.turn_id == first.turn.turn_id
    assert second.turn.result.result == "hi"
    assert second.watch_after_sequence == first.watch_after_sequence == 0


async def test_a_request_id_with_other_content_is_refused(service: Service) -> None:
    await service.run("say: hi", request_id="r")
    for fields in ({"prompt": "say: other"}, {"prompt": "say: hi", "title": "t"}):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.stub.Execute(pb.ExecuteRequest(request_id="r", **fields))
        assert details(caught.value)[0] == "REQUEST_ID_REUSED"


async def test_a_request_that_was_refused_may_be_made_again(service: Service) -> None:
    started = await service.execute("slow: 30")
    with pytest.raises(grpc.aio.AioRpcError):
        await service.execute("say: hi", session_id=started.session_id, request_id="r")
    await service.stub.Cancel(pb.CancelRequest(session_id=started.session_id))
    again = await service.run("say: hi", session_id=started.session_id, request_id="r")
    assert not again.deduplicated
    assert again.turn.result.result == "hi"


async def test_a_refusal_that_nobody_waits_for_is_no_error_in_the_log(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    refused = asyncio.Event()

    async def first(key: RequestKey | None) -> None:
        await refused.wait()
        raise errors.SessionNotActive("the turn has ended")

    async def again(earlier: RequestId) -> None:
        raise AssertionError("there was none")

    key = RequestKey.of(pb.SendMessageRequest(session_id="s", text="x", request_id="r"), "")
    requests = InFlightRequests(service.running.ledger)
    calls = [asyncio.create_task(requests.once(key, first, again)) for _ in range(2)]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    refused.set()
    with pytest.raises(errors.SessionNotActive):
        await requests.once(key, first, again)
    gc.collect()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
