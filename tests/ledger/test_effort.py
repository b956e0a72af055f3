"""What is read takes no longer the more sessions have finished. The steps that SQLite takes are counted."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from agentpb import agent_pb2 as pb

from agent_service.ledger import Ledger
from agent_service.ledger.sqlite import reader, schema
from agent_service.ledger.sqlite.file import connect
from agent_service.ledger.sqlite.listing import Listing
from agent_service.ledger.sqlite.status_reader import read_standings, read_turn_at
from tests.ledger.logs import DORMANT, START_US, begin, key, session

FEW, MANY = 40, 2400
ERROR = (pb.SESSION_STATE_ERROR, pb.SESSION_PHASE_FAILED)
CANCELLED = (pb.SESSION_STATE_CANCELLED, pb.SESSION_PHASE_CANCELLED)
FILTERS = {
    "all": pb.SessionFilter(),
    "the usual state": pb.SessionFilter(states=[pb.SESSION_STATE_COMPLETED]),
    "a state of the oldest": pb.SessionFilter(states=[pb.SESSION_STATE_ERROR]),
    "two states": pb.SessionFilter(states=[pb.SESSION_STATE_ERROR, pb.SESSION_STATE_CANCELLED]),
    "a state that none has": pb.SessionFilter(states=[pb.SESSION_STATE_RUNNING]),
    "a phase": pb.SessionFilter(phases=[pb.SESSION_PHASE_FAILED]),
    "the usual label": pb.SessionFilter(labels={"team": "all"}),
    "a label of the oldest": pb.SessionFilter(labels={"age": "old"}),
    "a label that none has": pb.SessionFilter(labels={"team": "none"}),
    "a creator that none has": pb.SessionFilter(created_by="nobody"),
    "the usual creator": pb.SessionFilter(created_by="all"),
    "a creator of the oldest": pb.SessionFilter(created_by="old"),
    "a label and a state": pb.SessionFilter(labels={"age": "old"}, states=[pb.SESSION_STATE_CANCELLED]),
}


@pytest.fixture(scope="module")
def pasts(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A small past and a large one; what is rare is the oldest of both."""

    async def fill(directory: Path, size: int) -> None:
        async with Ledger(directory) as ledger:
            await asyncio.gather(*(begin(ledger, made(number), 3) for number in range(size)))

    pasts = {size: tmp_path_factory.mktemp("past") for size in (FEW, MANY)}
    for size, directory in pasts.items():
        asyncio.run(fill(directory, size))
    return pasts


def made(number: int) -> pb.Session:
    """The session with a number."""
    place = DORMANT if number > 20 else ERROR if number % 2 else CANCELLED
    creator = "all" if number > 20 else "old"
    record = session(f"{number:04}", place=place, created=START_US + number, labels={"team": "all"}, created_by=creator)
    if number <= 20:
        record.labels["age"] = "old"
    if place is ERROR:
        record.error.message = "broken"
    return record


def steps(past: Path, read: Callable[[sqlite3.Connection], Any]) -> int:
    """How many steps SQLite takes."""
    counter: Iterator[int] = itertools.count()
    with closing(connect(past / "ledger.db", read_only=True)) as db:
        read(db)  # the schema and the statements
        db.set_progress_handler(lambda: next(counter) and None, 1)
        read(db)
    return next(counter)


def expect_no_more(pasts: dict[int, Path], read: Callable[[sqlite3.Connection], Any]) -> None:
    """Fail when a large past makes it notably more effort than a small one."""
    few, many = (steps(pasts[size], read) for size in (FEW, MANY))
    assert many <= few * 1.1 + 50, f"{few} steps with {FEW} sessions, {many} with {MANY}"


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("order", [pb.SESSION_ORDER_UNSPECIFIED, pb.SESSION_ORDER_CREATE_TIME_ASC])
def test_the_first_page_of_a_listing(pasts: dict[int, Path], name: str, order: Any) -> None:
    listing = Listing(FILTERS[name], "", order)
    expect_no_more(pasts, lambda db: reader.read_page(db, listing, None, 10, 1 << 20))


def test_the_newest_by_update(pasts: dict[int, Path]) -> None:
    listing = Listing(pb.SessionFilter(), "", pb.SESSION_ORDER_UPDATE_TIME_DESC)
    expect_no_more(pasts, lambda db: reader.read_page(db, listing, None, 10, 1 << 20))


def test_a_later_page(pasts: dict[int, Path]) -> None:
    listing = Listing(FILTERS["the usual label"], "", None)
    expect_no_more(pasts, lambda db: reader.read_page(db, listing, (START_US + 30, 31), 10, 1 << 20))


def test_where_sessions_stand(pasts: dict[int, Path]) -> None:
    expect_no_more(pasts, lambda db: read_standings(db, [key("0003"), key("0030"), key("none")]))
    expect_no_more(pasts, lambda db: read_turn_at(db, key("0030"), 3))


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        (schema.LAST_KEYS, ()),
        (schema.DELETIONS, ()),
        (schema.UNFINISHED, ()),
        (schema.EXPIRED, (START_US * 2, 500)),
        (schema.OUTSTAYED, ("", START_US - 1, 500)),
        (schema.OWNERS, ()),
        (schema.SWEEP_REQUEST_IDS.replace("DELETE", "SELECT *"), (START_US, 500)),
        (schema.FIND_SESSION, ("", "0030")),
        (schema.SESSION, ("", "0030")),
        (schema.LAST_SEQUENCE, ("", "0030")),
        (schema.TURN, ("none",)),
    ],
)
def test_what_is_done_at_the_start_and_for_every_call(
    pasts: dict[int, Path], sql: str, parameters: tuple[object, ...]
) -> None:
    expect_no_more(pasts, lambda db: db.execute(sql, parameters).fetchall())
