"""`python -m benchmarks`: measure everything side by side, and write benchmarks/results/latest.md and latest.json."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import click

from benchmarks import audit, calls, policy, scale, starts, streams
from benchmarks.harness import ROOT, Bench, Report, build_load, markdown, program

MEASUREMENTS: dict[str, tuple[str, Callable[[Bench], Awaitable[None]]]] = {
    "starts": ("Execute to the first message", starts.measure),
    "burst": ("Sixteen at once", starts.burst),
    "added": ("Added per message", starts.added),
    "crowd": ("Real CLIs at once", starts.crowd),
    "calls": ("Calls", calls.measure),
    "replay": ("Replay", streams.replay),
    "live": ("Live", streams.live),
    "appends": ("Durable appends", streams.appends),
    "audit": ("The audit log", audit.measure),
    "policy": ("Policy", policy.measure),
    "scale": ("As work piles up", scale.measure),
    "watchers": ("Idle watchers", scale.watchers),
}
RESULTS = ROOT / "benchmarks" / "results"


async def run(names: list[str], quick: bool) -> Report:
    """Measure what is named."""
    report = Report()
    load = await build_load()
    if load is None:
        print("There is no Go on this machine: without the load generator, calls and streams are not measured.")
    offline = program(*(sys.executable, "-m", "agent_service", "offline-model"), ready="offline model listening on")
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as directory:
        async with offline as model:
            bench = Bench(Path(directory), report, quick=quick, model=model.address, load=load)
            for name in names:
                title, measure = MEASUREMENTS[name]
                report.group = title
                print(f"\n{title} ({name})", flush=True)
                begun = time.monotonic()
                try:
                    await measure(bench)
                except Exception as error:  # noqa: BLE001 - the others are still to be measured
                    report.broke(name, error)
                print(f"    ({time.monotonic() - begun:.0f} s)", flush=True)
    return report


def about() -> dict[str, str]:
    """Where and when it was measured."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": str(os.cpu_count()),
        "grpcio": version("grpcio"),
        "claude-agent-sdk": version("claude-agent-sdk"),
        "load average at the end": " ".join(f"{value:.1f}" for value in os.getloadavg()),
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", "names", multiple=True, type=click.Choice(list(MEASUREMENTS)), help="measure this; repeatable")
@click.option("--quick", is_flag=True, help="fewer and smaller rounds: to see that it works, not to quote")
def main(names: tuple[str, ...], quick: bool) -> None:
    """Measure the service beside the SDK alone and beside servers that do nothing."""
    report = asyncio.run(run(list(names or MEASUREMENTS), quick))
    facts = about()
    RESULTS.mkdir(exist_ok=True)
    rows = [dataclasses.asdict(row) for row in report.rows]
    (RESULTS / "latest.json").write_text(json.dumps({"about": facts, "quick": quick, "rows": rows}, indent=1) + "\n")
    text = markdown(report, ", ".join(f"{key} {value}" for key, value in facts.items()) + (", quick" if quick else ""))
    (RESULTS / "latest.md").write_text(text)
    missed = [row.name for row in report.rows if row.met is False]
    print(f"\n{len(missed)} targets were missed." if missed else "\nAll targets were met.")
    print("Written: benchmarks/results/latest.md and latest.json")


if __name__ == "__main__":
    main()
