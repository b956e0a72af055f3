"""A grammar-based fuzzer of all RPCs: whatever arrives, nothing breaks, leaks, or is logged as an error."""

from __future__ import annotations

import asyncio
import base64
import random
import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import grpc
import grpc.aio
import psutil
from agentpb import agent_pb2 as pb
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from agent_service.api.grpc import MAX_RECEIVED_BYTES
from tests.chaos.grammar import Grammar, Known, harmless
from tests.process.live import Live
from tests.rpc import ALL, STREAMING, raw_call, taken_apart

METHODS = pb.DESCRIPTOR.services_by_name["AgentService"].methods_by_name
FLAGS = ("--drain-timeout", "0s", "--max-sessions", "2", "--max-queued", "8", "--max-idle", "2", "--max-prepared", "0")
"""What the service is started with: few agents, so that most of the time is for requests."""
WORKERS = 16
SESSIONS = 6
"""Sessions that are kept there for the requests to be about."""
FLIPPED = 0.1
"""How many of the requests have spoiled bytes."""
PROMPTS = ["say: hi", "slow: 0.2\nsay: done", "bash: touch here", "ask: Which one? | this | that", "slow: 30"]
BARE = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
"""Codes that the client gives by itself, which have no details."""


@dataclass
class Usage:
    """What the service's process takes."""

    memory: int
    descriptors: int
    threads: int
    processes: int

    @classmethod
    def of(cls, process: psutil.Process) -> Usage:
        """Look at a process."""
        return cls(
            process.memory_info().rss, process.num_fds(), process.num_threads(), len(process.children(recursive=True))
        )


@dataclass
class FuzzReport:
    """The figures of a run."""

    calls: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    before: Usage | None = None
    after: Usage | None = None


