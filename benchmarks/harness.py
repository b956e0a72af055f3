"""What measurements share: processes that are measured, load from outside Python, medians, and a report."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
QUIET = 0.02
"""CPU seconds in half a second that count as doing nothing."""
ARGUMENT = 100_000
"""Characters that an argument may have: the kernel allows a few more."""


@dataclass
class Row:
    """One line of the report: what was measured, in what unit, and what was wanted of it."""

    group: str
    name: str
    value: float | None
    unit: str
    target: str = ""
    met: bool | None = None
    note: str = ""


@dataclass
class Report:
    """The lines so far; each is printed as it comes."""

    rows: list[Row] = field(default_factory=list)
    group: str = ""

    def add(
        self, name: str, value: float | None, unit: str, *, at_most: float = 0, at_least: float = 0, note: str = ""
    ) -> None:
        """Add a line, with its target if it has one."""
        target, met = "", None
        if value is not None and at_most:
            target, met = f"≤ {at_most:g}", value <= at_most
        if value is not None and at_least:
            target, met = f"≥ {at_least:g}", value >= at_least
        self._add(Row(self.group, name, value, unit, target, met, note))

    def broke(self, name: str, error: Exception) -> None:
        """Add the line of a measurement that came to no end; it has met no target."""
        self._add(Row(self.group, f"{name} broke", None, "", "an end", False, repr(error)[:300]))

    def _add(self, row: Row) -> None:
        self.rows.append(row)
        print("   ", line(row), flush=True)


def line(row: Row) -> str:
    """A row as text."""
    mark = "" if row.met is None else ("  ok" if row.met else "  MISSED")
    value = "-" if row.value is None else f"{row.value:,.3g}" if abs(row.value) < 100 else f"{row.value:,.0f}"
    return f"{row.name:<74} {value:>10} {row.unit:<10} {row.target}{mark}{'  ' + row.note if row.note else ''}"


def markdown(report: Report, about: str) -> str:
    """The whole report as a table."""
    parts = ["# Benchmarks", "", about, ""]
    group = None
    for row in report.rows:
        if row.group != group:
            group = row.group
            parts += ["", f"## {group}", "", "| what | value | unit | target | |", "|---|---:|---|---|---|"]
        value = "-" if row.value is None else f"{row.value:,.3g}" if abs(row.value) < 100 else f"{row.value:,.0f}"
        mark = {None: "", True: "ok", False: "**missed**"}[row.met]
        parts.append(f"| {row.name} | {value} | {row.unit} | {row.target} | {mark} {row.note} |")
    return "\n".join(parts) + "\n"


median = statistics.median


class Program:
    """A process that is measured from outside: its address, its CPU seconds, its memory."""

    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        """Watch `process`, which listens on `address`."""
        self.process = process
        self.address = address
        self.ps = psutil.Process(process.pid)

    def cpu(self) -> float:
        """CPU seconds so far, without its children's."""
        times = self.ps.cpu_times()
        return times.user + times.system

    def rss(self) -> int:
        """Resident bytes."""
        return int(self.ps.memory_info().rss)

    def children_cpu(self) -> float:
        """CPU seconds of all its living descendants."""
        total = 0.0
        for child in self.ps.children(recursive=True):
            with suppress(psutil.Error):
                times = child.cpu_times()
                total += times.user + times.system
        return total

    async def say(self, text: str) -> dict[str, Any]:
        """Write a line to its stdin and read one line of JSON."""
        await self.tell(text)
        return await self.answer()

    async def tell(self, text: str) -> None:
        """Write a line to its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n".encode())
        await self.process.stdin.drain()

    async def answer(self) -> dict[str, Any]:
        """Read one line of JSON."""
        assert self.process.stdout is not None
        found: dict[str, Any] = json.loads(await self.process.stdout.readline())
        return found


@asynccontextmanager
async def program(*command: str, ready: str, env: dict[str, str] | None = None) -> AsyncIterator[Program]:
    """Run a program that says `ready ADDRESS` when it is; it is ended with the block."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        while True:
            text = (await asyncio.wait_for(process.stdout.readline(), 120)).decode()
            if not text:
                raise RuntimeError(f"{' '.join(command)} ended with {await process.wait()}")
            if text.startswith(ready):
                break
        yield Program(process, text.removeprefix(ready).strip())
    finally:
        await end(process)


async def end(process: asyncio.subprocess.Process) -> None:
    """Ask a process to end; twice, if it takes its time."""
    for patience in (10, 10):
        with suppress(ProcessLookupError, TimeoutError):
            process.terminate()
            await asyncio.wait_for(process.wait(), patience)
            return
    process.kill()
    await process.wait()


