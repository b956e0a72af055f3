"""Attacks beside honest sessions on one service: floods, hostile sessions, and ledgers on a second service.

The honest sessions notice none of it: each completes with its own words, whatever the others do; they may be slower.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import resource
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio
from agent_client import AgentClient, AgentServiceError, RunFailed

from agent_service import maintenance as upkeep
from tests.chaos import ledgers
from tests.chaos.floods import FLOODS
from tests.chaos.hostile import ATTACKS
from tests.process.live import Live
from tests.rpc import token_in

HONEST = 2
"""Honest callers at a time."""
FLOOD_SECONDS = 1.0
PATIENCE = 90.0
"""Seconds that an honest client waits for an answer."""
SETTLE = 30.0
"""Seconds after which the memory that attacks took must be given back."""
MUCH = 200e6


@dataclass
class AttackReport:
    """The figures of attacks beside honest sessions."""

    alone: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)
    calls: list[float] = field(default_factory=list)
    attacks: Counter[str] = field(default_factory=Counter)
    grown: float = 0.0
    left: int = 0
    failures: list[str] = field(default_factory=list)


async def attack(live: Live, report: AttackReport, *, seconds: float, seed: int) -> None:
    """Attack for some seconds; honest sessions run before, to compare, and beside."""
    chance = random.Random(seed)
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    await _honest(live, report, report.alone, "before", _rounds(5))
    before = _resident(live)
    over = time.monotonic() + seconds
    until = lambda: time.monotonic() < over  # noqa: E731 - the one condition of all
    honest = [_honest(live, report, report.beside, f"honest{each}", until) for each in range(HONEST)]
    await asyncio.gather(
        *honest,
        _asking(live, report, until),
        _attacking(live, report, until, chance, _floods(live)),
        _attacking(live, report, until, chance, {name: _on(one, live) for name, one in ATTACKS.items()}),
        _attacking(live, report, until, chance, _ledgers()),
    )
    await _settled(live, report, before)


def _rounds(count: int) -> Callable[[], bool]:
    left = itertools.count(count, -1)
    return lambda: next(left) > 0


async def _honest(live: Live, report: AttackReport, seconds: list[float], name: str, go_on: Callable[[], bool]) -> None:
    """One session after the other, by the real client: two turns, a tool, and its own words at the end."""
    async with AgentClient(live.address, token=token_in(live.data_dir), timeout=PATIENCE, retry_for=PATIENCE) as client:
        for number in itertools.count():
            if not go_on():
                return
            session_id, word = f"{name}-{number}", f"{name}-word-{number}"
            begun = time.monotonic()
            try:
                await client.run(f"bash: echo {word}\nresult", session_id=session_id, allowed_tools=["Bash"])
                again = await client.run("recall", session_id=session_id)
            except (AgentServiceError, RunFailed) as error:
                report.failures.append(f"{session_id}: {error!r}"[:500])
                await asyncio.sleep(1)
                continue
            seconds.append(time.monotonic() - begun)
            if word not in again.text:
                report.failures.append(f"{session_id} has other words: {again.text[:200]!r}")
            if again.session.turn_count != 2:
                report.failures.append(f"{session_id} has {again.session.turn_count} turns: somebody spoke to it")


async def _asking(live: Live, report: AttackReport, go_on: Callable[[], bool]) -> None:
    """An honest caller who asks for the state of a session all the time."""
    async with AgentClient(live.address, token=token_in(live.data_dir), timeout=PATIENCE, retry_for=PATIENCE) as client:
        session_id = (await client.run("say: hello", session_id="asked")).session_id
        while go_on():
            begun = time.monotonic()
            try:
                await client.session(session_id).status()
                report.calls.append(time.monotonic() - begun)
            except (AgentServiceError, RunFailed) as error:
                report.failures.append(f"GetStatus: {error!r}"[:500])
            await asyncio.sleep(0.1)


Attack = Callable[[], Awaitable[list[str]]]


async def _attacking(
    live: Live, report: AttackReport, go_on: Callable[[], bool], chance: random.Random, attacks: dict[str, Attack]
) -> None:
    """One attack after the other, each as often as the others."""
    while True:
        for name in chance.sample(sorted(attacks), len(attacks)):
            if not go_on() or live.process.returncode is not None:
                return
            try:
                report.failures += await attacks[name]()
                report.attacks[name] += 1
            except TimeoutError:
                report.attacks[f"{name}, not begun in time"] += 1  # another service did not start: the host is busy
            except (grpc.aio.AioRpcError, OSError, AssertionError) as error:
                report.failures.append(f"{name}: {error!r}"[:500])
                await asyncio.sleep(1)


def _on(one: Callable[[Live], Awaitable[list[str]]], live: Live) -> Attack:
    return lambda: one(live)


def _floods(live: Live) -> dict[str, Attack]:
    def flooding(name: str) -> Attack:
        async def flood() -> list[str]:
            await FLOODS[name](live.address, FLOOD_SECONDS)
            await asyncio.sleep(5 * FLOOD_SECONDS)
            return []

        return flood

    return {name: flooding(name) for name in FLOODS}


def _ledgers() -> dict[str, Attack]:
    def on_its_own(work: Callable[[Path], Awaitable[list[str]]]) -> Attack:
        async def attack_one() -> list[str]:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                return await work(Path(folder))

        return attack_one

    def taking(how: str) -> Attack:
        return on_its_own(lambda folder: ledgers.take_away(folder, how))

    return {"ledger locked": on_its_own(ledgers.lock), **{f"ledger {how}": taking(how) for how in ledgers.FILES}}


async def _settled(live: Live, report: AttackReport, before: float) -> None:
    """Look at the service after the attacks: its memory, its processes, its files."""
    if live.process.returncode is not None:
        report.failures.append(f"the service has ended with {live.process.returncode}")
        return
    deadline = time.monotonic() + SETTLE
    while (grown := _resident(live) - before) > MUCH and time.monotonic() < deadline:
        await asyncio.sleep(0.5)
    report.grown = grown
    if grown > MUCH:
        report.failures.append(f"the service has {grown / 1e6:.0f} MB more than before")
    if Path("/tmp/spoken-to").exists():
        report.failures.append("a session did what another one said: /tmp/spoken-to is there")
    report.left = len(list((live.data_dir / "removing").glob("*")))
    problems = upkeep.check(live.data_dir)
    report.failures += problems.problems


def _resident(live: Live) -> float:
    return int(Path(f"/proc/{live.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()


def figures(report: AttackReport, seconds: float) -> list[str]:
    """What is printed."""
    return [
        f"attack: {seconds:g} s, {sum(report.attacks.values())} attacks: {dict(sorted(report.attacks.items()))}",
        f"  honest sessions of two turns: {len(report.alone)} alone {_shown(report.alone)}",
        f"  {len(report.beside)} beside the attacks {_shown(report.beside)}",
        f"  GetStatus beside the attacks: {len(report.calls)} calls {_shown(report.calls)}",
        f"  the service grew by {report.grown / 1e6:.0f} MB; not removed yet: {report.left}",
    ]


def _shown(seconds: list[float]) -> str:
    if not seconds:
        return "-"
    slow = sorted(seconds)[max(0, round(len(seconds) * 0.99) - 1)]
    return f"median {statistics.median(seconds):.3f} s, p99 {slow:.3f} s, longest {max(seconds):.3f} s"
