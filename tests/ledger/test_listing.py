"""Sessions are found by every field of the filter, and paged without repeating or losing one."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from agentpb import agent_pb2 as pb

from agent_service.ledger import Commit, GroupBy, Ledger, SessionKey
from agent_service.ledger.sqlite import reader
from agent_service.ledger.sqlite.listing import Listing
from tests.ledger.logs import DORMANT, START_US, WORKING, begin, key, session

ERROR = (pb.SESSION_STATE_ERROR, pb.SESSION_PHASE_FAILED)
AWAITING = (pb.SESSION_STATE_RUNNING, pb.SESSION_PHASE_AWAITING_PERMISSION)
ASC, DESC, UPDATED = (
    pb.SESSION_ORDER_CREATE_TIME_ASC,
    pb.SESSION_ORDER_CREATE_TIME_DESC,
    pb.SESSION_ORDER_UPDATE_TIME_DESC,
)


@pytest.fixture(params=["sorted", "walked"])
async def many(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Ledger]:
    """Two hundred sessions of two owners, listed in both ways: by the narrowest condition, and along the time."""
    monkeypatch.setattr(reader, "FEW", 2000 if request.param == "sorted" else 0)
    places = [WORKING, DORMANT, ERROR, AWAITING]
    async with Ledger(tmp_path) as ledger:
        await asyncio.gather(*(begin(ledger, made(number, places[number % 4])) for number in range(200)))
        yield ledger


def made(number: int, place: Any) -> pb.Session:
    """The session with a number; pairs of them are created in the same microsecond."""
    record = session(
        f"{number:04}",
        place=place,
        created=START_US + number // 2,
        owner="alice" if number % 2 == 0 else "bob",
        created_by=f"by{number % 5}",
        title=f"Größe 100%_{number}",
        labels={"app": f"app{number % 3}", "all": "yes"},
    )
    record.update_time.FromMicroseconds(START_US + 1000 + number * 7 % 200)
    return record


async def pages(ledger: Ledger, wanted: pb.SessionFilter, order: Any = DESC, **options: Any) -> list[str]:
    """The ids of all pages."""
    options = {"owner": None, "limit": 7, **options}
    found, after = [], None
    while True:
        page, after = await ledger.sessions(wanted, order, after=after, **options)
        found += [each.session_id for each in page]
        if after is None:
            return found


def ids(condition: Any) -> list[str]:
    """The ids of the numbers that meet a condition."""
    return [f"{number:04}" for number in range(200) if condition(number)]


def filters() -> list[tuple[pb.SessionFilter, Any]]:
    """A filter for every field, and the condition that says the same of numbers."""
    cases: list[tuple[pb.SessionFilter, Any]] = [
        (pb.SessionFilter(), lambda n: True),
        (pb.SessionFilter(states=[pb.SESSION_STATE_RUNNING]), lambda n: n % 4 in (0, 3)),
        (pb.SessionFilter(states=[2, 4], phases=[11, 5]), lambda n: n % 4 in (2, 3)),
        (pb.SessionFilter(phases=[pb.SESSION_PHASE_WORKING]), lambda n: n % 4 == 0),
        (pb.SessionFilter(labels={"app": "app1"}), lambda n: n % 3 == 1),
        (pb.SessionFilter(labels={"app": "app1", "all": "yes"}, states=[4]), lambda n: n % 3 == 1 and n % 4 == 2),
        (pb.SessionFilter(labels={"app": "nothing"}), lambda n: False),
        (pb.SessionFilter(title_contains="GRÖSSE 100%_7"), lambda n: str(n).startswith("7")),
        (pb.SessionFilter(title_contains="100__"), lambda n: False),
        (pb.SessionFilter(created_by="by3"), lambda n: n % 5 == 3),
        (pb.SessionFilter(created_by="by1", states=[2], labels={"app": "app1"}), lambda n: n % 60 in (16, 31)),
    ]
    between = pb.SessionFilter()
    between.create_time_min.FromMicroseconds(START_US + 10)
    between.create_time_max.FromMicroseconds(START_US + 20)
    cases.append((between, lambda n: 20 <= n < 40))
    changed = pb.SessionFilter(states=[pb.SESSION_STATE_RUNNING])
    changed.update_time_min.FromMicroseconds(START_US + 1050)
    changed.update_time_max.FromMicroseconds(START_US + 1100)
    cases.append((changed, lambda n: 50 <= n * 7 % 200 < 100 and n % 4 in (0, 3)))
    return cases


@pytest.mark.parametrize("owner", [None, "alice"])
async def test_every_field_filters(many: Ledger, owner: str | None) -> None:
    for wanted, condition in filters():
        expected = ids(lambda n, condition=condition: condition(n) and (owner is None or n % 2 == 0))
        for order in (ASC, DESC, UPDATED):
            assert sorted(await pages(many, wanted, order, owner=owner)) == expected, (wanted, order)


async def test_counts_are_those_of_the_listing_by_every_property(many: Ledger) -> None:
    properties: dict[GroupBy, Any] = {
        GroupBy(): lambda n: "",
        GroupBy(column="state"): lambda n: str((WORKING, DORMANT, ERROR, AWAITING)[n % 4][0]),
        GroupBy(column="phase"): lambda n: str((WORKING, DORMANT, ERROR, AWAITING)[n % 4][1]),
        GroupBy(label="app"): lambda n: f"app{n % 3}",
        GroupBy(label="none"): None,
    }
    for wanted, condition in filters():
        meets = [number for number in range(0, 200, 2) if condition(number)]
        for group_by, value in properties.items():
            counted = await many.counts(wanted, "alice", group_by, 1000)
            expected = Counter(map(value, meets)) if value else {}
            assert dict(counted.counts) == expected, (wanted, group_by)
            assert (counted.total, counted.truncated) == (len(meets), False)
            assert [count for _, count in counted.counts] == sorted((n for _, n in counted.counts), reverse=True)


async def test_a_count_lists_as_many_values_as_asked_for_and_says_that_there_are_more(many: Ledger) -> None:
    counted = await many.counts(pb.SessionFilter(), "bob", GroupBy(label="app"), 2)
    assert len(counted.counts) == 2
    assert (counted.total, counted.truncated) == (100, True)


async def test_pages_are_in_order(many: Ledger) -> None:
    everything = pb.SessionFilter()
    ascending = await pages(many, everything, ASC)
    assert [number[:3] for number in ascending] == sorted(number[:3] for number in ascending)
    assert await pages(many, everything, DESC) == ascending[::-1]
    assert await pages(many, everything, pb.SESSION_ORDER_UNSPECIFIED) == ascending[::-1]
    by_update = sorted(ids(lambda n: n % 2), key=lambda each: -(int(each) * 7 % 200))
    assert await pages(many, everything, UPDATED, owner="bob") == by_update


async def test_pages_neither_repeat_nor_lose_what_is_there_all_the_while(many: Ledger) -> None:
    chance = random.Random(1)
    stays = set(ids(lambda n: n % 5))
    found: list[str] = []
    after = None
    for step in range(10_000):
        page, after = await many.sessions(pb.SessionFilter(), DESC, owner="alice", after=after, limit=9)
        found += [each.session_id for each in page]
        if after is None:
            break
        await begin(many, session(owner="alice", created=START_US + chance.randrange(200)))
        await many.delete(key(f"{step * 5:04}", "bob" if step % 2 else "alice"))
        await begin_again(many, key(chance.choice(found), "alice"))
    old = [each for each in found if len(each) == 4]
    assert len(found) == len(set(found))
    assert {each for each in stays if int(each) % 2 == 0} <= set(old)


async def begin_again(ledger: Ledger, session_id: SessionKey) -> None:
    """Change a session."""
    record = await ledger.session(session_id)
    if record is not None:
        record.update_time.GetCurrentTime()
        record.state, record.phase = WORKING
        await ledger.append(Commit(session_id, session=record))


async def test_a_page_is_cut_by_bytes_and_holds_one_session_at_least(many: Ledger) -> None:
    page, after = await many.sessions(pb.SessionFilter(), DESC, owner=None, limit=50, max_bytes=1)
    assert len(page) == 1
    assert after is not None
    assert len(await pages(many, pb.SessionFilter(), limit=50, max_bytes=500)) == 200


async def test_listed_sessions_count_what_came_without_their_record(ledger: Ledger) -> None:
    await begin(ledger, session("a"), 5)
    page, _ = await ledger.sessions(pb.SessionFilter(), DESC, owner="", limit=5)
    assert [(each.last_sequence, each.message_count) for each in page] == [(5, 5)]


async def test_a_change_of_labels_and_title_is_found(ledger: Ledger) -> None:
    record = session("a", labels={"k": "old", "gone": "x"}, title="old")
    await begin(ledger, record)
    del record.labels["gone"]
    record.labels["k"], record.title = "new", "new"
    await ledger.append(Commit(key("a"), session=record))
    for wanted in (pb.SessionFilter(labels={"k": "new"}), pb.SessionFilter(title_contains="NEW")):
        assert await pages(ledger, wanted, owner="") == ["a"]
    for wanted in (pb.SessionFilter(labels={"k": "old"}), pb.SessionFilter(labels={"gone": "x"})):
        assert await pages(ledger, wanted, owner="") == []


async def test_sessions_at_rest_since_a_time_come_longest_first(many: Ledger) -> None:
    at_rest = ids(lambda n: n % 4 in (1, 2) and n // 2 <= 50)
    found = await many.at_rest_since(START_US + 50, pb.SessionFilter(), None)
    assert sorted(found) == at_rest
    assert [each[:3] for each in found] == sorted(each[:3] for each in found)
    assert await many.at_rest_since(START_US + 50, pb.SessionFilter(states=[4]), "alice", 2) == ["0002", "0006"]


async def test_expiry_is_by_its_own_time_or_by_the_retention(ledger: Ledger) -> None:
    own = session("own", place=DORMANT, owner="a")
    own.expire_time.FromMicroseconds(START_US + 100)
    later = session("later", place=DORMANT, owner="a")
    later.expire_time.FromMicroseconds(START_US + 10_000)
    for record in (own, later, session("plain", place=DORMANT, owner="b"), session("works")):
        await begin(ledger, record)
    assert await ledger.expired(START_US + 99, 10) == []
    assert await ledger.expired(START_US + 100, 10) == [key("own", "a")]
    assert await ledger.owners() == ["", "a", "b"]
    assert await ledger.outstayed("a", START_US, 10) == []
    assert await ledger.outstayed("b", START_US - 1, 10) == []
    assert await ledger.outstayed("b", START_US, 10) == [key("plain", "b")]


async def test_what_a_crash_left_is_found_oldest_first(ledger: Ledger) -> None:
    idle = (pb.SESSION_STATE_COMPLETED, pb.SESSION_PHASE_IDLE)
    queued = (pb.SESSION_STATE_PENDING, pb.SESSION_PHASE_QUEUED)
    for name, place, created in (("c", WORKING, 3), ("b", queued, 2), ("d", DORMANT, 1), ("a", idle, 0)):
        await begin(ledger, session(name, place=place, created=START_US + created))
    assert [each.session_id for each in await ledger.unfinished()] == ["a", "b", "c"]


FILTERS = {
    "all": pb.SessionFilter(),
    "a state": pb.SessionFilter(states=[2]),
    "states": pb.SessionFilter(states=[3, 4]),
    "a phase": pb.SessionFilter(phases=[4]),
    "a label": pb.SessionFilter(labels={"a": "b"}),
    "all of it": pb.SessionFilter(states=[2], phases=[4], labels={"a": "b", "c": "d"}),
}


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("order", [ASC, DESC, UPDATED])
async def test_every_listing_of_an_owner_is_answered_by_an_index(
    ledger: Ledger, tmp_path: Path, name: str, order: Any
) -> None:
    def plan(sql: str, parameters: tuple[object, ...]) -> str:
        with closing(sqlite3.connect(tmp_path / "data" / "ledger.db")) as db:
            return str(db.execute(f"EXPLAIN QUERY PLAN {sql}", parameters).fetchall())

    wanted = pb.SessionFilter()
    wanted.CopyFrom(FILTERS[name])
    wanted.update_time_min.FromMicroseconds(1)
    wanted.create_time_max.FromMicroseconds(10)
    listing = Listing(wanted, "alice", order)
    for condition in listing.conditions():
        assert "SCAN" not in plan(*condition.keys())
    for condition in [None, *filter(listing.follows, listing.conditions())]:
        for sql, parameters in listing.arms(condition, (1, 1), 10):
            steps = plan(sql, parameters)
            assert "TEMP B-TREE" not in steps
            assert "SCAN" not in steps
