"""The disk: full, read-only, damaged, newer, taken. Each has a clear word and an exit code.

Nothing is told that was not kept.
"""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import grpc.aio
import pytest
from agentpb import agent_pb2 as pb

from agent_service import maintenance as upkeep
from tests.conftest import Service
from tests.process.live import living, refused, serve, until

pytestmark = pytest.mark.process

EX_IOERR, EX_CONFIG = 74, 78


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("this host mounts nothing")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


async def test_a_full_disk_ends_the_service_and_takes_nothing_back(small_disk: Path) -> None:
    data_dir = small_disk / "data"
    told: dict[str, int] = {}
    refusal = None
    async with serve(data_dir) as live:
        while live.process.returncode is None:
            try:
                told[(await live.execute("say: x " * 10_000)).session_id] = 1
            except grpc.aio.AioRpcError as error:
                refusal = error.code()
                break
        assert refusal == grpc.StatusCode.UNAVAILABLE
        assert await asyncio.wait_for(live.process.wait(), 20) == EX_IOERR
        await until(lambda: not living(data_dir), 1.0)
        assert "the ledger cannot be written" in live.log.read_text()
    code, text = await refused(data_dir)
    assert code in (EX_IOERR, EX_CONFIG)
    assert text.startswith("agent-service: ")
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert upkeep.check(data_dir).problems == ()
    async with serve(data_dir) as live:
        for session_id in told:
            assert (await live.status(session_id, history_limit=0)).session.last_sequence >= 2
        await live.stub.GetServerInfo(pb.GetServerInfoRequest())


async def test_a_read_only_directory_is_refused_with_its_name(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    code, text = await refused(small_disk / "data")
    assert code == EX_CONFIG
    assert str(small_disk) in text
    assert "Read-only" in text


async def test_a_damaged_and_a_newer_ledger_are_refused_and_left_as_they_are(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "ledger.db").write_bytes(b"no ledger at all" * 1000)
    code, text = await refused(damaged)
    assert code == EX_CONFIG
    assert "damaged, or no ledger" in text
    assert (damaged / "ledger.db").read_bytes() == b"no ledger at all" * 1000
    assert upkeep.check(damaged).problems
    newer = tmp_path / "newer"
    async with serve(newer) as live:
        await live.terminate()
    with closing(sqlite3.connect(newer / "ledger.db")) as db:
        db.execute("PRAGMA user_version = 99")
    code, text = await refused(newer)
    assert code == EX_CONFIG
    assert "newer version" in text


async def test_a_second_service_on_one_data_directory_is_refused_with_the_firsts_id(tmp_path: Path) -> None:
    async with serve(tmp_path / "data") as live:
        session_id = (await live.execute("slow: 30")).session_id
        await live.until(session_id, pb.SESSION_PHASE_WORKING)
        code, text = await refused(tmp_path / "data")
        assert code == EX_CONFIG
        assert f"process {live.process.pid}" in text
        assert (await live.status(session_id)).session.phase == pb.SESSION_PHASE_WORKING


async def test_files_that_cannot_be_removed_hold_up_no_other_session(service: Service, small_disk: Path) -> None:
    stuck = (await service.run("say: stuck")).session
    free = (await service.run("say: free")).session
    held = Path(stuck.cwd).parent  # as the root of a mount it can be neither moved nor removed
    subprocess.run(["mount", "--bind", small_disk, held], check=True)
    try:
        assert await service.running.registry.deletion.expire(lambda _: 1e-6) == 1
        with pytest.raises(grpc.aio.AioRpcError, match=held.name) as refused_call:
            await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id=stuck.session_id))
        assert refused_call.value.code() == grpc.StatusCode.UNAVAILABLE
        cleanup = await service.stub.Cleanup(pb.CleanupRequest(older_than={"nanos": 1000}))
        assert [failure.session_id for failure in cleanup.failures] == [stuck.session_id]
    finally:
        subprocess.run(["umount", held], check=True)
    left = (await service.stub.ListSessions(pb.ListSessionsRequest())).sessions
    assert [session.session_id for session in left] == [stuck.session_id] != [free.session_id]
    assert await service.running.registry.deletion.expire(lambda _: 1e-6) == 0  # the sweep tries it again after a pause
    await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id=stuck.session_id))
    assert not Path(stuck.cwd).exists()
