"""Every change of a session's record has a number; a follower of the numbers misses none, whatever happens between."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

from agentpb import agent_pb2 as pb

from agent_service.ledger import Commit, Ledger, fsck
from tests.ledger.logs import DORMANT, begin, event, key, session

CHANGING = """
import asyncio, sys
from pathlib import Path
from agent_service.ledger import Commit, Ledger
from tests.ledger.logs import begin, key, session

async def produce(ledger, name):
    for number in range(1, 10**9):
        record = session(name, title=str(number))
        print(name, number, await ledger.append(Commit(key(name), session=record)), flush=True)

async def main():
    async with Ledger(Path(sys.argv[1])) as ledger:
        await asyncio.gather(*(produce(ledger, f"s{number}") for number in range(8)))

asyncio.run(main())
"""


async def listing(ledger: Ledger) -> dict[str, pb.Session]:
    """All sessions, as a listing has them."""
    page, _ = await ledger.sessions(pb.SessionFilter(), pb.SESSION_ORDER_UNSPECIFIED, owner=None, limit=1000)
    return {each.session_id: each for each in page}


class Follower:
    """Keeps a map of the sessions it has heard of, from the number it has seen last."""

    def __init__(self) -> None:
        self.sessions: dict[str, pb.Session] = {}
        self.after = 0

    async def read(self, ledger: Ledger, limit: int = 256) -> int:
        """Read what has changed; how many sessions."""
        found = await ledger.feed.changes(self.after, limit=limit)
        for each in found:
            assert each.change > self.after
            self.after = each.change
            self.sessions[each.session_id] = each
        return len(found)


async def test_each_write_of_a_record_has_the_next_number_and_events_alone_have_none(ledger: Ledger) -> None:
    assert ledger.feed.last == 0
    assert await ledger.append(Commit(key("a"), session=session("a"))) == 1
    assert await ledger.append(Commit(key("b"), session=session("b"))) == 2
    assert await ledger.append(Commit(key("a"), [event("a", 1)])) == 0
    assert await ledger.append(Commit(key("a"), session=session("a", title="new"))) == 3
    assert ledger.feed.last == 3
    assert {name: each.change for name, each in (await listing(ledger)).items()} == {"a": 3, "b": 2}
    standing = await ledger.standing(key("a"))
    assert standing is not None
    assert standing.session.change == 3
    assert [each.session_id for each in await ledger.feed.changes(0)] == ["b", "a"]


async def test_writes_of_one_record_at_once_are_one_change_with_the_last_number(ledger: Ledger) -> None:
    waiting = [ledger.append(Commit(key("a"), session=session("a", title=str(number)))) for number in range(5)]
    numbers = await asyncio.gather(*waiting)
    assert numbers == sorted(set(numbers))
    assert [(each.title, each.change) for each in await ledger.feed.changes(0)] == [("4", numbers[-1])]


async def test_a_refused_commit_has_no_number(ledger: Ledger) -> None:
    await begin(ledger, session("a"), 1)
    ledger.tail(key("a")).appended = 6
    refused = ledger.append(Commit(key("a"), [event("a", 7)], session("a")))
    await asyncio.wait([refused])
    assert refused.exception() is not None
    assert await ledger.append(Commit(key("b"), session=session("b"))) == 2


async def test_the_numbers_of_deleted_sessions_are_never_given_again(tmp_path: Path) -> None:
    async with Ledger(tmp_path) as ledger:
        await begin(ledger, session("a"))
        await begin(ledger, session("b"))
        await ledger.delete(key("b"))
    async with Ledger(tmp_path) as ledger:
        assert ledger.feed.last == 3, "the deletion has a number as well"
        assert await ledger.append(Commit(key("b"), session=session("b"))) == 4
        assert await ledger.check() == []


async def test_after_any_cut_and_resume_a_followers_map_is_the_listing(tmp_path: Path) -> None:
    chance = random.Random(7)
    follower = Follower()
    for _ in range(4):
        async with Ledger(tmp_path) as ledger:
            for _ in range(60):
                name = f"s{chance.randrange(12)}"
                ledger.append(Commit(key(name), session=session(name, title=str(chance.random()), place=DORMANT)))
                if chance.random() < 0.2:
                    await follower.read(ledger, limit=chance.randrange(1, 6))
            await ledger.append(Commit(key("end"), session=session("end", place=DORMANT)))
    async with Ledger(tmp_path) as ledger:
        while await follower.read(ledger, limit=3):
            pass
        assert follower.sessions == await listing(ledger)
        assert follower.after == ledger.feed.last


async def test_a_follower_is_woken_and_not_more_often_than_it_needs(ledger: Ledger) -> None:
    follower, wakes = Follower(), 0

    async def follow() -> None:
        nonlocal wakes
        while follower.after < 200:
            changed = ledger.feed.changed
            if not await follower.read(ledger):
                await changed.wait()
                wakes += 1

    following = asyncio.create_task(follow())
    for number in range(200):
        await ledger.append(Commit(key("s"), session=session("s", title=str(number))))
    async with asyncio.timeout(10):
        await following
    assert follower.sessions["s"].title == "199"
    assert wakes < 200


async def test_a_killed_service_has_lost_no_number_it_told(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHANGING, tmp_path, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    told: dict[bytes, tuple[int, int]] = {}
    seen: list[int] = []
    async with asyncio.timeout(30):
        while len(seen) < 500:
            name, number, change = (await process.stdout.readline()).split()
            told[name] = (int(number), int(change))
            seen.append(int(change))
        process.kill()
        await process.stdout.read()
        await process.wait()
    assert len(set(seen)) == len(seen)
    async with Ledger(tmp_path) as ledger:
        stored = await listing(ledger)
        for name, (number, change) in told.items():
            found = stored[name.decode()]
            assert (int(found.title), found.change) >= (number, change)
        last = ledger.feed.last
        assert last >= max(seen)
        assert await ledger.append(Commit(key("new"), session=session("new"))) == last + 1
        assert not [problem for problem in await ledger.check() if "change" in problem]


async def test_a_number_that_was_never_given_is_found(tmp_path: Path) -> None:
    async with Ledger(tmp_path) as ledger:
        await begin(ledger, session("a", place=DORMANT))
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as db, db:
        db.execute("UPDATE sessions SET change = 9")
    assert any("change number that was never given" in problem for problem in fsck(tmp_path))
