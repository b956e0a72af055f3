"""The command: run the parts that are named, and print their figures."""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from agent_service import maintenance as upkeep
from tests.chaos.attack import AttackReport, attack
from tests.chaos.attack import figures as figures_of_attack
from tests.chaos.cancel import KINDS, CancelReport, cancel_once
from tests.chaos.crash import Crashes
from tests.chaos.fuzz import FLAGS, Fuzzer, figures
from tests.chaos.keepalive import quiet_clients
from tests.chaos.race import RaceReport, race_once
from tests.chaos.watchers import WatchersReport, idle_watchers, stalled_reader
from tests.process.live import serve
from tests.tenants.machine import Tenants, isolation, run


async def _crash(rounds: int, seed: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        report = await Crashes(Path(folder) / "data", seed).run(rounds, on_round=lambda done: _progress(done, rounds))
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
                for done in range(rounds):
                    await cancel_once(live, kind, report)
                    _progress(done + 1, rounds)
                median = statistics.median(report.seconds)
                print(f"cancel {kind}: {rounds} rounds, median {median:.2f} s, p99 {report.p99:.2f} s")
                print(f"  {dict(report.outcomes)}")
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
                _progress(report.rounds, rounds)
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


async def _fuzz(rounds: int, seed: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "data"
        async with serve(data_dir, *FLAGS) as live:
            report = await Fuzzer(live, seed).run(rounds, on_call=lambda done: _progress(done, rounds))
            await live.terminate()
        found = upkeep.check(data_dir)
    print("\n".join(figures(report)))
    return _failures([*report.failures, *found.problems, *found.notes])


async def _keepalive(rounds: int, seed: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        async with serve(Path(folder) / "data", "--drain-timeout", "0s") as live:
            report = await quiet_clients(live, seconds=rounds)
    print(f"keepalive: {rounds} s of {', '.join(report.clients)}: idle channel, quiet watch, long poll")
    return _failures(report.failures)


async def _tenants(rounds: int, seed: int) -> int:
    return await asyncio.to_thread(_isolation, rounds, seed)


def _isolation(rounds: int, seed: int) -> int:
    """Run the isolation machine on a loop of this thread's own; a crossing is an AssertionError with its steps."""
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        tenants = Tenants(Path(folder))
        machine = isolation(tenants)
        try:
            while machine.calls < rounds:
                seed += 1
                run(machine, examples=10, steps=60, chance=seed)
                print(f"    {machine.calls} of {rounds}", file=sys.stderr, flush=True)
        except AssertionError as error:
            failures.append("\n".join([str(error), *getattr(error, "__notes__", ())]))
        tenants.close()
    print(f"tenants: {machine.calls} calls of two tenants with their own and the other's ids, seed {seed}")
    return _failures(failures)


async def _attack(rounds: int, seed: int) -> int:
    report = AttackReport()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        flags = ("--drain-timeout", "0s", "--max-sessions", "6", "--warm-agents", "2")
        async with serve(Path(folder) / "data", *flags) as live:
            await attack(live, report, seconds=rounds, seed=seed)
    print("\n".join(figures_of_attack(report, rounds)))
    return _failures(report.failures)


def _failures(failures: list[str]) -> int:
    print(f"  failures: {len(failures)}")
    for failure in failures[:20]:
        print(f"    {failure}")
    return len(failures)


def _progress(done: int, rounds: int) -> None:
    if done % max(1, rounds // 10) == 0:
        print(f"    {done} of {rounds}", file=sys.stderr, flush=True)


PARTS: dict[str, tuple[Callable[[int, int], Awaitable[int]], int]] = {
    "crash": (_crash, 200),
    "cancel": (_cancel, 100),
    "race": (_race, 1000),
    "watchers": (_watchers, 10_000),
    "fuzz": (_fuzz, 100_000),
    "keepalive": (_keepalive, 150),
    "attack": (_attack, 600),
    "tenants": (_tenants, 10_000),
}


def main() -> int:
    """Run what the command line names; all of it without names."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Break the service and look.")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to run; everything without")
    parser.add_argument("--rounds", type=int, default=0, help="rounds of each part; 0: as many as the issue asks for")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="what chance begins with")
    given = parser.parse_args()
    failed = 0
    for name in given.parts or PARTS:
        part, rounds = PARTS[name]
        print(f"    {name}, seed {given.seed}", file=sys.stderr, flush=True)
        failed += asyncio.run(part(given.rounds or rounds, given.seed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
