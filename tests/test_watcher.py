"""Watcher: a long log is replayed in batches, byte for byte what was sent live; a cursor outside the log is refused."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any
from uuid import uuid4

import grpc.aio
import pytest
from agentpb import agent_pb2 as pb

from agent_service import errors
from agent_service.ledger.journal import Journal, now_us
from agent_service.registry.watcher import check_sequence
from agent_service.session.states import move
from tests.conftest import Service
from tests.invariants import check_log
from tests.rpc import raw_call, split

EVENTS = 20_000


async def collect(channel: grpc.aio.Channel, session_id: str) -> tuple[list[bytes], list[bytes]]:
    """Watch to the end: all responses, and all events, as bytes."""
    request = pb.WatchSessionRequest(session_id=session_id)
    responses = [data async for data in raw_call(channel, "WatchSession", request.SerializeToString())]
    field = pb.WatchSessionResponse.EVENTS_FIELD_NUMBER
    return responses, [event for data in responses for event in split(data, field)]


def message(number: int) -> pb.SessionEvent:
    """An answer of the model, now and then a large one."""
    text = f"{number} " * (20_000 if number % 5000 == 4999 else 10 + number % 30)
    block = pb.ContentBlock(text=pb.TextBlock(text=text))
    return pb.SessionEvent(type="message.assistant", assistant_message=pb.AssistantMessage(content=[block]))


def begin(service: Service) -> Journal:
    """A session at work that has no agent."""
    record = pb.Session(session_id=str(uuid4()), agent_session_id=str(uuid4()), first_available_sequence=1)
    record.create_time.FromMicroseconds(now_us())
    journal = Journal(record, service.running.ledger, new=True)
    for phase in (pb.SESSION_PHASE_QUEUED, pb.SESSION_PHASE_STARTING, pb.SESSION_PHASE_WORKING):
        move(journal, phase)
    return journal


async def write(journal: Journal, count: int) -> None:
    """A turn of so many messages, from its beginning to its end."""
    turn = pb.Turn(turn_id=str(uuid4()), number=1, state=pb.TURN_STATE_QUEUED)
    for done in range(count):
        journal.add(message(done), turn_id=turn.turn_id)
        if done % 50 == 0:
            journal.commit()
            await journal.keep_up()
        if done % 500 == 0:
            await asyncio.sleep(0.001)
    turn.state = pb.TURN_STATE_COMPLETED
    turn.end_time.GetCurrentTime()
    journal.add(
        pb.SessionEvent(type="turn.completed", turn_completed=pb.TurnCompleted(turn=turn)), turn_id=turn.turn_id
    )
    move(journal, pb.SESSION_PHASE_DORMANT)
    await journal.commit()


async def test_twenty_thousand_events_replay_in_batches_byte_for_byte_as_they_were_sent(service: Service) -> None:
    journal = begin(service)
    record = journal.record
    await journal.commit()
    live = [asyncio.create_task(collect(service.channel, record.session_id)) for _ in range(2)]
    await write(journal, EVENTS - 5)
    (_, first), (_, second) = await asyncio.gather(*live)
    began = time.monotonic()
    responses, replayed = await collect(service.channel, record.session_id)
    assert time.monotonic() - began < 5
    assert len(replayed) == EVENTS
    assert first == second == replayed
    assert len(responses) >= EVENTS / 256
    sizes = [len(split(data, pb.WatchSessionResponse.EVENTS_FIELD_NUMBER)) for data in responses]
    assert max(sizes) == 256
    assert sum(size < 256 for size in sizes) < 20, "batches are full ones"
    assert max(len(data) for data in responses) < (1 << 20) + 2048
    assert [pb.SessionEvent.FromString(body).sequence for body in replayed] == list(range(1, EVENTS + 1))
    assert await paged(service, record.session_id, newest_first=False) == replayed
    assert await paged(service, record.session_id, newest_first=True) == replayed[::-1]


async def test_every_watch_ends_with_its_session_and_none_only_at_a_heartbeat(service: Service) -> None:
    chance = random.Random(3)
    requests = [
        {},
        {"skip_partials": True},
        {"event_types": ["rate_limit"]},
        {"event_types": ["message.*"]},
    ]

    async def live(number: int) -> list[list[int]]:
        journal = begin(service)
        begun = journal.record.last_sequence
        await journal.commit()
        watching = [asyncio.create_task(watch(service, journal.session_id, **each)) for each in requests]
        for _ in range(chance.randrange(5)):
            await asyncio.sleep(chance.random() / 50)
            journal.add(message(number))
            if chance.random() < 0.7:
                journal.commit()
            if chance.random() < 0.5:
                journal.publish(pb.SessionEvent(type="message.partial", ephemeral=True), turn_id="")
        move(journal, pb.SESSION_PHASE_DORMANT)
        await journal.commit()
        last = journal.record.last_sequence
        seen = await asyncio.gather(*watching)
        assert seen[0] == seen[1] == list(range(1, last + 1))
        assert seen[2:] == [[], list(range(begun + 1, last))]
        return seen

    async with asyncio.timeout(12):  # a heartbeat comes after 15 s
        await asyncio.gather(*(live(number) for number in range(60)))


async def watch(service: Service, session_id: str, **fields: Any) -> list[int]:
    """Watch to the end, which must be that of the session; the sequences of durable events."""
    request = pb.WatchSessionRequest(session_id=session_id, **fields)
    responses = [response async for response in service.stub.WatchSession(request)]
    assert responses[-1].end.reason == pb.WATCH_END_REASON_AT_REST
    return [event.sequence for response in responses for event in response.events if event.sequence]


async def paged(service: Service, session_id: str, *, newest_first: bool) -> list[bytes]:
    """The whole log in pages, as bytes."""
    request = pb.ListEventsRequest(session_id=session_id, page_size=1000, newest_first=newest_first)
    found: list[bytes] = []
    while True:
        data = await raw_call(service.channel, "ListEvents", request.SerializeToString())
        assert len(data) < (1 << 20) + 2048
        found += split(data, pb.ListEventsResponse.EVENTS_FIELD_NUMBER)
        page = pb.ListEventsResponse.FromString(data)
        assert page.last_sequence == EVENTS
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def test_pages_end_where_the_events_do(service: Service) -> None:
    done = await service.run("say: one")
    total = done.session.last_sequence
    for newest_first in (False, True):
        request = pb.ListEventsRequest(
            session_id=done.session_id, page_size=3, newest_first=newest_first, after_sequence=2
        )
        sequences: list[int] = []
        pages = 0
        while True:
            page = await service.stub.ListEvents(request)
            sequences += [event.sequence for event in page.events]
            pages += 1
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        assert sequences == (list(range(3, total + 1))[::-1] if newest_first else list(range(3, total + 1)))
        assert pages == -(-(total - 2) // 3)
    empty = await service.stub.ListEvents(pb.ListEventsRequest(session_id=done.session_id, after_sequence=total))
    assert (list(empty.events), empty.next_page_token, empty.last_sequence) == ([], "", total)
    narrow = pb.ListEventsRequest(session_id=done.session_id, event_types=["turn.*"], page_size=1)
    first = await service.stub.ListEvents(narrow)
    assert [event.type for event in first.events] == ["turn.queued"]
    narrow.page_token = first.next_page_token
    assert [event.type for event in (await service.stub.ListEvents(narrow)).events] == ["turn.started"]
    check_log(await service.events(done.session_id))


def test_a_cursor_before_what_is_stored_is_refused() -> None:
    session = pb.Session(last_sequence=20, first_available_sequence=11)
    check_sequence(session, 10)
    with pytest.raises(errors.SequenceCompacted) as caught:
        check_sequence(session, 9)
    assert caught.value.metadata == {"first_available_sequence": "11"}
