"""A data directory of an older version goes on: it opens, and its sessions are listed, resumed, forked, deleted.

tests/data/e9858cc.tar.gz was written by commit e9858cc and ended by SIGKILL, with the offline model and max-sessions 2:
`finished` (two turns), its fork `fork`, `failed`, `waiting` (a permission is asked), `running`, and `queued`.
"""

from __future__ import annotations

import asyncio
import shutil
import tarfile
from pathlib import Path

import pytest
from agentpb import agent_pb2 as pb

from agent_service import maintenance
from agent_service.ledger import Ledger, LedgerUnusable
from agent_service.offline import OfflineModel
from tests.process.live import BASH, serve

ARCHIVE = Path(__file__).parents[1] / "data" / "e9858cc.tar.gz"
NAMES = {"finished", "fork", "failed", "waiting", "running", "queued"}

pytestmark = pytest.mark.process


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A copy of the directory."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path / "data", filter="data")
    return tmp_path / "data"


async def listed(live) -> dict[str, pb.Session]:  # type: ignore[no-untyped-def]
    """All sessions by id."""
    response = await live.stub.ListSessions(pb.ListSessionsRequest())
    return {session.session_id: session for session in response.sessions}


async def test_sessions_of_an_older_version_are_listed_resumed_forked_and_deleted(older: Path) -> None:
    async with OfflineModel() as model, serve(older, model_url=model.url) as live:
        sessions = await listed(live)
        assert sessions.keys() == NAMES
        assert len({session.change for session in sessions.values()}) == len(NAMES)
        assert all(session.change > 0 for session in sessions.values())
        assert all(session.workspace_id == session.agent_session_id for session in sessions.values())
        assert sessions["finished"].title == "Finished"
        assert dict(sessions["finished"].labels) == {"team": "a"}

        waiting = await live.rest("waiting")
        assert (waiting.state, waiting.error.reason) == (pb.SESSION_STATE_ERROR, "SERVICE_INTERRUPTED")
        assert (await live.rest("running")).session.phase == pb.SESSION_PHASE_INTERRUPTED
        assert (await live.rest("queued")).state == pb.SESSION_STATE_COMPLETED

        resumed = await live.run("recall", session_id="finished")
        assert "echo first" in resumed.turn.result.result
        assert resumed.session.change > max(session.change for session in sessions.values())
        forked = await live.run("recall", session_id="branch", fork_from="fork")
        assert "echo first" in forked.turn.result.result
        asked = await live.run("recall", session_id="waiting", options=BASH)
        assert asked.turn.state == pb.TURN_STATE_COMPLETED

        for name in (*NAMES, "branch"):
            await live.stub.DeleteSession(pb.DeleteSessionRequest(session_id=name))
        assert await listed(live) == {}
        assert list((older / "sessions").iterdir()) == []
        assert list((older / "tenants").rglob("*.jsonl")) == []
        await live.terminate()
    assert maintenance.check(older).problems == ()


async def test_a_copy_of_an_older_directory_is_made_and_a_check_says_what_to_do(older: Path, tmp_path: Path) -> None:
    await asyncio.to_thread(maintenance.backup, older, tmp_path / "copy")
    assert "start the service once" in maintenance.check(tmp_path / "copy").problems[0]
    async with serve(tmp_path / "copy") as live:
        assert (await listed(live)).keys() == NAMES


async def test_a_disk_without_room_for_the_new_form_is_said_and_the_directory_stays_usable(
    older: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(older)._replace(free=1000)
    with monkeypatch.context() as patched:
        patched.setattr("agent_service.ledger.sqlite.file.shutil.disk_usage", lambda path: usage)
        with pytest.raises(LedgerUnusable, match="needs 1 MiB of free disk; there are 0"):
            await Ledger(older).__aenter__()
    async with Ledger(older) as ledger:
        assert await ledger.count() == len(NAMES)
