"""How soon the first message is there: warm, cold, next turn, many at once; against the SDK alone."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio
from agentpb import agent_pb2 as pb
from agentpb import agent_pb2_grpc
from claude_agent_sdk import AssistantMessage, ClaudeAgentOptions, ClaudeSDKClient, query

from benchmarks.harness import Bench, Watch, median, quiet

BOUNDS = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS": "1",
}
"""What the service asks of its agents, the bare SDK's are asked too; not what it does for speed alone."""


class Bare:
    """The SDK as anybody would use it, one directory a session."""

    def __init__(self, bench: Bench) -> None:
        """Use directories of the bench."""
        self._bench = bench
        base = bench.folder("bare")
        self._env = {**BOUNDS, **bench.claude_environment(), "HOME": str(base), "CLAUDE_CONFIG_DIR": str(base / "c")}

    def options(self) -> ClaudeAgentOptions:
        """Options like those the service's sessions have here."""
        cwd = self._bench.folder("cwd")
        return ClaudeAgentOptions(cwd=cwd, env=self._env, model="offline", setting_sources=[], strict_mcp_config=True)

    async def ask(self) -> float:
        """Seconds from `query()` to the first assistant message."""
        begun, first = time.perf_counter(), 0.0
        async for message in query(prompt="hello", options=self.options()):
            if isinstance(message, AssistantMessage) and not first:
                first = time.perf_counter() - begun
        return first

    async def connected(self) -> tuple[float, float]:
        """Seconds from prompt to first assistant message of a connected client: first turn, second turn."""
        async with ClaudeSDKClient(self.options()) as client:
            await asyncio.sleep(0.5)
            first, second = await self._turn(client), await self._turn(client)
        return first, second

    @staticmethod
    async def _turn(client: ClaudeSDKClient) -> float:
        begun, first = time.perf_counter(), 0.0
        await client.query("hello")
        async for message in client.receive_response():
            if isinstance(message, AssistantMessage) and not first:
                first = time.perf_counter() - begun
        return first


class Caller:
    """A client of the service."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        """Call through `channel`."""
        self.stub: Any = agent_pb2_grpc.AgentServiceStub(channel)

    async def turn(self, session_id: str = "", prompt: str = "hello") -> tuple[float, str, bool]:
        """Seconds from Execute to the first assistant message at the watcher; the session; whether it began warm."""
        begun, first, warm = time.perf_counter(), 0.0, False
        started = await self.stub.Execute(pb.ExecuteRequest(prompt=prompt, session_id=session_id))
        request = pb.WatchSessionRequest(
            session_id=started.session_id, after_sequence=started.watch_after_sequence, skip_partials=True
        )
        async for response in self.stub.WatchSession(request):
            for event in response.events:
                if event.HasField("turn_started"):
                    warm = event.turn_started.warm
                if event.HasField("assistant_message") and not first:
                    first = time.perf_counter() - begun
        return first, started.session_id, warm

    async def pool(self) -> pb.PoolStatistics:
        """The pool's figures."""
        info = await self.stub.GetServerInfo(pb.GetServerInfoRequest())
        pool: pb.PoolStatistics = info.pool
        return pool


async def measure(bench: Bench) -> None:
    """Take turns, so that a noisy minute is everybody's."""
    report, rounds = bench.report, bench.times(9, 5)
    bare = Bare(bench)
    names = ("query", "connected", "second", "cold", "warm", "next")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    async with (
        bench.service("--warm-agents", "2") as warm_service,
        bench.service("--warm-agents", "0") as cold_service,
        grpc.aio.insecure_channel(warm_service.address) as warm_channel,
        grpc.aio.insecure_channel(cold_service.address) as cold_channel,
    ):
        warm, cold = Caller(warm_channel), Caller(cold_channel)
        misses = 0
        await warm.turn()
        await cold.turn()
        for _ in range(rounds):
            await quiet(warm_service, cold_service)
            await bare.ask()  # the first start after a pause may have to read the CLI from disk again: nobody's figure
            for _ in range(2):
                seconds["query"].append(await bare.ask())
                seconds["cold"].append((await cold.turn())[0])
            first, second = await bare.connected()
            seconds["connected"].append(first)
            seconds["second"].append(second)
            await quiet(warm_service, cold_service)
            first, session_id, began_warm = await warm.turn()
            misses += not began_warm
            seconds["warm"].append(first)
            seconds["next"].append((await warm.turn(session_id))[0])
        pool = await warm.pool()
    ms = {name: median(values) * 1e3 for name, values in seconds.items()}
    report.add("bare query() → first message", ms["query"], "ms")
    report.add("connected ClaudeSDKClient, first turn", ms["connected"], "ms")
    report.add("connected ClaudeSDKClient, second turn", ms["second"], "ms")
    report.add("Execute → first message at the watcher, warm", ms["warm"], "ms", note=f"{misses} began cold")
    report.add("… as a part of bare query()", ms["warm"] / ms["query"], "x", at_most=1 / 3)
    report.add("… above the connected ClaudeSDKClient", ms["warm"] - ms["connected"], "ms", at_most=10)
    report.add("next turn of a warm session", ms["next"], "ms")
    report.add("… as a part of bare query()", ms["next"] / ms["query"], "x", at_most=1 / 8)
    report.add("… above the connected client's second turn", ms["next"] - ms["second"], "ms")
    report.add("Execute → first message, cold", ms["cold"], "ms")
    report.add("… as a part of bare query()", ms["cold"] / ms["query"], "x", at_most=1.05)
    report.add("memory of all agents of the warm service", pool.resident_bytes / 2**20, "MiB")


