"""Processes: what becomes of process trees: how they are held, how they end, and the receipt that proves it.

A `ProcessGuard` starts a command so that its whole tree can be ended; a `ProcessTree` is one such tree; `sweep` ends
what an earlier instance of the service left behind. Every tree carries a marker in its environment, such as
`owner:instance:session`. Linux only: /proc is the witness.

What a guard promises about the death of this process rests on PR_SET_PDEATHSIG, which fires when the *thread* that
forked ends, not the process: spawn from a thread that lives as long as the service, as asyncio does from the main one.
Process ids are always those of the host, also for processes that live in a namespace of their own.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import itertools
import os
import re
import shutil
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

MARKER = "AGENT_SERVICE_MARKER"
"""The environment variable that names the tree a process belongs to."""

KILL_PATIENCE = 10.0
"""Seconds from the first SIGKILL until what still lives is called a survivor: it is uninterruptible, or another's."""

_MARKER_FORM = re.compile(r"[A-Za-z0-9_.-]+(:[A-Za-z0-9_.-]+){0,2}")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


def owner_id(data_directory: Path) -> str:
    """The first part of a marker: one data directory on one host, whatever path leads to it."""
    path = data_directory.resolve(strict=True)
    status = path.stat()
    return hashlib.sha256(f"{path}\0{status.st_dev}\0{status.st_ino}".encode()).hexdigest()[:16]


def session_marker(owner: str, instance: str, session: str) -> str:
    """The marker of one session's tree. Raises ValueError for a part not made of `[A-Za-z0-9_.-]`."""
    return _checked(f"{owner}:{instance}:{session}")


def _checked(text: str) -> str:
    if not _MARKER_FORM.fullmatch(text):
        raise ValueError(f"not a process marker: {text!r}")
    return text


def _within(value: str, prefix: str) -> bool:
    return value == prefix or value.startswith(f"{prefix}:")


# --- what runs on this host -------------------------------------------------------------------------------------------


class Process(NamedTuple):
    """A process as /proc showed it; `pid` and `started` together are never used twice."""

    pid: int
    name: str
    state: str
    parent: int
    session: int
    started: int

    @property
    def identity(self) -> tuple[int, int]:
        return self.pid, self.started


@dataclass(frozen=True)
class Reaped:
    """The receipt for a process tree: the host's ids of all that lived in it, and what it took to end them."""

    process_ids: tuple[int, ...] = ()
    terminated: bool = False
    """SIGTERM was sent."""
    killed: bool = False
    """SIGKILL was sent: not everything had ended by itself or by SIGTERM."""
    duration: float = 0.0
    survivors: tuple[int, ...] = ()
    """What still lived at the last look; empty unless the kernel or another user's rights protected it."""


class _Table:
    """One look at all living processes; zombies count as dead."""

    def __init__(self, processes: Iterable[Process], marker_of: Callable[[Process], str | None]) -> None:
        self.by_pid = {process.pid: process for process in processes}
        self._marker_of = marker_of
        self._marked: dict[str, list[Process]] | None = None
        self._children: dict[int, list[Process]] = {}
        self._sessions: dict[int, list[Process]] = {}
        for process in self.by_pid.values():
            self._children.setdefault(process.parent, []).append(process)
            self._sessions.setdefault(process.session, []).append(process)

    def children(self, pid: int) -> list[Process]:
        return self._children.get(pid, [])

    def ancestors(self, pid: int) -> Iterator[int]:
        while process := self.by_pid.get(pid):
            yield pid
            pid = process.parent

    def in_session(self, session: int | None) -> list[Process]:
        return self._sessions.get(session, []) if session else []

    def known(self, identities: Iterable[tuple[int, int]]) -> list[Process]:
        found = ((self.by_pid.get(identity[0]), identity) for identity in identities)
        return [process for process, identity in found if process is not None and process.identity == identity]

    def marked(self, prefix: str) -> list[Process]:
        if self._marked is None:
            self._marked = self._by_marker()
        return [process for value, group in self._marked.items() if _within(value, prefix) for process in group]

    def _by_marker(self) -> dict[str, list[Process]]:
        found: dict[str, list[Process]] = {}
        for process in self.by_pid.values():
            if value := self._marker_of(process):
                found.setdefault(value, []).append(process)
        return found

    def with_descendants(self, roots: Iterable[Process]) -> dict[int, Process]:
        found: dict[int, Process] = {}
        waiting = list(roots)
        while waiting:
            process = waiting.pop()
            if process.pid not in found:
                found[process.pid] = process
                waiting.extend(self.children(process.pid))
        return found


