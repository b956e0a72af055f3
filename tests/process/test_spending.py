"""What a turn has used is counted however it ends: by its result, by force, by its agent's death or the service's."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from agentpb import agent_pb2 as pb

from agent_service.processes.table import HOST
from agent_service.session import stop
from tests.conftest import Service
from tests.process.live import BASH, SLEEPER, Live, serve

pytestmark = pytest.mark.process

WORK = f"tokens: 500\nbash: {SLEEPER}"
"""An answer of 500 tokens, then a tool call that takes for ever."""
PRICE_OF_OUTPUT = 20e-6
"""US dollars of a token that the offline model writes, as the CLI counts it."""


async def at_work(service: Service) -> str:
    """Begin such a turn; the session, once the tool runs and its message has been counted."""
    session_id = (await service.execute(WORK, options=BASH)).session_id
    await service.until_event(
        session_id, lambda event: any(b.HasField("tool_use") for b in event.assistant_message.content)
    )
    return session_id


async def counted(service: Service, session_id: str) -> pb.Session:
    """Wait until the session says what its running turn has cost so far."""
    async with asyncio.timeout(20):
        while True:
            session = (await service.status(session_id)).session
            if session.total_cost_usd > 0:
                return session
            await asyncio.sleep(0.05)


def assert_counted(session: pb.Session) -> None:
    """The tokens and the dollars of the answer are in the session's totals."""
    assert session.total_usage.output_tokens >= 500
    assert session.total_usage.input_tokens > 0
    assert session.total_cost_usd >= 500 * PRICE_OF_OUTPUT


async def test_a_turn_at_work_shows_what_it_has_used_so_far(service: Service) -> None:
    session_id = await at_work(service)
    assert_counted(await counted(service, session_id))


async def test_a_turn_that_is_cancelled_by_force_is_counted(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop, "USAGE_PATIENCE", 20.0)  # the machine may be busy
    session_id = await at_work(service)
    cancelled = await service.stub.Cancel(pb.CancelRequest(session_id=session_id, force=True))
    assert cancelled.receipt.outcome == pb.CANCEL_OUTCOME_KILLED
    assert_counted((await service.rest(session_id)).session)


async def test_a_turn_that_is_cancelled_and_gives_a_result_is_counted_once(service: Service) -> None:
    session_id = await at_work(service)
    before = await counted(service, session_id)
    await service.stub.Cancel(pb.CancelRequest(session_id=session_id))
    after = (await service.rest(session_id)).session
    assert_counted(after)
    assert after.total_cost_usd == pytest.approx(before.total_cost_usd)
    assert after.total_usage.output_tokens == before.total_usage.output_tokens


async def test_a_turn_whose_agent_is_killed_is_counted(service: Service) -> None:
    session_id = await at_work(service)
    await counted(service, session_id)
    for process in HOST.look().by_pid.values():
        if process.name == "claude" and os.getpid() in HOST.look().ancestors(process.pid):
            os.kill(process.pid, signal.SIGKILL)
    status = await service.rest(session_id)
    assert status.state == pb.SESSION_STATE_ERROR
    assert_counted(status.session)


async def test_a_turn_is_counted_when_the_service_is_killed_and_the_next_one_on_top(tmp_path: Path) -> None:
    async with serve(tmp_path / "data") as live:
        session_id = await at_work(live)
        before = await counted(live, session_id)
        await live.kill()
    async with serve(tmp_path / "data") as live:
        after = (await live.rest(session_id)).session
        assert_counted(after)
        assert after.total_cost_usd == before.total_cost_usd
        await _next_turn_is_added(live, after)


async def _next_turn_is_added(live: Live, before: pb.Session) -> None:
    done = await live.run("say: again", session_id=before.session_id)
    assert done.session.total_cost_usd == pytest.approx(before.total_cost_usd + done.turn.result.cost_usd)
    used = before.total_usage.output_tokens + done.turn.result.usage.output_tokens
    assert done.session.total_usage.output_tokens == used


async def test_results_alone_add_up_exactly(service: Service) -> None:
    first = await service.run("say: hello")
    second = await service.run("tokens: 50\nbash: echo hi\nsay: end", session_id=first.session_id, options=BASH)
    results = [first.turn.result, second.turn.result]
    assert second.session.total_cost_usd == results[0].cost_usd + results[1].cost_usd
    assert second.session.total_usage.output_tokens == sum(each.usage.output_tokens for each in results)


async def test_the_tokens_of_subagents_are_in_the_totals(service: Service) -> None:
    prompt = 'tool: Agent {"description": "d", "prompt": "tokens: 300", "subagent_type": "general-purpose"}\nsay: done'
    done = await service.run(prompt, options=pb.AgentOptions(allowed_tools=["Agent", "Task"]))
    assert done.turn.result.usage.output_tokens < 300, "the main conversation alone"
    assert done.session.total_usage.output_tokens >= 300
