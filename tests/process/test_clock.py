"""The host's clock is set while the service runs: retries are recognized, and nothing looks old."""

from __future__ import annotations

from pathlib import Path

import pytest
from agentpb import agent_pb2 as pb

from tests.process.live import serve

FAKETIME = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)

pytestmark = pytest.mark.process


@pytest.mark.skipif(FAKETIME is None, reason="libfaketime is not installed")
async def test_a_clock_that_is_set_while_the_service_runs_changes_no_age(tmp_path: Path) -> None:
    host = tmp_path / "host"
    host.write_text("+0")
    faked = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": str(host), "FAKETIME_NO_CACHE": "1"}
    async with serve(tmp_path / "data", FAKETIME_DONT_FAKE_MONOTONIC="1", **faked) as live:
        first = await live.run("say: hi", session_id="mine", request_id="once")
        for setting in ("+365d", "-1d"):
            host.write_text(setting)
            again = await live.run("say: hi", session_id="mine", request_id="once")
            assert (again.deduplicated, again.turn.turn_id) == (True, first.turn.turn_id)
            other = await live.run(f"say: {setting}")
            between = other.session.create_time.seconds - first.session.create_time.seconds
            assert 0 <= between < 120, "the service keeps its own time"
            cleaned = await live.stub.Cleanup(pb.CleanupRequest(older_than={"seconds": 3600}))
            assert cleaned.deleted_count == 0
        await live.terminate()
