"""Limits of memory and of processes for one agent and all that it starts, by cgroups of version 1 or 2."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from agent_service.processes.sandbox import tool
from agent_service.processes.tags import checked, within


class Limits(NamedTuple):
    """What one agent may use; None: as much as the service."""

    memory: int | None = None
    """Bytes. What would go beyond is ended by the kernel: the greatest process, which is the tool and not the agent."""
    processes: int | None = None
    """Processes and threads. Beyond it a fork fails, and who forked goes on."""


class NoLimits(Exception):
    """Limits cannot be set on this host; the text says why."""


_ENTER = (
    'while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs" || exit 126; shift; done; shift; exec "$@"'  # 0 is the shell
)
TOOLS = "tools"
PROCESSES = "cgroup.procs"
RESERVE = 64
"""Processes and threads that an agent may have beyond its tools: one at rest has ten."""

_V1_FILES = {"memory": "memory.limit_in_bytes", "pids": "pids.max"}
_V2_FILES = {"memory": "memory.max", "pids": "pids.max"}


@dataclass(frozen=True)
class Cgroups:
    """The cgroups below which those of agents are made, by controller: "memory" and "pids".

    What an agent's tools start is in a cgroup of its own below the agent's, which keeps places that they cannot take.
    """

    bases: dict[str, Path]
    files: dict[str, str]
    unified: bool = False
    """Whether they are of version 2."""

    def enter(self, limits: Limits, marker: str, uid: int | None = None) -> list[str]:
        """Make the cgroups of one agent; the command that enters them before it runs the rest. Raises OSError.

        `uid` is the user that the agent becomes.
        """
        entered = []
        if limits.memory is not None:
            entered.append(self._make("memory", self._of("memory", marker), limits.memory))
        if limits.processes is not None:
            entered.append(self._make("pids", self._of("pids", marker), limits.processes + RESERVE))
            self._make_tools(entered[-1], limits.processes, uid)
        return [tool("sh"), "-c", _ENTER, "limits", *map(str, dict.fromkeys(entered)), "--"] if entered else []

    def _of(self, controller: str, marker: str) -> Path:
        return self.bases[controller] / f"agent-{checked(marker)}"

    def _make(self, controller: str, group: Path, value: int) -> Path:
        group.mkdir(exist_ok=True)
        (group / self.files[controller]).write_text(str(value))
        return group

    def _make_tools(self, group: Path, processes: int, uid: int | None) -> None:
        if self.unified:
            (group / "cgroup.subtree_control").write_text("+pids")
        tools = self._make("pids", group / TOOLS, processes)
        if uid is not None:
            for directory in (tools, group):  # version 2 asks for leave in what both have in common
                os.chown(directory / PROCESSES, uid, -1)

    def tools(self, limits: Limits, marker: str) -> Path | None:
        """Return the file that a tool of this agent enters its cgroup by; None where processes are not limited."""
        return self._of("pids", marker) / TOOLS / PROCESSES if limits.processes is not None else None

    def remove(self, marker: str) -> None:
        """Remove the cgroups of the agents whose marker begins with `marker`, those that no process is in."""
        for base in dict.fromkeys(self.bases.values()):
            for group in base.glob("agent-*"):
                if within(group.name.removeprefix("agent-"), marker):
                    for each in (group / TOOLS, group):
                        with suppress(OSError):
                            each.rmdir()


def find_cgroups(proc: Path = Path("/proc/self")) -> Cgroups:
    """Return where this service may limit its agents. Raises NoLimits."""
    mounts = (proc / "mountinfo").read_text()
    inside = dict(_memberships((proc / "cgroup").read_text()))
    bases = {}
    for controller in _V1_FILES:
        mounted = re.search(
            rf"^(?:\S+ ){{3}}(\S+) (\S+) .* - cgroup \S+ (?:\S+,)?{controller}(?:,|$)", mounts, re.MULTILINE
        )
        if mounted and controller in inside:
            bases[controller] = _below(Path(mounted[2]), mounted[1], inside[controller])
    if len(bases) == len(_V1_FILES):
        return _tried(Cgroups(bases, _V1_FILES))
    mounted = re.search(r"^(?:\S+ ){3}(\S+) (\S+) .* - cgroup2 ", mounts, re.MULTILINE)
    if mounted is None or "" not in inside:
        raise NoLimits("there are no cgroups on this host")
    base = _below(Path(mounted[2]), mounted[1], inside[""])
    _delegate(base)
    return _tried(Cgroups(dict.fromkeys(_V2_FILES, base), _V2_FILES, unified=True))


def _memberships(text: str) -> list[tuple[str, str]]:
    """Controllers with the path of the cgroup that this process is in; "" stands for version 2."""
    lines = (line.split(":", 2) for line in text.splitlines())
    return [(controller, path) for _, controllers, path in lines for controller in controllers.split(",")]


def _below(mount: Path, root: str, path: str) -> Path:
    """The directory of a cgroup's path. In a container, `root` is what is mounted and the path may begin above it."""
    return mount / os.path.relpath(path, root) if path.startswith(root.rstrip("/") + "/") else mount


def _delegate(base: Path) -> None:
    """Let version 2 count memory and processes below a cgroup: no process may be in it itself. Raises NoLimits."""
    try:
        if not {"memory", "pids"} <= set((base / "cgroup.controllers").read_text().split()):
            raise NoLimits("the service's cgroup has not been given memory and pids; systemd does so with Delegate=yes")
        if {"memory", "pids"} <= set((base / "cgroup.subtree_control").read_text().split()):
            return
        service = base / "service"
        service.mkdir(exist_ok=True)
        for process in (base / "cgroup.procs").read_text().split():
            (service / "cgroup.procs").write_text(process)
        (base / "cgroup.subtree_control").write_text("+memory +pids")
    except OSError as error:
        raise NoLimits(f"the service's cgroup is not its own to divide: {error}") from error


def _tried(cgroups: Cgroups) -> Cgroups:
    marker = f"probe:{os.getpid()}"
    try:
        cgroups.enter(Limits(memory=1 << 30, processes=64), marker)
    except OSError as error:
        raise NoLimits(f"no cgroup can be made here: {error}") from error
    finally:
        cgroups.remove(marker)
    return cgroups
