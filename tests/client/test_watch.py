"""A watch neither loses nor repeats a durable event, whatever cuts it; leaving it leaves nothing behind."""

from __future__ import annotations

import asyncio
import gc

import grpc.aio
import pytest
from agent_client import AgentClient, errors
from agent_client.errors import SequenceCompacted, SessionNotFound, Unavailable
from agentpb import agent_pb2 as pb
from agentpb import agent_pb2_grpc

NO_CHANNEL_RETRIES = {"grpc.enable_retries": 0}


@pytest.mark.parametrize("how", ["silently", "unavailable", "rst", "cancelled", "draining"])
@pytest.mark.parametrize("after", [1, 3, 5])
async def test_a_cut_after_any_event_is_mended(client, service, script, how, after):
    service.numbered(5)
    service.cuts = {after: how}
    seen = [event.sequence async for event in client.watch(script.SESSION)]
    assert seen == [1, 2, 3, 4, 5]
    assert [request.after_sequence for request in service.requests["WatchSession"]] == [0, after]


async def test_many_cuts_in_a_row_are_mended(client, service, script):
    service.numbered(6)
    service.cuts = dict.fromkeys(range(1, 7), "unavailable")
    assert [event.sequence async for event in client.watch(script.SESSION)] == [1, 2, 3, 4, 5, 6]


async def test_what_a_server_repeats_is_dropped(client, service, script):
    service.numbered(3)
    service.log.insert(2, service.log[0])
    assert [event.sequence async for event in client.watch(script.SESSION)] == [1, 2, 3]


async def test_partials_pass_without_moving_the_cursor(client, service, script):
    service.events(script.partial("he"), script.partial("llo"), script.text("hello"))
    watch = client.watch(script.SESSION)
    assert [event.type async for event in watch] == ["message.partial", "message.partial", "message.assistant"]
    assert watch.last_sequence == 1


async def test_the_end_is_kept(client, service, script):
    service.deleted = True
    watch = client.watch(script.SESSION)
    assert [event async for event in watch] == []
    assert watch.end.reason == pb.WATCH_END_REASON_DELETED
    assert watch.end.session.session_id == script.SESSION


async def test_the_request_says_what_was_asked_for(client, service, script):
    handle = client.session(script.SESSION)
    async for _ in handle.watch(7, event_types=["task.*"], partials=False, include_raw=True):
        pass
    assert service.requests["WatchSession"] == [
        pb.WatchSessionRequest(
            session_id=script.SESSION, after_sequence=7, event_types=["task.*"], skip_partials=True, include_raw=True
        )
    ]


async def test_breaking_out_cancels_the_stream(client, service, script):
    service.numbered(3)
    service.at_rest = False
    async for _ in client.watch(script.SESSION, follow=True):
        break
    gc.collect()
    await asyncio.wait_for(service.watcher_left.wait(), 5)
    assert service.watchers == 0


async def test_closing_releases_a_reader_in_another_task(client, service, script):
    service.at_rest = False
    watch = client.watch(script.SESSION)
    reader = asyncio.create_task(anext(watch, "over"))
    await asyncio.wait_for(service.watcher_came.wait(), 5)
    await watch.aclose()
    assert await asyncio.wait_for(reader, 5) == "over"
    await asyncio.wait_for(service.watcher_left.wait(), 5)


async def test_a_reader_that_lost_patience_may_read_on(client, service, script):
    service.at_rest = False
    watch = client.watch(script.SESSION)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(watch), 0.1)
    service.numbered(1)
    assert (await asyncio.wait_for(anext(watch), 5)).sequence == 1
    await watch.aclose()


async def test_what_cannot_be_mended_is_raised(client, service, script):
    service.fail("WatchSession", script.refusal(grpc.StatusCode.NOT_FOUND, "SESSION_NOT_FOUND"))
    with pytest.raises(SessionNotFound):
        await anext(client.watch(script.SESSION))
    gone = script.refusal(grpc.StatusCode.OUT_OF_RANGE, "SEQUENCE_COMPACTED", first_available_sequence="42")
    service.fail("WatchSession", gone)
    with pytest.raises(SequenceCompacted) as caught:
        await anext(client.watch(script.SESSION))
    assert caught.value.first_available_sequence == 42


async def test_a_server_that_only_ever_cuts_is_given_up(service, script):
    service.fail("WatchSession", *[script.unavailable] * 50)
    async with AgentClient(service.address, retry_for=0.5, channel_options=NO_CHANNEL_RETRIES) as client:
        with pytest.raises(errors.Unavailable):
            await anext(client.watch(script.SESSION))


async def test_a_watch_outlives_a_restart_of_the_server(service, script):
    service.numbered(2)
    service.at_rest = False
    first = await _serve(service, 0)
    async with AgentClient(f"127.0.0.1:{first.port}", retry_for=10) as client:
        watch = client.watch(script.SESSION)
        assert [(await anext(watch)).sequence for _ in range(2)] == [1, 2]
        await first.stop(None)
        service.numbered(2)
        service.at_rest = True
        second = await _serve(service, first.port)
        assert [event.sequence async for event in watch] == [3, 4]
        await second.stop(None)


async def test_no_server_at_all_is_told_with_what_to_do():
    async with AgentClient("127.0.0.1:1", retry_for=0.2, channel_options=NO_CHANNEL_RETRIES) as client:
        with pytest.raises(Unavailable, match=r"cannot reach .*127\.0\.0\.1:1.*agent-service serve"):
            await anext(client.watch("x"))


async def _serve(service, port):
    server = grpc.aio.server()
    agent_pb2_grpc.add_AgentServiceServicer_to_server(service, server)
    server.port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server
