"""Clients that are not ours: grpcurl by reflection, and Node from the one file proto/agent.proto."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Service
from tests.rpc import token_in

ROOT = Path(__file__).parents[2]
NODE = Path(__file__).parent / "node"
MODULES = ROOT / ".cache" / "polyglot-node"
PROMPT = "bash: echo hello from a real tool\nsay: all done"
KNOWN = {"state.changed", "turn.queued", "turn.started", "turn.completed", "message.user", "message.assistant"}


async def run(*command: str, cwd: Path = ROOT, env: dict[str, str] | None = None) -> str:
    """Run a program to its end; its output."""
    process = await asyncio.create_subprocess_exec(
        *command, cwd=cwd, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    output, complaint = await process.communicate()
    assert process.returncode == 0, complaint.decode()
    return output.decode()


def messages(text: str) -> list[dict[str, Any]]:
    """The JSON objects of a text, one after the other."""
    decoder, found = json.JSONDecoder(), []
    while text := text.lstrip():
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:]
    return found


@pytest.fixture
def grpcurl() -> str:
    """Where grpcurl is."""
    places = [str(ROOT / ".cache" / "bin"), os.environ.get("GOBIN", ""), str(Path.home() / "go" / "bin")]
    found = shutil.which("grpcurl") or shutil.which("grpcurl", path=os.pathsep.join(filter(None, places)))
    if found is None:
        pytest.skip("grpcurl is not here; go install github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3")
    return found


def header(service: Service) -> str:
    """The header by which a call has the local token, as the README has it for grpcurl."""
    return f"authorization: Bearer {token_in(service.data_dir)}"


async def test_grpcurl_lists_executes_and_watches_by_reflection(service: Service, grpcurl: str) -> None:
    address = service.running.address

    async def call(method: str, request: Any) -> list[dict[str, Any]]:
        flags = ("-plaintext", "-H", header(service), "-d", json.dumps(request))
        return messages(await run(grpcurl, *flags, address, f"agentservice.v1.AgentService/{method}"))

    services = (await run(grpcurl, "-plaintext", address, "list")).split()
    assert {"agentservice.v1.AgentService", "grpc.health.v1.Health"} <= set(services)
    described = await run(grpcurl, "-plaintext", address, "describe", "agentservice.v1.AgentService.Execute")
    assert "// Starts a session, or gives an existing one its next turn." in described
    assert "rpc Execute ( .agentservice.v1.ExecuteRequest )" in described
    request = {"prompt": PROMPT, "options": {"allowed_tools": ["Bash"]}}
    (started,) = await call("Execute", request)
    session_id = started["sessionId"]
    responses = await call("WatchSession", {"session_id": session_id})
    events = [event for response in responses for event in response.get("events", ())]
    assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
    assert {event["type"] for event in events} >= KNOWN
    assert responses[-1]["end"]["reason"] == "WATCH_END_REASON_AT_REST"
    (status,) = await call("GetStatus", {"sessionId": session_id})
    assert status["state"] == "SESSION_STATE_COMPLETED"
    assert "all done" in status["result"]["result"]


async def test_grpcurl_shows_the_details_of_an_error(service: Service, grpcurl: str) -> None:
    method = "agentservice.v1.AgentService/GetStatus"
    flags = ("-plaintext", "-format-error", "-H", header(service), "-d", '{"sessionId": "nope"}')
    process = await asyncio.create_subprocess_exec(
        *(grpcurl, *flags, service.running.address, method),
        stderr=asyncio.subprocess.PIPE,
    )
    _, complaint = await process.communicate()
    error = json.loads(complaint)
    assert [detail["reason"] for detail in error["details"] if "reason" in detail] == ["SESSION_NOT_FOUND"]


@pytest.fixture
async def node() -> str:
    """Node, with the client's two packages as its lock file names them."""
    program, npm = shutil.which("node"), shutil.which("npm")
    if program is None or npm is None:
        pytest.skip("node and npm are not here")
    wanted = (NODE / "package-lock.json").read_text()
    done = MODULES / "installed.json"
    if not done.exists() or done.read_text() != wanted:
        MODULES.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(NODE / name, MODULES / name)
        try:
            await run(npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=MODULES)
        except AssertionError as error:
            pytest.skip(f"npm could not fetch the client's packages: {str(error)[-300:]}")
        done.write_text(wanted)
    shutil.copy(NODE / "client.js", MODULES / "client.js")
    return program


async def test_a_node_client_executes_and_watches(service: Service, node: str) -> None:
    client = str(MODULES / "client.js")
    environment = {**os.environ, "AGENT_TOKEN": token_in(service.data_dir)}
    contract = str(ROOT / "proto" / "agent.proto")
    output = await run(node, client, service.running.address, contract, PROMPT, env=environment)
    seen = json.loads(output)
    assert seen["sequences"] == list(range(1, len(seen["sequences"]) + 1))
    assert set(seen["types"]) >= KNOWN
    assert seen["payloads"][0] == "state_changed"
    assert seen["end"] == "WATCH_END_REASON_AT_REST"
    assert seen["state"] == "SESSION_STATE_COMPLETED"
    assert "all done" in seen["result"]
    assert seen["refusal"] == {"code": 5, "details": 1}
