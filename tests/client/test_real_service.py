"""The client and agentctl against the real service, its real agent and the offline model."""

from __future__ import annotations

import asyncio

import pytest
from agent_client import AgentClient
from agent_client.cli import app
from agentpb import agent_pb2 as pb
from typer.testing import CliRunner

MANUAL = {"permissions": True, "questions": True}


@pytest.fixture
async def agent(start):
    """A client of a real service."""
    service = await start()
    async with AgentClient(service.running.address) as client:
        yield client


async def test_a_result_needs_one_look_while_a_background_task_goes_on(agent, monkeypatch):
    handle = await agent.execute("background: sleep 1000", allowed_tools=["Bash"])
    looks = []
    status = agent.status

    async def counted(*arguments, **fields):
        looks.append(fields.get("wait"))
        return await status(*arguments, **fields)

    monkeypatch.setattr(agent, "status", counted)
    result = await handle.result()
    assert (result.ok, result.session.phase) == (True, pb.SESSION_PHASE_BACKGROUND)
    assert looks == [None]
    await handle.cancel(force=True)


async def test_a_rule_that_agentctl_remembers_holds_and_the_mode_stays(agent):
    handle = await agent.execute("bash: touch a\nbash: touch a", interactions=MANUAL)
    await _until_asked(handle)
    done = await _agentctl(agent, "approve", handle.session_id, "--remember", "rule")
    assert "remembered for this session: allow Bash(touch" in done.stdout
    result = await handle.result()
    assert result.ok
    assert result.session.permission_mode == pb.PERMISSION_MODE_DEFAULT, "a suggestion to change it was not chosen"


async def test_answers_by_number_reach_the_model(agent):
    handle = await agent.execute("ask: Which colour? | red | blue", interactions=MANUAL)
    await _until_asked(handle)
    assert (await _agentctl(agent, "answer", handle.session_id, "--answer", "1=2")).exit_code == 0
    assert (await handle.result()).ok
    texts = [
        block.tool_result.text
        async for event in handle.events(event_types=["message.user"])
        for block in event.user_message.content
    ]
    assert any('"Which colour?"="blue"' in text for text in texts)


async def test_an_mcp_server_that_cannot_start_is_told(agent):
    done = await _agentctl(agent, "run", "--option", 'mcp_servers={"db": {"command": "/does/not/exist"}}', "say: hi")
    assert "MCP server db: failed; its tools are missing" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "by"),
    [
        (["--allow", "Bash", "bash: true & true"], "by a rule of the agent's own"),
        (["--allow", "Bash", "--deny", "Bash(touch:*)", "bash: touch x"], "by a rule of the session's options"),
        (["--permission-mode", "dontAsk", "bash: touch x"], "by the session's permission mode"),
        (["bash: touch x"], "since nothing allows it and nobody can be asked"),
    ],
)
async def test_a_denial_says_whose_rule_it_was(agent, arguments, by):
    done = await _agentctl(agent, "run", *arguments)
    assert f"· Bash denied {by}" in done.stdout


async def test_what_the_agents_own_rule_denies_is_asked_where_people_can_be(agent):
    handle = await agent.execute("bash: true & true", allowed_tools=["Bash"], interactions=MANUAL)
    await _until_asked(handle)
    assert "safety checks" in (await _agentctl(agent, "pending")).stdout
    assert (await _agentctl(agent, "approve", handle.session_id)).exit_code == 0
    assert not (await handle.result()).turn.result.permission_denials


async def test_many_sessions_are_counted_and_cancelled_by_their_label(agent):
    await agent.run("say: done", labels={"job": "nightly"})
    running = [await agent.execute("wait: 60", labels={"job": "nightly"}) for _ in range(2)]
    for handle in running:
        assert (await anext(handle.watch(event_types=["turn.started"]))).type == "turn.started"
    counted = (await _agentctl(agent, "count", "--label", "job=nightly")).stdout
    assert " ".join(counted.split()) == "2 running 1 completed 3 in all"
    assert "3  nightly" in (await _agentctl(agent, "count", "--by", "labels.job")).stdout
    listed = await _agentctl(agent, "cancel-all", "--label", "job=nightly", "--dry-run")
    assert listed.stdout.splitlines()[-1] == "would cancel 2"
    done = await _agentctl(agent, "cancel-all", "--label", "job=nightly", "--force")
    assert done.stdout.splitlines()[-1] == "cancelled 2 of 2"
    for handle in running:
        assert handle.session_id in done.stdout
        assert (await handle.status()).session.state == pb.SESSION_STATE_CANCELLED
    assert (await _agentctl(agent, "cancel-all")).exit_code == 2
    assert [each.summary.matched for each in await agent.cancel_sessions(labels={"job": "nightly"})] == [0]
    counted = await agent.count_sessions("state", labels={"job": "nightly"})
    assert {each.value: each.count for each in counted.counts} == {
        "SESSION_STATE_CANCELLED": 2,
        "SESSION_STATE_COMPLETED": 1,
    }


async def test_agents_are_prepared_by_the_client_and_by_agentctl_for_runs_of_the_same_options(agent):
    first = await agent.prepare_agents(1, hold=120, allowed_tools=["Read"])
    assert (first.ready, first.starting, first.limited_by) == (0, 1, "")
    while not (await agent.prepare_agents(1, options=pb.AgentOptions(allowed_tools=["Read"]))).ready:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    assert (await _agentctl(agent, "prepare", "--allow", "Read")).stdout == "1 ready, 0 starting\n"
    assert (await _agentctl(agent, "run", "--allow", "Read", "say: hi")).exit_code == 0
    assert (await agent.server_info()).pool.warm_starts == 1
    none = await _agentctl(agent, "prepare", "--count", "2", "--hold", "2m", "--option", 'setting_sources=["project"]')
    assert none.stdout == "0 ready, 0 starting; agents of these options cannot be prepared\n"
    assert (await _agentctl(agent, "prepare", "--count", "0")).exit_code == 2


async def _until_asked(handle):
    status = await handle.status(wait=60, wait_for="settled")
    assert status.session.pending_interactions, status


async def _agentctl(client, *arguments):
    return await asyncio.to_thread(CliRunner().invoke, app, list(arguments), env={"AGENT_SERVER": client.target})
