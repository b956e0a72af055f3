"""The service explained by tests: watching. A watcher is a cursor; whoever comes late, or again, has missed nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from agentpb import agent_pb2 as pb
from agentpb import agent_pb2_grpc

from agent_service.server import running
from tests.conftest import Service, make_config
from tests.invariants import check_log
from tests.rpc import Carrying, all_bytes, refused, token_in

BUSY = "say: one\nbash: echo two\nslow: 0.4\nbash: echo three\nthink: hm\nbash: echo four\nsay: five"


def partial_options(*allowed: str) -> pb.AgentOptions:
    return pb.AgentOptions(allowed_tools=allowed, include_partial_messages=True)


async def test_whoever_comes_in_at_any_event_gets_the_rest_byte_for_byte(service: Service) -> None:
    started = await service.execute(BUSY, options=partial_options("Bash"))
    whole = await all_bytes(service.channel, started.session_id)
    events = [pb.SessionEvent.FromString(body) for body in whole]
    check_log(events, (await service.rest(started.session_id)).session)
    assert len(events) > 15
    for after in range(len(whole) + 1):
        assert await all_bytes(service.channel, started.session_id, after_sequence=after) == whole[after:]


async def test_a_watch_that_is_cut_after_every_response_loses_and_repeats_nothing(service: Service) -> None:
    started = await service.execute(BUSY, options=partial_options("Bash"))
    first = asyncio.create_task(all_bytes(service.channel, started.session_id))
    seen: list[bytes] = []
    over = False
    while not over:
        request = pb.WatchSessionRequest(session_id=started.session_id, after_sequence=len(seen), skip_partials=True)
        call = service.stub.WatchSession(request)
        async for response in call:
            seen += [event.SerializeToString() for event in response.events]
            over = response.HasField("end")
            if response.events:
                call.cancel()
                break
    events = [pb.SessionEvent.FromString(body) for body in seen]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events == [pb.SessionEvent.FromString(body) for body in await first]


async def test_fifty_watchers_that_come_when_they_like_see_the_same(service: Service) -> None:
    started = await service.execute(BUSY, options=partial_options("Bash"))
    chance = random.Random(7)

    async def watch(number: int) -> list[bytes]:
        await asyncio.sleep(chance.random() * number / 25)
        return await all_bytes(service.channel, started.session_id)

    logs = await asyncio.gather(*(watch(number) for number in range(50)))
    assert all(log == logs[0] for log in logs)
    assert pb.SessionEvent.FromString(logs[0][-1]).state_changed.state == pb.SESSION_STATE_COMPLETED


async def test_leaving_in_mid_flood_is_no_error(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    started = await service.execute("tokens: 4000\nsay: end", options=partial_options())
    left = 0

    async def leave_after(responses: int) -> None:
        nonlocal left
        call = service.stub.WatchSession(pb.WatchSessionRequest(session_id=started.session_id))
        async for _ in call:
            responses -= 1
            if responses < 0:
                call.cancel()
                left += 1
                break

    await asyncio.gather(*(leave_after(number) for number in range(20)))
    assert left >= 10
    gone = service.stub.GetStatus(pb.GetStatusRequest(session_id=started.session_id, wait={"seconds": 50}))
    await asyncio.sleep(0.05)
    gone.cancel()
    ended = await service.rest(started.session_id)
    assert ended.state == pb.SESSION_STATE_COMPLETED
    info = await service.stub.GetServerInfo(pb.GetServerInfoRequest())
    assert info.load.watchers == 0
    assert not caplog.records, caplog.text


async def test_partials_come_live_and_are_never_stored(service: Service) -> None:
    started = await service.execute("slow: 1", options=partial_options())
    partials: list[str] = []
    durable: list[pb.SessionEvent] = []
    before_the_message = 0
    async for response in service.stub.WatchSession(pb.WatchSessionRequest(session_id=started.session_id)):
        for event in response.events:
            if event.ephemeral:
                assert event.type == "message.partial"
                assert event.sequence == 0
                assert event.turn_id == started.turn.turn_id
                partials.append(event.partial_message.text)
            else:
                durable.append(event)
                if event.type == "message.assistant" and not before_the_message:
                    before_the_message = len(partials)
    message = next(event for event in durable if event.type == "message.assistant")
    text = "".join(block.text.text for block in message.assistant_message.content)
    assert before_the_message >= 10
    assert "".join(partials) == text
    replay = await service.events(started.session_id)
    assert replay == durable
    listed = await service.stub.ListEvents(pb.ListEventsRequest(session_id=started.session_id))
    assert list(listed.events) == durable
    assert listed.last_sequence == durable[-1].sequence
    check_log(durable)


async def test_partials_need_to_be_asked_for_and_can_be_skipped(service: Service) -> None:
    unasked = await service.execute("slow: 0.3")
    assert not [event for event in await service.events(unasked.session_id) if event.ephemeral]
    skipped = await service.execute("slow: 0.3", session_id=unasked.session_id, options=partial_options())
    assert not [event for event in await service.events(skipped.session_id, skip_partials=True) if event.ephemeral]


async def test_a_watch_can_be_narrowed_to_types(service: Service) -> None:
    started = await service.execute("bash: true\nsay: hi", options=partial_options("Bash"))
    live = await service.events(started.session_id, event_types=["message.*", "turn.completed"])
    assert {event.type for event in live} >= {"message.user", "message.assistant", "turn.completed"}
    assert not {event.type for event in live} & {"state.changed", "turn.started"}
    everything = await service.events(started.session_id)
    kinds = ("message.user", "message.assistant", "message.system", "turn.completed")
    expected = [event for event in everything if event.type in kinds]
    assert [event for event in live if not event.ephemeral] == expected
    assert await service.events(started.session_id, event_types=["message.*", "turn.completed"]) == expected
    assert await service.events(started.session_id, event_types=["rate_limit", "task.*"]) == []


async def test_a_narrow_live_watch_ends_when_the_session_rests(service: Service) -> None:
    session_id = ""
    for _ in range(20):
        started = await service.execute("say: hi", session_id=session_id)
        session_id = started.session_id
        request = pb.WatchSessionRequest(session_id=session_id, event_types=["rate_limit"])
        responses = [response async for response in service.stub.WatchSession(request, timeout=10)]
        assert responses[-1].end.reason == pb.WATCH_END_REASON_AT_REST


async def test_the_agents_own_messages_come_on_request(service: Service) -> None:
    started = await service.execute("bash: echo hi", options=pb.AgentOptions(allowed_tools=["Bash"]))
    live = await service.events(started.session_id, include_raw=True)
    assert not any(event.raw_json for event in await service.events(started.session_id))
    assert await service.events(started.session_id, include_raw=True) == live
    for event in live:
        if event.type in ("message.assistant", "message.system", "turn.completed"):
            assert json.loads(event.raw_json)["type"] in ("assistant", "system", "result"), event
    listed = await service.stub.ListEvents(pb.ListEventsRequest(session_id=started.session_id, include_raw=True))
    assert list(listed.events) == live


async def test_a_watch_begins_with_the_session_and_ends_with_it(service: Service) -> None:
    started = await service.execute("say: hi")
    responses = [
        response async for response in service.stub.WatchSession(pb.WatchSessionRequest(session_id=started.session_id))
    ]
    assert responses[0].started.session.session_id == started.session_id
    assert not any(response.HasField("started") for response in responses[1:])
    assert not any(response.HasField("end") for response in responses[:-1])
    end = responses[-1].end
    assert end.reason == pb.WATCH_END_REASON_AT_REST
    assert end.session == (await service.status(started.session_id)).session
    assert end.last_sequence == end.session.last_sequence == responses[-2].events[-1].sequence
    late = [
        response
        async for response in service.stub.WatchSession(
            pb.WatchSessionRequest(session_id=started.session_id, after_sequence=end.last_sequence)
        )
    ]
    assert len(late) == 2
    assert late[1].end.reason == pb.WATCH_END_REASON_AT_REST


async def test_a_silent_watch_shows_that_it_lives(service: Service) -> None:
    started = await service.execute("wait: 30")
    await service.until(started.session_id, pb.SESSION_PHASE_WORKING)
    request = pb.WatchSessionRequest(
        session_id=started.session_id, event_types=["rate_limit"], heartbeat_interval={"nanos": 1_000_000}
    )
    times = []
    async for response in service.stub.WatchSession(request):
        if response.HasField("heartbeat"):
            times.append(response.heartbeat.time.ToMilliseconds())
            assert response.heartbeat.state == pb.SESSION_STATE_RUNNING
            assert response.heartbeat.last_sequence == (await service.status(started.session_id)).session.last_sequence
            if len(times) == 2:
                break
    assert times[1] - times[0] >= 990, "the shortest interval is a second"
    await service.stub.Cancel(pb.CancelRequest(session_id=started.session_id, force=True))


async def test_a_following_watch_goes_on_with_the_next_turn_until_the_session_is_deleted(service: Service) -> None:
    first = await service.run("say: one")
    request = pb.WatchSessionRequest(session_id=first.session_id, follow=True)
    call = service.stub.WatchSession(request)
    seen: list[pb.SessionEvent] = []
    rests = 0
    async for response in call:
        seen += response.events
        if sum(event.type == "turn.completed" for event in seen) > rests and seen[-1].type == "state.changed":
            rests += 1
            if rests == 1:
                await service.execute("say: two", session_id=first.session_id)
            else:
                await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id=first.session_id))
    assert response.end.reason == pb.WATCH_END_REASON_DELETED
    assert response.end.session.session_id == first.session_id
    assert response.end.session.turn_count == 2
    check_log(seen)


async def test_a_watch_from_a_turns_cursor_shows_exactly_that_turn(service: Service) -> None:
    first = await service.run("say: one")
    second = await service.execute("say: two", session_id=first.session_id)
    events = await service.events(first.session_id, after_sequence=second.watch_after_sequence)
    assert {event.turn_id for event in events} == {second.turn.turn_id}
    assert events[0].sequence == second.watch_after_sequence + 1


async def test_a_shutdown_ends_watches_of_what_goes_on(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_sessions": 1}
    async with running(make_config(tmp_path / "data", **settings)) as server:
        channel: Any = Carrying(grpc.aio.insecure_channel(server.address), token_in(tmp_path / "data"))
        stub: Any = agent_pb2_grpc.AgentServiceStub(channel)
        done = await stub.Execute(pb.ExecuteRequest(prompt="say: done", wait={"seconds": 30}))
        cut = await stub.Execute(pb.ExecuteRequest(prompt="wait: 60"))
        waiting = await stub.Execute(pb.ExecuteRequest(prompt="say: later"))

        async def watch(session_id: str, follow: bool) -> pb.WatchEnd:
            request = pb.WatchSessionRequest(session_id=session_id, follow=follow)
            async for response in stub.WatchSession(request):
                last = response
            return last.end

        wanted = ((done, True), (cut, False), (cut, True), (waiting, False))
        watches = [asyncio.create_task(watch(each.session_id, follow)) for each, follow in wanted]
        async for response in stub.WatchSession(pb.WatchSessionRequest(session_id=cut.session_id)):
            if any(event.type == "turn.started" for event in response.events):
                break
    ends = await asyncio.gather(*watches)
    await channel.close()
    assert [end.reason for end in ends] == [pb.WATCH_END_REASON_DRAINING] * 4
    assert ends[1].session.phase == pb.SESSION_PHASE_INTERRUPTED
    assert ends[3].session.phase == pb.SESSION_PHASE_QUEUED


async def test_a_cursor_past_the_end_is_refused(service: Service) -> None:
    done = await service.run("say: hi")
    request = pb.WatchSessionRequest(session_id=done.session_id, after_sequence=done.session.last_sequence + 1)
    refusal = await refused(service.stub.WatchSession(request))
    assert refusal.code is grpc.StatusCode.OUT_OF_RANGE
    assert refusal.reason == "SEQUENCE_IN_FUTURE"
    assert refusal.metadata == {"last_sequence": str(done.session.last_sequence)}
    listing = pb.ListEventsRequest(session_id=done.session_id, after_sequence=done.session.last_sequence + 1)
    assert (await refused(service.stub.ListEvents(listing))).reason == "SEQUENCE_IN_FUTURE"
    poll = pb.GetStatusRequest(
        session_id=done.session_id,
        after_sequence=done.session.last_sequence + 1,
        wait={"seconds": 5},
        wait_for=pb.WAIT_FOR_NEW_EVENT,
    )
    assert (await refused(service.stub.GetStatus(poll))).reason == "SEQUENCE_IN_FUTURE"


async def test_a_slow_watcher_slows_nobody(service: Service) -> None:
    started = await service.execute("tokens: 3000\nbash: true\ntokens: 3000", options=partial_options("Bash"))
    slow = service.stub.WatchSession(pb.WatchSessionRequest(session_id=started.session_id))
    read = [await slow.read()]
    assert (await service.rest(started.session_id)).state == pb.SESSION_STATE_COMPLETED
    while (response := await slow.read()) is not grpc.aio.EOF:
        read.append(response)
    late = [event for response in read for event in response.events if not event.ephemeral]
    assert late == await service.events(started.session_id)
