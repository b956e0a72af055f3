"""The service's own death: nothing that was told is lost, nothing is left behind, everything goes on."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from agentpb import agent_pb2 as pb

from agent_service import maintenance as upkeep
from agent_service.offline import OfflineModel
from tests.chaos.crash import Crashes
from tests.chaos.looks import all_events, processes_of
from tests.process.live import BASH, SLEEPER, living, serve, until

pytestmark = pytest.mark.process


async def test_kills_at_random_instants_under_load_lose_nothing_and_leave_nothing(tmp_path: Path) -> None:
    report = await Crashes(tmp_path / "data", seed=1).run(2)
    assert report.failures == []
    assert (report.orphans, report.late_requests) == (0, 0)
    assert report.slowest_death < 1.0
    assert report.sessions > 0


async def test_after_a_restart_queued_turns_run_and_running_ones_say_what_happened(tmp_path: Path) -> None:
    async with OfflineModel() as model:
        async with serve(tmp_path / "data", "--max-sessions", "1", model_url=model.url) as live:
            idle = (await live.run("say: idle")).session_id
            running = (await live.execute(f"bash: {SLEEPER}", options=BASH, request_id="running")).session_id
            await live.execute("say: queued", session_id=running, on_busy=pb.ON_BUSY_ENQUEUE)
            queued = (await live.execute("say: waited", request_id="queued")).session_id
            await live.until(running, pb.SESSION_PHASE_WORKING)
            before = await all_events(live, running, 1000)
            assert (await live.status(idle)).session.phase == pb.SESSION_PHASE_IDLE
            await live.kill()
            await until(lambda: not living(live.data_dir), 1.0, "orphans")
        assert upkeep.check(tmp_path / "data").problems == ()
        async with serve(tmp_path / "data", "--max-sessions", "1", model_url=model.url) as live:
            assert (await live.status(idle)).session.phase == pb.SESSION_PHASE_DORMANT
            events = await live.events(running, after_sequence=before[-1].sequence)
            assert events[0].sequence == before[-1].sequence + 1
            ended = [event.turn_completed.turn for event in events if event.type == "turn.completed"]
            assert [turn.state for turn in ended] == [pb.TURN_STATE_ERROR, pb.TURN_STATE_COMPLETED]
            assert ended[0].error.reason == "SERVICE_INTERRUPTED"
            assert "queued" in ended[1].result.result
            assert (await live.rest(queued)).state == pb.SESSION_STATE_COMPLETED
            again = await live.execute("say: waited", request_id="queued")
            assert again.deduplicated
            assert again.session_id == queued
            await live.terminate()
    assert upkeep.check(tmp_path / "data").problems == ()


async def test_a_running_turn_alone_ends_as_interrupted_and_the_conversation_goes_on(tmp_path: Path) -> None:
    async with serve(tmp_path / "data") as live:
        session_id = (await live.execute(f"bash: echo first\nbash: {SLEEPER}", options=BASH)).session_id
        await _tool_runs(live, session_id)
        await live.kill()
    async with serve(tmp_path / "data") as live:
        status = await live.status(session_id)
        assert (status.state, status.session.phase) == (pb.SESSION_STATE_ERROR, pb.SESSION_PHASE_INTERRUPTED)
        assert status.error.reason == "SERVICE_INTERRUPTED"
        assert status.error.retryable
        assert not status.session.HasField("current_turn")
        resumed = await live.run("recall", session_id=session_id)
        assert "echo first" in resumed.turn.result.result


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
async def test_restart_policy_resume_continues_behind_the_prompt_at_most_three_times(
    tmp_path: Path, signal_number: int
) -> None:
    prompt = f"bash: echo once >>$PWD/times; {SLEEPER}"
    async with serve(tmp_path / "data", "--drain-timeout", "0s") as live:
        started = await live.execute(prompt, options=BASH, restart_policy=pb.RESTART_POLICY_RESUME)
        session_id = started.session_id
        await _tool_runs(live, session_id)
        live.process.send_signal(signal_number)
        await live.process.wait()
        await until(lambda: not living(live.data_dir), 1.0, "orphans")
    async with serve(tmp_path / "data", "--drain-timeout", "0s") as live:
        done = await live.rest(session_id)
        assert done.state == pb.SESSION_STATE_COMPLETED
        assert done.turn.turn_id == started.turn.turn_id
        assert done.turn.restart_count == 1
        assert "Continue where you left off" in done.turn.result.result
        assert Path(done.session.cwd, "times").read_text() == "once\n"
        log = await live.events(session_id)
        prompts = [
            event for event in log if event.type == "message.user" and event.user_message.content[0].HasField("text")
        ]
        assert len([event for event in prompts if event.uuid == started.turn.turn_id]) == 1
        assert [event.type for event in log].count("turn.completed") == 1
        assert "SESSION_PHASE_RECOVERING" in {
            pb.SessionPhase.Name(event.state_changed.phase) for event in log if event.type == "state.changed"
        }
        await live.terminate()
    assert upkeep.check(tmp_path / "data").problems == ()


async def test_a_turn_that_never_gets_through_is_given_up_after_three_restarts(tmp_path: Path) -> None:
    async with OfflineModel() as model:
        async with serve(tmp_path / "data", model_url=model.url) as live:
            request = pb.ExecuteRequest(prompt="wait: 600", restart_policy=pb.RESTART_POLICY_RESUME)
            session_id = (await live.stub.Execute(request)).session_id
            await live.kill()
        for restarts in (1, 2, 3):
            async with serve(tmp_path / "data", model_url=model.url) as live:
                turn = (await live.status(session_id)).turn
                assert turn.restart_count == restarts
                await live.kill()
        async with serve(tmp_path / "data", model_url=model.url) as live:
            status = await live.status(session_id)
            assert status.session.phase == pb.SESSION_PHASE_INTERRUPTED
            assert status.turn.restart_count == 3


async def test_a_killed_cli_fails_its_turn_and_the_next_one_resumes(tmp_path: Path) -> None:
    async with serve(tmp_path / "data") as live:
        session_id = (await live.execute(f"bash: setsid {SLEEPER} & {SLEEPER}", options=BASH)).session_id
        await _tool_runs(live, session_id)
        agent = (await live.status(session_id)).session.agent_session_id
        victims = [pid for pid, name in processes_of(live, agent).items() if name == "claude"]
        os.kill(victims[0], signal.SIGKILL)
        ended = await live.rest(session_id)
        assert ended.session.phase == pb.SESSION_PHASE_FAILED
        assert ended.error.reason == "AGENT_EXITED"
        assert ended.error.retryable
        await until(lambda: not live.processes(), 3.0, "the dead CLI's tools live on")
        assert (await live.run("say: back", session_id=session_id)).state == pb.SESSION_STATE_COMPLETED


async def test_a_missing_transcript_is_refused_and_never_a_silent_fresh_start(tmp_path: Path) -> None:
    async with serve(tmp_path / "data", "--idle-timeout", "0s") as live:
        session_id = (await live.run("say: one")).session_id
        await until(lambda: not live.processes())
        for transcript in live.data_dir.glob("sessions/*/config/projects/*/*.jsonl"):
            transcript.unlink()
        with pytest.raises(Exception, match="transcript"):
            await live.run("say: two", session_id=session_id)
    assert "transcript is missing" in upkeep.check(tmp_path / "data").notes[0]


async def test_a_backup_taken_in_mid_run_is_a_data_directory_of_its_own(tmp_path: Path) -> None:
    async with serve(tmp_path / "data") as live:
        done = (await live.run("say: remember me")).session_id
        await live.execute("slow: 30")
        await asyncio.to_thread(upkeep.backup, live.data_dir, tmp_path / "copy")
    assert upkeep.check(tmp_path / "copy").problems == ()
    async with serve(tmp_path / "copy") as live:
        assert "remember me" in (await live.run("recall", session_id=done)).turn.result.result


async def _tool_runs(live, session_id: str) -> None:  # type: ignore[no-untyped-def]
    await live.until(session_id, pb.SESSION_PHASE_WORKING)
    agent = (await live.status(session_id, history_limit=0)).session.agent_session_id
    await until(lambda: "python3" in processes_of(live, agent).values(), 20, "the tool did not start")
