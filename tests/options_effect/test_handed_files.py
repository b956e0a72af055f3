"""Files with a caller's secrets are there for the agent's start only, and nothing is lost by that."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agentpb import agent_pb2 as pb

from agent_service.options import checks
from tests.conftest import Service
from tests.interactions.conftest import results
from tests.test_pool import began_warm, warmed

SERVER = Path(__file__).with_name("mcp_server.py")
CALL = 'tool: mcp__near__shout {"text": "near"}\nbash: echo forbidden'


def secretive() -> pb.AgentOptions:
    """Options that travel in files, with secrets in them."""
    stdio = pb.McpStdioServer(command=sys.executable, args=[str(SERVER), "stdio"], env={"SHOUT_WITH": "sesame"})
    return pb.AgentOptions(
        mcp_servers={"near": pb.McpServer(stdio=stdio)},
        allowed_tools=["mcp__near", "Bash"],
        settings_json=json.dumps(
            {"permissions": {"deny": ["Bash(echo forbidden)"]}, "companyAnnouncements": ["sesame"]}
        ),
        system_prompt=pb.SystemPrompt(text="sesame"),
    )


def handed(service: Service) -> list[str]:
    """The files in all scratch directories."""
    return [str(file) for file in (service.data_dir / "sessions").glob("*/scratch/*")]


async def obeyed(service: Service, response: pb.ExecuteResponse) -> bool:
    """Whether the turn had its MCP server, with its variables, and its deny rule."""
    events = await service.events(response.session_id, after_sequence=response.watch_after_sequence)
    denials = response.turn.result.permission_denials
    return "NEAR! sesame" in str(results(events)) and [denial.tool_name for denial in denials] == ["Bash"]


async def test_the_files_of_an_agent_are_gone_once_it_has_read_them(service: Service) -> None:
    first = await service.run(CALL, options=secretive())
    assert await obeyed(service, first)
    assert handed(service) == []
    second = await service.run(CALL, session_id=first.session_id)
    assert await obeyed(service, second), "the same process goes on without them"
    fork = await service.run(CALL, fork_from=first.session_id)
    assert await obeyed(service, fork), "a new process has them anew"
    assert handed(service) == []


async def test_the_files_of_a_warm_agent_are_gone_before_it_has_a_session(start: Callable[..., Any]) -> None:
    service: Service = await start(warm_agents=1)
    await service.run(CALL, options=secretive())
    await warmed(service, secretive())
    assert handed(service) == []
    taken = await service.run(CALL, options=secretive())
    assert await began_warm(service, taken.session_id) == [True]
    assert await obeyed(service, taken)


async def test_a_conversation_is_resumed_with_them(start: Callable[..., Any]) -> None:
    service: Service = await start(idle_timeout=0.0)
    first = await service.run(CALL, options=secretive())
    again = await service.run(CALL, session_id=first.session_id)
    assert await obeyed(service, again)
    assert handed(service) == []


async def test_settings_that_the_agent_drops_never_start_a_turn(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a newer agent, whose settings the service does not know."""
    monkeypatch.setattr(checks, "settings_problem", lambda text: "")
    settings = {"permissions": {"deny": ["Bash"]}, "cleanupPeriodDays": "soon"}
    response = await service.run("bash: touch a", options=pb.AgentOptions(settings_json=json.dumps(settings)))
    assert response.turn.error.reason == "AGENT_REFUSED"
    assert "cleanupPeriodDays" in response.turn.error.message
    assert not response.session.model, "no prompt was sent"
    assert handed(service) == []
