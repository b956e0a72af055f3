"""Chaos: the service is killed, cancelled, raced and starved, round after round, and every promise is looked at again.

    python -m tests.chaos [crash|cancel|race|watchers] [--rounds N] [--seed N]

The test suite runs a few rounds of each (tests/process/); this gives the figures.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
from agentpb import agent_pb2 as pb

from agent_service import upkeep
from agent_service.offline import OfflineModel
from tests.process.live import BASH, SLEEPER, Live, living, private_bytes, serve

AT_REST = (pb.SESSION_STATE_COMPLETED, pb.SESSION_STATE_ERROR, pb.SESSION_STATE_CANCELLED)
GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


# --------------------------------------------------------------------------------------------------- kills of the service


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
    """Kills one data directory's service again and again; what was acknowledged in a round is looked for in the next."""

    def __init__(self, data_dir: Path, seed: int) -> None:
        self.report = CrashReport()
        self._data_dir = data_dir
        self._random = random.Random(seed)
        self._told = Acknowledged()

    async def run(self, rounds: int, seconds: float = 1e9) -> CrashReport:
        """Run so many rounds, or for so long."""
        end = time.monotonic() + seconds
        async with OfflineModel() as model:
            while self.report.rounds < rounds and time.monotonic() < end:
                await self._round(model)
                self.report.rounds += 1
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


async def all_events(live: Live, session_id: str, up_to: int) -> list[pb.SessionEvent]:
    """A session's log up to an event, page by page."""
    events: list[pb.SessionEvent] = []
    request = pb.ListEventsRequest(session_id=session_id, page_size=1000)
    while True:
        page = await live.stub.ListEvents(request)
        events += page.events
        request.page_token = page.next_page_token
        if not page.next_page_token or len(events) >= up_to:
            return events


# ------------------------------------------------------------------------------------------------------------- cancels


KINDS = {
    "streaming": "slow: 600",
    "silent": "wait: 600",
    "bash": f"bash: {SLEEPER}",
    "setsid": f"bash: setsid {SLEEPER} & (setsid {SLEEPER} &) ; {SLEEPER}",
    "deaf": "bash: python3 -c 'import signal,time; [signal.signal(s, signal.SIG_IGN) for s in (2, 15)]; time.sleep(600)'",
    "stopped": "slow: 600",
}


@dataclass
class CancelReport:
    """The figures of cancels of one kind."""

    seconds: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def p99(self) -> float:
        return sorted(self.seconds)[max(0, round(len(self.seconds) * 0.99) - 1)]


async def cancel_once(live: Live, kind: str, report: CancelReport, *, grace: float = 2.0, settle: float = 0.0) -> None:
    """Start a run of a kind, cancel it, and look whether the answer told the truth."""
    session_id = (await live.execute(KINDS[kind], options=BASH)).session_id
    await _at_work(live, session_id, kind)
    await asyncio.sleep(settle)
    mine = processes_of(live, (await live.status(session_id, history_limit=0)).session.agent_session_id)
    if kind == "stopped":
        for pid, name in mine.items():
            if name == "claude":
                os.kill(pid, signal.SIGSTOP)
    request = pb.CancelRequest(session_id=session_id, reason="enough")
    request.grace.FromMilliseconds(round(grace * 1000))
    begun = time.monotonic()
    response = await live.stub.Cancel(request)
    report.seconds.append(time.monotonic() - begun)
    report.outcomes[pb.CancelOutcome.Name(response.receipt.outcome).removeprefix("CANCEL_OUTCOME_")] += 1
    alive = processes_of(live, response.session.agent_session_id)
    if alive:
        report.failures.append(f"{kind}: alive when Cancel answered: {alive}")
    if not set(mine) <= set(response.receipt.process_ids):
        report.failures.append(f"{kind}: not on the receipt: {set(mine) - set(response.receipt.process_ids)}")
    if response.session.phase != pb.SESSION_PHASE_CANCELLED:
        report.failures.append(f"{kind}: {pb.SessionPhase.Name(response.session.phase)}")
    log = await all_events(live, session_id, response.session.last_sequence)
    kinds = [event.type for event in log if event.sequence <= response.session.last_sequence]
    if kinds[-2:] != ["turn.completed", "state.changed"] or log[-1].state_changed.reason != "enough":
        report.failures.append(f"{kind}: the log ends with {kinds[-2:]}")


