"""The service explained by tests: waiting. A wait is bounded by its own time and the call's; the run by neither."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from agentpb import agent_pb2 as pb

from tests.conftest import Service
from tests.invariants import check_log, check_session


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began


async def test_execute_answers_at_once_or_at_rest_or_when_the_wait_is_over(service: Service) -> None:
    at_once = await service.execute("slow: 0.5")
    assert at_once.state == pb.SESSION_STATE_PENDING
    assert at_once.turn == at_once.session.current_turn
    assert at_once.turn.number == 1
    assert not at_once.turn.HasField("end_time")
    assert not at_once.wait_expired
    session_id = at_once.session_id
    await service.rest(session_id)
    at_rest = await service.execute("slow: 0.3", session_id=session_id, wait={"seconds": 30})
    assert at_rest.state == at_rest.session.state == pb.SESSION_STATE_COMPLETED
    assert at_rest.turn.result.result.startswith("tick 1")
    watch = Stopwatch()
    over = await service.execute("wait: 60", session_id=session_id, wait={"nanos": 300_000_000})
    assert 0.29 < watch.seconds < 3
    assert over.wait_expired
    assert not over.turn.HasField("end_time")
    await service.stub.Cancel(pb.CancelRequest(session_id=session_id, force=True))


async def test_a_wait_ends_a_quarter_second_before_the_calls_deadline(service: Service) -> None:
    watch = Stopwatch()
    request = pb.ExecuteRequest(prompt="wait: 60", wait={"seconds": 60})
    started = await service.stub.Execute(request, timeout=1.5)
    assert 1.0 < watch.seconds < 1.45
    assert started.wait_expired
    session_id = started.session_id
    for wait_for in (pb.WAIT_FOR_AT_REST, pb.WAIT_FOR_SETTLED, pb.WAIT_FOR_NEW_EVENT):
        after = (await service.until(session_id, pb.SESSION_PHASE_WORKING)).last_sequence
        watch = Stopwatch()
        poll = pb.GetStatusRequest(session_id=session_id, wait={"seconds": 60}, wait_for=wait_for, after_sequence=after)
        status = await service.stub.GetStatus(poll, timeout=0.8)
        assert 0.4 < watch.seconds < 0.78
        assert status.wait_expired
        assert status.state == pb.SESSION_STATE_RUNNING
    await service.stub.Cancel(pb.CancelRequest(session_id=session_id, force=True))


async def test_a_poll_answers_when_what_it_waits_for_comes_true(service: Service) -> None:
    started = await service.execute("slow: 0.5", wait={"nanos": 1000})
    session_id = started.session_id
    seen = 0
    while True:
        poll = pb.GetStatusRequest(
            session_id=session_id, wait={"seconds": 20}, wait_for=pb.WAIT_FOR_NEW_EVENT, after_sequence=seen
        )
        status = await service.stub.GetStatus(poll)
        assert not status.wait_expired
        assert status.session.last_sequence > seen
        check_session(status.session)
        seen = status.session.last_sequence
        if status.state == pb.SESSION_STATE_COMPLETED:
            break
    poll = pb.GetStatusRequest(session_id=session_id, wait={"seconds": 20}, wait_for=pb.WAIT_FOR_SETTLED)
    watch = Stopwatch()
    assert not (await service.stub.GetStatus(poll)).wait_expired
    assert watch.seconds < 1
    expired = await service.status(session_id, wait={}, wait_for=pb.WAIT_FOR_NEW_EVENT, after_sequence=seen)
    assert expired.wait_expired


async def test_polls_do_not_miss_the_last_event(service: Service) -> None:
    """A poll that comes in the very moment in which the last event becomes durable is answered at once."""
    session_id = (await service.run("say: hi")).session_id

    async def poll_until_rest() -> None:
        for _ in range(1000):
            watch = Stopwatch()
            status = await service.status(session_id, wait={"seconds": 10}, history_limit=0)
            assert watch.seconds < 5
            assert not status.wait_expired

    for _ in range(5):
        await service.execute("tokens: 50", session_id=session_id)
        polls = [asyncio.create_task(poll_until_rest()) for _ in range(2)]
        await service.rest(session_id)
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)


async def test_a_twin_in_flight_waits_and_gets_the_same_turn(service: Service) -> None:
    request = pb.ExecuteRequest(prompt="slow: 0.3", request_id="twins", wait={"seconds": 30})
    answers = await asyncio.gather(*(service.stub.Execute(request) for _ in range(8)))
    assert len({answer.turn.turn_id for answer in answers}) == 1
    assert sorted(answer.deduplicated for answer in answers) == [False] + [True] * 7
    assert all(answer.state == pb.SESSION_STATE_COMPLETED for answer in answers)
    assert all(answer.watch_after_sequence == 0 for answer in answers)
    events = await service.events(answers[0].session_id)
    check_log(events, (await service.status(answers[0].session_id)).session)
    assert [event.type for event in events].count("turn.queued") == 1


async def test_a_call_that_is_given_up_does_not_end_the_run(service: Service) -> None:
    call = service.stub.Execute(
        pb.ExecuteRequest(prompt="slow: 0.5", session_id="kept", request_id="kept", wait={"seconds": 60})
    )
    async for response in watching(service, "kept"):
        if any(event.type == "turn.started" for event in response.events):
            call.cancel()
            break
    with pytest.raises(asyncio.CancelledError):
        await call
    again = await service.run("slow: 0.5", session_id="kept", request_id="kept")
    assert again.deduplicated
    assert again.state == pb.SESSION_STATE_COMPLETED


async def watching(service: Service, session_id: str) -> Any:
    """Watch a session as soon as it is there."""
    while True:
        listed = await service.stub.ListSessions(pb.ListSessionsRequest())
        if any(session.session_id == session_id for session in listed.sessions):
            break
        await asyncio.sleep(0.01)
    async for response in service.stub.WatchSession(pb.WatchSessionRequest(session_id=session_id)):
        yield response


async def test_a_result_belongs_to_its_turn(service: Service) -> None:
    first = await service.run("say: the first result")
    failed = await service.run("fail: 400", session_id=first.session_id)
    assert failed.state == pb.SESSION_STATE_ERROR
    status = await service.status(first.session_id)
    assert status.turn.turn_id == failed.turn.turn_id
    assert status.turn.state == pb.TURN_STATE_ERROR
    assert status.error == status.session.error == status.turn.error
    assert status.error.message
    assert "the first result" not in status.result.result
    assert not status.HasField("result") or status.result.is_error
    running = await service.execute("wait: 60", session_id=first.session_id)
    status = await service.status(first.session_id)
    assert status.turn.turn_id == running.turn.turn_id
    assert not status.HasField("result")
    assert not status.HasField("error")
    await service.stub.Cancel(pb.CancelRequest(session_id=first.session_id, force=True))
    status = await service.status(first.session_id)
    assert status.state == pb.SESSION_STATE_CANCELLED
    assert status.turn.turn_id == running.turn.turn_id
    assert not status.HasField("result")
    check_log(await service.events(first.session_id), status.session)


async def test_at_rest_the_turn_shown_is_the_one_that_brought_the_session_there(service: Service) -> None:
    first = await service.execute("wait: 60\nsay: never")
    await service.until(first.session_id, pb.SESSION_PHASE_WORKING)
    second = await service.execute("say: second", session_id=first.session_id, on_busy=pb.ON_BUSY_ENQUEUE)
    third = await service.execute("say: third", session_id=first.session_id, on_busy=pb.ON_BUSY_INTERRUPT)
    ended = await service.rest(first.session_id)
    numbers = [
        event.turn_completed.turn.number
        for event in await service.events(first.session_id)
        if event.type == "turn.completed"
    ]
    assert numbers == [1, 3, 2]
    assert (ended.turn.turn_id, ended.result.result) == (second.turn.turn_id, "second")
    assert third.turn.number == 3


async def test_history_is_the_newest_messages_oldest_first(service: Service) -> None:
    done = await service.run("bash: echo hi\nsay: bye", options=pb.AgentOptions(allowed_tools=["Bash"]))
    whole = await service.status(done.session_id)
    assert [event.type for event in whole.messages] == [
        "message.user",
        "message.assistant",
        "message.user",
        "message.assistant",
    ]
    assert not whole.messages_truncated
    assert whole.session.message_count == 4
    newest = await service.status(done.session_id, history_limit=2)
    assert list(newest.messages) == list(whole.messages)[2:]
    assert newest.messages_truncated
    assert not (await service.status(done.session_id, history_limit=4)).messages_truncated
    none = await service.status(done.session_id, history_limit=0)
    assert not none.messages
    assert none.messages_truncated
    assert whole.result == whole.turn.result


async def test_an_interrupt_that_comes_early_needs_no_patience(service: Service) -> None:
    """The agent may not have begun with the prompt yet: then it forgets it, and there is no result to wait for."""
    session_id = ""
    for _ in range(6):
        started = await service.execute("wait: 60", session_id=session_id)
        session_id = started.session_id
        await service.until(session_id, pb.SESSION_PHASE_WORKING)
        watch = Stopwatch()
        answer = await service.stub.Interrupt(pb.InterruptRequest(session_id=session_id))
        assert answer.interrupted
        assert answer.session.phase == pb.SESSION_PHASE_INTERRUPTED_BY_CLIENT
        assert watch.seconds < 4, "the grace is five seconds"
    check_log(await service.events(session_id), (await service.status(session_id)).session)
