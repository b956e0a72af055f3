"""The gRPC server's and the client's channel arguments: gRPC ignores a name that it does not know, without a word."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agent_client.channel import open_channel
from agentpb import agent_pb2 as pb
from agentpb import agent_pb2_grpc
from grpc._cython import cygrpc

from agent_service.api import listener
from tests.conftest import Service
from tests.rpc import Carrying, token_in

ROOT = Path(__file__).parents[1]
ARGUMENT = re.compile(r"""["'](grpc\.[a-z0-9_.]+)["']""")
CORE = Path(cygrpc.__file__).read_bytes()
NOT_ARGUMENTS = re.compile(r"grpc\.(health|reflection)\.")


def arguments() -> set[str]:
    """Every channel argument that is named anywhere in the project's Python."""
    files = [
        path for part in ("agent_service", "client", "tests", "benchmarks") for path in (ROOT / part).rglob("*.py")
    ]
    named = {name for path in files for name in ARGUMENT.findall(path.read_text())}
    return {name for name in named if not NOT_ARGUMENTS.match(name)}


def is_known(name: str) -> bool:
    """Whether gRPC's compiled core has this name, whole."""
    return re.search(rb"(?<![a-z_.])" + re.escape(name.encode()) + rb"\0", CORE) is not None


@pytest.mark.parametrize("name", sorted(arguments()))
def test_every_channel_argument_is_one_that_grpc_knows(name: str) -> None:
    assert is_known(name), f"gRPC's core has no argument {name}, so it would be ignored"


def test_the_search_finds_the_arguments_and_a_wrong_one_would_be_seen() -> None:
    assert {"grpc.keepalive_time_ms", "grpc.http2.min_ping_interval_without_data_ms"} <= arguments()
    assert not is_known(".".join(["grpc", "http2", "min_recv_ping_interval_without_data_ms"]))


async def test_one_client_watches_more_than_one_connection_carries(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, streams = "grpc.max_concurrent_streams", 10
    others = tuple(argument for argument in listener.SERVER_ARGUMENTS if argument[0] != name)
    assert len(others) == len(listener.SERVER_ARGUMENTS) - 1, "there is a limit"
    monkeypatch.setattr(listener, "SERVER_ARGUMENTS", (*others, (name, streams)))
    service: Service = await start()
    session_id = (await service.run("say: hello")).session_id
    async with open_channel(service.running.address, options={"grpc.use_local_subchannel_pool": 1}) as channel:
        carrying: Any = Carrying(channel, token_in(service.data_dir))
        stub: Any = agent_pb2_grpc.AgentServiceStub(carrying)
        request = pb.WatchSessionRequest(session_id=session_id, follow=True)
        watches = [stub.WatchSession(request, timeout=30) for _ in range(5 * streams)]
        for watch in watches:
            assert (await watch.read()).HasField("started")
        for watch in watches:
            watch.cancel()