class _Host:
    """Reads the process table, and remembers the markers: a process cannot lose the tree it was once seen in."""

    def __init__(self) -> None:
        self._markers: dict[tuple[int, int], str | None] = {}
        self._next: asyncio.Future[_Table] | None = None
        self._rest_until = 0.0

    def look(self) -> _Table:
        table = _Table(self._processes(), self._marker_of)
        living = {process.identity for process in table.by_pid.values()}
        self._markers = {key: value for key, value in self._markers.items() if key in living}
        return table

    async def fresh_look(self) -> _Table:
        """A look that begins after this call, shared by all who asked before it began: 50 cancels are not 50 walks."""
        loop = asyncio.get_running_loop()
        if self._next is None or self._next.get_loop() is not loop:
            self._next = loop.create_future()
            loop.call_at(self._rest_until, self._share)
        return await asyncio.shield(self._next)

    def _share(self) -> None:
        """Look, then rest for as long as it took: looking never takes more than half of the loop's time."""
        assert self._next is not None
        waiting, self._next = self._next, None
        began = time.monotonic()
        try:
            waiting.set_result(self.look())
        except Exception as error:  # noqa: BLE001 - for whoever waits; such as that no file descriptor is left
            waiting.set_exception(error)
        now = time.monotonic()
        self._rest_until = now + min(now - began, 0.05)

    def _processes(self) -> Iterator[Process]:
        for entry in os.listdir("/proc"):
            if entry.isdecimal() and (process := _read_process(entry)) is not None:
                yield process

    def _marker_of(self, process: Process) -> str | None:
        with suppress(KeyError):
            return self._markers[process.identity]
        environment = _read(f"/proc/{process.pid}/environ", 1 << 15)
        found = _find_marker(environment)
        if found or (environment and not _is_young(process)):  # a young process may be about to exec
            self._markers[process.identity] = found
        return found


_UNREADABLE = (FileNotFoundError, ProcessLookupError, PermissionError)


def _read(path: str, chunk: int = 1024) -> bytes:
    """Nothing for what has gone or is not ours to read; other errors must not look like a death."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except _UNREADABLE:
        return b""
    try:
        return _read_all(descriptor, chunk)
    except _UNREADABLE:
        return b""
    finally:
        os.close(descriptor)


def _read_all(descriptor: int, chunk: int) -> bytes:
    """A short answer is the last: a second read of each file, or a large buffer, would double the time of a look."""
    data = part = os.read(descriptor, chunk)
    while len(part) == chunk:
        part = os.read(descriptor, chunk)
        data += part
    return data


def _read_process(pid: str) -> Process | None:
    """None for what has ended, zombies included, but for one whose other threads live on.

    The name may hold blanks and parentheses: the last one closes it.
    """
    head, _, tail = _read(f"/proc/{pid}/stat").rpartition(b")")
    if not head:
        return None
    fields = tail.split()
    state = fields[0].decode()
    if state in "Xx" or (state == "Z" and int(fields[17]) <= 1):
        return None
    name = head.partition(b"(")[2].decode(errors="replace")
    return Process(int(pid), name, state, int(fields[1]), int(fields[3]), int(fields[19]))


def _find_marker(environment: bytes) -> str | None:
    for variable in environment.split(b"\0"):
        key, _, value = variable.partition(b"=")
        if key == MARKER.encode():
            return value.decode(errors="replace")
    return None


def _is_young(process: Process) -> bool:
    return time.clock_gettime(time.CLOCK_BOOTTIME) - process.started / _TICKS < 2.0


def _is_alive(process: Process) -> bool:
    now = _read_process(str(process.pid))
    return now is not None and now.identity == process.identity


@contextmanager
def _handle(process: Process) -> Iterator[int | None]:
    """A pidfd for exactly this process, or None if it has ended: an id alone could belong to another one by now."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield descriptor if _is_alive(process) else None
    finally:
        os.close(descriptor)


def _send(process: Process, *numbers: int) -> None:
    try:
        with _handle(process) as handle:
            if handle is not None:
                for number in numbers:
                    signal.pidfd_send_signal(handle, number)
    except _UNREADABLE:
        return
    except OSError:  # no pidfd on this kernel, or no file descriptor left
        _send_by_id(process, *numbers)


def _send_by_id(process: Process, *numbers: int) -> None:
    with suppress(*_UNREADABLE):
        for number in numbers:
            os.kill(process.pid, number)


async def _gone(process: Process, deadline: float) -> None:
    """Wait until the process has ended or the loop's clock shows `deadline`."""
    try:
        with _handle(process) as handle:
            if handle is not None:
                await _readable(handle, deadline)
    except TimeoutError:
        return
    except OSError:  # no pidfd
        await asyncio.sleep(0.01)


