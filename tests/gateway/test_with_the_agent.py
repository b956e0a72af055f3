"""An agent without the operator's key: the service puts it in, on a socket that only the agent's CLI can use."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from agentpb import agent_pb2 as pb

from agent_service.__main__ import agent_environment
from agent_service.agents.upstream import PLACEHOLDER
from agent_service.offline import OfflineModel
from tests.conftest import Service

KEY = "sk-the-operators-own-key"
ASK_BY_TOOL = """\
bash: python3 -c 'import os, socket; s = socket.socket(socket.AF_UNIX); \
s.connect(os.environ["ANTHROPIC_UNIX_SOCKET"]); print(s.recv(1000).decode())'
result"""


@pytest.fixture
async def model() -> AsyncIterator[OfflineModel]:
    async with OfflineModel(key=KEY) as model:
        yield model


@pytest.fixture
async def service(start: Callable[..., Any], model: OfflineModel) -> Service:
    """A service whose operator has a key, and whose agents have none."""
    environment = {"PATH": os.environ["PATH"], "ANTHROPIC_BASE_URL": model.url, "ANTHROPIC_API_KEY": KEY}
    service: Service = await start(
        model="claude",
        default_model="offline",
        model_gateway="all",
        agent_environment=agent_environment(environment),
    )
    return service


def bash() -> pb.AgentOptions:
    return pb.AgentOptions(allowed_tools=["Bash"], include_partial_messages=True)


async def test_the_key_is_not_in_the_agent_and_the_model_answers(service: Service, model: OfflineModel) -> None:
    look = f"bash: (tr '\\0' '\\n' </proc/$PPID/environ; env) >all; grep -c {KEY} all; grep ^ANTHROPIC_API_KEY all"
    response = await service.run(f"{look}\nresult", options=bash())

    assert response.turn.result.result.splitlines()[:2] == ["0", f"ANTHROPIC_API_KEY={PLACEHOLDER}"]
    assert model.requests == 2


async def test_a_tool_of_the_agent_is_not_answered(service: Service, model: OfflineModel) -> None:
    response = await service.run(ASK_BY_TOOL, options=bash())

    assert response.turn.result.result.startswith("HTTP/1.1 403 Forbidden")
    again = await service.run("say: once more", session_id=response.session_id)
    assert again.turn.result.result == "once more"


async def test_errors_of_the_api_reach_the_agent_as_they_are(service: Service) -> None:
    response = await service.run("fail: 529")

    assert response.session.error.reason == "OVERLOADED"


async def test_an_answer_that_is_cut_is_cut_for_the_agent(service: Service) -> None:
    response = await service.run("say: begun\ncut")

    assert response.state == pb.SESSION_STATE_ERROR


async def test_no_socket_is_left(service: Service) -> None:
    session_id = (await service.run("say: hello")).session_id
    await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id=session_id))

    assert [path for path in (service.data_dir / "tmp").iterdir() if path.suffix == ".model"] == []
