"""Clients that ping, and have nothing to say: none of their connections may be ended by the server.

A server that permits fewer pings answers the third early one with GOAWAY too_many_pings, after 90 to 150 s.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from agentpb import agent_pb2 as pb
from agentpb import agent_pb2_grpc

from benchmarks.harness import build_load
from tests.process.live import Live
from tests.rpc import Carrying, token_in

PINGS = (10, 30)
"""Seconds between pings: the shortest interval that gRPC for Go allows, and a common one."""
SERVICE = "/agentservice.v1.AgentService"


@dataclass
class KeepaliveReport:
    """The clients that took part, and what ended their connections."""

    clients: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


async def quiet_clients(live: Live, seconds: float) -> KeepaliveReport:
    """Hold quiet connections for so long, from Python and, where it can be built, from Go."""
    report = KeepaliveReport()
    session_id = (await live.run("say: quiet")).session_id
    watch = pb.WatchSessionRequest(session_id=session_id, follow=True)
    watch.heartbeat_interval.FromSeconds(3600)
    poll = pb.GetStatusRequest(session_id=session_id, history_limit=0, wait_for=pb.WAIT_FOR_NEW_EVENT)
    poll.after_sequence = (await live.status(session_id)).session.last_sequence
    poll.wait.FromSeconds(round(seconds) + 60)
    load = await build_load()
    async with asyncio.TaskGroup() as group:
        for ping in PINGS:
            group.create_task(_python(live, ping, seconds, watch, poll, report))
            if load is not None:
                group.create_task(_go(str(load), live, ping, seconds, watch, poll, report))
    return report


async def _python(live: Live, ping: int, seconds: float, watch: Any, poll: Any, report: KeepaliveReport) -> None:
    """One channel idle, one with a watch, one with a long poll, each with a connection of its own."""
    name = f"Python, a ping every {ping} s"
    report.clients.append(name)

    async def idle(stub: Any) -> None:
        await stub.GetServerInfo(pb.GetServerInfoRequest())
        await asyncio.Future()

    async def watched(stub: Any) -> None:
        async for _ in stub.WatchSession(watch):
            pass
        raise RuntimeError("the watch ended by itself")

    async def polled(stub: Any) -> None:
        await stub.GetStatus(poll)
        raise RuntimeError("the long poll ended early")

    async def hold(kind: str, use: Any) -> None:
        async with grpc.aio.insecure_channel(live.address, options=_pinging(ping)) as channel:
            carrying: Any = Carrying(channel, token_in(live.data_dir))
            try:
                async with asyncio.timeout(seconds):
                    await asyncio.gather(use(agent_pb2_grpc.AgentServiceStub(carrying)), _lost(channel))
            except TimeoutError:
                return
            except (grpc.aio.AioRpcError, RuntimeError) as error:
                report.failures.append(f"{name}, {kind}: {error}")

    await asyncio.gather(hold("idle", idle), hold("watch", watched), hold("poll", polled))


def _pinging(ping: int) -> list[tuple[str, int]]:
    return [
        ("grpc.keepalive_time_ms", ping * 1000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.use_local_subchannel_pool", 1),  # channels of one address would share a connection
    ]


async def _lost(channel: grpc.aio.Channel) -> None:
    """Wait until a connection that was ready is lost; raises RuntimeError."""
    await channel.channel_ready()
    await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
    raise RuntimeError("the connection was lost")


async def _go(load: str, live: Live, ping: int, seconds: float, watch: Any, poll: Any, report: KeepaliveReport) -> None:
    name = f"Go, a ping every {ping} s"
    report.clients.append(name)
    process = await asyncio.create_subprocess_exec(
        *(load, "quiet", "-addr", live.address, "-ping", f"{ping}s", "-for", f"{seconds:g}s"),
        *("-watch", f"{SERVICE}/WatchSession:{watch.SerializeToString().hex()}"),
        *("-poll", f"{SERVICE}/GetStatus:{poll.SerializeToString().hex()}"),
        env={**os.environ, "AGENT_TOKEN": token_in(live.data_dir)},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        report.failures.append(f"{name}: the client ended with {process.returncode}")
        return
    for kind, found in json.loads(output).items():
        report.failures += [f"{name}, {kind}: {each}" for each in found]
