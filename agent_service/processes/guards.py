"""Process guards: the ways to start a command so that its whole tree can be ended, strongest first in `GUARDS`.

What a guard promises about the death of this process rests on PR_SET_PDEATHSIG, which fires when the *thread* that
forked ends, not the process: spawn from a thread that lives as long as the service, as asyncio does from the main one.
"""

from __future__ import annotations

import functools
import itertools
import os
import re
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from agent_service.processes.signals import let_children_start_afresh
from agent_service.processes.table import Process, read
from agent_service.processes.tags import MARKER, checked, within


class GuardUnavailable(Exception):
    """The wished guard, or any at all, does not work on this host; the text says why."""


class ProcessGuard(ABC):
    """A way to start a command so that nothing of its tree can stay behind."""

    name: ClassVar[str]
    strength: ClassVar[str]
    dies_with_service: ClassVar[bool] = True
    """Whether the whole tree dies with this process, and with the command itself."""
    wrappers: ClassVar[int] = 0
    """Processes between this one and the command; SIGTERM is not for them."""

    @abstractmethod
    def command(self, argv: Sequence[str], marker: str) -> list[str]:
        """What to execute in place of `argv`. Standard streams pass through; exit status n, or 128+n for signal n."""

    def spawn(self, argv: Sequence[str], *, marker: str) -> tuple[list[str], dict[str, Any]]:
        """The command and the keyword arguments for `asyncio.create_subprocess_exec` or `Popen`.

        To be called right before the spawn, in the thread that spawns: it also sees to the signals that are inherited.
        """
        let_children_start_afresh()
        return self.command(argv, checked(marker)), {"start_new_session": True}

    def environment(self, marker: str) -> dict[str, str]:
        """What the environment of the command must hold besides its own."""
        return {MARKER: marker}

    def first_victims(self, wrappers: list[Process], others: list[Process]) -> list[Process]:
        """Whom to kill first; all that lives is next."""
        return [*wrappers, *others]

    def cgroups(self, prefix: str) -> list[Path]:
        """The cgroups of the trees whose marker begins with `prefix`: the kernel's own count of who belongs to them."""
        return []


def _tool(name: str) -> str:
    """Where a program is on the service's own PATH: the command's may be another, and is not to choose its guard."""
    found = shutil.which(name)
    if found is None:
        raise GuardUnavailable(f"there is no {name} on this host")
    return found