class Fuzzer:
    """Makes calls by chance until there are enough."""

    def __init__(self, live: Live, seed: int) -> None:
        """Call the service `live`; the same seed makes the same requests for the same names."""
        self.report = FuzzReport()
        self._live = live
        self._seed = seed
        self._known = Known()
        self._left = 0
        self._process = psutil.Process(live.process.pid)

    async def run(self, calls: int, on_call: Callable[[int], None] = lambda done: None) -> FuzzReport:
        """Make so many calls, a tenth of them before the first look at what the service takes; then look at the log."""
        await self._make(calls // 10, on_call)
        await self._clear()
        self.report.before = Usage.of(self._process)
        await self._make(calls - calls // 10, on_call)
        await self._clear()
        self.report.after = Usage.of(self._process)
        self._compare(self.report.before, self.report.after)
        self._read_log()
        left = [path.name for path in (self._live.data_dir / "sessions").glob("*")]
        self.report.failures += [f"the directory {name} is left of a deleted session" for name in left]
        return self.report

    async def _make(self, calls: int, on_call: Callable[[int], None]) -> None:
        self._left = calls
        keeper = asyncio.create_task(self._keep_sessions())
        start = self.report.calls
        await asyncio.gather(*(self._work(random.Random(f"{self._seed} {start} {n}"), on_call) for n in range(WORKERS)))
        keeper.cancel()
        with suppress(asyncio.CancelledError):
            await keeper

    async def _work(self, chance: random.Random, on_call: Callable[[int], None]) -> None:
        grammar = Grammar(chance, self._known)
        while self._left > 0:
            self._left -= 1
            method = chance.choice([*ALL])
            request = grammar.request(ALL[method])
            harmless(request, chance)
            data = request.SerializeToString()
            if chance.random() < FLIPPED:
                data = grammar.spoiled(data)
                method, data = self._tamed(method, data)
            answer = await self._call(method, data, chance)
            self.report.answers[f"{method} {answer}"] += 1
            self.report.calls += 1
            on_call(self.report.calls)

    @staticmethod
    def _tamed(method: str, data: bytes) -> tuple[str, bytes]:
        """Spoiled bytes may be a valid Execute, and would start an agent: let it be a check, by a field put behind."""
        return method, data + pb.ExecuteRequest(validate_only=True).SerializeToString() if method == "Execute" else data

    async def _call(self, method: str, data: bytes, chance: random.Random) -> str:
        deadline = chance.choice([0.05, 0.3, 2.0] if method in STREAMING else [0.3, 2.0, 2.0])
        call = raw_call(self._live.channel, method, data, timeout=deadline)
        try:
            if method in STREAMING:
                async for response in call:
                    self._take(method, response)
            else:
                self._take(method, await call)
        except grpc.aio.AioRpcError as error:
            return self._refused(method, data, error)
        return "OK"

    def _take(self, method: str, response: bytes) -> None:
        message: Message = GetMessageClass(METHODS[method].output_type).FromString(response)
        self._known.learn(message)

    def _refused(self, method: str, data: bytes, error: grpc.aio.AioRpcError) -> str:
        code = error.code()
        if len(data) > MAX_RECEIVED_BYTES and code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            return "far too large"
        reason = "" if code in BARE else taken_apart(error).reason
        if code in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL) or (code not in BARE and not reason):
            shown = base64.b64encode(data[:600]).decode()
            self.report.failures.append(f"{method} {code.name} {error.details()}: {shown}")
        return reason or code.name

    async def _keep_sessions(self) -> None:
        """Have sessions in every state there, so that requests find something; begin another as soon as one is gone."""
        chance = random.Random(self._seed)
        options = pb.AgentOptions(interactions=pb.InteractionPolicy(permissions=True, questions=True))
        for number in range(10**9):
            with suppress(grpc.aio.AioRpcError):
                listed = await self._live.stub.ListSessions(pb.ListSessionsRequest())
                if len(listed.sessions) < SESSIONS:
                    request = pb.ExecuteRequest(
                        session_id=f"fuzzed-{number % 20}", prompt=chance.choice(PROMPTS), options=options
                    )
                    self._known.learn(await self._live.stub.Execute(request))
                self._known.names["session"] = self._known.names["session"][-2:]  # a few that are gone
                self._known.learn(listed)
            await asyncio.sleep(0.2)

    async def _clear(self) -> None:
        """Delete all that is there, and wait until the agents are gone."""
        while (await self._live.stub.ListSessions(pb.ListSessionsRequest())).sessions:
            for session in (await self._live.stub.ListSessions(pb.ListSessionsRequest())).sessions:
                with suppress(grpc.aio.AioRpcError):
                    await self._live.stub.DeleteSession(
                        pb.DeleteSessionRequest(session_id=session.session_id, force=True, allow_missing=True)
                    )
        for _ in range(100):
            load = (await self._live.stub.GetServerInfo(pb.GetServerInfoRequest())).load
            if not load.watchers and not Usage.of(self._process).processes:
                break
            await asyncio.sleep(0.1)

    def _compare(self, before: Usage, after: Usage) -> None:
        """Memory may have grown by what a busy hour fragments; the rest is as it was, but for a few of the pools."""
        if after.memory > 1.3 * before.memory + (30 << 20):
            self.report.failures.append(f"memory grew from {before.memory >> 20} to {after.memory >> 20} MiB")
        for name, more in (("descriptors", 8), ("threads", 8), ("processes", 0)):
            was, became = getattr(before, name), getattr(after, name)
            if became > was + more:
                self.report.failures.append(f"{name} grew from {was} to {became}")

    def _read_log(self) -> None:
        lines = self._live.log.read_text(errors="replace").splitlines()
        wrong = [line for line in lines if re.search(r'"level": ?"(?:error|critical)"|Traceback|exception', line)]
        self.report.failures += [f"log: {line[:2000]}" for line in wrong[:20]]


def figures(report: FuzzReport) -> list[str]:
    """The report as lines."""
    codes: Counter[str] = Counter()
    for name, count in report.answers.items():
        codes[name.split(" ", 1)[1]] += count
    return [
        f"fuzz: {report.calls} calls: {dict(codes.most_common())}",
        f"  before {report.before}",
        f"  after  {report.after}",
    ]
