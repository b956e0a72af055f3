"""Drain: the first signal lets go in good order, the second one at once."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import grpc
import grpc.aio
import pytest
from agentpb import agent_pb2 as pb

from agent_service import maintenance as upkeep
from tests.process.live import BASH, SLEEPER, Live, living, serve, until

pytestmark = pytest.mark.process

DRAIN = 2.0


async def watch_to_the_end(live: Live, session_id: str) -> pb.WatchEnd | None:
    """The end of a watch; None when it was cut."""
    try:
        async for response in live.stub.WatchSession(pb.WatchSessionRequest(session_id=session_id, follow=True)):
            if response.HasField("end"):
                return response.end
    except grpc.aio.AioRpcError:
        return None
    return None


async def test_a_drain_delivers_every_ending_in_time_and_leaves_with_zero(tmp_path: Path) -> None:
    async with serve(tmp_path / "data", "--drain-timeout", f"{DRAIN}s", "--max-sessions", "20") as live:
        prompts = ["slow: 120"] * 10 + [f"bash: {SLEEPER}"] * 5 + ["slow: 1"] * 5
        running = [(await live.execute(prompt, options=BASH)).session_id for prompt in prompts]
        queued = (await live.execute("say: later")).session_id
        watchers = [
            asyncio.create_task(watch_to_the_end(live, session_id))
            for session_id in [*running, *running, *running[:10]]
        ]
        waiter = asyncio.create_task(live.run("say: behind", session_id=running[0], on_busy=pb.ON_BUSY_ENQUEUE))
        for session_id in running[:15]:
            await live.until(session_id, pb.SESSION_PHASE_WORKING, 60)
        begun = time.monotonic()
        live.process.send_signal(signal.SIGTERM)
        await _until_draining(live)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await live.execute("say: too late")
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        assert await asyncio.wait_for(live.process.wait(), DRAIN + 10) == 0
        assert time.monotonic() - begun < DRAIN + 10
        ends = await asyncio.gather(*watchers)
        with pytest.raises(AssertionError):
            await waiter  # it says wait_expired
        assert living(live.data_dir) == []
    assert all(end is not None and end.reason == pb.WATCH_END_REASON_DRAINING for end in ends)
    assert upkeep.check(tmp_path / "data").problems == ()
    async with serve(tmp_path / "data", "--drain-timeout", "0s") as live:
        interrupted = await live.status(running[1])
        assert interrupted.session.phase == pb.SESSION_PHASE_INTERRUPTED
        assert "shut down" in interrupted.error.message
        assert (await live.rest(queued)).state == pb.SESSION_STATE_COMPLETED


async def test_a_second_signal_leaves_at_once_and_with_all_processes(tmp_path: Path) -> None:
    async with serve(tmp_path / "data", "--drain-timeout", "60s") as live:
        session_id = (await live.execute("slow: 120")).session_id
        await live.until(session_id, pb.SESSION_PHASE_WORKING)
        live.process.send_signal(signal.SIGINT)
        await _until_draining(live)
        begun = time.monotonic()
        live.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(live.process.wait(), 5) == 1
        assert time.monotonic() - begun < 1.0
        await until(lambda: not living(live.data_dir), 1.0, "orphans")


async def _until_draining(live: Live) -> None:
    """Watching, reading and asking still work while the service drains."""
    deadline = time.monotonic() + 10
    while not (await live.stub.GetServerInfo(pb.GetServerInfoRequest())).draining:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
