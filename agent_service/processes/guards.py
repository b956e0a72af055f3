"""Process guards: ways to start a command so that its whole tree can be ended, strongest first in `GUARDS`.

Guards that end the tree with this process use PR_SET_PDEATHSIG. The signal is sent when the *thread* that forked ends,
not the process, so spawn from a thread that lives as long as the service, such as asyncio's main thread.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from agent_service.processes.lifeline import Lifeline, close_all, memory_file
from agent_service.processes.signals import let_children_start_afresh
from agent_service.processes.table import Process, read
from agent_service.processes.tags import MARKER, checked, within


class GuardUnavailable(Exception):
    """The requested guard, or every guard, failed on this host; the text says why."""


@dataclass
class Spawn:
    """A command to start under a guard, right now; hold it for as long as the process may live.

    Without it, or closed, the guard ends the process: its lifeline is cut.
    """

    command: list[str]
    keywords: dict[str, Any]
    """For `asyncio.create_subprocess_exec` or `Popen`: the environment, the descriptors to pass on, a new session."""
    descriptors: tuple[int, ...] = ()
    """Those of the guard's own that only the process needs."""
    lifeline: Lifeline | None = None

    def started(self) -> None:
        """Close what only the process needs; call it once it was started, or could not be."""
        descriptors, self.descriptors = self.descriptors, ()
        close_all(descriptors)

    def close(self) -> None:
        """Cut the lifeline."""
        if self.lifeline is not None:
            self.lifeline.close()


class ProcessGuard(ABC):
    """A way to start a command so that no process of its tree can outlive it."""

    name: ClassVar[str]
    strength: ClassVar[str]
    dies_with_service: ClassVar[bool] = True
    """Whether the whole tree dies with this process, and with the command itself."""
    wrappers: ClassVar[int] = 0
    """Processes between this one and the command; SIGTERM is not for them."""

    @abstractmethod
    def prepare(self, argv: Sequence[str], marker: str, variables: Mapping[str, str]) -> Spawn:
        """Return what to execute in place of `argv`; it passes streams through, and exits 128+n for signal n.

        `variables` are for `argv` alone: the guard's own programs must not see them.
        """

    def spawn(
        self,
        argv: Sequence[str],
        *,
        marker: str,
        environment: Mapping[str, str] | None = None,
        variables: Mapping[str, str] | None = None,
        descriptors: Sequence[int] = (),
    ) -> Spawn:
        """Prepare to start `argv` with `environment`, and with the `variables` of a caller on top of it.

        Variables can make a program run code (LD_PRELOAD): the guard's own programs get those of `environment` only.
        Without one, the process inherits this one's, and has no marker. It inherits `descriptors`, which stay the
        caller's to close. Call it right before the spawn, in the thread that spawns: it also resets the signals that
        children inherit.
        """
        let_children_start_afresh()
        spawn = self.prepare(argv, checked(marker), variables or {})
        spawn.keywords |= {"start_new_session": True, "pass_fds": (*spawn.descriptors, *descriptors)}
        if environment is not None:
            spawn.keywords["env"] = {**environment, **spawn.keywords.get("env", {}), MARKER: marker}
        return spawn

    def first_victims(self, wrappers: list[Process], others: list[Process]) -> list[Process]:
        """Return the processes to kill first; the others follow."""
        return [*wrappers, *others]

    def cgroups(self, prefix: str) -> list[Path]:
        """Return the cgroups of the trees whose marker begins with `prefix`."""
        return []


def _tool(name: str) -> str:
    """Return a program's path on the service's own PATH: the command's PATH must not choose its guard."""
    found = shutil.which(name)
    if found is None:
        raise GuardUnavailable(f"there is no {name} on this host")
    return found


