"""Whoever follows a log sees all of it, from wherever they begin and however slow they are."""

from __future__ import annotations

import asyncio

import pytest

from agent_service.events import WATCH_EVENTS
from agent_service.ledger import Commit, Event, Ledger, Position
from agent_service.ledger.tail import BATCH_BYTES
from tests.ledger.logs import begin, event, events, key, numbers, partial, read_on, session, shown, until
from tests.rpc import split


async def test_a_dormant_session_is_read_from_the_table(ledger: Ledger) -> None:
    session_id = await begin(ledger, session(), 1000)
    await until(lambda: ledger.statistics()["tails"] == 0)  # the writer lets go of it a moment later
    assert numbers(await read_on(ledger, session_id)) == list(range(1, 1001))
    assert numbers(await read_on(ledger, session_id, after=990)) == list(range(991, 1001))


async def test_the_live_end_is_read_without_a_thread(ledger: Ledger) -> None:
    session_id = await begin(ledger, session(), 1)
    tail = ledger.tail(session_id)
    await read_on(ledger, session_id)
    await ledger.append(Commit(session_id, events=[event(session_id, 2)]))
    with pytest.raises(StopIteration) as done:
        ledger.follow(session_id, Position(1)).send(None)
    assert numbers(shown(done.value.value[0])) == [2]
    assert tail.last_sequence == 2


async def test_a_slow_reader_falls_out_of_memory_and_loses_partials_only(ledger: Ledger) -> None:
    session_id = await begin(ledger, session())
    tail = ledger.tail(session_id)
    await ledger.append(Commit(session_id, events=events(session_id, 1, 1)))
    responses, position = await ledger.follow(session_id, ledger.cursor(session_id, 0))
    seen = shown(responses)
    for first in range(2, 1002, 10):
        ledger.publish(session_id, partial(str(first)))
        ledger.append(Commit(session_id, events=events(session_id, first, 10)))
    await ledger.append(Commit(session_id))
    ledger.publish(session_id, partial("live"))
    while True:
        responses, position = await ledger.follow(session_id, position)
        if not responses:
            break
        seen += shown(responses)
    assert [each.sequence for each in seen if each.sequence] == list(range(1, 1002))
    assert seen[-1] == partial("live")
    assert tail.last_sequence == 1001


async def test_many_watchers_of_a_running_session_see_the_same(ledger: Ledger) -> None:
    session_id = await begin(ledger, session())

    async def watch(after: int, pause: float) -> list[Event]:
        tail, position, seen = ledger.tail(session_id), ledger.cursor(session_id, after), []
        while position.sequence < 600:
            changed = tail.changed
            responses, position = await ledger.follow(session_id, position, limit=50)
            seen += shown(responses)
            if not responses:
                await changed.wait()
            await asyncio.sleep(pause)
        return seen

    watchers = [asyncio.create_task(watch(after, pause)) for after in (0, 3) for pause in (0, 0.001, 0.01)]
    for number in range(1, 601):
        future = ledger.append(Commit(session_id, events=[event(session_id, number)]))
        if number % 5 == 0:
            await future
    for after, seen in zip((0, 0, 0, 3, 3, 3), await asyncio.gather(*watchers), strict=True):
        assert seen == events(session_id, after + 1, 600 - after)


async def test_types_are_filtered_in_memory_and_in_the_table_alike(ledger: Ledger) -> None:
    session_id = await begin(ledger, session())
    kinds = ["task.started", "stderr", "rate_limit", "task.updated", "tasks"]
    log = [event(session_id, number, kinds[number % 5]) for number in range(1, 301)]
    await ledger.append(Commit(session_id, events=log))
    wanted = [each for each in log if each.type in ("task.started", "task.updated", "stderr")]
    types = ("task.*", "stderr")
    stored = await read_on(ledger, session_id, types=types, limit=7)
    tail = ledger.tail(session_id)
    await read_on(ledger, session_id, after=300)
    more = [event(session_id, number, kinds[number % 5]) for number in range(301, 401)]
    await ledger.append(Commit(session_id, events=more))
    wanted_more = [each for each in more if each.type in ("task.started", "task.updated", "stderr")]
    assert stored == wanted
    assert await read_on(ledger, session_id, types=types, limit=7) == wanted + wanted_more
    assert await read_on(ledger, session_id, types=("nothing.*",)) == []
    assert tail.last_sequence == 400


