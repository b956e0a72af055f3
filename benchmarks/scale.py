"""Whether anything slows as work piles up: 10 finished sessions against 100,000; thousands of idle watchers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio
from agentpb import agent_pb2 as pb
from agentpb import agent_pb2_grpc

from benchmarks.calls import SERVICE, status
from benchmarks.fill import fill, session_id
from benchmarks.harness import Bench, Program, median
from benchmarks.starts import size_of
from benchmarks.streams import WATCH, watch

FLAGS = ("--warm-agents", "0", "--retention", "3650d", "--max-sessions", "1", "--max-queued", "1000000")


async def measure(bench: Bench) -> None:
    """The same calls on a small past and on a large one, taking turns."""
    report, large = bench.report, bench.times(100_000, 10_000)
    few, many = bench.folder("few"), bench.folder("many")
    await fill(few, 10, 0)
    await fill(many, large, 0)
    begun = time.monotonic()
    async with bench.service(*FLAGS, data=few) as small:
        small_start = time.monotonic() - begun
        begun = time.monotonic()
        async with bench.service(*FLAGS, data=many) as big:
            big_start = time.monotonic() - begun
            await asyncio.sleep(2.0)
            grown = (big.rss() - small.rss()) / 2**20
            figures = await compare(bench, small, big, large)
            after = (big.rss() - small.rss()) / 2**20
            counts = [await counted(big, group_by) for group_by in ("state", "labels.team")]
    report.add("start with 10 finished sessions", small_start, "s")
    report.add(f"start with {large:,} finished sessions", big_start, "s", at_most=2.0)
    report.add("RSS above that of 10, after the start", grown, "MiB", at_most=20)
    report.add("RSS above that of 10, after the calls below", after, "MiB")
    report.add("disk per finished session", size_of(many) / large / 2**10, "KiB")
    for group_by, seconds in zip(("state", "a label"), counts, strict=True):
        report.add(f"CountSessions of {large:,} by {group_by}", seconds * 1e3, "ms", at_most=50)
    for name, (of_few, of_many) in figures.items():
        report.add(f"{name}: with 10", of_few * 1e3, "ms")
        report.add(f"{name}: with {large:,}, times that", of_many / of_few, "x", at_most=1.2)


async def compare(bench: Bench, small: Program, big: Program, large: int) -> dict[str, tuple[float, float]]:
    """The median seconds of each call on both."""
    async with (
        grpc.aio.insecure_channel(small.address) as small_channel,
        grpc.aio.insecure_channel(big.address) as big_channel,
    ):
        stubs = [agent_pb2_grpc.AgentServiceStub(channel) for channel in (small_channel, big_channel)]
        for stub in stubs:
            await stub.Execute(pb.ExecuteRequest(prompt="slow: 600"))
        sizes = (10, large)
        calls: dict[str, Callable[[Any, int, int], Awaitable[object]]] = {
            "GetStatus": lambda stub, size, n: stub.GetStatus(
                pb.GetStatusRequest(session_id=session_id(n % 10 * (size // 10)), history_limit=0)
            ),
            "Execute": lambda stub, size, n: stub.Execute(pb.ExecuteRequest(prompt="hello")),
            "ListSessions": lambda stub, size, n: stub.ListSessions(
                pb.ListSessionsRequest(page_size=10, filter=pb.SessionFilter(labels={"team": "bench"}))
            ),
            "Watch": lambda stub, size, n: read_all(stub, session_id(n % 10 * (size // 10))),
        }
        found = {}
        for name, call in calls.items():
            seconds: tuple[list[float], list[float]] = ([], [])
            for number in range(bench.times(300, 60)):
                for stub, size, into in zip(stubs, sizes, seconds, strict=True):
                    begun = time.perf_counter()
                    await call(stub, size, number)
                    into.append(time.perf_counter() - begun)
            found[name] = (median(seconds[0]), median(seconds[1]))
        return found


async def counted(program: Program, group_by: str) -> float:
    """The median seconds of counting all sessions by a property."""
    async with grpc.aio.insecure_channel(program.address) as channel:
        stub = agent_pb2_grpc.AgentServiceStub(channel)
        seconds = []
        for _ in range(9):
            begun = time.perf_counter()
            await stub.CountSessions(pb.CountSessionsRequest(group_by=group_by))
            seconds.append(time.perf_counter() - begun)
        return median(seconds)


async def read_all(stub: Any, session: str) -> None:
    """Watch a finished session to its end."""
    async for _ in stub.WatchSession(pb.WatchSessionRequest(session_id=session)):
        pass


async def watchers(bench: Bench) -> None:
    """Thousands of watchers of sessions where nothing happens."""
    count = bench.times(5000, 500)
    data: Path = bench.folder("data")
    await fill(data, 100, 0)
    requests = [watch(session_id(number), follow=True) for number in range(100)]
    call = (SERVICE + "GetStatus", [status(session_id(1))])
    async with bench.service("--warm-agents", "0", "--retention", "30d", data=data) as service:
        before_them = await bench.fire("unary", service.address, *call, seconds=2)
        if before_them is None:
            bench.report.add("idle watchers", None, "", note="no load generator: install Go, then run it again")
            return
        before = service.rss()
        streams = await bench.start_fire(
            "stream", service.address, WATCH, requests, streams=count, channels=50, seconds=20
        )
        assert streams is not None
        async with grpc.aio.insecure_channel(service.address) as channel:
            await watching(agent_pb2_grpc.AgentServiceStub(channel), count)
        await asyncio.sleep(1.0)
        grown, cpu = service.rss() - before, service.cpu()
        await asyncio.sleep(3.0)
        idle = (service.cpu() - cpu) / 3.0
        beside = await bench.fire("unary", service.address, *call, seconds=2)
        streams.terminate()
        await streams.wait()
        after_them = await bench.fire("unary", service.address, *call, seconds=2)
    report = bench.report
    report.add(f"{count:,} idle watchers: RSS each", grown / count / 2**10, "KiB")
    report.add("… CPU of the service", idle, "cores")
    note = f"{before_them['p50_ms']:.2f} ms before them, {after_them['p50_ms']:.2f} ms after"
    report.add("… GetStatus p50 beside them, 32 callers", beside["p50_ms"], "ms", note=note)
    rates = [each["calls"] / each["seconds"] for each in (before_them, beside, after_them)]
    report.add("… GetStatus calls/s beside them, times those alone", 2 * rates[1] / (rates[0] + rates[2]), "x")


async def watching(stub: Any, count: int) -> None:
    """Wait until so many watch."""
    async with asyncio.timeout(15):
        while (await stub.GetServerInfo(pb.GetServerInfoRequest())).load.watchers < count:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
