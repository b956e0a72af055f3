"""The process table: reads /proc, and sends signals to exactly the processes that were read. Linux only.

Process ids are the host's, also those of processes in another PID namespace.
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
    """A process as read from /proc; no two processes share both `pid` and `started`."""

    pid: int
    name: str
    state: str
    parent: int
    session: int
    started: int

    @property
    def identity(self) -> tuple[int, int]:
        """Distinguishes the process from every other that had its id."""
        return self.pid, self.started


class Table:
    """A snapshot of all living processes; zombies count as dead."""

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
        """Return the processes whose parent has this id."""
        return self._children.get(pid, [])

    def ancestors(self, pid: int) -> Iterator[int]:
        """Yield the id itself, its parent's, and so on."""
        while process := self.by_pid.get(pid):
            yield pid
            pid = process.parent

    def in_session(self, session: int | None) -> list[Process]:
        """Return the processes of one kernel session."""
        return self._sessions.get(session, []) if session else []

    def known(self, identities: Iterable[tuple[int, int]]) -> list[Process]:
        """Return those of these processes that still live."""
        found = ((self.by_pid.get(identity[0]), identity) for identity in identities)
        return [process for process, identity in found if process is not None and process.identity == identity]

    def marked(self, prefix: str) -> list[Process]:
        """Return the processes whose marker begins with `prefix`."""
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
        """Return these processes and all their descendants, by id."""
        found: dict[int, Process] = {}
        waiting = list(roots)
        while waiting:
            process = waiting.pop()
            if process.pid not in found:
                found[process.pid] = process
                waiting.extend(self.children(process.pid))
        return found


class Host:
    """Reads the process table and remembers markers: a process that drops its environment still belongs to its tree."""

    def __init__(self) -> None:
        self._markers: dict[tuple[int, int], str | None] = {}
        self._next: asyncio.Future[Table] | None = None
        self._rest_until = 0.0

    def look(self) -> Table:
        """Read /proc now."""
        table = Table(self._processes(), self._marker_of)
        living = {process.identity for process in table.by_pid.values()}
        self._markers = {key: value for key, value in self._markers.items() if key in living}
        return table

    async def fresh_look(self) -> Table:
        """Return a snapshot that begins after this call, shared by waiting callers: 50 cancels are not 50 reads."""
        loop = asyncio.get_running_loop()
        if self._next is None or self._next.get_loop() is not loop:
            self._next = loop.create_future()
            loop.call_at(self._rest_until, self._share)
        return await asyncio.shield(self._next)

    def _share(self) -> None:
        """Take a snapshot, then pause for as long as it took, so that they take at most half of the loop's time."""
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
    """Read a kernel file; empty if it is gone or not readable. Other errors are raised: no death may be inferred."""
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
    """Read until a short read: a second read of each file, or a large buffer, would double the time of a snapshot."""
    data = part = os.read(descriptor, chunk)
    while len(part) == chunk:
        part = os.read(descriptor, chunk)
        data += part
    return data


def read_process(pid: str) -> Process | None:
    """Return the process with this id; None for an ended one, or a zombie without running threads.

    The name may contain blanks and parentheses: the last parenthesis closes it.
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


def is_alive(process: Process) -> bool:
    """Return whether exactly this process still lives."""
    now = read_process(str(process.pid))
    return now is not None and now.identity == process.identity


@contextmanager
def _handle(process: Process) -> Iterator[int | None]:
    """Open a pidfd for exactly this process; None if it has ended: another may have its id by now."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        yield descriptor if is_alive(process) else None
    finally:
        os.close(descriptor)


def send(process: Process, *numbers: int) -> None:
    """Send signals to this process; ignored if it has ended or belongs to another user."""
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
    """Wait until the process has ended or until `deadline` (the loop's clock)."""
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