_NAMESPACE = ("--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "slave")
_INIT = (
    '(read -r _ <"/proc/self/fd/$1"; kill -9 -1) >/dev/null 2>&1 & '
    '{ echo "$2" >/proc/sys/kernel/ns_last_pid; } 2>/dev/null; shift 2; "$@"; exit $?'
)
"""What the first process of a namespace does: see to it that all is killed when the service dies, choose process ids,
run the command."""
_inner_ids = itertools.cycle(range(1000, 31000))


@functools.cache
def _lifeline() -> int:
    """The reading end of a pipe that nobody writes to: it ends when this process dies.

    setpriv and unshare ask for the signal of a death that may have happened a moment before, and do not look again: of
    a hundred services killed while they start an agent, five left one behind.
    """
    reading, _ = os.pipe()
    return reading


@dataclass(frozen=True)
class NamespaceGuard(ProcessGuard):
    """A PID namespace: the kernel kills everything in it with its first process, and that one with this process.

    The first process is a shell that waits for all orphans, because the command would not: it would pile up zombies,
    and as process 1 it would be deaf to signals it has no handler for. The command sees a /proc of its own namespace.

    The CLI names files by its process id, so two that see the same id in one directory would take each other's: where
    the shell may (as root, not rootless), it lets each count from another number.
    """

    name: ClassVar[str] = "pidns"
    strength: ClassVar[str] = "PID namespace: the kernel kills every process, whatever it did to hide"
    wrappers: ClassVar[int] = 2
    user: ClassVar[tuple[str, ...]] = ()

    setpriv: str = field(default_factory=lambda: _tool("setpriv"))
    unshare: str = field(default_factory=lambda: _tool("unshare"))
    shell: str = field(default_factory=lambda: _tool("sh"))

    def first_victims(self, wrappers: list[Process], others: list[Process]) -> list[Process]:
        return wrappers if len(wrappers) == self.wrappers else [*wrappers, *others]

    def spawn(self, argv: Sequence[str], *, marker: str) -> tuple[list[str], dict[str, Any]]:
        command, keywords = super().spawn(argv, marker=marker)
        return command, {**keywords, "pass_fds": (_lifeline(),)}

    def command(self, argv: Sequence[str], marker: str) -> list[str]:
        namespace = [self.unshare, *self.user, *_NAMESPACE]
        init = [self.shell, "-c", _INIT, "agent-init", str(_lifeline()), str(next(_inner_ids))]
        return [self.setpriv, "--pdeathsig", "KILL", "--", *namespace, "--", *init, *argv]


@dataclass(frozen=True)
class RootlessNamespaceGuard(NamespaceGuard):
    """A PID namespace inside a user namespace, for services without privileges; only the own user exists in it."""

    name: ClassVar[str] = "pidns-rootless"
    strength: ClassVar[str] = "PID namespace in a user namespace: as pidns, without privileges and without sudo inside"
    user: ClassVar[tuple[str, ...]] = ("--user", "--map-current-user")


@dataclass(frozen=True)
class SubreaperGuard(ProcessGuard):
    """A launcher that inherits the tree's orphans, and kills everything when the command ends or this process dies."""

    name: ClassVar[str] = "subreaper"
    strength: ClassVar[str] = (
        "subreaper: nothing escapes while its launcher lives; after that, only what dropped its environment"
    )
    wrappers: ClassVar[int] = 1

    parent: int = field(default_factory=os.getpid)
    """Who must be the launcher's parent, lest it died before the launcher could watch it; 0 for anyone."""

    def command(self, argv: Sequence[str], marker: str) -> list[str]:
        launcher = str(Path(__file__).parent / "subreaper.py")
        interpreter = os.path.realpath(sys.executable)  # a third faster than through the virtual environment's link
        return [interpreter, "-I", "-S", launcher, str(self.parent), self._cgroup(marker), *argv]

    def _cgroup(self, marker: str) -> str:
        return "-"

    def first_victims(self, wrappers: list[Process], others: list[Process]) -> list[Process]:
        """The launcher is spared: it finds and ends what a look could miss."""
        return others or wrappers


@dataclass(frozen=True)
class CgroupGuard(SubreaperGuard):
    """The subreaper, with a cgroup of its own for each command, which the kernel kills in one stroke."""

    name: ClassVar[str] = "cgroup"
    strength: ClassVar[str] = "cgroup v2: the kernel kills every process in one stroke, also when the launcher is dead"

    base: Path = field(default_factory=lambda: _own_cgroup())

    def _cgroup(self, marker: str) -> str:
        directory = self.base / f"agent-{marker}"
        directory.mkdir(exist_ok=True)
        return str(directory)

    def cgroups(self, prefix: str) -> list[Path]:
        return [group for group in self.base.glob("agent-*") if within(group.name.removeprefix("agent-"), prefix)]


def _own_cgroup() -> Path:
    """The cgroup v2 directory this process is in; a directory that does not exist where there is none."""
    inside = re.search(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    mounted = re.search(r"^(?:\S+ ){4}(\S+) .* - cgroup2 ", Path("/proc/self/mountinfo").read_text(), re.MULTILINE)
    return Path(mounted[1], inside[1]) if inside and mounted else Path("/proc/self/no-cgroup-v2")


def cgroup_members(groups: Iterable[Path]) -> set[int]:
    """The ids of the processes in these cgroups."""
    return {int(pid) for group in groups for pid in read(f"{group}/cgroup.procs").split()}


def kill_cgroups(groups: Iterable[Path]) -> None:
    """SIGKILL to all in these cgroups, in one stroke; nothing where they are gone."""
    for group in groups:
        with suppress(OSError):
            descriptor = os.open(group / "cgroup.kill", os.O_WRONLY)
            try:
                os.write(descriptor, b"1")
            finally:
                os.close(descriptor)


def remove_cgroups(groups: Iterable[Path]) -> None:
    """Remove the cgroups that nobody is in any more."""
    for group in groups:
        with suppress(OSError):
            group.rmdir()


@dataclass(frozen=True)
class GroupGuard(ProcessGuard):
    """No guard at all but the marker and the session id; for hosts that refuse everything else."""

    name: ClassVar[str] = "process-group"
    strength: ClassVar[str] = (
        "process group and environment marker: a daemon that drops its environment escapes, and the tree outlives a "
        "killed service until the next start sweeps it"
    )
    dies_with_service: ClassVar[bool] = False

    def command(self, argv: Sequence[str], marker: str) -> list[str]:
        return list(argv)


GUARDS: tuple[type[ProcessGuard], ...] = (
    NamespaceGuard,
    RootlessNamespaceGuard,
    CgroupGuard,
    SubreaperGuard,
    GroupGuard,
)
"""Strongest first."""
