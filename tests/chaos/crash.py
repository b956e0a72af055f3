"""Kills of the service under load, and what the next start knows."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
from agentpb import agent_pb2 as pb

from agent_service import maintenance as upkeep
from agent_service.offline import OfflineModel
from tests.chaos.looks import AT_REST, all_events
from tests.process.live import BASH, SLEEPER, Live, living, serve

GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


@dataclass
class Acknowledged:
    """What callers were told: nothing of it may ever be taken back."""

    turns: dict[str, tuple[str, str]] = field(default_factory=dict)  # request id → session, turn
    events: dict[str, dict[int, bytes]] = field(default_factory=dict)  # session → sequence → event
    cancelled: set[str] = field(default_factory=set)
    prompts: dict[str, pb.ExecuteRequest] = field(default_factory=dict)


@dataclass
class CrashReport:
    """The figures of crash rounds."""

    rounds: int = 0
    sessions: int = 0
    events: int = 0
    orphans: int = 0
    late_requests: int = 0
    resumed: int = 0
    slowest_death: float = 0.0
    slowest_start: float = 0.0
    phases: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


PROMPTS = (
    "say: quick",
    "slow: 20",
    "tokens: 3000",
    f"bash: {SLEEPER}",
    f"bash: setsid {SLEEPER} & {SLEEPER}",
    "bash: echo one\nbash: echo two\nbash: echo three\nsay: four",
    "wait: 60",
)


class Crashes:
    """Kills one data directory's service again and again; what was told in a round is looked for in the next."""

    def __init__(self, data_dir: Path, seed: int) -> None:
        self.report = CrashReport()
        self._data_dir = data_dir
        self._random = random.Random(seed)
        self._told = Acknowledged()

    async def run(self, rounds: int, on_round: Callable[[int], None] = lambda done: None) -> CrashReport:
        """Run so many rounds; tell `on_round` how many are done."""
        async with OfflineModel() as model:
            while self.report.rounds < rounds:
                await self._round(model)
                self.report.rounds += 1
                on_round(self.report.rounds)
            async with self._serve(model) as live:
                await self._look_back(live)
                await live.terminate()
        self._fsck()
        return self.report

    def _serve(self, model: OfflineModel) -> Any:
        flags = ("--max-sessions", "6", "--drain-timeout", "0s", "--idle-timeout", "2s", "--warm-agents", "1")
        return serve(self._data_dir, *flags, model_url=model.url)

    async def _round(self, model: OfflineModel) -> None:
        begun = time.monotonic()
        async with self._serve(model) as live:
            self.report.slowest_start = max(self.report.slowest_start, time.monotonic() - begun)
            await self._look_back(live)
            self._told = Acknowledged()
            load = [asyncio.create_task(self._one(live, number)) for number in range(8)]
            await asyncio.sleep(self._random.choice((0.05, 0.3, 0.6, 1.0, 1.5)) * self._random.random() * 2)
            await live.kill()
            await self._look_for_orphans(model)
            await asyncio.gather(*load)
        self._fsck()

    async def _look_for_orphans(self, model: OfflineModel) -> None:
        killed = time.monotonic()
        while living(self._data_dir) and time.monotonic() - killed < 1.0:
            await asyncio.sleep(0.01)
        if left := living(self._data_dir):
            self.report.orphans += len(left)
            self.report.failures.append(f"orphans a second later: {left}, {await self._gone(killed)}")
        self.report.slowest_death = max(self.report.slowest_death, time.monotonic() - killed)
        before = model.requests
        await asyncio.sleep(0.2)
        self.report.late_requests += model.requests - before

    async def _gone(self, killed: float) -> str:
        """When the orphans were gone, if they ever were."""
        while living(self._data_dir) and time.monotonic() - killed < 10.0:
            await asyncio.sleep(0.05)
        return f"after {time.monotonic() - killed:.1f} s there were {len(living(self._data_dir))}"

    def _fsck(self) -> None:
        found = upkeep.check(self._data_dir)
        self.report.failures += [f"fsck, round {self.report.rounds}: {problem}" for problem in found.problems]

    async def _one(self, live: Live, number: int) -> None:
        """Start a session, watch it, perhaps cancel it; remember what was told."""
        request = pb.ExecuteRequest(
            prompt=self._random.choice(PROMPTS), options=BASH, request_id=str(uuid4()), labels={"round": "crash"}
        )
        if self._random.random() < 0.2:
            request.restart_policy = pb.RESTART_POLICY_RESUME
        try:
            await asyncio.sleep(self._random.random() * 0.3)
            response = await live.stub.Execute(request)
            session_id = response.session_id
            self._told.turns[request.request_id] = (session_id, response.turn.turn_id)
            self._told.prompts[request.request_id] = request
            await asyncio.gather(self._watch(live, session_id), self._perhaps_cancel(live, session_id))
        except grpc.aio.AioRpcError as error:
            if error.code() not in GONE:
                self.report.failures.append(f"{error.code()}: {error.details()}")

    async def _watch(self, live: Live, session_id: str) -> None:
        seen = self._told.events.setdefault(session_id, {})
        request = pb.WatchSessionRequest(session_id=session_id)
        async for response in live.stub.WatchSession(request):
            for event in response.events:
                if event.ephemeral:
                    continue
                if event.sequence != len(seen) + 1:
                    self.report.failures.append(f"{session_id}: event {event.sequence} came behind {len(seen)}")
                seen[event.sequence] = event.SerializeToString(deterministic=True)

    async def _perhaps_cancel(self, live: Live, session_id: str) -> None:
        if self._random.random() < 0.4:
            await asyncio.sleep(self._random.random())
            response = await live.stub.Cancel(pb.CancelRequest(session_id=session_id, reason="chaos"))
            assert response.session.state in AT_REST
            self._told.cancelled.add(session_id)

    # what must be true after the restart

    async def _look_back(self, live: Live) -> None:
        told = self._told
        for request_id, (session_id, turn_id) in told.turns.items():
            again = await live.stub.Execute(told.prompts[request_id])
            if not again.deduplicated or (again.session_id, again.turn.turn_id) != (session_id, turn_id):
                self.report.failures.append(f"request id {request_id} was forgotten")
        for session_id in {session for session, _ in told.turns.values()}:
            await self._look_at(live, session_id)
        if told.turns:
            await self._resume(live, self._random.choice(list(told.turns.values()))[0])

    async def _look_at(self, live: Live, session_id: str) -> None:
        status = await live.status(session_id, history_limit=0)
        self.report.sessions += 1
        self.report.phases[pb.SessionPhase.Name(status.session.phase).removeprefix("SESSION_PHASE_")] += 1
        stored = await all_events(live, session_id, status.session.last_sequence)
        if [event.sequence for event in stored] != list(range(1, len(stored) + 1)):
            self.report.failures.append(f"{session_id}: sequences are not 1, 2, 3 …")
        for sequence, body in self._told.events.get(session_id, {}).items():
            self.report.events += 1
            if len(stored) < sequence or stored[sequence - 1].SerializeToString(deterministic=True) != body:
                self.report.failures.append(f"{session_id}: event {sequence} was told and is gone, or another")
        if session_id in self._told.cancelled and status.state not in AT_REST:
            self.report.failures.append(f"{session_id}: cancelled, and at work again")

    async def _resume(self, live: Live, session_id: str) -> None:
        """Cancel what still goes on, then give the session another turn: it must be able to."""
        await live.stub.Cancel(pb.CancelRequest(session_id=session_id))
        try:
            response = await live.run("say: resumed", session_id=session_id)
        except grpc.aio.AioRpcError as error:
            self.report.failures.append(f"{session_id} could not be resumed: {error.details()}")
            return
        if response.state != pb.SESSION_STATE_COMPLETED or "resumed" not in response.turn.result.result:
            self.report.failures.append(f"{session_id} could not be resumed: {response.turn.error}")
        self.report.resumed += 1