async def _readable(descriptor: int, deadline: float) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(descriptor, readable.set)
    try:
        async with asyncio.timeout_at(deadline):
            await readable.wait()
    finally:
        loop.remove_reader(descriptor)


_host = _Host()


# --- how a tree is held -----------------------------------------------------------------------------------------------


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
        """The command and the keyword arguments for `asyncio.create_subprocess_exec` or `Popen`."""
        return self.command(argv, _checked(marker)), {"start_new_session": True}

    def environment(self, marker: str) -> dict[str, str]:
        """What the environment of the command must hold besides its own."""
        return {MARKER: marker}

    def tree(self, pid: int, *, marker: str) -> ProcessTree:
        """The tree of the process that was just spawned with `marker`."""
        return ProcessTree(self, pid, marker)

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
"""What the first process of a namespace does: see to it that all is killed when the service dies, choose process ids, run
the command."""
_inner_ids = itertools.cycle(range(1000, 31000))


@functools.cache
def _lifeline() -> int:
    """The reading end of a pipe that nobody writes to: it ends when this process dies.

    setpriv and unshare ask for the signal of a death that may have happened a moment before, and do not look again: of a
    hundred services killed while they start an agent, five left one behind.
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
        launcher = str(Path(__file__).parent / "guard" / "subreaper.py")
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
        return [group for group in self.base.glob("agent-*") if _within(group.name.removeprefix("agent-"), prefix)]


def _own_cgroup() -> Path:
    """The cgroup v2 directory this process is in; a directory that does not exist where there is none."""
    inside = re.search(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    mounted = re.search(r"^(?:\S+ ){4}(\S+) .* - cgroup2 ", Path("/proc/self/mountinfo").read_text(), re.MULTILINE)
    return Path(mounted[1], inside[1]) if inside and mounted else Path("/proc/self/no-cgroup-v2")


def _cgroup_members(groups: Iterable[Path]) -> set[int]:
    return {int(pid) for group in groups for pid in _read(f"{group}/cgroup.procs").split()}


def _kill_cgroups(groups: Iterable[Path]) -> None:
    for group in groups:
        with suppress(OSError):
            descriptor = os.open(group / "cgroup.kill", os.O_WRONLY)
            try:
                os.write(descriptor, b"1")
            finally:
                os.close(descriptor)


def _remove_cgroups(groups: Iterable[Path]) -> None:
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


# --- one tree ---------------------------------------------------------------------------------------------------------


class ProcessTree:
    """All processes that came from one spawned command, wherever they went.

    A process belongs to it that descends from the command, runs in its session, carries its marker, is in its cgroup,
    or was once seen in it. This process and its ancestors never belong, whatever marker they inherited.
    """

    def __init__(self, guard: ProcessGuard, pid: int | None, marker: str) -> None:
        """The tree under `pid`, made right after the spawn; with None, all trees whose marker begins with `marker`."""
        self.pid = pid
        self._session = pid
        self._forced = False
        self._guard = guard
        self._marker = _checked(marker)
        root = _read_process(str(pid)) if pid else None
        self._seen: set[tuple[int, int]] = {root.identity} if root else set()

    def processes(self) -> list[Process]:
        """What lives in the tree now, wrappers included, in order of their ids."""
        return self.members(_host.look())

    def memory_bytes(self) -> int:
        """Memory that would be free without the tree: resident, and not shared with the files it is read from."""
        return sum(_private_bytes(process.pid) for process in self.processes())

    async def terminate(self, grace: float) -> Reaped:
        """SIGTERM to all, SIGKILL to what lives `grace` seconds later, and return once nothing does.

        When the command ends, a guard's wrapper kills the rest at once: the grace is the command's, not its daemons'.
        """
        return await self._end(grace)

    async def kill(self) -> Reaped:
        """SIGKILL to all, again and again until nothing lives. Shield it: who cancels it stops it."""
        return await self._end(None)

    def kill_now(self) -> None:
        """SIGKILL to all that lives now, without waiting; cuts the grace of a `terminate` that is under way."""
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
            _remove_cgroups(self._guard.cgroups(self._marker))
        return Reaped(
            process_ids=tuple(sorted(seen)),
            terminated=terminated,
            killed=killed or self._forced,
            duration=time.monotonic() - began,
            survivors=tuple(process.pid for process in members),
        )

    async def _look(self, seen: set[int]) -> list[Process]:
        members = self.members(await _host.fresh_look())
        if not members and not self._guard.dies_with_service:  # a fork during the first look may have hidden from it
            members = self.members(await _host.fresh_look())
        seen.update(process.pid for process in members)
        return members

    def members(self, table: _Table) -> list[Process]:
        """What lives in the tree, in one look at all processes."""
        own = set(table.ancestors(os.getpid()))
        counted = _cgroup_members(self._guard.cgroups(self._marker))
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
        """SIGTERM to all but the wrappers; false if there is nobody yet to ask. What is stopped could not hear it."""
        wrappers = self._wrappers(members)
        asked = [process for process in members if process not in wrappers]
        for process in asked:
            _send(process, signal.SIGTERM, signal.SIGCONT)
        return bool(asked)

    def _wrappers(self, members: list[Process]) -> list[Process]:
        """The chain from the root down to the command."""
        chain: list[Process] = []
        below = [process for process in members if process.pid == self.pid]
        while len(chain) < self._guard.wrappers and len(below) == 1:
            chain += below
            below = [process for process in members if process.parent == chain[-1].pid]
        return chain

    async def _wait(self, members: list[Process], seen: set[int], deadline: float) -> list[Process]:
        """Wait until all of them are gone, or for `deadline`; who lives then."""
        for process in members:
            await _gone(process, deadline)
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
        _kill_cgroups(self._guard.cgroups(self._marker))
        for process in victims:
            _send(process, signal.SIGKILL)


def private_bytes(trees: Iterable[ProcessTree]) -> int:
    """The `memory_bytes` of many trees, for one look at all processes."""
    table = _host.look()
    members = {process.pid for tree in trees for process in tree.members(table)}
    return sum(_private_bytes(pid) for pid in members)


def _private_bytes(pid: int) -> int:
    fields = _read(f"/proc/{pid}/statm").split()
    return (int(fields[1]) - int(fields[2])) * _PAGE if fields else 0


async def sweep(owner: str, guard: ProcessGuard | None = None) -> Reaped:
    """Kill what earlier instances of the service with this `owner_id` left behind, and nothing else.

    To be called before the first spawn, by the one service that holds the data directory.
    """
    return await ProcessTree(guard or GroupGuard(), None, owner).kill()


# --- which guard works here -------------------------------------------------------------------------------------------


class Refusal(NamedTuple):
    """A guard that does not work here."""

    name: str
    reason: str


@dataclass(frozen=True)
class Choice:
    """The strongest guard that works here, and why each stronger one was refused."""

    guard: ProcessGuard
    refused: tuple[Refusal, ...] = ()


async def choose_guard(preferred: str = "auto") -> Choice:
    """Try guards on real process trees, strongest first, and take the first that leaves nothing behind.

    `preferred` names one guard, or with "pidns" either kind of it. Raises GuardUnavailable when none passed.
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
_STAND_IN = '"$@"; exit $?'
_PROBE_PATIENCE = 3.0
_PARENT_DEATH_PATIENCE = 1.0


