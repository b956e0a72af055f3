"""Process trees: find them, end them, and return a receipt of the processes that ended.

A `ProcessTree` holds every process that came from one command, started under a guard (guards.py). `end_leftovers` ends
the trees of earlier runs of the service. Every tree carries a tag in its environment (tags.py).
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass

from agent_service.processes.guards import GroupGuard, ProcessGuard, cgroup_members, kill_cgroups, remove_cgroups
from agent_service.processes.table import HOST, Process, Table, gone, read, read_process, send
from agent_service.processes.tags import checked

KILL_PATIENCE = 10.0
"""Seconds from the first SIGKILL until what still lives is called a survivor: it is uninterruptible, or another's."""

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Reaped:
    """The receipt for a process tree: the host's ids of its processes, and the signals that were needed."""

    process_ids: tuple[int, ...] = ()
    terminated: bool = False
    """SIGTERM was sent."""
    killed: bool = False
    """SIGKILL was sent: not everything had ended by itself or by SIGTERM."""
    duration: float = 0.0
    survivors: tuple[int, ...] = ()
    """What still lived at the last look; empty unless the kernel or another user's rights protected it."""


class ProcessTree:
    """All processes that came from one spawned command, daemons included.

    A process belongs to the tree if it descends from the command, runs in its kernel session, carries its marker, is in
    its cgroup, or was found in the tree before. This process and its ancestors never belong.
    """

    def __init__(self, guard: ProcessGuard, pid: int | None, marker: str, *, between: str = "") -> None:
        """Take the tree under `pid`, right after the spawn; with None, all trees whose marker begins with `marker`.

        `between` names the processes that a sandbox has between the guard and the command.
        """
        self.pid = pid
        self._session = pid
        self._forced = False
        self._guard = guard
        self._between = between
        self._marker = checked(marker)
        root = read_process(str(pid)) if pid else None
        self._seen: set[tuple[int, int]] = {root.identity} if root else set()

    def processes(self) -> list[Process]:
        """Return the tree's living processes, wrappers included, by id."""
        return self.members(HOST.look())

    def memory_bytes(self) -> int:
        """Return the tree's private resident memory in bytes: what its end would free."""
        return sum(_private_bytes(process.pid) for process in self.processes())

    async def terminate(self, grace: float) -> Reaped:
        """Send SIGTERM to all, SIGKILL to those that live `grace` seconds later; return once all are dead.

        When the command ends, a guard's wrapper kills the rest at once: daemons get no grace of their own.
        """
        return await self._end(grace)

    async def kill(self) -> Reaped:
        """Send SIGKILL until no process lives. Shield the call: a cancelled one stops before the tree is dead."""
        return await self._end(None)

    def kill_now(self) -> None:
        """Send SIGKILL to every living process without waiting; ends the grace of a running `terminate`."""
        members = self.processes()
        self._forced = self._forced or bool(members)
        self._strike(self._victims(members))

    async def _end(self, grace: float | None) -> Reaped:
        began = time.monotonic()
        seen: set[int] = set()
        members = await self._look(seen)
        terminated = bool(grace is not None and members and self._ask(members))
        if terminated and grace is not None:
            members = await self._be_patient(members, seen, grace)
        killed = bool(members)
        if killed:
            members = await self._force(members, seen)
        if not members:
            remove_cgroups(self._guard.cgroups(self._marker))
        return Reaped(
            process_ids=tuple(sorted(seen)),
            terminated=terminated,
            killed=killed or self._forced,
            duration=time.monotonic() - began,
            survivors=tuple(process.pid for process in members),
        )

    async def _look(self, seen: set[int]) -> list[Process]:
        members = self.members(await HOST.fresh_look())
        if not members and not self._guard.dies_with_service:  # a fork during the first look may have hidden from it
            members = self.members(await HOST.fresh_look())
        seen.update(process.pid for process in members)
        return members

    def members(self, table: Table) -> list[Process]:
        """Return the tree's living processes from a snapshot."""
        own = set(table.ancestors(os.getpid()))
        counted = cgroup_members(self._guard.cgroups(self._marker))
        roots = [
            *table.known(self._seen),
            *table.in_session(self._session),
            *table.marked(self._marker),
            *(table.by_pid[pid] for pid in counted & table.by_pid.keys()),
        ]
        found = table.with_descendants(process for process in roots if process.pid not in own)
        self._seen = {process.identity for process in found.values()}
        if not found:
            self._session = None  # from here on the id may be another session's
        return [found[pid] for pid in sorted(found)]

    def _ask(self, members: list[Process]) -> bool:
        """Send SIGTERM to all but the wrappers; false if there is none yet. SIGCONT lets stopped ones receive it."""
        wrappers = self._wrappers(members)
        wrappers += self._of_sandbox(members, wrappers)
        asked = [process for process in members if process not in wrappers]
        for process in asked:
            send(process, signal.SIGTERM, signal.SIGCONT)
        return bool(asked)

    def _wrappers(self, members: list[Process]) -> list[Process]:
        """Return the chain of processes from the root down to the command."""
        chain: list[Process] = []
        below = [process for process in members if process.pid == self.pid]
        while len(chain) < self._guard.wrappers and len(below) == 1:
            chain += below
            below = [process for process in members if process.parent == chain[-1].pid]
        return chain

    def _of_sandbox(self, members: list[Process], wrappers: list[Process]) -> list[Process]:
        """Return the sandbox's processes below the guard's: with one of them, all that is inside would die."""
        found: list[Process] = []
        below = [process for process in members if process.name == self._between]
        around = {process.pid for process in wrappers}
        while layer := [
            each for each in below if each not in found and (each.parent in around or each.pid == self.pid)
        ]:
            found += layer
            around = {process.pid for process in layer}
        return found

    async def _wait(self, members: list[Process], seen: set[int], deadline: float) -> list[Process]:
        """Wait until all are gone or until `deadline`; return those that still live."""
        for process in members:
            await gone(process, deadline)
        return await self._look(seen)

    async def _be_patient(self, members: list[Process], seen: set[int], grace: float) -> list[Process]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        while members and loop.time() < deadline and not self._forced:
            members = await self._wait(members, seen, deadline)
        return members

    async def _force(self, members: list[Process], seen: set[int]) -> list[Process]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + KILL_PATIENCE
        victims = self._victims(members)
        while members and loop.time() < deadline:
            self._strike(victims)
            victims = members = await self._wait(members, seen, loop.time() + 0.25)
        return members

    def _victims(self, members: list[Process]) -> list[Process]:
        wrappers = self._wrappers(members)
        return self._guard.first_victims(wrappers, [process for process in members if process not in wrappers])

    def _strike(self, victims: list[Process]) -> None:
        kill_cgroups(self._guard.cgroups(self._marker))
        for process in victims:
            send(process, signal.SIGKILL)


def private_bytes(trees: Iterable[ProcessTree]) -> int:
    """Return the `memory_bytes` of many trees from one snapshot of the process table."""
    table = HOST.look()
    members = {process.pid for tree in trees for process in tree.members(table)}
    return sum(_private_bytes(pid) for pid in members)


def _private_bytes(pid: int) -> int:
    fields = read(f"/proc/{pid}/statm").split()
    return (int(fields[1]) - int(fields[2])) * _PAGE if fields else 0


async def end_leftovers(owner: str, guard: ProcessGuard | None = None) -> Reaped:
    """Kill the process trees of earlier runs of the service with this `owner_id`, and no others.

    Call it before the first spawn, from the one service that holds the data directory.
    """
    return await ProcessTree(guard or GroupGuard(), None, owner).kill()
