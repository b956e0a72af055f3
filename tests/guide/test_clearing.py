"""A session stands for the conversation that its agent is in, also after a prompt has cleared it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agentpb import agent_pb2 as pb

from tests.conftest import Service, start_service


async def cleared(service: Service, command: str = "/clear") -> tuple[pb.Session, pb.Session]:
    """A session before and after a prompt that clears its conversation."""
    first = await service.run("say: the secret word is plum")
    after = await service.run(command, session_id=first.session_id)
    assert after.state == pb.SESSION_STATE_COMPLETED
    return first.session, after.session


def transcripts(data_dir: Path) -> list[str]:
    """The ids of the conversations on disk."""
    return sorted(path.stem for path in data_dir.glob("sessions/*/config/projects/*/*.jsonl"))


@pytest.mark.parametrize("command", ["/clear", "/new", "/reset"])
async def test_a_cleared_session_has_another_conversation_in_the_same_place(service: Service, command: str) -> None:
    before, after = await cleared(service, command)
    assert after.agent_session_id != before.agent_session_id
    assert after.workspace_id == before.workspace_id == before.agent_session_id
    assert after.cwd == before.cwd
    assert transcripts(service.data_dir) == sorted([before.agent_session_id, after.agent_session_id])


@pytest.mark.parametrize("agent", ["the same", "another"])
async def test_what_was_cleared_does_not_come_back(start: Callable[..., Any], agent: str) -> None:
    service = await start(idle_timeout=300.0 if agent == "the same" else 0.05)
    _, session = await cleared(service)
    if agent == "another":
        await service.until(session.session_id, pb.SESSION_PHASE_DORMANT)
    again = await service.run("recall", session_id=session.session_id)
    assert again.turn.result.result == "recall"
    assert again.session.agent_session_id == session.agent_session_id
    third = await service.run("recall", session_id=session.session_id)
    assert third.turn.result.result == "recall"


async def test_what_was_cleared_does_not_come_back_with_the_service(tmp_path: Path) -> None:
    async with start_service(tmp_path / "data") as first:
        _, session = await cleared(first)
    async with start_service(tmp_path / "data") as second:
        again = await second.run("recall", session_id=session.session_id)
        assert again.turn.result.result == "recall"


async def test_a_fork_branches_from_the_conversation_as_it_is_now(service: Service) -> None:
    _, session = await cleared(service)
    await service.run("say: a new beginning", session_id=session.session_id)
    fork = await service.run("recall", fork_from=session.session_id)
    assert fork.turn.result.result == "say: a new beginning"


async def test_the_totals_go_on_and_count_each_turn_once(start: Callable[..., Any]) -> None:
    service = await start(idle_timeout=0.05)
    first = await service.run("say: " + "much " * 2000)
    costs = [first.turn.result.cost_usd]
    session_id = first.session_id
    for prompt in ("/clear", "say: a", "/clear", "say: " + "more " * 3000, "say: b"):
        await service.until(session_id, pb.SESSION_PHASE_DORMANT)
        turn = await service.run(prompt, session_id=session_id)
        costs.append(turn.turn.result.cost_usd)
    assert costs[1] == costs[3] == 0
    assert all(cost > 0 for cost in (costs[0], costs[2], costs[4], costs[5]))
    assert costs[5] < costs[4]
    assert turn.session.total_cost_usd == pytest.approx(sum(costs))


async def test_deleting_the_session_removes_every_conversation_it_had(service: Service) -> None:
    _, session = await cleared(service)
    await service.run("/clear", session_id=session.session_id)
    await service.run("say: third", session_id=session.session_id)
    other = await service.run("say: another session")
    assert len(transcripts(service.data_dir)) == 4
    await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id=session.session_id))
    assert transcripts(service.data_dir) == [other.session.agent_session_id]
    assert [path.name for path in (service.data_dir / "sessions").iterdir()] == [other.session.workspace_id]
