"""Truthful cancel: when the answer comes, everything is dead, on the receipt, and in the log."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from agentpb import agent_pb2 as pb

from agent_service import maintenance as upkeep
from tests.chaos.cancel import KINDS, CancelReport, cancel_once
from tests.chaos.looks import processes_of
from tests.process.live import BASH, SLEEPER, Live, serve

pytestmark = pytest.mark.process


@pytest.fixture
async def live(tmp_path: Path) -> AsyncIterator[Live]:
    async with serve(tmp_path / "data", "--drain-timeout", "0s", "--max-sessions", "3") as live:
        yield live
        assert await live.terminate() == 0
        assert live.processes() == []
    assert upkeep.check(live.data_dir).problems == ()


def cancel(session_id: str, **fields: object) -> pb.CancelRequest:
    return pb.CancelRequest(session_id=session_id, **fields)


async def test_each_kind_of_run_is_dead_when_cancel_answers(live: Live) -> None:
    reports = {kind: CancelReport() for kind in KINDS}
    for kind, report in reports.items():
        await cancel_once(live, kind, report, grace=1.0)
    assert {kind: report.failures for kind, report in reports.items()} == {kind: [] for kind in KINDS}
    assert max(report.p99 for report in reports.values()) < 1.0 + 1.0
    assert reports["streaming"].outcomes == reports["silent"].outcomes == {"INTERRUPTED": 1}
    assert set(reports["stopped"].outcomes) <= {"TERMINATED", "KILLED"}


async def test_an_agent_that_gives_its_prompt_back_was_interrupted(live: Live) -> None:
    session = (await live.run("say: one")).session
    cli = [pid for pid, name in processes_of(live, session.agent_session_id).items() if name == "claude"]
    for pid in cli:
        os.kill(pid, signal.SIGSTOP)  # it will read the prompt and the interrupt in one go, and begin with neither
    turn_id = (await live.execute("slow: 60", session_id=session.session_id)).turn.turn_id
    request = cancel(session.session_id)
    request.grace.FromSeconds(20)
    answer = live.stub.Cancel(request)
    await live.until(session.session_id, pb.SESSION_PHASE_STOPPING)
    await asyncio.sleep(0.1)
    for pid in cli:
        os.kill(pid, signal.SIGCONT)
    assert (await answer).receipt.outcome == pb.CANCEL_OUTCOME_INTERRUPTED
    kinds = [event.type for event in await live.events(session.session_id) if event.turn_id == turn_id]
    assert kinds[-4:] == ["message.user", "state.changed", "turn.completed", "state.changed"]


async def test_force_kills_at_once_also_a_cancel_that_waits(live: Live) -> None:
    one = (await live.execute(f"bash: {SLEEPER}", options=BASH)).session_id
    await live.until(one, pb.SESSION_PHASE_WORKING)
    begun = time.monotonic()
    forced = await live.stub.Cancel(cancel(one, force=True))
    assert time.monotonic() - begun < 1.0
    assert forced.receipt.outcome == pb.CANCEL_OUTCOME_KILLED
    assert forced.receipt.process_ids


async def test_cancelling_twice_while_stopping_and_at_rest_is_told_truly(live: Live) -> None:
    session_id = (await live.execute("slow: 60")).session_id
    await live.until(session_id, pb.SESSION_PHASE_WORKING)
    first, second = await asyncio.gather(
        live.stub.Cancel(cancel(session_id, reason="one")), live.stub.Cancel(cancel(session_id, reason="two"))
    )
    for answer in (first, second):
        assert not answer.already_at_rest
        assert answer.receipt.process_ids == first.receipt.process_ids
        assert answer.session.phase == pb.SESSION_PHASE_CANCELLED
        assert answer.session.HasField("rest_time")
    third = await live.stub.Cancel(cancel(session_id))
    assert third.already_at_rest
    assert not third.HasField("receipt")
    assert third.session.last_sequence == first.session.last_sequence


async def test_cancel_without_wait_answers_at_once_and_others_are_not_held_up(live: Live) -> None:
    session_id = (await live.execute(KINDS["stopped"])).session_id
    await live.until(session_id, pb.SESSION_PHASE_WORKING)
    request = cancel(session_id)
    request.wait.FromSeconds(0)
    answer = await live.stub.Cancel(request)
    assert answer.session.phase == pb.SESSION_PHASE_STOPPING
    assert not answer.HasField("receipt")
    began = time.monotonic()
    await live.stub.GetServerInfo(pb.GetServerInfoRequest())
    await live.stub.ListSessions(pb.ListSessionsRequest())
    assert time.monotonic() - began < 0.5
    assert (await live.rest(session_id)).session.phase == pb.SESSION_PHASE_CANCELLED


async def test_cancel_while_starting_leaves_nothing_and_the_session_can_be_resumed(live: Live) -> None:
    for pause in (0.0, 0.05, 0.15, 0.3):
        session_id = (await live.execute("say: never")).session_id
        await asyncio.sleep(pause)
        answer = await live.stub.Cancel(cancel(session_id, force=pause == 0.05))
        assert answer.session.state in (pb.SESSION_STATE_CANCELLED, pb.SESSION_STATE_COMPLETED)
        if answer.session.state == pb.SESSION_STATE_CANCELLED:
            assert not answer.session.agent_session_id or not processes_of(live, answer.session.agent_session_id)
        resumed = await live.run("say: after all", session_id=session_id)
        assert "after all" in resumed.turn.result.result
        await live.stub.DeleteSession(pb.DeleteSessionRequest(session_id=session_id))


async def test_cancel_while_queued_starts_nothing_and_takes_the_queue_along(live: Live) -> None:
    busy = [(await live.execute("slow: 60")).session_id for _ in range(3)]
    waiting = (await live.execute("say: never")).session_id
    await live.execute("say: neither", session_id=waiting, on_busy=pb.ON_BUSY_ENQUEUE)
    answer = await live.stub.Cancel(cancel(waiting))
    assert answer.receipt.outcome == pb.CANCEL_OUTCOME_NOT_STARTED
    assert list(answer.receipt.process_ids) == []
    assert answer.session.phase == pb.SESSION_PHASE_CANCELLED
    assert answer.session.queued_turn_count == 0
    kinds = [event.type for event in await live.events(waiting)]
    assert kinds.count("turn.completed") == 2
    assert "turn.started" not in kinds
    await asyncio.gather(*(live.stub.Cancel(cancel(session_id)) for session_id in busy))


async def test_cost_of_a_cancelled_turn_is_kept_and_not_counted_again_by_the_next(live: Live) -> None:
    first = await live.run("say: one")
    await live.execute("bash: echo half\nslow: 60", session_id=first.session_id, options=BASH)
    # The tool's result is in, so the answer that asked for it has been paid for.
    await live.until_event(
        first.session_id,
        lambda event: any(block.tool_result.text == "half" for block in event.user_message.content),
    )
    await live.stub.Cancel(cancel(first.session_id))
    cancelled = await live.status(first.session_id)
    assert cancelled.turn.result.cost_usd > 0
    last = await live.run("say: two", session_id=first.session_id)
    figures = [first.turn.result.cost_usd, cancelled.turn.result.cost_usd, last.turn.result.cost_usd]
    assert last.session.total_cost_usd == pytest.approx(sum(figures))
    assert last.turn.result.cost_usd < 10 * first.turn.result.cost_usd
