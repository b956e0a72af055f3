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


class Setting(NamedTuple):
    """A file of a cgroup and what is written into it."""

    directory: Path
    file: str
    value: int


_ENTER = (
    'while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs" || exit 126; shift; done; shift; exec "$@"'  # 0 is the shell
)
_V1_FILES = {"memory": "memory.limit_in_bytes", "pids": "pids.max"}
_V2_FILES = {"memory": "memory.max", "pids": "pids.max"}


@dataclass(frozen=True)
class Cgroups:
    """The cgroups below which those of agents are made, by controller: "memory" and "pids"."""

    bases: dict[str, Path]
    files: dict[str, str]

    def enter(self, limits: Limits, marker: str) -> list[str]:
        """Make the cgroups of one agent; the command that enters them before it runs the rest. Raises OSError."""
        settings = list(self._settings(limits, marker))
        for setting in settings:
            setting.directory.mkdir(exist_ok=True)
            (setting.directory / setting.file).write_text(str(setting.value))
        directories = dict.fromkeys(str(setting.directory) for setting in settings)
        return [tool("sh"), "-c", _ENTER, "limits", *directories, "--"] if settings else []

    def _settings(self, limits: Limits, marker: str) -> list[Setting]:
        values = {"memory": limits.memory, "pids": limits.processes}
        name = f"agent-{checked(marker)}"
        return [
            Setting(base / name, self.files[controller], value)
            for controller, base in self.bases.items()
            if (value := values[controller]) is not None
        ]

    def remove(self, marker: str) -> None:
        """Remove the cgroups of the agents whose marker begins with `marker`, those that no process is in."""
        for base in dict.fromkeys(self.bases.values()):
            for group in base.glob("agent-*"):
                if within(group.name.removeprefix("agent-"), marker):
                    with suppress(OSError):
                        group.rmdir()


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
    return _tried(Cgroups(dict.fromkeys(_V2_FILES, base), _V2_FILES))


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
