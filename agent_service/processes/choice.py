"""Chooses the process guard: the strongest that passes a trial with real process trees on this host."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

from agent_service.processes.guards import GUARDS, GuardUnavailable, ProcessGuard, SubreaperGuard
from agent_service.processes.table import gone
from agent_service.processes.tags import MARKER, session_marker
from agent_service.processes.tree import ProcessTree


class Refusal(NamedTuple):
    """A guard that failed its trial on this host."""

    name: str
    reason: str


@dataclass(frozen=True)
class Choice:
    """The strongest guard that passed its trial, and why each stronger one failed."""

    guard: ProcessGuard
    refused: tuple[Refusal, ...] = ()


async def choose_guard(preferred: str = "auto") -> Choice:
    """Try the guards on real process trees, strongest first, and return the first that leaves no process.

    `preferred` names one guard; "pidns" names both kinds of PID namespace. Raises GuardUnavailable when none passes.
    """
    wished = [guard for guard in GUARDS if preferred == "auto" or _is_wished(guard, preferred)]
    if not wished:
        names = ", ".join(guard.name for guard in GUARDS)
        raise GuardUnavailable(f"no process guard is called {preferred!r}; there are: auto, {names}")
    refused: list[Refusal] = []
    for kind in wished:
        try:
            return Choice(await probe(kind), tuple(refused))
        except GuardUnavailable as error:
            refused.append(Refusal(kind.name, str(error)))
    reasons = "; ".join(f"{name}: {reason}" for name, reason in refused)
    raise GuardUnavailable(f"process guard {preferred!r} does not work on this host: {reasons}")


def _is_wished(guard: type[ProcessGuard], preferred: str) -> bool:
    return guard.name == preferred or guard.name.startswith(f"{preferred}-")


_PROBE_TREE = '(sleep 60 &) ; setsid sh -c "sleep 60 & echo ready; exec sleep 60" & wait'
_ITSELF = 'export "$1"; shift; exec "$@"'
_STAND_IN = 'export "$1"; shift; "$@"; exit $?'
"""Both give the trial its marker beside the environment of the service, which nobody has to read for that."""
_PROBE_PATIENCE = 3.0
_PARENT_DEATH_PATIENCE = 1.0


async def probe(kind: type[ProcessGuard]) -> ProcessGuard:
    """Return a guard of this kind that killed a tree with daemons. Raises GuardUnavailable with the reason."""
    if sys.platform != "linux":
        raise GuardUnavailable("process trees can only be held on Linux; run the service in a container")
    try:
        guard = kind()
        trials = [_try_kill(guard)]
        if guard.dies_with_service:
            trials.append(_try_parent_death(guard))
        for outcome in await asyncio.gather(*trials, return_exceptions=True):
            if outcome is not None:
                raise outcome
    except OSError as error:
        raise GuardUnavailable(str(error)) from error
    return guard


async def _try_kill(guard: ProcessGuard) -> None:
    async with _trial(guard, "kill", _ITSELF) as tree:
        reaped = await tree.kill()
    if reaped.survivors or len(reaped.process_ids) < 4:
        raise GuardUnavailable(f"a kill saw the processes {reaped.process_ids} and left {reaped.survivors}")


async def _try_parent_death(guard: ProcessGuard) -> None:
    """Start a tree below a shell that stands in for the service, kill the shell alone, and check that the tree dies."""
    if isinstance(guard, SubreaperGuard):
        guard = replace(guard, parent=0)
    async with _trial(guard, "parent", _STAND_IN) as tree:
        assert tree.pid is not None
        before = tree.processes()
        os.kill(tree.pid, signal.SIGKILL)
        deadline = asyncio.get_running_loop().time() + _PARENT_DEATH_PATIENCE
        for process in before:
            await gone(process, deadline)
        if left := tree.processes():
            raise GuardUnavailable(f"the death of the service would leave {[process.name for process in left]}")


@asynccontextmanager
async def _trial(guard: ProcessGuard, name: str, starter: str) -> AsyncIterator[ProcessTree]:
    """Run a small tree with two daemons while the block lasts; kill all of it afterwards."""
    marker = session_marker("probe", f"{os.getpid()}-{time.monotonic_ns()}", f"{guard.name}-{name}")
    spawn = guard.spawn(["sh", "-c", _PROBE_TREE], marker=marker)
    argv = ["sh", "-c", starter, "starter", f"{MARKER}={marker}", *spawn.command]
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, **spawn.keywords
        )
    finally:
        spawn.started()
    tree = ProcessTree(guard, process.pid, marker)
    try:
        await _until_ready(process)
        yield tree
    finally:
        await tree.kill()
        await process.communicate()
        spawn.close()


async def _until_ready(process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(_PROBE_PATIENCE):
            if await process.stdout.readline() == b"ready\n":
                return
            said = (await process.stderr.read()).decode(errors="replace").strip()
    except TimeoutError:
        said = "a trial did not start in time"
    raise GuardUnavailable(said.splitlines()[-1] if said else f"a trial ended with status {process.returncode}")
