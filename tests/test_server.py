"""The server: health for every service it serves, and what it says of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from agentpb import agent_pb2 as pb
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agent_service.server import running
from tests.conftest import Service, make_config

NAME = "agentservice.v1.AgentService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize("name", ["", NAME])
async def test_health_is_told_for_the_server_and_for_the_service(service: Service, name: str) -> None:
    stub: Any = health_pb2_grpc.HealthStub(service.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
    assert answer.status == SERVING


async def test_health_of_what_is_not_here_is_not_found(service: Service) -> None:
    stub: Any = health_pb2_grpc.HealthStub(service.channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(service="other"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_health_turns_before_the_server_stops(tmp_path: Any) -> None:
    async with running(make_config(tmp_path / "data")) as server:
        channel = grpc.aio.insecure_channel(server.address)
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=NAME))
        assert (await watch.read()).status == SERVING
    assert (await watch.read()).status == NOT_SERVING
    await channel.close()


async def test_the_server_says_what_runs_here(start: Any) -> None:
    service: Service = await start(max_sessions=3, max_queued=5, retention=3600.0, execution_timeout=60.0)
    info = await service.stub.GetServerInfo(pb.GetServerInfoRequest())
    assert (info.api_version, info.model_backend, info.draining) == ("agentservice.v1", "offline", False)
    assert all((info.server_version, info.sdk_version, info.cli_version, info.process_guard, info.instance_id))
    assert (info.limits.max_sessions, info.limits.max_queued) == (3, 5)
    assert (info.limits.retention.seconds, info.limits.execution_timeout.seconds) == (3600, 60)
    assert info.limits.max_message_bytes == 4 << 20
    assert info.limits.max_batch_events == 256
    assert info.start_time.seconds > 0
    watch = service.stub.WatchSession(
        pb.WatchSessionRequest(session_id=(await service.execute("wait: 60")).session_id, follow=True)
    )
    await watch.read()
    while True:
        load = (await service.stub.GetServerInfo(pb.GetServerInfoRequest())).load
        if (load.running, load.queued, load.watchers, load.sessions) == (1, 0, 1, 1):
            break
    watch.cancel()


async def test_every_limit_is_told(start: Callable[..., Any]) -> None:
    service = await start(execution_timeout=60.0)
    limits = (await service.stub.GetServerInfo(pb.GetServerInfoRequest())).limits
    assert {field.name for field, _ in limits.ListFields()} == {field.name for field in limits.DESCRIPTOR.fields}
    assert limits.request_id_retention.seconds == 86400
