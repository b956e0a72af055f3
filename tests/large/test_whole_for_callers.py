"""The Python client and agentctl show the whole of what a response has no room for, without being told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from agent_client import AgentClient, SyncAgentClient
from agent_client.cli import app
from agentpb import agent_pb2 as pb
from typer.testing import CliRunner

from tests.conftest import Service
from tests.interactions.conftest import policy

MIB = 1 << 20
LONG = "é" * 900_000


@pytest.fixture
async def client(service: Service) -> AgentClient:
    async with AgentClient(service.running.address) as client:
        yield client


@pytest.fixture
def agentctl(service: Service) -> Callable[..., Awaitable[str]]:
    """Run agentctl; what it printed."""

    async def run(*arguments: str) -> str:
        env = {"AGENT_SERVER": service.running.address}
        done = await asyncio.to_thread(CliRunner().invoke, app, list(arguments), env=env)
        assert done.exit_code == 0, (done.output[-500:], done.exception)
        return done.stdout

    return run


async def test_a_run_returns_the_whole_text(client: AgentClient) -> None:
    run = await client.run(f"say: {LONG}")
    assert run.text == LONG
    assert run.turn.prompt == f"say: {LONG}"
    assert not run.turn.truncated_fields
    assert (await client.session(run.session_id).result()).text == LONG
    status = await client.status(run.session_id)
    assert status.result.result == status.turn.result.result == LONG


async def test_the_synchronous_client_does_the_same(service: Service) -> None:
    def run() -> None:
        with SyncAgentClient(service.running.address) as client:
            run = client.run(f"say: {LONG}")
            assert run.text == LONG
            assert client.read_field(run.session_id, "result.result", turn_id=run.turn.turn_id) == LONG
            [event] = client.list_events(run.session_id, event_types=["message.assistant"])
            assert client.complete(run.session_id, event).assistant_message.content[0].text.text == LONG

    await asyncio.to_thread(run)


async def test_a_structured_output_and_many_denials_are_whole(client: AgentClient) -> None:
    calls = [f"echo {number} {'z' * 45_000} > /etc/x" for number in range(30)]
    prompt = "\n".join([f"bash: {call}" for call in calls] + ['json: {"a": "' + "y" * 500_000 + '"}'])
    run = await client.run(prompt, output_schema='{"type": "object"}')
    assert run.structured_output == {"a": "y" * 500_000}
    denied = [json.loads(denial.tool_input_json)["command"] for denial in run.turn.result.permission_denials]
    assert denied == calls


async def test_an_export_has_everything(
    client: AgentClient, agentctl: Callable[..., Awaitable[str]], tmp_path: Path
) -> None:
    run = await client.run(f"say: {LONG}")
    assert f"## Agent\n\n{LONG}\n" in await agentctl("export", run.session_id)
    await agentctl("export", run.session_id, "--format", "jsonl", "-o", str(tmp_path / "out"))
    events = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert not any("truncated_fields" in event for event in events)
    [said] = [event for event in events if event["type"] == "message.assistant"]
    assert said["assistant_message"]["content"][0]["text"]["text"] == LONG
    assert json.loads(said["raw_json"])["message"]["content"][0]["text"] == LONG
    [ended] = [event for event in events if event["type"] == "turn.completed"]
    assert ended["turn_completed"]["turn"]["result"]["result"] == LONG
    assert LONG in await agentctl("status", run.session_id)
    assert LONG in await agentctl("watch", run.session_id)


async def test_a_long_question_is_answered_at_the_terminal(
    service: Service, agentctl: Callable[..., Awaitable[str]]
) -> None:
    question = "q" * MIB
    started = await service.execute(f"ask: {question} | red | blue", options=policy())
    await service.until(started.session_id, pb.SESSION_PHASE_AWAITING_INPUT)
    assert question in await agentctl("pending")
    await agentctl("answer", started.session_id, "--answer", "2")
    await service.rest(started.session_id)
    [event] = [e for e in await service.events(started.session_id) if e.type == "interaction.resolved"]
    async with AgentClient(service.running.address) as client:
        resolved = (await client.complete(started.session_id, event)).interaction_resolved.interaction
    assert resolved.answers == {question: "blue"}
