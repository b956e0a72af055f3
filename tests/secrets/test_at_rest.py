"""Of a secret that an agent was given by its name, nothing is left on disk but what the agent itself wrote down."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agentpb import agent_pb2 as pb

from agent_service import maintenance
from tests.conftest import Service
from tests.rpc import refused

VALUE = 'sesame-"4711"-\\öffne'
SERVER = Path(__file__).parent.parent / "options_effect" / "mcp_server.py"
PROMPT = """\
bash: printf %s "$TOKEN"; printf %s "$TOKEN" | base64; printf %s "$TOKEN" >&2
tool: mcp__near__shout {"text": "near"}
bash: test "$(printf %s "$TOKEN" | wc -c)" = 21 && echo it was whole
result"""


@pytest.fixture
async def service(start: Callable[..., Any], tmp_path: Path) -> Service:
    folder = tmp_path / "secrets" / "default"
    folder.mkdir(parents=True)
    (folder / "token").write_text(VALUE + "\n")
    (folder / "token").chmod(0o600)
    service: Service = await start(secrets_dir=folder.parent)
    return service


def named() -> pb.AgentOptions:
    stdio = pb.McpStdioServer(command=sys.executable, args=[str(SERVER), "stdio"], env={"SHOUT_WITH": "secret://token"})
    return pb.AgentOptions(
        env={"TOKEN": "secret://token"},
        mcp_servers={"near": pb.McpServer(stdio=stdio)},
        allowed_tools=["Bash", "mcp__near"],
        include_partial_messages=True,
    )


def with_value(directory: Path) -> list[str]:
    """The files that hold the value in any form, less the agent's own transcripts."""
    forms = (VALUE, json.dumps(VALUE)[1:-1], json.dumps(VALUE, ensure_ascii=False)[1:-1])
    sought = [form.encode() for form in forms] + [base64.b64encode(VALUE.encode())]
    files = [path for path in directory.rglob("*") if path.is_file() and path.suffix != ".jsonl"]
    return [str(file) for file in files if any(form in file.read_bytes() for form in sought)]


async def test_an_agent_has_the_value_and_the_record_has_the_name(service: Service, tmp_path: Path) -> None:
    response = await service.run(PROMPT, options=named(), session_id="s")
    events = str(await service.events("s"))

    assert response.turn.result.result == "it was whole"
    assert "NEAR! ***" in events, "the MCP server had it too"
    assert "******" in events, "what a command prints is masked, also in base64"
    status = await service.status("s")
    assert status.session.options.env["TOKEN"] == "secret://token"
    assert with_value(service.data_dir) == []
    assert maintenance.backup(service.data_dir, tmp_path / "backup") == []
    assert with_value(tmp_path / "backup") == []

    await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id="s"))
    left = [path for path in service.data_dir.rglob("*") if path.is_file() and VALUE.encode() in path.read_bytes()]
    assert left == [], "the transcript is gone with the session"


async def test_a_secret_that_is_not_there_is_an_error_of_its_field(service: Service, tmp_path: Path) -> None:
    unknown = pb.AgentOptions(env={"TOKEN": "secret://absent"})
    for validate_only in (True, False):
        found = await refused(service.run("say: x", options=unknown, validate_only=validate_only))
        assert (found.reason, list(found.fields)) == ("INVALID_FIELD", ['options.env["TOKEN"]'])

    await service.run("say: x", options=named(), session_id="s")
    (tmp_path / "secrets" / "default" / "token").unlink()
    found = await refused(service.run("say: x", session_id="s"))
    assert found.fields['options.env["TOKEN"]'] == "secret token: there is none of this name"


async def test_a_secret_that_has_gone_when_its_turn_begins_ends_the_turn_with_its_field(
    service: Service, tmp_path: Path
) -> None:
    await service.execute("slow: 60", session_id="s")
    await service.execute(
        "say: x", session_id="s", options=pb.AgentOptions(env={"TOKEN": "secret://token"}), on_busy=pb.ON_BUSY_ENQUEUE
    )
    (tmp_path / "secrets" / "default" / "token").unlink()
    await service.stub.Interrupt(pb.InterruptRequest(session_id="s"))
    error = (await service.rest("s")).session.error

    assert error.reason == "INVALID_FIELD"
    assert error.message == 'options.env["TOKEN"]: secret token: there is none of this name'
