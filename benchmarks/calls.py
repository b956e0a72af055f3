"""How many calls a second: against a server that does nothing."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import grpc.aio
from agentpb import agent_pb2 as pb
from agentpb import agent_pb2_grpc

from benchmarks.fill import fill, session_id
from benchmarks.harness import Bench, Program, median

SERVICE = "/agentservice.v1.AgentService/"
MANY = 20_000
"""So many that the service keeps the status of a few only."""


class Rate(NamedTuple):
    """Calls a second, and CPU microseconds of the server for each: the latter stands still when the machine is busy."""

    calls: float
    cpu: float


async def rate(bench: Bench, server: Program, method: str, requests: list[bytes], **flags: object) -> Rate | None:
    """Call as fast as it goes."""
    settings: dict[str, object] = {"workers": 32, "channels": 4, "seconds": bench.times(4, 2), **flags}
    before = server.cpu()
    done = await bench.fire("unary", server.address, method, requests, **settings)
    return Rate(done["calls"] / done["seconds"], (server.cpu() - before) * 1e6 / done["calls"]) if done else None


def typical(rates: list[Rate]) -> Rate:
    """The medians."""
    return Rate(median([each.calls for each in rates]), median([each.cpu for each in rates]))


async def measure(bench: Bench) -> None:
    """GetStatus and Execute, taking turns with the no-op."""
    report = bench.report
    data = bench.folder("data")
    await fill(data, MANY, 0)
    flags = ("--max-sessions", "1", "--max-queued", "10000000", "--warm-agents", "0", "--retention", "30d")
    async with (
        bench.noop() as noop,
        bench.service(*flags, data=data) as service,
        grpc.aio.insecure_channel(service.address) as channel,
    ):
        stub = agent_pb2_grpc.AgentServiceStub(channel)
        busy = await stub.Execute(pb.ExecuteRequest(prompt="slow: 600"))
        figures: dict[str, list[Rate]] = {}
        wanted = {
            "no-op": (noop, "/noop.Noop/Unary", [b"x" * 40]),
            "finished": (service, SERVICE + "GetStatus", [status(session_id(number)) for number in range(200)]),
            "many": (service, SERVICE + "GetStatus", [status(session_id(number)) for number in range(MANY)]),
            "running": (service, SERVICE + "GetStatus", [status(busy.session_id)]),
            "history": (service, SERVICE + "GetStatus", [status(session_id(number), 100) for number in range(200)]),
        }
        for _ in range(bench.times(5, 2)):
            for name, (server, method, requests) in wanted.items():
                value = await rate(bench, server, method, requests)
                if value is not None:
                    figures.setdefault(name, []).append(value)
        if not figures:
            report.add("calls a second", None, "", note="no load generator: install Go, then run it again")
            return
        calls = {name: typical(values) for name, values in figures.items()}
        noop_calls = calls["no-op"]
        add(bench, "no-op unary of grpc.aio", noop_calls, noop_calls)
        add(bench, "GetStatus of 200 finished sessions, no history", calls["finished"], noop_calls, at_least=0.7)
        add(bench, f"GetStatus of {MANY:,} in turn, read from the ledger", calls["many"], noop_calls, at_least=0.7)
        add(bench, "GetStatus of a running session, no history", calls["running"], noop_calls, at_least=0.7)
        add(bench, "GetStatus with five messages of history", calls["history"], noop_calls)
        await executes(bench, service, noop_calls)
    await tokens(bench, noop_calls)


async def tokens(bench: Bench, noop: Rate) -> None:
    """What a token costs a call: two services that differ in nothing else, taking turns."""
    asking, open_ = bench.folder("data"), bench.folder("data")
    for folder in (asking, open_):
        await fill(folder, 200, 0)
    requests = [status(session_id(number)) for number in range(200)]
    asked: list[Rate] = []
    costs: list[float] = []
    async with bench.service(data=asking, auth="local") as with_token, bench.service(data=open_) as without:
        token = (asking / "local.token").read_text().strip()
        for _ in range(bench.times(10, 3)):
            first = await rate(bench, with_token, SERVICE + "GetStatus", requests, token=token)
            second = await rate(bench, without, SERVICE + "GetStatus", requests)
            assert first is not None
            assert second is not None
            asked.append(first)
            costs.append(first.cpu - second.cpu)
    add(bench, "GetStatus with a token, no history", typical(asked), noop, at_least=0.7)
    bench.report.add("… CPU that the token takes", median(costs), "µs", at_most=20)


def add(bench: Bench, name: str, rate: Rate, noop: Rate, *, at_least: float = 0) -> None:
    """Report a rate, beside the no-op's."""
    bench.report.add(name, rate.calls, "calls/s", note=f"{rate.cpu:.0f} µs of CPU each")
    if rate is not noop:
        note = f"{rate.cpu / noop.cpu:.2f} x its CPU"
        bench.report.add("… as a part of the no-op", rate.calls / noop.calls, "x", at_least=at_least, note=note)


def status(session: str, history: int = 0) -> bytes:
    """The bytes of a GetStatus."""
    return pb.GetStatusRequest(session_id=session, history_limit=history).SerializeToString()


async def executes(bench: Bench, service: Program, noop: Rate) -> None:
    """Admission with durable writes; nothing runs, everything queues."""
    request = pb.ExecuteRequest(prompt="hello", labels={"team": "bench"})
    request.options.allowed_tools.append("Bash")
    values: list[Rate] = []
    for _ in range(bench.times(5, 2)):
        value = await rate(bench, service, SERVICE + "Execute", [request.SerializeToString()], workers=64)
        assert value is not None
        values.append(value)
        await asyncio.sleep(0.5)
    done = typical(values)
    note = f"{done.cpu:.0f} µs of CPU each; {done.cpu / noop.cpu:.1f} x the no-op's"
    bench.report.add("Execute, durable, into the queue", done.calls, "calls/s", at_least=1000, note=note)
    bench.report.add("… the last round, with all others' turns waiting", values[-1].calls, "calls/s")