async def burst(bench: Bench) -> None:
    """Sixteen at once: cold, and with agents that were prepared for them."""
    rounds = bench.times(5, 1)
    bare = Bare(bench)
    ours: list[float] = []
    theirs: list[float] = []
    prepared: list[float] = []
    for _ in range(rounds):
        theirs.append(median(await at_once(16, bare.ask)))
        async with (
            bench.service("--warm-agents", "0", "--max-sessions", "16") as service,
            grpc.aio.insecure_channel(service.address) as channel,
        ):
            caller = Caller(channel)

            async def first(caller: Caller = caller) -> float:
                return (await caller.turn())[0]

            ours.append(median(await at_once(16, first)))
            await prepare(caller, 16)
            prepared.append(median(await at_once(16, first)))
    bench.report.add("16 bare query() at once, median first message", median(theirs), "s")
    bench.report.add("16 cold Executes at once, median first message", median(ours), "s", note=f"{rounds} rounds")
    bench.report.add("… as a part of bare query()", median(ours) / median(theirs), "x", at_most=0.5)
    bench.report.add("16 prepared Executes at once, median first message", median(prepared), "s")
    bench.report.add("… as a part of bare query()", median(prepared) / median(theirs), "x", at_most=0.25)


async def prepare(caller: Caller, count: int) -> None:
    """Wait until `count` agents are connected ahead."""
    request = pb.PrepareAgentsRequest(count=count, hold={"seconds": 300})
    while (prepared := await caller.stub.PrepareAgents(request)).ready < count:
        if prepared.limited_by:
            raise RuntimeError(f"{count} agents cannot be prepared here: {prepared.limited_by}")
        await asyncio.sleep(0.1)


async def at_once(count: int, call: Callable[[], Awaitable[float]]) -> list[float]:
    """What each of `count` calls at once gives."""
    return list(await asyncio.gather(*(call() for _ in range(count))))


async def crowd(bench: Bench) -> None:
    """24 sessions at work at once with real CLIs: all complete, and the service hardly shows beside them."""
    count = bench.times(24, 8)
    async with (
        bench.service("--max-sessions", str(count), "--idle-timeout", "60s") as service,
        grpc.aio.insecure_channel(service.address) as channel,
    ):
        caller, watch = Caller(channel), Watch(service)
        before = service.rss()
        prompt = "\n".join(["turns: 5", "say: " + "word " * 200])
        await asyncio.gather(*(caller.turn(prompt=prompt) for _ in range(count)))
        wall, (own,) = watch.wall(), watch.cpu()
        theirs = service.children_cpu()
        states = pb.SessionFilter(states=[pb.SESSION_STATE_COMPLETED])
        listed = await caller.stub.ListSessions(pb.ListSessionsRequest(filter=states, page_size=100))
        grown = service.rss() - before
    report = bench.report
    report.add(f"{count} real CLIs at once: completed", len(listed.sessions), "sessions", at_least=count)
    report.add("… in", wall, "s")
    report.add("… CPU of the service", own, "s")
    report.add("… CPU of the CLIs", theirs, "s")
    report.add("… the service's part", own / theirs, "x", at_most=0.1)
    report.add("… memory of the service per running session", grown / count / 2**10, "KiB")


async def added(bench: Bench) -> None:
    """What the service adds to each message: the same stream from a connected client and through the service."""
    prompt = "\n".join("say: word" for _ in range(40))
    rounds = bench.times(7, 3)
    bare = Bare(bench)
    alone: list[float] = []
    through: list[float] = []
    async with (
        bench.service() as service,
        grpc.aio.insecure_channel(service.address) as channel,
        ClaudeSDKClient(bare.options()) as client,
    ):
        caller = Caller(channel)
        _, session_id, _ = await caller.turn()
        await bare._turn(client)
        for _ in range(rounds):
            begun, count = time.perf_counter(), 0
            await client.query(prompt)
            async for message in client.receive_response():
                count += isinstance(message, AssistantMessage)
            alone.append((time.perf_counter() - begun) / max(count, 1))
            begun = time.perf_counter()
            await caller.turn(session_id, prompt)
            through.append((time.perf_counter() - begun) / max(count, 1))
    bench.report.add("a message of a turn, connected ClaudeSDKClient", median(alone) * 1e3, "ms")
    bench.report.add("… through the service", median(through) * 1e3, "ms")
    bench.report.add("added per message", (median(through) - median(alone)) * 1e3, "ms")


def size_of(path: Path) -> int:
    """Bytes of all files under `path`."""
    return sum(os.stat(Path(root) / name).st_size for root, _, names in os.walk(path) for name in names)