_NAMESPACE = ("--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "slave")
_INIT = (
    '(trap "" HUP INT TERM; "$1" -s "$2"; kill -9 -1) >/dev/null 2>&1 & '
    '{ echo "$3" >/proc/sys/kernel/ns_last_pid; } 2>/dev/null; '
    '[ "$4" = - ] || . "/proc/self/fd/$4"; '
    'shift 4; "$@"; exit $?'
)
"""What the first process of a namespace does: see to it that all is killed when the lifeline ends, choose process ids,
set the variables of the caller, run the command.

The lifeline is for the moments of the start: setpriv and unshare request the parent-death signal without checking that
the parent still lives. Of 100 services that were killed while they started an agent, 5 left one behind without it.
"""
_inner_ids = itertools.cycle(range(1000, 31000))


def _exports(variables: Mapping[str, str]) -> bytes:
    """A shell script that sets variables; one that the shell keeps to itself (UID in some) is left as it is."""
    lines = (f"command export {name}={shlex.quote(value)} 2>/dev/null || :\n" for name, value in variables.items())
    return "".join(lines).encode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class NamespaceGuard(ProcessGuard):
    """A PID namespace: the kernel kills all of it with its first process, and the first process with this one.

    The first process is a shell that reaps orphans. The command would not reap them, and as process 1 it would ignore
    signals without a handler. The command sees a /proc of its own namespace.

    The CLI names files by its process id. Two CLIs with the same id in one directory would share such files, so as root
    the shell starts each namespace's ids at another number. Rootless namespaces cannot do that.
    """

    name: ClassVar[str] = "pidns"
    strength: ClassVar[str] = "PID namespace: the kernel kills every process, whatever it did to hide"
    wrappers: ClassVar[int] = 2
    user: ClassVar[tuple[str, ...]] = ()

    setpriv: str = field(default_factory=lambda: _tool("setpriv"))
    unshare: str = field(default_factory=lambda: _tool("unshare"))
    shell: str = field(default_factory=lambda: _tool("sh"))
    flock: str = field(default_factory=lambda: _tool("flock"))

    def first_victims(self, wrappers: list[Process], others: list[Process]) -> list[Process]:
        return wrappers if len(wrappers) == self.wrappers else [*wrappers, *others]

    def prepare(self, argv: Sequence[str], marker: str, variables: Mapping[str, str]) -> Spawn:
        lifeline = Lifeline()
        passed = [lifeline.end]
        script = "-"
        if variables:
            passed.append(memory_file("variables", _exports(variables)))
            script = str(passed[-1])
        namespace = [self.unshare, *self.user, *_NAMESPACE]
        init = [self.shell, "-c", _INIT, "agent-init", self.flock, str(lifeline.end), str(next(_inner_ids)), script]
        command = [self.setpriv, "--pdeathsig", "KILL", "--", *namespace, "--", *init, *argv]
        return Spawn(command, {}, tuple(passed), lifeline)


@dataclass(frozen=True)
class RootlessNamespaceGuard(NamespaceGuard):
    """A PID namespace inside a user namespace, for services without privileges; it contains only the service's user."""

    name: ClassVar[str] = "pidns-rootless"
    strength: ClassVar[str] = "PID namespace in a user namespace: as pidns, without privileges and without sudo inside"
    user: ClassVar[tuple[str, ...]] = ("--user", "--map-current-user")


@dataclass(frozen=True)
class SubreaperGuard(ProcessGuard):
    """A launcher that inherits the tree's orphans, and kills the tree when the command ends or this process dies."""

    name: ClassVar[str] = "subreaper"
    strength: ClassVar[str] = (
        "subreaper: nothing escapes while its launcher lives; after that, only what dropped its environment"
    )
    wrappers: ClassVar[int] = 1

    parent: int = field(default_factory=os.getpid)
    """Who must be the launcher's parent, lest it died before the launcher could watch it; 0 for anyone."""

    def prepare(self, argv: Sequence[str], marker: str, variables: Mapping[str, str]) -> Spawn:
        launcher = str(Path(__file__).parent / "subreaper.py")
        interpreter = os.path.realpath(sys.executable)  # a third faster than through the virtual environment's link
        passed: tuple[int, ...] = ()
        if variables:
            lines = "\0".join(f"{name}={value}" for name, value in variables.items())
            passed = (memory_file("variables", lines.encode("utf-8", "surrogateescape")),)
        file = str(passed[0]) if passed else "-"
        own = [interpreter, "-I", "-S", launcher, str(self.parent), self._cgroup(marker), file]
        return Spawn([*own, *argv], {}, passed)

    def _cgroup(self, marker: str) -> str:
        return "-"

    def first_victims(self, wrappers: list[Process], others: list[Process]) -> list[Process]:
        """Spare the launcher: it ends processes that a look at /proc can miss."""
        return others or wrappers


@dataclass(frozen=True)
class CgroupGuard(SubreaperGuard):
    """The subreaper with one cgroup per command, which the kernel kills at once."""

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
    """Return this process's cgroup v2 directory; without cgroup v2, a directory that does not exist."""
    inside = re.search(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    mounted = re.search(r"^(?:\S+ ){4}(\S+) .* - cgroup2 ", Path("/proc/self/mountinfo").read_text(), re.MULTILINE)
    return Path(mounted[1], inside[1]) if inside and mounted else Path("/proc/self/no-cgroup-v2")


def cgroup_members(groups: Iterable[Path]) -> set[int]:
    """Return the ids of the processes in these cgroups."""
    return {int(pid) for group in groups for pid in read(f"{group}/cgroup.procs").split()}


def kill_cgroups(groups: Iterable[Path]) -> None:
    """Send SIGKILL to every process of these cgroups at once; a cgroup that is gone is skipped."""
    for group in groups:
        with suppress(OSError):
            descriptor = os.open(group / "cgroup.kill", os.O_WRONLY)
            try:
                os.write(descriptor, b"1")
            finally:
                os.close(descriptor)


def remove_cgroups(groups: Iterable[Path]) -> None:
    """Remove the cgroups without processes."""
    for group in groups:
        with suppress(OSError):
            group.rmdir()


@dataclass(frozen=True)
class GroupGuard(ProcessGuard):
    """No guard but the marker and the kernel's session id, for hosts that refuse the others."""

    name: ClassVar[str] = "process-group"
    strength: ClassVar[str] = (
        "process group and environment marker: a daemon that drops its environment escapes, and the tree outlives a "
        "killed service until the next start sweeps it"
    )
    dies_with_service: ClassVar[bool] = False

    def prepare(self, argv: Sequence[str], marker: str, variables: Mapping[str, str]) -> Spawn:
        return Spawn(list(argv), {"env": dict(variables)})  # there is nothing of the guard's own


GUARDS: tuple[type[ProcessGuard], ...] = (
    NamespaceGuard,
    RootlessNamespaceGuard,
    CgroupGuard,
    SubreaperGuard,
    GroupGuard,
)
"""Strongest first."""