async def quiet(*programs: Program) -> None:
    """Wait until neither the programs nor their descendants do anything: what they do would slow what is measured."""
    used = float("inf")
    while used > QUIET:
        before = sum(each.cpu() + each.children_cpu() for each in programs)
        await asyncio.sleep(0.5)
        used = abs(sum(each.cpu() + each.children_cpu() for each in programs) - before)


class Bench:
    """Everything a measurement needs."""

    def __init__(self, directory: Path, report: Report, *, quick: bool, model: str, load: Path | None) -> None:
        """Work in `directory`; `model` is the offline model's URL, `load` the load generator, if there is one."""
        self.directory = directory
        self.report = report
        self.quick = quick
        self.model = model
        self.load = load
        self._count = 0

    def times(self, usual: int, quick: int) -> int:
        """How often to repeat something."""
        return quick if self.quick else usual

    def folder(self, name: str) -> Path:
        """A new directory."""
        self._count += 1
        path = self.directory / f"{name}-{self._count}"
        path.mkdir()
        return path

    def claude_environment(self) -> dict[str, str]:
        """What leads a CLI to the offline model."""
        return {"ANTHROPIC_BASE_URL": self.model, "ANTHROPIC_API_KEY": "offline"}

    @asynccontextmanager
    async def service(self, *flags: str, data: Path | None = None, auth: str = "none") -> AsyncIterator[Program]:
        """Run the service as its own process. With `auth` "local" it asks for the token, else for none."""
        command = [
            *(sys.executable, "-m", "agent_service", "serve", "--model", "claude", "--default-model", "offline"),
            *("--listen", "127.0.0.1:0", "--log-level", "warning", "--drain-timeout", "0"),
            *("--data-dir", str(data or self.folder("data")), "--auth", auth, *flags),
        ]
        async with program(*command, ready="agent-service listening on", env=self.claude_environment()) as running:
            yield running

    def noop(self) -> Any:
        """Run the no-op server as its own process."""
        return program(sys.executable, "-m", "benchmarks.noop", ready="noop listening on")

    async def fire(self, kind: str, address: str, method: str, requests: Sequence[bytes], **flags: object) -> Any:
        """Load from outside Python; None when there is no load generator."""
        process = await self.start_fire(kind, address, method, requests, **flags)
        return await finish_fire(process) if process is not None else None

    async def start_fire(
        self, kind: str, address: str, method: str, requests: Sequence[bytes], token: str = "", **flags: object
    ) -> asyncio.subprocess.Process | None:
        """Begin to load, with `token` as the credential; `finish_fire` waits for the end."""
        if self.load is None:
            return None
        arguments = [part for name, value in flags.items() for part in (f"-{name}", str(value))]
        data = ",".join(request.hex() for request in requests)
        if len(data) > ARGUMENT:
            file = self.directory / "requests"
            await asyncio.to_thread(file.write_text, data)
            data = f"@{file}"
        return await asyncio.create_subprocess_exec(
            *(str(self.load), kind, "-addr", address, "-method", method, "-data", data, *arguments),
            env={**os.environ, "AGENT_TOKEN": token},
            stdout=asyncio.subprocess.PIPE,
        )


async def finish_fire(process: asyncio.subprocess.Process) -> Any:
    """What the load generator counted. Raises RuntimeError when calls failed."""
    output, _ = await process.communicate()
    found = json.loads(output)
    if found["errors"] and not found["messages"] and found["errors"] > found["calls"] / 100:
        raise RuntimeError(f"{found['errors']} of {found['calls']} calls failed: {found.get('error')}")
    return found


async def build_load() -> Path | None:
    """The load generator, built with Go when it is not there yet; None where that cannot be done."""
    binary = CACHE / "bench-load"
    source = ROOT / "benchmarks" / "load"
    newest = max(file.stat().st_mtime for file in source.glob("*.go"))
    if binary.exists() and binary.stat().st_mtime > newest:
        return binary
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        return None
    CACHE.mkdir(exist_ok=True)
    process = await asyncio.create_subprocess_exec(go, "build", "-o", str(binary), ".", cwd=source)
    return binary if await process.wait() == 0 else None


class Watch:
    """A stopwatch of the wall and of CPU seconds of programs."""

    def __init__(self, *programs: Program) -> None:
        """Start."""
        self._programs = programs
        self._wall = time.monotonic()
        self._cpu = [each.cpu() for each in programs]

    def wall(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._wall

    def cpu(self) -> list[float]:
        """CPU seconds of each program since the start."""
        return [each.cpu() - before for each, before in zip(self._programs, self._cpu, strict=True)]
