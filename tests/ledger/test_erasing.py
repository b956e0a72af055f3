"""What was deleted is not in the files any more, neither in the database nor in its write-ahead log."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from agentpb import agent_pb2 as pb

from agent_service.ledger import Commit, Ledger
from tests.conftest import Service
from tests.ledger.logs import begin, event, events, key, session

SECRET = "s3cret-value-of-a-variable"


def holds(directory: Path, secret: str = SECRET) -> list[str]:
    """Files below a directory that hold a secret."""
    return [str(path) for path in directory.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


async def gone(directory: Path, secret: str = SECRET) -> None:
    """Wait until no file has it."""
    async with asyncio.timeout(20):
        while holds(directory, secret):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)


async def test_no_file_of_the_service_holds_a_secret_of_a_deleted_session(service: Service) -> None:
    options = pb.AgentOptions(env={"TOKEN": SECRET}, allowed_tools=["Bash"])
    await service.run("say: hello", session_id="s", options=options, request_id="r")
    await service.run("say: again", session_id="s")
    await service.run("say: other", session_id="other")
    assert holds(service.data_dir)
    await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id="s", request_id="d"))
    await gone(service.data_dir)
    assert (await service.status("other")).state == pb.SESSION_STATE_COMPLETED


async def test_records_and_events_of_many_deleted_sessions_leave_nothing(ledger: Ledger, tmp_path: Path) -> None:
    for number in range(60):
        name = f"s{number}"
        await begin(ledger, session(name, title=SECRET * (number % 7)))
        for _ in range(5):
            record = session(name, options=pb.AgentOptions(env={"A": SECRET * number}))
            asked = pb.ExecuteRequest(prompt=SECRET * 40)
            turn = pb.Turn(turn_id=f"t{number}", number=1, prompt=SECRET)
            await ledger.append(Commit(key(name), session=record, turns=[turn], requests={turn.turn_id: asked}))
        await ledger.append(Commit(key(name), events(name, 1, 40, text=SECRET)))
    for number in range(60):
        if number % 3:
            await ledger.delete(key(f"s{number}"))
    for number in range(0, 60, 3):
        await ledger.delete(key(f"s{number}"))
    await gone(tmp_path)


async def test_a_reader_of_an_old_state_holds_up_no_commit_and_the_log_is_emptied_after_it(
    ledger: Ledger, tmp_path: Path
) -> None:
    await begin(ledger, session("s", title=SECRET), 5)
    await begin(ledger, session("other"))
    with closing(sqlite3.connect(tmp_path / "data" / "ledger.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT COUNT(*) FROM sessions").fetchone()
        await ledger.delete(key("s"))
        async with asyncio.timeout(10):
            for number in range(1, 200):
                await ledger.append(Commit(key("other"), [event("other", number)]))
        assert holds(tmp_path)
    await gone(tmp_path)
    assert await ledger.last_sequence(key("other")) == 199