async def probe(kind: type[ProcessGuard]) -> ProcessGuard:
    """A guard of this kind that has just killed a tree with daemons in it. Raises GuardUnavailable with the reason."""
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
    async with _trial(guard, "kill", []) as tree:
        reaped = await tree.kill()
    if reaped.survivors or len(reaped.process_ids) < 4:
        raise GuardUnavailable(f"a kill saw the processes {reaped.process_ids} and left {reaped.survivors}")


async def _try_parent_death(guard: ProcessGuard) -> None:
    """Let a shell stand in for the service, kill that one alone, and see its tree die."""
    if isinstance(guard, SubreaperGuard):
        guard = replace(guard, parent=0)
    async with _trial(guard, "parent", ["sh", "-c", _STAND_IN, "stand-in"]) as tree:
        assert tree.pid is not None
        before = tree.processes()
        os.kill(tree.pid, signal.SIGKILL)
        deadline = asyncio.get_running_loop().time() + _PARENT_DEATH_PATIENCE
        for process in before:
            await _gone(process, deadline)
        if left := tree.processes():
            raise GuardUnavailable(f"the death of the service would leave {[process.name for process in left]}")


@asynccontextmanager
async def _trial(guard: ProcessGuard, name: str, parent: list[str]) -> AsyncIterator[ProcessTree]:
    """A small tree with two daemons, running; nothing of it is left afterwards."""
    marker = session_marker("probe", f"{os.getpid()}-{time.monotonic_ns()}", f"{guard.name}-{name}")
    command, keywords = guard.spawn(["sh", "-c", _PROBE_TREE], marker=marker)
    environment = os.environ | guard.environment(marker)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *parent, *command, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=environment, **keywords
    )
    tree = guard.tree(process.pid, marker=marker)
    try:
        await _until_ready(process)
        yield tree
    finally:
        await tree.kill()
        await process.communicate()


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
