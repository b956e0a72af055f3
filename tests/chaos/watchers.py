"""Readers that do not read, and thousands that have nothing to read."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from agent_client.channel import open_channel
from agentpb import agent_pb2 as pb
from agentpb import agent_pb2_grpc

from tests.process.live import Live, private_bytes
from tests.rpc import Carrying, token_in


@dataclass
class WatchersReport:
    """The figures of readers that do not read."""

    grown: int = 0
    events: int = 0
    alone_lag: float = 0.0
    fast_lag: float = 0.0
    news_lag: float = 0.0
    per_watcher: float = 0.0
    failures: list[str] = field(default_factory=list)


async def stalled_reader(live: Live, report: WatchersReport, seconds: float) -> None:
    """A reader stops beside a fast one while the session talks at full speed; then it reads on, and misses nothing."""
    directives = ["tokens: 6000"] * 3 + [f"slow: {seconds - 2:g}"]
    prompt = "\n".join(directives + ["tokens: 6000"] * 3)
    options = pb.AgentOptions(include_partial_messages=True)
    alone = (await live.execute("\n".join(["tokens: 6000"] * 3), options=options)).session_id
    _, report.alone_lag = await _read_all(live.stub.WatchSession(pb.WatchSessionRequest(session_id=alone)))
    session_id = (await live.execute(prompt, options=options)).session_id
    slow = aiter(live.stub.WatchSession(pb.WatchSessionRequest(session_id=session_id)))
    assert (await anext(slow)).HasField("started")
    before = private_bytes(live.process.pid)
    async with asyncio.timeout(seconds + 60):
        fast, report.fast_lag = await _read_all(live.stub.WatchSession(pb.WatchSessionRequest(session_id=session_id)))
    report.grown = private_bytes(live.process.pid) - before
    late, _ = await _read_all(slow)
    report.events = len(fast)
    if [each for each in late if each] != [each for each in fast if each]:
        report.failures.append("the slow reader saw other events")


async def _read_all(stream: Any) -> tuple[list[int], float]:
    """Every event's sequence, and the most seconds one came behind the service's clock."""
    sequences, lag = [], 0.0
    async for response in stream:
        for event in response.events:
            sequences.append(event.sequence)
            lag = max(lag, time.time() - event.time.ToMicroseconds() / 1e6)
    return sequences, lag


async def idle_watchers(live: Live, report: WatchersReport, count: int) -> None:
    """Many streams of one client watch a session that does nothing; 1,000 share a connection."""
    session_id = (await live.run("say: quiet")).session_id
    before = private_bytes(live.process.pid)
    last = (await live.status(session_id)).session.last_sequence
    request = pb.WatchSessionRequest(session_id=session_id, after_sequence=last, follow=True)
    async with open_channel(live.address) as channel:
        carrying: Any = Carrying(channel, token_in(live.data_dir))
        stub = agent_pb2_grpc.AgentServiceStub(carrying)
        streams: list[Any] = [stub.WatchSession(request) for _ in range(count)]
        for stream in streams:
            assert (await stream.read()).HasField("started")
        report.per_watcher = (private_bytes(live.process.pid) - before) / count
        begun = time.monotonic()
        await live.execute("say: news", session_id=session_id)
        for stream in streams:
            await stream.read()
        report.news_lag = time.monotonic() - begun
        for stream in streams:
            stream.cancel()