async def test_batches_from_the_table_are_cut_by_bytes(ledger: Ledger) -> None:
    session_id = await begin(ledger, session())
    await ledger.append(Commit(session_id, events=events(session_id, 1, 20, text="x" * 1000)))
    await until(lambda: ledger.statistics()["tails"] == 0)  # the writer lets go of it a moment later
    responses, position = await ledger.follow(session_id, ledger.cursor(session_id, 0), max_bytes=3500)
    assert (numbers(shown(responses)), position) == ([1, 2, 3], Position(3))
    assert numbers(await read_on(ledger, session_id, max_bytes=1)) == list(range(1, 21))


@pytest.mark.parametrize("with_raw", [False, True])
async def test_events_of_all_sizes_come_back_in_full_responses_and_byte_for_byte(
    ledger: Ledger, with_raw: bool
) -> None:
    sizes = [0, 1, 60, 127, 128, 129, 16382, 16383, 16384, 16385, 100_000, 1 << 20]
    log = [Event(number, "x", bytes([number % 256]) * (number % 300), None) for number in range(1, 1001)]
    log += [Event(1001 + number, "x", b"\x00" * size, b"{}") for number, size in enumerate(sizes)]
    log += [Event(1013 + number, "x", b"\xff" * 5000, b"") for number in range(700)]
    session_id = await begin(ledger, session())
    for first in range(0, len(log), 300):
        await ledger.append(Commit(session_id, events=log[first : first + 300]))
    await until(lambda: ledger.statistics()["tails"] == 0)
    position, found = ledger.cursor(session_id, 0), []
    while True:
        responses, position = await ledger.follow(session_id, position, with_raw=with_raw)
        if not responses:
            break
        assert sum(map(len, responses)) <= BATCH_BYTES + 4 * len(log)
        found += [split(response, WATCH_EVENTS) for response in responses]
    assert [body for response in found for body in response] == [each.sent(with_raw) for each in log]
    assert [len(response) for response in found[:3]] == [256, 256, 256]
    assert max(map(len, found)) == 256


async def test_reading_by_page_goes_both_ways(ledger: Ledger) -> None:
    session_id = await begin(ledger, session(), 10)
    assert numbers(await ledger.read(session_id, 3, limit=2)) == [4, 5]
    assert numbers(await ledger.read(session_id, 3, limit=3, newest_first=True)) == [10, 9, 8]
    assert numbers(await ledger.read(session_id, 3, newest_first=True, before_sequence=6)) == [5, 4]
    assert numbers(await ledger.read(session_id, 0, max_bytes=1)) == [1]
    assert await ledger.read(session_id, 10) == []
    assert await ledger.read(key("unknown"), 0) == []


async def test_bytes_come_back_as_they_were_given(ledger: Ledger) -> None:
    session_id = await begin(ledger, session())
    log = [
        Event(1, "unknown", bytes(range(256)), b"\x00"),
        Event(2, "unknown", b"", None),
        Event(3, "unknown", b"\x00\x00\xff", b""),
        Event(4, "unknown", "ü;' ".encode() * 3, bytes(reversed(range(256)))),
    ]
    await ledger.append(Commit(session_id, events=log))
    assert await ledger.read(session_id, 0, with_raw=True) == log
    assert await ledger.read(session_id, 3, with_raw=True, newest_first=True) == log[3:]
    assert await ledger.read(session_id, 0) == [each._replace(raw=None) for each in log]


async def test_the_newest_messages_come_oldest_first(ledger: Ledger) -> None:
    session_id = await begin(ledger, session())
    kinds = ["message.user", "stderr", "message.assistant", "state.changed"]
    await ledger.append(Commit(session_id, events=[event(session_id, n, kinds[n % 4]) for n in range(1, 21)]))
    newest = await ledger.messages(session_id, 3)
    assert (numbers(newest.events), newest.truncated) == ([16, 18, 20], True)
    everything = await ledger.messages(session_id, 10)
    assert (len(everything.events), everything.truncated) == (10, False)
    assert await ledger.messages(session_id, 0) == ([], True)
    assert (await ledger.messages(session_id, 5, max_bytes=1)).truncated
    assert await ledger.messages(key("unknown"), 5) == ([], False)


async def test_following_what_does_not_exist_yields_nothing(ledger: Ledger) -> None:
    assert await read_on(ledger, key("unknown")) == []
    assert ledger.statistics()["tails"] == 0