async def _at_work(live: Live, session_id: str, kind: str) -> None:
    await live.until(session_id, pb.SESSION_PHASE_WORKING)
    wanted = {"bash": 1, "setsid": 3, "deaf": 1}.get(kind, 0)
    agent = (await live.status(session_id, history_limit=0)).session.agent_session_id
    deadline = time.monotonic() + 20
    while list(processes_of(live, agent).values()).count("python3") < wanted:
        assert time.monotonic() < deadline, "the tool did not start"
        await asyncio.sleep(0.02)


def processes_of(live: Live, agent_session_id: str) -> dict[int, str]:
    """The processes of one session that live now: their ids and names."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                if f":{agent_session_id}\0".encode() in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (entry / "comm").read_text().strip()
    return found


# --------------------------------------------------------------------------------------------------------------- races


@dataclass
class RaceReport:
    """The figures of races on one session."""

    rounds: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


async def race_once(live: Live, report: RaceReport, chance: random.Random) -> None:
    """Two cancels, a resume and a delete, all at once, on a session that is just beginning, at work, or at rest."""
    session_id = str(uuid4())
    start = pb.ExecuteRequest(session_id=session_id, prompt=chance.choice(("say: hi", "slow: 5")))
    await live.stub.Execute(start)
    if chance.random() < 0.3:
        await live.rest(session_id) if start.prompt == "say: hi" else await live.until(
            session_id, pb.SESSION_PHASE_WORKING
        )
    cancel = pb.CancelRequest(session_id=session_id, force=chance.random() < 0.3)
    resume = pb.ExecuteRequest(
        session_id=session_id, prompt="say: again", on_busy=chance.choice((pb.ON_BUSY_REJECT, pb.ON_BUSY_ENQUEUE))
    )
    delete = pb.DeleteSessionRequest(session_id=session_id, force=chance.random() < 0.5)
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: live.stub.Cancel(cancel),
        lambda: live.stub.Cancel(cancel),
        lambda: live.stub.Execute(resume),
        lambda: live.stub.DeleteSession(delete),
    ]
    chance.shuffle(calls)
    for name in await asyncio.gather(*(_answer(call, chance.random() * 0.05) for call in calls)):
        report.answers[name] += 1
        if name.startswith(("UNKNOWN", "INTERNAL")):
            report.failures.append(f"round {report.rounds}: {name}")
    await _come_to_rest(live, session_id, report)
    report.rounds += 1


async def _answer(call: Callable[[], Awaitable[Any]], delay: float) -> str:
    await asyncio.sleep(delay)
    try:
        answer = await call()
    except grpc.aio.AioRpcError as error:
        return (
            f"{error.code().name}: {(error.details() or '')[:40]}"
            if error.code().value[0] in (2, 13)
            else error.code().name
        )
    return f"OK {type(answer).__name__}"


async def _come_to_rest(live: Live, session_id: str, report: RaceReport) -> None:
    with suppress(grpc.aio.AioRpcError):
        status = await live.rest(session_id)
        if status.state not in AT_REST or status.session.HasField("current_turn"):
            report.failures.append(f"{session_id}: {pb.SessionPhase.Name(status.session.phase)}")
        await live.stub.DeleteSession(pb.DeleteSessionRequest(session_id=session_id, force=True))


# ------------------------------------------------------------------------------------------------------------ watchers


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
    """Many watch a session that does nothing."""
    session_id = (await live.run("say: quiet")).session_id
    before = private_bytes(live.process.pid)
    last = (await live.status(session_id)).session.last_sequence
    request = pb.WatchSessionRequest(session_id=session_id, after_sequence=last, follow=True)
    streams = [live.stub.WatchSession(request) for _ in range(count)]
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


# --------------------------------------------------------------------------------------------------------- the command


async def _crash(rounds: int, seed: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        report = await Crashes(Path(folder) / "data", seed).run(rounds, seconds=SECONDS)
    print(f"crash: {report.rounds} kills of the service under load")
    print(f"  sessions looked at after a restart {report.sessions}, events that had been told {report.events}")
    print(f"  orphans {report.orphans}, API requests after the death {report.late_requests}, resumed {report.resumed}")
    print(f"  slowest death of all processes {report.slowest_death:.2f} s, slowest start {report.slowest_start:.2f} s")
    print(f"  phases after the restart: {dict(report.phases)}")
    return _failures(report.failures)


async def _cancel(rounds: int, seed: int) -> int:
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        async with serve(Path(folder) / "data", "--drain-timeout", "0s") as live:
            for kind in KINDS:
                report = CancelReport()
                for _ in range(rounds):
                    await cancel_once(live, kind, report)
                median = statistics.median(report.seconds)
                print(
                    f"cancel {kind}: {rounds} rounds, median {median:.2f} s, p99 {report.p99:.2f} s, {dict(report.outcomes)}"
                )
                failed += _failures(report.failures)
            failed += _failures([f"left behind: {each}" for each in live.processes()])
    return failed


async def _race(rounds: int, seed: int) -> int:
    chance = random.Random(seed)
    report = RaceReport()
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "data"
        async with serve(data_dir, "--drain-timeout", "0s", "--max-sessions", "4") as live:
            while report.rounds < rounds:
                await asyncio.gather(*(race_once(live, report, chance) for _ in range(4)))
            await live.terminate()
        found = upkeep.check(data_dir)
    print(f"race: {report.rounds} rounds of two cancels, a resume and a delete: {dict(report.answers)}")
    return _failures([*report.failures, *found.problems, *found.notes])


async def _watchers(rounds: int, seed: int) -> int:
    stalled, idle = WatchersReport(), WatchersReport()
    with tempfile.TemporaryDirectory() as folder:
        async with serve(Path(folder) / "data", "--drain-timeout", "0s") as live:
            await stalled_reader(live, stalled, seconds=60)
            await idle_watchers(live, idle, count=rounds)
    print(f"watchers: one stopped for 60 s beside a fast one, {stalled.events} events")
    print(f"  the service grew by {stalled.grown / 1e6:.1f} MB")
    print(f"  the fast one was at most {stalled.fast_lag:.3f} s behind, alone {stalled.alone_lag:.3f} s")
    print(f"  {rounds} idle ones: {idle.per_watcher / 1000:.1f} kB each, the last had news after {idle.news_lag:.2f} s")
    return _failures(stalled.failures)


def _failures(failures: list[str]) -> int:
    print(f"  failures: {len(failures)}")
    for failure in failures[:20]:
        print(f"    {failure}")
    return len(failures)


SECONDS = 1e9
PARTS: dict[str, tuple[Callable[[int, int], Awaitable[int]], int]] = {
    "crash": (_crash, 200),
    "cancel": (_cancel, 100),
    "race": (_race, 1000),
    "watchers": (_watchers, 10_000),
}


def main() -> int:
    """Run what the command line names; all of it without names."""
    global SECONDS
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Break the service and look.")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to run; everything without")
    parser.add_argument("--rounds", type=int, default=0, help="rounds of each part; 0: as many as the issue asks for")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="longest time for the crash rounds")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="what chance begins with")
    given = parser.parse_args()
    SECONDS = given.seconds
    failed = 0
    for name in given.parts or PARTS:
        part, rounds = PARTS[name]
        failed += asyncio.run(part(given.rounds or rounds, given.seed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
