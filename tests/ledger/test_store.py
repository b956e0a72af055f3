"""Every store gives the same answers: the questions of `Store`, put to each store there is."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from agentpb import agent_pb2 as pb

from agent_service.errors import StoreUnavailable
from agent_service.ledger import Commit, RequestId, SessionKey, Tail, key_of
from agent_service.ledger.commits import Append, Job
from agent_service.ledger.sqlite.store import SqliteStore
from agent_service.ledger.store import EventQuery, Store, Stretch
from tests.ledger.logs import DORMANT, START_US, event, events, key, numbers, session, until

ALL = {"limit": 100, "max_bytes": 1 << 20}
ASC = pb.SESSION_ORDER_CREATE_TIME_ASC


class Stores:
    """Opens one store again and again, as a ledger does; it settles commits as they become durable."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        self.now = START_US / 1e6
        self.groups: list[list[Append]] = []
        self._directory = directory

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Driver]:
        """Open the store with what it holds."""
        store: Store = SqliteStore(self._directory, clock=lambda: self.now)
        await store.open(self._on_group)
        try:
            yield Driver(store)
        finally:
            await store.close()

    def rewrite_event(self, sequence: int) -> None:
        """Change an event's bytes behind the store's back."""
        with closing(sqlite3.connect(self._directory / "ledger.db")) as db, db:
            db.execute("UPDATE events SET body = x'00' WHERE sequence = ?", (sequence,))

    def _on_group(self, group: Sequence[Append | Job[Any]], failure: Exception | None) -> None:
        assert failure is None
        self.groups.append([item for item in group if isinstance(item, Append)])
        for item in group:
            item.resolve()


