"""A tail shows what is durable, with partials in their place, and forgets what is old."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from agent_service.ledger.tail import MAX_BYTES, MAX_ENTRIES, Change, Event, Position, Tail
from tests.ledger.logs import event, events, key, numbers, partial, shown


def tail_with(count: int) -> Tail:
    tail = Tail(key("s"))
    tail.append(events("s", 1, count))
    tail.reveal(count)
    return tail


def read(tail: Tail, position: Position, **options: int) -> tuple[list[Event], Position]:
    found = tail.after(position, **options)
    assert found is not None
    return found


def test_partials_lie_between_the_events_they_were_sent_between() -> None:
    tail = tail_with(1)
    _, live = read(tail, Position(0))
    tail.publish(partial("a"))
    tail.append([event("s", 2)])
    tail.publish(partial("b"))
    seen, live = read(tail, live)
    assert seen == [partial("a")]
    tail.reveal(2)
    seen, live = read(tail, live)
    assert seen == [event("s", 2), partial("b")]
    assert live.sequence == 2


def test_who_comes_late_gets_only_the_partials_of_the_message_that_is_still_to_come() -> None:
    tail = tail_with(1)
    tail.publish(partial("old"))
    tail.append([event("s", 2)])
    tail.reveal(2)
    tail.publish(partial("new"))
    assert read(tail, Position(1))[0] == [event("s", 2), partial("new")]
    assert read(tail, Position(2))[0] == [partial("new")]


def test_a_live_reader_that_is_late_gets_the_old_partials_too() -> None:
    tail = tail_with(1)
    _, live = read(tail, Position(1))
    tail.publish(partial("old"))
    tail.append([event("s", 2)])
    tail.reveal(2)
    assert read(tail, live)[0] == [partial("old"), event("s", 2)]


def test_it_forgets_the_oldest_beyond_its_size() -> None:
    tail = tail_with(MAX_ENTRIES + 10)
    assert tail.after(Position(9)) is None
    assert numbers(read(tail, Position(10), limit=2)[0]) == [11, 12]


def test_it_forgets_by_bytes_as_well() -> None:
    tail = Tail(key("s"))
    big = [Event(number, "x", b"." * (MAX_BYTES // 4), b"." * (MAX_BYTES // 4)) for number in (1, 2, 3)]
    tail.append(big)
    tail.reveal(3)
    assert tail.after(Position(0)) is None
    assert numbers(read(tail, Position(1), max_bytes=MAX_BYTES)[0]) == [2, 3]


def test_an_event_larger_than_the_tail_is_read_from_the_table() -> None:
    tail = tail_with(1)
    tail.append([Event(2, "x", b"." * (MAX_BYTES + 1), None)])
    tail.reveal(2)
    assert tail.after(Position(1)) is None
    assert read(tail, Position(2))[0] == []


def test_what_is_not_durable_stays_hidden_when_it_is_forgotten() -> None:
    tail = tail_with(1)
    _, live = read(tail, Position(1))
    tail.append(events("s", 2, MAX_ENTRIES + 5))
    tail.publish(partial("hidden"))
    assert tail.after(live) is None
    tail.reveal(3)
    assert tail.after(Position(1)) is None
    tail.reveal(MAX_ENTRIES + 6)
    assert read(tail, Position(MAX_ENTRIES + 5))[0] == [event("s", MAX_ENTRIES + 6), partial("hidden")]


def test_a_flood_of_partials_costs_a_slow_reader_partials_only() -> None:
    tail = tail_with(1)
    _, live = read(tail, Position(1))
    for number in range(MAX_ENTRIES + 1):
        tail.publish(partial(str(number)))
    tail.append([event("s", 2)])
    tail.reveal(2)
    assert read(tail, live)[0] == [event("s", 2)]


def test_batches_are_cut_by_count_and_by_bytes_and_hold_one_event_at_least() -> None:
    tail = tail_with(10)
    size = len(event("s", 1).body)
    assert numbers(read(tail, Position(0), limit=3)[0]) == [1, 2, 3]
    assert numbers(read(tail, Position(0), max_bytes=2 * size)[0]) == [1, 2]
    assert numbers(read(tail, Position(0), max_bytes=1)[0]) == [1]
    _, position = read(tail, Position(0), limit=4)
    assert numbers(read(tail, position)[0]) == [5, 6, 7, 8, 9, 10]


def test_whoever_reads_at_the_same_place_gets_the_same_bytes() -> None:
    tail = tail_with(3)
    first, again = tail.batch(Position(1)), tail.batch(Position(1))
    assert first is not None
    assert first is again
    assert numbers(shown([first[0]])) == [2, 3]
    narrow = tail.batch(Position(1), types=("nothing",))
    assert narrow is not None
    assert (narrow[0], narrow[1]) == (b"", first[1])
    tail.append([event("s", 4)])
    assert tail.batch(Position(1)) is first
    tail.reveal(4)
    later = tail.batch(Position(1))
    assert later is not None
    assert numbers(shown([later[0]])) == [2, 3, 4]
    tail.publish(partial("a"))
    last = tail.batch(later[1])
    assert last is not None
    assert shown([last[0]]) == [partial("a")]


def test_types_and_partials_are_filtered_and_passed_over() -> None:
    tail = Tail(key("s"))
    tail.append([event("s", 1, "task.started"), event("s", 2, "stderr"), event("s", 3, "task.updated")])
    tail.reveal(3)
    tail.publish(partial("a"))
    found = tail.after(Position(0), types=("task.*",))
    assert found is not None
    assert numbers(found[0]) == [1, 3]
    found = tail.after(Position(0), partials=False)
    assert found is not None
    assert numbers(found[0]) == [1, 2, 3]
    assert read(tail, found[1])[0] == []


def test_the_wake_up_is_fetched_before_reading() -> None:
    tail = tail_with(1)
    changed = tail.changed
    tail.append([event("s", 2)])
    assert not changed.is_set()
    tail.reveal(2)
    assert changed.is_set()
    assert not tail.changed.is_set()


def test_a_partial_wakes_at_once_when_nothing_is_on_its_way_to_the_disk() -> None:
    tail = tail_with(1)
    changed = tail.changed
    tail.publish(partial("a"))
    assert changed.is_set()
    changed = tail.changed
    tail.append([event("s", 2)])
    tail.publish(partial("b"))
    assert not changed.is_set()


async def test_a_wait_ends_with_the_news_at_its_time_or_when_it_is_cancelled() -> None:
    change = Change()
    loop = asyncio.get_running_loop()
    assert not await change.wait(loop.time() + 0.01)
    waiting = [asyncio.create_task(change.wait(until)) for until in (None, loop.time() + 60, loop.time() + 60)]
    await asyncio.sleep(0)
    waiting[2].cancel()
    await asyncio.wait(waiting[2:])
    assert waiting[2].cancelled()
    assert not waiting[0].done()
    change.set()
    assert await asyncio.gather(*waiting[:2]) == [True, True]
    assert await change.wait(loop.time())


def test_a_position_means_nothing_to_another_tail_of_the_session() -> None:
    _, position = read(tail_with(5), Position(0), limit=2)
    again = Tail(key("s"))
    again.learn(5)
    assert again.after(position) is None


def test_a_gap_is_refused() -> None:
    tail = tail_with(3)
    with pytest.raises(ValueError, match="5 where 4 is due"):
        tail.append([event("s", 5)])
    tail.append([event("s", 4)])


def test_a_tail_is_gone_with_its_last_holder() -> None:
    tail = tail_with(3)
    tail.changed.set()
    gone = weakref.ref(tail)
    del tail
    gc.collect()
    assert gone() is None
