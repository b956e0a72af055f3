"""CLIs that behave as none should: they do not end, say too much, or break off in mid-word."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agentpb import agent_pb2 as pb
from claude_agent_sdk._internal.transport.subprocess_cli import SubprocessCLITransport

from agent_service.processes.guards import GroupGuard
from agent_service.processes.tags import owner_id
from agent_service.processes.tree import ProcessTree
from tests.conftest import Service
from tests.process.live import until

pytestmark = pytest.mark.process

FAKE = Path(__file__).with_name("fake_cli.py")


@pytest.fixture
async def fake(start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Service:
    """A service whose CLI is the badly behaved one."""
    monkeypatch.setattr(SubprocessCLITransport, "_find_cli", lambda self: str(FAKE))
    return await start(idle_timeout=0.0)


async def test_a_cli_that_ignores_the_end_of_its_input_is_reaped(fake: Service) -> None:
    response = await fake.run("anything")
    assert response.state == pb.SESSION_STATE_COMPLETED
    tree = ProcessTree(GroupGuard(), None, owner_id(fake.data_dir))
    await until(lambda: not tree.processes(), 8, "the CLI lives on")


async def test_a_tool_result_of_20_mb_with_nul_and_lone_surrogates_is_cut_and_says_so(fake: Service) -> None:
    response = await fake.run("big 20000000")
    assert response.state == pb.SESSION_STATE_COMPLETED
    cut = [event for event in await fake.events(response.session_id, include_raw=True) if event.truncated_fields]
    assert [event.type for event in cut] == ["message.user"]
    text = cut[0].user_message.content[0].tool_result.text
    assert 200_000 < len(text.encode()) <= 256 << 10
    assert text.startswith("x\0\ufffdyyy")
    assert cut[0].ByteSize() < 3_500_000
    assert (await fake.status(response.session_id)).ByteSize() < 3_500_000


async def test_a_tool_result_of_20_mb_is_read_whole_and_what_follows_it_comes_after_it(fake: Service) -> None:
    response = await fake.run("big 20000000")
    session_id, kinds = response.session_id, ("message.user", "message.assistant", "turn.completed")
    events = [event for event in await fake.events(session_id) if event.type in kinds]
    assert [event.type for event in events] == ["message.user", *kinds]
    field = "user_message.content[0].tool_result.text"
    for name in (field, "raw_json"):
        request = pb.ReadFieldRequest(session_id=session_id, field=name, sequence=events[1].sequence)
        pieces = [piece.data async for piece in fake.stub.ReadField(request)]
        assert len(pieces) == 20
        assert b"y" * 900_000 in pieces[-2]
        whole = b"".join(pieces).decode()
        text = json.loads(whole)["message"]["content"][0]["content"] if name == "raw_json" else whole
        assert text == "x\0\ufffd" + "y" * 20_000_000 or text == "x\0\ud800" + "y" * 20_000_000


@pytest.mark.parametrize(
    ("prompt", "reason"), [("garbage", "AGENT_FAILED"), ("exit 3", "AGENT_EXITED"), ("exit 0", "AGENT_EXITED")]
)
async def test_output_that_breaks_off_fails_the_turn_with_what_was_said(
    fake: Service, prompt: str, reason: str
) -> None:
    response = await fake.run(prompt)
    assert response.state == pb.SESSION_STATE_ERROR
    assert response.session.phase == pb.SESSION_PHASE_FAILED
    assert response.turn.error.reason == reason
    assert response.turn.error.message
    if prompt == "exit 3":
        assert "exit code 3" in response.turn.error.message
        assert "the last words" in response.turn.error.stderr_tail
