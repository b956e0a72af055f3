"""Replay, live fan-out and durable appends."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc.aio
from agentpb import agent_pb2 as pb

from benchmarks.calls import SERVICE
from benchmarks.fill import LONG, fill
from benchmarks.harness import Bench, Program, finish_fire, median, program
from benchmarks.source import BEGINNING, speaking

WATCH = SERVICE + "WatchSession"
EVENTS, TIME = 2, 3
"""Fields of WatchSessionResponse and SessionEvent."""


def watch(session: str, **fields: bool) -> bytes:
    """The bytes of a WatchSession."""
    return pb.WatchSessionRequest(session_id=session, **fields).SerializeToString()  # type: ignore[arg-type]


async def replay(bench: Bench) -> None:
    """A long session from disk, against a stream of one event per message."""
    events = bench.times(100_000, 20_000)
    data = bench.folder("data")
    await fill(data, 0, events)
    async with bench.noop() as noop, bench.service("--warm-agents", "0", "--retention", "30d", data=data) as service:
        rates: dict[str, list[float]] = {"noop": [], "replay": []}
        for _ in range(bench.times(5, 3)):
            for name, server, method, request, field in (
                ("noop", noop, "/noop.Noop/Stream", str(events).encode(), 0),
                ("replay", service, WATCH, watch(LONG), EVENTS),
            ):
                done = await bench.fire(
                    "stream", server.address, method, [request], streams=1, channels=1, events=field, seconds=120
                )
                if done is None:
                    bench.report.add("replay", None, "", note="no load generator: install Go, then run it again")
                    return
                assert done["events"] >= events
                rates[name].append(done["events"] / done["seconds"])
        bench.report.add("no-op server stream, one event per message", median(rates["noop"]), "events/s")
        bench.report.add(f"replay of {events:,} events from disk", median(rates["replay"]), "events/s")
        ratio = median(rates["replay"]) / median(rates["noop"])
        bench.report.add("… times the no-op stream, both read by a client in Go", ratio, "x", at_least=30)
        python: tuple[list[float], list[float]] = ([], [])
        few = events // 10
        for _ in range(bench.times(5, 3)):
            python[0].append(few / await read(noop.address, "/noop.Noop/Stream", str(few).encode()))
            python[1].append(events / await read(service.address, WATCH, watch(LONG)))
        ratio = median(python[1]) / median(python[0])
        note = f"{median(python[0]):,.0f} and {median(python[1]):,.0f} events/s"
        bench.report.add("… both read by a client in Python", ratio, "x", note=note)


async def read(address: str, method: str, request: bytes) -> float:
    """Seconds in which a grpc.aio client reads a stream's messages, as bytes."""
    async with grpc.aio.insecure_channel(address) as channel:
        begun = time.monotonic()
        call: Any = channel.unary_stream(method)
        async for _ in call(request):
            pass
        return time.monotonic() - begun


def source(bench: Bench, sessions: int, rate: int, seconds: float, how: str) -> AbstractAsyncContextManager[Program]:
    """Run a service whose sessions speak by themselves."""
    arguments = (str(bench.folder("source")), str(sessions), str(rate), str(seconds), how)
    return program(sys.executable, "-m", "benchmarks.source", *arguments, ready="source listening on")


async def live(bench: Bench) -> None:
    """One session to many watchers, and many sessions to one watcher each."""
    seconds = bench.times(8, 4)
    wide = bench.times(500, 100)
    await fan_out(bench, f"1 session, 100 partials/s, {wide} watchers", 1, 100, seconds, "partial", wide, 50)
    many = bench.times(100, 25)
    await fan_out(bench, f"{many} sessions, 50 durable events/s, 1 watcher each", many, 50, seconds, "durable", many, 0)


async def fan_out(
    bench: Bench, name: str, sessions: int, rate: int, seconds: float, how: str, streams: int, at_most: float
) -> None:
    """Deliveries: how late, how many, how much CPU."""
    async with source(bench, sessions, rate, seconds, how) as service:
        requests = [watch(speaking(number)) for number in range(sessions)]
        load = await bench.start_fire(
            "stream",
            service.address,
            WATCH,
            requests,
            streams=streams,
            channels=8,
            events=EVENTS,
            time=TIME,
            seconds=seconds + 60,
            procs=1,  # the service has to have a core to itself
        )
        if load is None:
            bench.report.add(name, None, "", note="no load generator: install Go, then run it again")
            return
        await asyncio.sleep(2.0)
        before = service.cpu()
        said = await service.say("speak")
        got = await finish_fire(load)
        used = service.cpu() - before
    report = bench.report
    report.add(f"{name}: delivery p50", got["p50_ms"], "ms")
    report.add("… p99", got["p99_ms"], "ms", at_most=at_most)
    # The changes of phase are events too: those at the beginning, and the one to rest.
    lost = (said["events"] + len(BEGINNING) + 1) * streams - got["events"]
    report.add("… lost", lost, "events", note=f"{got['events']:,} delivered in {got['messages']:,} messages")
    report.add("… deliveries a second", got["events"] / seconds, "events/s")
    report.add("… CPU of the service", used / seconds, "cores")


async def appends(bench: Bench) -> None:
    """Durable events through the journal, from 50 sessions, one commit each."""
    async with source(bench, 50, bench.times(1000, 400), 1, "durable") as service:
        rates = []
        for _ in range(bench.times(5, 3)):
            done = await service.say("append")
            rates.append(done["events"] / done["seconds"])
        bench.report.add("durable appends of 50 sessions", median(rates), "events/s", at_least=20_000)