class Driver:
    """An open store and the tails of its sessions."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.tails: dict[SessionKey, Tail] = {}

    def put(self, commit: Commit) -> Append:
        """Hand over a commit."""
        tail = self.tails.setdefault(commit.key, Tail(commit.key))
        item = Append.of(commit, tail, asyncio.get_running_loop().create_future(), START_US)
        self.store.put(item)
        return item

    async def write(self, *commits: Commit) -> list[Append]:
        """Hand over commits at once, and wait until they are durable; the last refusal is raised."""
        items = [self.put(commit) for commit in commits]
        await asyncio.gather(*(item.future for item in items))
        return items

    async def begin(self, record: pb.Session, count: int = 0, **fields: Any) -> str:
        """Store a session with so many events."""
        name = record.session_id
        await self.write(Commit(key_of(record), session=record, events=events(name, 1, count, **fields)))
        return name

    async def bury(self, name: SessionKey) -> bool:
        """Delete a session."""
        return await self.store.bury(self.tails.pop(name, Tail(name)))

    async def listed(self, wanted: pb.SessionFilter | None = None, owner: str | None = "") -> list[str]:
        """Ids of the sessions that meet a filter, by time of creation."""
        page, _ = await self.store.page(wanted or pb.SessionFilter(), ASC, owner=owner, after=None, **ALL)
        return [each.session_id for each in page]


@pytest.fixture(params=["sqlite"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Stores:
    """A store of each kind, empty."""
    return Stores(request.param, tmp_path / "data")


@pytest.fixture
async def db(stores: Stores) -> AsyncIterator[Driver]:
    """An open store of each kind, empty."""
    async with stores.open() as opened:
        yield opened


async def test_what_was_written_is_there_when_it_is_opened_again(stores: Stores) -> None:
    turn = pb.Turn(turn_id="t", number=1, state=pb.TURN_STATE_QUEUED, prompt="p")
    asked = pb.ExecuteRequest(prompt="p")
    async with stores.open() as db:
        await db.write(Commit(key("s"), events("s", 1, 3), session("s", title="T"), [turn], {"t": asked}))
    async with stores.open() as db:
        found = await db.store.session(key("s"))
        assert found is not None
        assert (found.title, found.last_sequence) == ("T", 3)
        assert await db.store.turn("t") == turn
        assert await db.store.turns(key("s"), ()) == [turn]
        assert await db.store.turn_request("t") == asked
        assert await db.store.last_sequence(key("s")) == 3


async def test_a_request_id_is_written_by_itself_or_with_a_deletion(db: Driver) -> None:
    async def kept(name: str) -> RequestId | None:
        return await db.store.request("me", name, 0)

    await db.store.remember(used("begun"))
    await db.store.remember(used("begun", response=b"answer"))
    found = await kept("begun")
    assert found is not None
    assert found.response == b"answer"
    assert await db.store.bury(Tail(key("s")), used("deleted")) is False
    assert await kept("deleted") is None, "nothing was deleted"
    await db.begin(session("s"))
    assert await db.store.bury(db.tails.pop(key("s")), used("deleted")) is True
    assert await kept("deleted") is not None


def used(name: str, response: bytes = b"") -> RequestId:
    """What a request id was used for."""
    return RequestId("me", name, "fingerprint", "s", "", "Cleanup", response, START_US)


async def test_nothing_is_known_of_a_session_that_is_not_stored(db: Driver) -> None:
    store = db.store
    assert await store.session(key("s")) is None
    assert await store.standing(key("s")) is None
    assert await store.turn("t") is None
    assert await store.turns(key("s"), ()) == []
    assert await store.turn_at(key("s"), 1) is None
    assert await store.turn_request("t") is None
    assert await store.last_sequence(key("s")) == 0
    assert await store.log_counts(key("s")) == (0, 0)
    assert await store.size(key("s")) == 0
    assert await store.events(EventQuery(key("s")), 10, 1000) == ([], True)
    assert await store.count() == 0
    assert await db.bury(key("s")) is False


async def test_commits_are_written_in_the_order_they_were_put(stores: Stores, db: Driver) -> None:
    names = ["a", "b", "c"]
    for name in names:
        await db.begin(session(name))
    stores.groups.clear()
    items = [db.put(Commit(key(name), [event(name, number)])) for number in range(1, 50) for name in names]
    await asyncio.gather(*(item.future for item in items))
    assert list(itertools.chain.from_iterable(stores.groups)) == items
    for name in names:
        found, _ = await db.store.events(EventQuery(key(name)), **ALL)
        assert numbers(found) == list(range(1, 50))


async def test_a_commit_that_does_not_fit_is_refused_as_a_whole_and_alone(db: Driver) -> None:
    await db.begin(session("a"), 2)
    await db.begin(session("b"), 2)
    bad = db.put(Commit(key("a"), [event("a", 9)], session("a", title="bad"), [pb.Turn(turn_id="bad")]))
    later = db.put(Commit(key("a"), [event("a", 3)]))
    good = db.put(Commit(key("b"), [event("b", 3)]))
    await good.future
    for refused in (bad, later):
        with pytest.raises(ValueError, match="event 9 where 3 is due"):
            await refused.future
    stored = await db.store.session(key("a"))
    assert stored is not None
    assert (stored.title, await db.store.last_sequence(key("a")), await db.store.turn("bad")) == ("", 2, None)
    assert await db.store.last_sequence(key("b")) == 3
    assert db.store.failure is None


async def test_events_of_no_session_are_refused(db: Driver) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        await db.write(Commit(key("s"), [event("s", 1)]))


async def test_events_are_selected_by_place_and_type_and_cut_by_number_and_size(db: Driver) -> None:
    kinds = ["message.user", "task.started", "message.assistant", "task.done", "stderr"]
    log = [event("s", number, kind, raw=b"{}") for number, kind in enumerate(kinds, 1)]
    await db.write(Commit(key("s"), log, session("s")))

    async def select(limit: int = 100, size: int = 1 << 20, **query: Any) -> tuple[list[int], bool]:
        found, whole = await db.store.events(EventQuery(key("s"), **query), limit, size)
        return numbers(found), whole

    assert await select() == ([1, 2, 3, 4, 5], True)
    assert await select(after=2) == ([3, 4, 5], True)
    assert await select(before=3) == ([1, 2], True)
    assert await select(newest_first=True, limit=2) == ([5, 4], False)
    assert await select(types=("task.*",)) == ([2, 4], True)
    assert await select(types=("message.user", "stderr")) == ([1, 5], True)
    assert await select(size=1) == ([1], False)
    raw, _ = await db.store.events(EventQuery(key("s"), with_raw=True), 1, 1000)
    plain, _ = await db.store.events(EventQuery(key("s")), 1, 1000)
    assert (raw[0].raw, plain[0].raw) == (b"{}", None)


async def test_a_replay_has_the_bytes_of_the_log(db: Driver) -> None:
    log = events("s", 1, 25, text="x" * 30)
    await db.write(Commit(key("s"), log, session("s")))
    bodies, after = [], 0
    while after < 25:
        responses, after = await db.store.responses(Stretch(key("s"), after, 25, (), False), 4, 1 << 20)
        for response in responses:
            bodies += [each.SerializeToString() for each in pb.WatchSessionResponse.FromString(response).events]
    assert bodies == [each.body for each in log]


async def test_a_record_counts_what_was_appended_after_it(db: Driver) -> None:
    await db.begin(session("s", message_count=1, last_sequence=1), 1)
    await db.write(Commit(key("s"), [event("s", 2), event("s", 3, "stderr")]))
    for found in (await db.store.session(key("s")), getattr(await db.store.standing(key("s")), "session", None)):
        assert found is not None
        assert (found.last_sequence, found.message_count) == (3, 2)
    assert await db.store.log_counts(key("s")) == (3, 2)


async def test_the_request_of_a_turn_is_kept_until_it_ends(db: Driver) -> None:
    turn = pb.Turn(turn_id="t", number=1, state=pb.TURN_STATE_RUNNING)
    await db.write(Commit(key("s"), session=session("s"), turns=[turn], requests={"t": pb.ExecuteRequest(prompt="p")}))
    assert await db.store.turn_request("t") is not None
    ended = pb.Turn(turn_id="t", number=1, state=pb.TURN_STATE_COMPLETED)
    await db.write(Commit(key("s"), turns=[ended]))
    assert await db.store.turn_request("t") is None
    assert await db.store.turns(key("s"), (pb.TURN_STATE_RUNNING,)) == []
    assert await db.store.turns(key("s"), (pb.TURN_STATE_COMPLETED,)) == [ended]


async def test_pages_are_by_owner_filter_and_order_and_continue(db: Driver) -> None:
    for number in range(10):
        owner, labels = ("a", "b")[number % 2], {"team": str(number % 3)}
        await db.begin(session(f"s{number}", created=START_US + number, owner=owner, labels=labels))
    assert await db.listed(owner="a") == ["s0", "s2", "s4", "s6", "s8"]
    assert len(await db.listed(owner=None)) == 10
    assert await db.listed(pb.SessionFilter(labels={"team": "0"}), owner="a") == ["s0", "s6"]
    cursor, seen = None, []
    while True:
        page, cursor = await db.store.page(pb.SessionFilter(), ASC, owner="b", after=cursor, limit=2, max_bytes=1 << 20)
        seen += [each.session_id for each in page]
        if cursor is None:
            break
    assert seen == ["s1", "s3", "s5", "s7", "s9"]


async def test_sessions_at_rest_are_found_by_their_age_and_unfinished_ones_by_their_state(db: Driver) -> None:
    for number in range(4):
        await db.begin(session(f"r{number}", place=DORMANT, created=START_US + number))
    expiring = session("x", place=DORMANT, created=START_US)
    expiring.expire_time.FromMicroseconds(START_US + 10)
    await db.begin(expiring)
    await db.begin(session("w", created=START_US))
    assert await db.store.at_rest_since(START_US + 1, pb.SessionFilter(), None, 10) == ["r0", "x", "r1"]
    assert await db.store.at_rest_since(START_US + 9, pb.SessionFilter(), None, 2) == ["r0", "x"]
    assert await db.store.expired(START_US + 9, 10) == []
    assert await db.store.expired(START_US + 10, 10) == [key("x")]
    assert await db.store.outstayed("", START_US + 1, 10) == [key("r0"), key("r1")]
    assert await db.store.outstayed("other", START_US + 1, 10) == []
    assert [each.session_id for each in await db.store.unfinished()] == ["w"]


async def test_a_deleted_session_is_gone_at_once_and_its_rows_soon(stores: Stores) -> None:
    turn = pb.Turn(turn_id="t", number=1, state=pb.TURN_STATE_COMPLETED)
    async with stores.open() as db:
        await db.write(Commit(key("s"), events("s", 1, 1200), session("s", labels={"a": "b"}), [turn]))
        assert await db.store.count() == 1
        assert await db.store.size(key("s")) > 1200
        assert await db.bury(key("s")) is True
        assert (await db.store.session(key("s")), await db.store.turn("t"), await db.store.count()) == (None, None, 0)
        assert await db.listed() == []
        assert await db.bury(key("s")) is False
        await until(lambda: db.store.statistics()["deletions"] == 0)
        await db.begin(session("s"), 2)
        assert await db.store.last_sequence(key("s")) == 2
    async with stores.open() as db:
        assert await db.store.size(key("s")) < 1200
        assert not any("belong to no session" in problem for problem in await db.store.check())


async def test_a_commit_after_a_deletion_is_refused_and_a_new_tail_may_begin_again(db: Driver) -> None:
    await db.begin(session("s"), 2)
    tail = db.tails[key("s")]
    await db.store.bury(tail)
    with pytest.raises(ValueError, match="has been deleted"):
        await db.write(Commit(key("s"), [event("s", 3)]))
    del db.tails[key("s")]
    await db.begin(session("s"), 1)


async def test_a_request_id_outlives_its_session_and_not_its_time(db: Driver) -> None:
    used = RequestId("o", "r", "f", "s", "t", "Execute", b"answer")
    await db.write(Commit(key("s"), session=session("s"), request_id=used))
    await db.bury(key("s"))
    found = await db.store.request("o", "r", START_US)
    assert found is not None
    assert (found.response, found.create_time) == (b"answer", START_US)
    assert await db.store.request("o", "r", START_US + 1) is None
    assert await db.store.request("p", "r", 0) is None


async def test_a_backup_holds_one_state_and_refuses_to_overwrite(db: Driver, tmp_path: Path) -> None:
    await db.begin(session("s"), 2)
    copies = tmp_path / "copies"
    copies.mkdir()
    await db.store.backup(copies / "ledger.db")
    with pytest.raises(FileExistsError):
        await db.store.backup(copies / "ledger.db")
    copy = SqliteStore(copies, clock=time.time)
    await copy.open(lambda group, failure: None)
    assert await copy.last_sequence(key("s")) == 2
    await copy.close()


async def test_a_closed_store_takes_nothing(stores: Stores) -> None:
    async with stores.open() as db:
        pass
    with pytest.raises(RuntimeError, match="not open"):
        db.put(Commit(key("s"), session=session("s")))


async def test_the_error_of_the_database_ends_all_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed: list[Exception | None] = []

    def broken(*_: object) -> None:
        raise OSError("input/output error")

    store = SqliteStore(tmp_path, clock=time.time)
    await store.open(lambda group, failure: failed.append(failure))
    monkeypatch.setattr("agent_service.ledger.sqlite.writer._write_events", broken)
    future = asyncio.get_running_loop().create_future()
    store.put(Append.of(Commit(key("s"), session=session("s")), Tail(key("s")), future, 1))
    await until(lambda: store.failure is not None)
    with pytest.raises(StoreUnavailable, match="input/output error"):
        await store.bury(Tail(key("s")))
    await until(lambda: bool(failed))
    assert isinstance(failed[0], OSError)
    await store.close()


async def test_two_owners_have_sessions_of_one_id(db: Driver) -> None:
    for owner, count in (("a", 2), ("b", 3)):
        await db.write(Commit(key("s", owner), events("s", 1, count), session("s", owner=owner, title=owner)))
    for owner, count in (("a", 2), ("b", 3)):
        name = key("s", owner)
        found, standing = await db.store.session(name), await db.store.standing(name)
        assert found is not None
        assert standing is not None
        assert (found.title, standing.session.title, await db.store.last_sequence(name)) == (owner, owner, count)
    assert await db.store.session(key("s")) is None
    assert await db.store.owners() == ["a", "b"]
    assert [await db.store.count(owner) for owner in ("a", "b", "c", None)] == [1, 1, 0, 2]
    assert await db.bury(key("s", "a")) is True
    assert [await db.store.count(owner) for owner in ("a", "b", "c", None)] == [0, 1, 0, 1]
    assert await db.store.last_sequence(key("s", "b")) == 3
    assert await db.listed(pb.SessionFilter(), owner="a") == []


async def test_sessions_are_found_by_their_creator(db: Driver) -> None:
    for number, creator in enumerate(("ann", "bob", "ann")):
        await db.begin(session(f"s{number}", created=START_US + number, created_by=creator))
    assert await db.listed(pb.SessionFilter(created_by="ann")) == ["s0", "s2"]
    assert await db.listed(pb.SessionFilter(created_by="ann", states=[1])) == []
    assert await db.store.at_rest_since(START_US, pb.SessionFilter(created_by="bob"), "", 10) == []


async def test_it_says_until_when_it_was_open(stores: Stores) -> None:
    async with stores.open() as db:
        assert db.store.last_written == 0
        await db.begin(session("s"))
        stores.now += 5
    async with stores.open() as db:
        assert db.store.last_written == START_US + 5_000_000


async def test_what_was_rewritten_is_found_by_a_check(stores: Stores) -> None:
    async with stores.open() as db:
        await db.begin(session("s"), 3)
        assert not any("as it was written" in problem for problem in await db.store.check())
        stores.rewrite_event(2)
        assert any("event 2 is not as it was written" in problem for problem in await db.store.check())
