"""The process table: /proc as it is now, and signals for exactly the processes that it showed. Linux only.

Process ids are always those of the host, also for processes that live in a namespace of their own.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from agent_service.processes.tags import MARKER, within

_TICKS = os.sysconf("SC_CLK_TCK")


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
        """What tells it from all others that ever had its id."""
        return self.pid, self.started


class Table:
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
        """The processes whose parent has this id."""
        return self._children.get(pid, [])

    def ancestors(self, pid: int) -> Iterator[int]:
        """The id itself, its parent's, and so on."""
        while process := self.by_pid.get(pid):
            yield pid
            pid = process.parent

    def in_session(self, session: int | None) -> list[Process]:
        """The processes of one session, in the kernel's sense of it."""
        return self._sessions.get(session, []) if session else []

    def known(self, identities: Iterable[tuple[int, int]]) -> list[Process]:
        """Those of these processes that still live."""
        found = ((self.by_pid.get(identity[0]), identity) for identity in identities)
        return [process for process, identity in found if process is not None and process.identity == identity]

    def marked(self, prefix: str) -> list[Process]:
        """The processes whose marker begins with `prefix`."""
        if self._marked is None:
            self._marked = self._by_marker()
        return [process for value, group in self._marked.items() if within(value, prefix) for process in group]

    def _by_marker(self) -> dict[str, list[Process]]:
        found: dict[str, list[Process]] = {}
        for process in self.by_pid.values():
            if value := self._marker_of(process):
                found.setdefault(value, []).append(process)
        return found

    def with_descendants(self, roots: Iterable[Process]) -> dict[int, Process]:
        """These processes and all that came from them, by id."""
        found: dict[int, Process] = {}
        waiting = list(roots)
        while waiting:
            process = waiting.pop()
            if process.pid not in found:
                found[process.pid] = process
                waiting.extend(self.children(process.pid))
        return found


class Host:
    """Reads the process table, and remembers the markers: a process cannot lose the tree it was once seen in."""

    def __init__(self) -> None:
        self._markers: dict[tuple[int, int], str | None] = {}
        self._next: asyncio.Future[Table] | None = None
        self._rest_until = 0.0

    def look(self) -> Table:
        """Walk through /proc, now."""
        table = Table(self._processes(), self._marker_of)
        living = {process.identity for process in table.by_pid.values()}
        self._markers = {key: value for key, value in self._markers.items() if key in living}
        return table

    async def fresh_look(self) -> Table:
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
            if entry.isdecimal() and (process := read_process(entry)) is not None:
                yield process

    def _marker_of(self, process: Process) -> str | None:
        with suppress(KeyError):
            return self._markers[process.identity]
        environment = read(f"/proc/{process.pid}/environ", 1 << 15)
        found = _find_marker(environment)
        if found or (environment and not _is_young(process)):  # a young process may be about to exec
            self._markers[process.identity] = found
        return found


_UNREADABLE = (FileNotFoundError, ProcessLookupError, PermissionError)


def read(path: str, chunk: int = 1024) -> bytes:
    """A kernel's file, or nothing if it is gone or not ours to read; other errors must not look like a death."""
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


def read_process(pid: str) -> Process | None:
    """The process with this id; None if it has ended, zombies included, but for one whose other threads live on.

    The name may hold blanks and parentheses: the last one closes it.
    """
    head, _, tail = read(f"/proc/{pid}/stat").rpartition(b")")
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
    now = read_process(str(process.pid))
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


def send(process: Process, *numbers: int) -> None:
    """Signals for this process; nothing happens if it has ended, or is another user's."""
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


async def gone(process: Process, deadline: float) -> None:
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


HOST = Host()
"""The only one: what it remembers and the looks it shares are of use to all who ask."""
