"""A sealed agent: no network and no key; the model by the gateway, the hosts of its egress list by a proxy."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from agentpb import agent_pb2 as pb

from agent_service.__main__ import agent_environment
from agent_service.agents import outlets
from agent_service.agents.egress import Egress
from agent_service.agents.outlets import EGRESS_PORT, MODEL_PORT
from agent_service.offline import OfflineModel
from agent_service.processes.hidden import Hidden
from tests.conftest import Service, start_service
from tests.sandbox.walls import bubblewrap

KEY = "sk-the-operators-own-key"
HOST = "files.example.com"


def dial(port: object, request: str) -> str:
    """A command that sends a request to a port of the agent's own loopback, and prints what comes back."""
    return f"bash: exec 3<>/dev/tcp/127.0.0.1/{port}; printf '{request}' >&3; timeout 5 head -c 300 <&3"


def ask(host: str) -> str:
    return dial(EGRESS_PORT, rf"CONNECT {host}:443 HTTP/1.1\r\n\r\n")


@pytest.fixture
async def model() -> AsyncIterator[OfflineModel]:
    async with OfflineModel(key=KEY) as model:
        yield model


@pytest.fixture
async def service(model: OfflineModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Service]:
    """A service whose agents are sealed and may reach HOST, which says hello."""
    bubblewrap(Hidden())

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            writer.write(b"hello from outside")

    async def resolve(name: str) -> Sequence[str]:
        return ["127.0.0.1"]

    environment = {"PATH": os.environ["PATH"], "ANTHROPIC_BASE_URL": model.url, "ANTHROPIC_API_KEY": KEY}
    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        egress = functools.partial(Egress, resolve=resolve, may_reach=lambda _: True, port=port)
        monkeypatch.setattr(outlets, "Egress", egress)
        async with start_service(
            tmp_path / "data",
            sandbox="sealed",
            model="claude",
            default_model="offline",
            agent_environment=agent_environment(environment),
        ) as service:
            launch, before = service.running.pool.launch, service.running.pool.policy.grant
            allowed = {"egress": (HOST,)}
            service.running.pool.policy.grant = launch._grant = lambda tenant: before(tenant).model_copy(update=allowed)  # type: ignore[method-assign]
            yield service


async def said(service: Service, *steps: str) -> list[str]:
    """What an agent's commands print."""
    done = await service.run("\n".join(steps), options=pb.AgentOptions(allowed_tools=["Bash"]))
    events = await service.events(done.session_id)
    contents = [each for event in events if event.type == "message.user" for each in event.user_message.content]
    results = [each.tool_result.text for each in contents if each.HasField("tool_result")]
    assert len(results) == len(steps), done.turn.error
    return results


async def test_the_model_answers_although_there_is_neither_a_network_nor_a_key(service: Service) -> None:
    port = service.running.address.rpartition(":")[2]
    keys, own, outside = await said(
        service,
        "bash: cat /proc/[0-9]*/environ | tr '\\0' '\\n' | grep -c 'sk-the-operators'-own-key",
        dial(port, "x"),
        "bash: timeout 5 bash -c '</dev/tcp/1.1.1.1/443'",
    )

    assert keys.splitlines()[-1] == "0"
    assert "Connection refused" in own
    assert "unreachable" in outside
    assert service.running.model_backend == "claude"


async def test_hosts_of_the_egress_list_are_reached_by_the_proxy_and_no_others(service: Service) -> None:
    proxies, inside, outside, plain = await said(
        service,
        "bash: env | grep -i _proxy | sort",
        ask(HOST),
        ask("example.com"),
        dial(EGRESS_PORT, r"GET / HTTP/1.1\r\n\r\n"),
    )

    assert f"HTTPS_PROXY=http://127.0.0.1:{EGRESS_PORT}" in proxies
    assert "200 Connection established" in inside
    assert inside.endswith("hello from outside")
    assert "403 Forbidden" in outside
    assert f"open are {HOST}" in outside
    assert "405 Method Not Allowed" in plain


async def test_without_the_clis_socket_the_model_is_reached_by_a_port_of_the_agents_own(service: Service) -> None:
    """Used if a later CLI no longer knows ANTHROPIC_UNIX_SOCKET."""
    service.running.pool.launch._outlets._model_by = "port"  # type: ignore[union-attr]
    by, theirs, egress = await said(
        service, "bash: echo $ANTHROPIC_BASE_URL$ANTHROPIC_UNIX_SOCKET", dial(MODEL_PORT, "x"), ask(HOST)
    )

    assert by == f"http://127.0.0.1:{MODEL_PORT}"
    assert "HTTP/1.1 403 Forbidden" in theirs
    assert "200 Connection established" in egress
