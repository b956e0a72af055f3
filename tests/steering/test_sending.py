"""Messages to an agent at work: the log tells whether one steered the turn or became one of its own."""

from __future__ import annotations

import asyncio

import grpc.aio
import pytest
from agentpb import agent_pb2 as pb

from tests.conftest import Service
from tests.steering.conftest import BASH, details, send, texts, turns, until_event


def taken(events: list[pb.SessionEvent], uuid: str) -> list[tuple[str, str]]:
    """In which turns the agent began or dropped a message, and which of it."""
    return [
        (event.turn_id, "started" if '"started"' in event.system_message.data_json else "cancelled")
        for event in events
        if event.system_message.subtype == "command_lifecycle" and uuid in event.system_message.data_json
    ]


async def test_what_is_sent_while_text_streams_becomes_a_turn_of_its_own(service: Service) -> None:
    started = await service.execute("slow: 5")
    await service.until(started.session_id, pb.SESSION_PHASE_WORKING)
    sent = await send(service, started.session_id, "say: taken in")
    assert sent.turn_id == started.turn.turn_id
    assert not sent.deduplicated
    status = await service.rest(started.session_id)
    assert status.turn.turn_id == sent.message_uuid
    assert status.turn.number == status.session.turn_count == 2
    assert status.result.result == "taken in"
    events = await service.events(started.session_id)
    first, second = turns(events)
    assert (first.turn_id, first.state) == (started.turn.turn_id, pb.TURN_STATE_COMPLETED)
    assert first.result.result.endswith("tick 50 ")
    assert (second.turn_id, second.prompt) == (sent.message_uuid, "say: taken in")
    assert second.HasField("start_time")
    assert taken(events, sent.message_uuid) == [(sent.message_uuid, "started")]
    [said] = [event for event in events if event.type == "message.user" and event.uuid == sent.message_uuid]
    assert said.turn_id == started.turn.turn_id
    assert [event.turn_id for event in events if "taken in" in str(event.assistant_message)] == [sent.message_uuid]
    assert events[-1].state_changed.from_phase == pb.SESSION_PHASE_WORKING
    assert status.session.total_cost_usd == pytest.approx(first.result.cost_usd + second.result.cost_usd)


async def test_what_is_sent_while_a_tool_runs_steers_the_turn(service: Service) -> None:
    started = await service.execute("bash: touch begun; sleep 1\nsay: end", options=BASH)
    await until_event(service, started.session_id, "message.assistant", "tool_use")
    sent = await send(service, started.session_id, "say: steered", request_id="once")
    again = await send(service, started.session_id, "say: steered", request_id="once")
    assert again.deduplicated
    assert again.message_uuid == sent.message_uuid
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await send(service, started.session_id, "say: other words", request_id="once")
    assert details(caught.value)[0] == "REQUEST_ID_REUSED"
    status = await service.rest(started.session_id)
    assert status.session.turn_count == 1
    events = await service.events(started.session_id)
    assert texts(events) == ["end", "steered"]
    assert taken(events, sent.message_uuid) == [(started.turn.turn_id, "started")]
    late = await send_deduplicated_at_rest(service, started.session_id)
    assert late.message_uuid == sent.message_uuid


async def send_deduplicated_at_rest(service: Service, session_id: str) -> pb.SendMessageResponse:
    """A retry is answered as the first was, whatever became of the session since."""
    response = await send(service, session_id, "say: steered", request_id="once")
    assert response.deduplicated
    return response


async def test_messages_the_agent_reads_together_are_one_turn(service: Service) -> None:
    started = await service.execute("slow: 1")
    await service.until(started.session_id, pb.SESSION_PHASE_WORKING)
    one, two = [await send(service, started.session_id, f"say: {word}") for word in ("one", "two")]
    status = await service.rest(started.session_id)
    events = await service.events(started.session_id)
    assert [turn.turn_id for turn in turns(events)] == [started.turn.turn_id, one.message_uuid]
    assert taken(events, one.message_uuid) == taken(events, two.message_uuid) == [(one.message_uuid, "started")]
    assert texts(events)[1:] == ["one", "two"]
    assert status.session.turn_count == 2


async def test_a_message_survives_the_failure_of_the_turn_it_was_sent_into(service: Service) -> None:
    started = await service.execute("slow: 1\nfail: 400")
    await service.until(started.session_id, pb.SESSION_PHASE_WORKING)
    sent = await send(service, started.session_id, "say: yet")
    status = await service.rest(started.session_id)
    assert status.state == pb.SESSION_STATE_COMPLETED
    ended = turns(await service.events(started.session_id))
    assert [(turn.turn_id, turn.state) for turn in ended] == [
        (started.turn.turn_id, pb.TURN_STATE_ERROR),
        (sent.message_uuid, pb.TURN_STATE_COMPLETED),
    ]


async def test_a_message_goes_before_the_queue(service: Service) -> None:
    started = await service.execute("slow: 1")
    await service.until(started.session_id, pb.SESSION_PHASE_WORKING)
    queued = await service.execute("say: queued", session_id=started.session_id, on_busy=pb.ON_BUSY_ENQUEUE)
    sent = await send(service, started.session_id, "say: sent")
    await service.rest(started.session_id)
    ended = [turn.turn_id for turn in turns(await service.events(started.session_id))]
    assert ended == [started.turn.turn_id, sent.message_uuid, queued.turn.turn_id]


async def test_an_interrupt_takes_the_messages_along_and_the_log_says_so(service: Service) -> None:
    started = await service.execute("slow: 20")
    await service.until(started.session_id, pb.SESSION_PHASE_WORKING)
    sent = await send(service, started.session_id, "say: never")
    await service.stub.Interrupt(pb.InterruptRequest(session_id=started.session_id))
    status = await service.rest(started.session_id)
    assert status.session.phase == pb.SESSION_PHASE_INTERRUPTED_BY_CLIENT
    events = await service.events(started.session_id)
    assert taken(events, sent.message_uuid) == [(started.turn.turn_id, "cancelled")]
    assert len(turns(events)) == 1
    again = await service.run("say: goes on", session_id=started.session_id)
    assert again.turn.result.result == "goes on"


async def test_a_message_waits_for_a_turn_that_is_being_started(service: Service) -> None:
    started = await service.execute("bash: sleep 0.5\nsay: end", options=BASH)
    sent = await send(service, started.session_id, "say: early")
    assert sent.turn_id == started.turn.turn_id
    await service.rest(started.session_id)
    events = await service.events(started.session_id)
    assert "early" in texts(events)
    assert len(taken(events, sent.message_uuid)) == 1


async def test_a_session_at_rest_takes_no_messages(service: Service) -> None:
    rested = await service.run("say: hi")
    for session_id, reason in ((rested.session_id, "SESSION_NOT_ACTIVE"), ("no-such", "SESSION_NOT_FOUND")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await send(service, session_id, "say: hi")
        assert details(caught.value)[0] == reason


async def test_twins_of_a_message_are_sent_once(service: Service) -> None:
    started = await service.execute("bash: sleep 1\nsay: end", options=BASH)
    await until_event(service, started.session_id, "message.assistant", "tool_use")
    sent = await asyncio.gather(*(send(service, started.session_id, "say: once", request_id="twin") for _ in range(10)))
    assert len({each.message_uuid for each in sent}) == 1
    assert sum(each.deduplicated for each in sent) == 9
    await service.rest(started.session_id)
    assert texts(await service.events(started.session_id)) == ["end", "once"]
