"""AuditLog: appends lines to the audit file, notices rotation, and notes the head of the chain in the service's log.

A line is handed to the kernel before the call is answered; nothing is synced, since the ledger's commit is the record
of what happened. What cannot be written stays in memory and is tried again with the next line.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import logging
import os
import stat
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from agent_service.audit.chain import FIRST_BYTES, MAX_LINE, OPENED, REPAIRED, START, claimed, made, torn_digest

log = logging.getLogger(__name__)

ANCHOR_RECORDS = 1000
ANCHOR_INTERVAL = 3600.0
LOOK_INTERVAL = 1.0
"""Seconds between looks whether the file was moved away; a look takes 2 µs."""
MAX_PENDING = 1 << 20
"""Bytes of lines that wait for a file that cannot be written; lines beyond are counted."""
MAX_NAMELESS = 20
"""Refused calls without an identity that have a line of their own, in a second; more are counted in one line. Else
anybody who reaches the port could fill the disk."""


class AuditUnwritable(Exception):
    """The audit file cannot be opened or written; the text says why."""


class AuditLog:
    """The audit file while the block lasts. Raises AuditUnwritable when it cannot be opened."""

    def __init__(self, file: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Name the file; `clock` tells the seconds by which intervals are measured."""
        self.file = file.absolute()
        self.failure: OSError | None = None
        """Why the last write failed; None when it did not."""
        self.head = START
        self.count = 0
        self._clock = clock
        self._descriptor = -1
        self._size = 0
        self._gone = self._left_behind = False
        """Whether the file was deleted, or moved away, and no other can be opened."""
        self._pending = bytearray()
        self._dropped = 0
        self._looked = 0.0
        self._anchored = 0
        self._second, self._nameless = 0, 0
        self._anchoring: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Open the file, find the head of its chain, and note it."""
        try:
            self._open()
        except OSError as error:
            raise AuditUnwritable(f"the audit log {self.file} cannot be opened: {error.strerror or error}") from error
        self._anchor("starts")
        self._anchoring = asyncio.create_task(self._anchor_for_ever(), name="audit anchor")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Note the head and close the file."""
        if self._anchoring is not None:
            self._anchoring.cancel()
        self._count_nameless()
        self.append({"event": "stopped"})
        self._anchor("ends")
        os.close(self._descriptor)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line; `time` and `seq` are put in front of what the record says. Never raises."""
        self._look()
        if self._pending:
            self._flush()  # there may be room again
        self._add(record)
        self._flush()
        if self.count - self._anchored >= ANCHOR_RECORDS:
            self._anchor("is")

    def append_nameless(self, record: Mapping[str, Any]) -> None:
        """Add a line of a call that was refused for want of an identity, or count it where there are too many."""
        second = int(self._clock())
        if second != self._second:
            self._count_nameless()
            self._second = second
        self._nameless += 1
        if self._nameless <= MAX_NAMELESS:
            self.append(record)

    def retry(self) -> None:
        """Try again to write what could not be written. Raises AuditUnwritable."""
        self._look()
        self._flush()
        if self.failure is not None:
            raise AuditUnwritable(f"the audit log {self.file} cannot be written: {self.failure.strerror}")

    # --- the file -----------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        descriptor = os.open(self.file, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(descriptor)
            end = _end_of(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._looked = self._clock()
        waiting = self._taken_back() if self._gone else []
        self._gone = self._left_behind = False
        self._begin(end)
        for record in waiting:
            self._add(record)
        self._flush()

    def _taken_back(self) -> list[dict[str, Any]]:
        """Take back the lines that wait: their chain continues a file that is gone."""
        lines, self._pending = self._pending.splitlines(), bytearray()
        records = [json.loads(line) for line in lines if claimed(bytes(line))]
        return [{key: record[key] for key in record if key not in ("seq", "chain")} for record in records]

    def _begin(self, end: _End) -> None:
        """Continue the chain of the file, or, where this one is empty, that of the file before."""
        if not end.last:
            self._add({"event": OPENED, "previous": self.head})
            return
        if self.count == 0:
            self.head, self.count = claimed(end.last), _number(end.last)
        self._pending += end.needed
        if end.torn is not None:
            self._add({"event": REPAIRED, "torn": torn_digest(end.torn)})
        self._add({"event": "started"})

    def _look(self) -> None:
        """Open another file where this one was moved away or cut; at most once a second."""
        now = self._clock()
        if now - self._looked < LOOK_INTERVAL:
            return
        self._looked = now
        try:
            if self._was_moved():
                if os.fstat(self._descriptor).st_nlink:
                    self._flush()
                if not self._pending or self._gone:  # else the lines that wait would be missing between the files
                    log.info("the audit log %s was moved away after %d records; another begins", self.file, self.count)
                    self._open()
            else:
                self._notice_cut(os.fstat(self._descriptor).st_size)
        except OSError as error:
            self._cannot_follow(error)

    def _cannot_follow(self, error: OSError) -> None:
        """Go on in the file that was moved away, as long as somebody can still find it."""
        if not os.fstat(self._descriptor).st_nlink:
            self._gone = True
            self._failed(error)
        elif not self._left_behind:
            self._left_behind = True
            log.error(
                "the audit log %s was moved away, and no other can be opened; it goes on there: %s", self.file, error
            )

    def _was_moved(self) -> bool:
        own = os.fstat(self._descriptor)
        try:
            found = self.file.stat()
        except FileNotFoundError:
            return True
        return (found.st_dev, found.st_ino) != (own.st_dev, own.st_ino)

    def _notice_cut(self, size: int) -> None:
        if size >= self._size:
            return
        log.warning("the audit log %s was cut from %d to %d bytes", self.file, self._size, size)
        self._size = size
        if size == 0:  # as logrotate's copytruncate does
            self._add({"event": OPENED, "previous": self.head})

    # --- lines --------------------------------------------------------------------------------------------------------

    def _add(self, record: Mapping[str, Any]) -> None:
        if len(self._pending) > MAX_PENDING:
            self._dropped += 1
            return
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self._add({"event": "dropped", "count": dropped})
        self.count += 1
        moment = datetime.now(UTC).isoformat(timespec="microseconds")
        line = made({"time": moment, "seq": self.count, **record}, self.head)
        self.head = line.chain
        self._pending += line.data

    def _flush(self) -> None:
        """Write what waits; a write that the disk cuts short is continued where it ended."""
        if self._gone:
            return
        try:
            while self._pending:
                written = os.write(self._descriptor, self._pending)
                self._size += written
                del self._pending[:written]
        except OSError as error:
            self._failed(error)
        else:
            if self.failure is not None:
                log.warning("the audit log %s can be written again", self.file)
                self.failure = None

    def _failed(self, error: OSError) -> None:
        if self.failure is None:
            log.error("the audit log %s cannot be written: %s", self.file, error)
        self.failure = error

    def _count_nameless(self) -> None:
        beyond, self._nameless = self._nameless - MAX_NAMELESS, 0
        if beyond > 0:
            self.append({"event": "refused", "count": beyond, "reason": "no identity"})

    # --- the head -----------------------------------------------------------------------------------------------------

    def _anchor(self, verb: str) -> None:
        self._anchored = self.count
        log.info("audit log %s %s with %d records, head %s", self.file, verb, self.count, self.head)

    async def _anchor_for_ever(self) -> None:
        """Note the head once an hour when there is another."""
        while True:
            await asyncio.sleep(ANCHOR_INTERVAL)
            self._count_nameless()
            if self.count > self._anchored:
                self._anchor("is")


class _End(NamedTuple):
    """The end of a file: its last record, and what a crash left after it."""

    last: bytes = b""
    torn: bytes | None = None
    needed: bytes = b""
    """What ends the last line, or the torn one after it."""


def _number(line: bytes) -> int:
    try:
        return int(json.loads(line)["seq"])
    except (ValueError, KeyError, TypeError) as error:
        raise OSError(errno.EINVAL, "its last line is no record: see `agent-service audit verify`") from error


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise OSError(error.errno, "another service writes it") from error


def _end_of(descriptor: int) -> _End:
    """Read the end of a file. Raises OSError when it is not the end of an audit log."""
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no ordinary file")
    *lines, rest = os.pread(descriptor, 2 * MAX_LINE, max(0, found.st_size - 2 * MAX_LINE)).split(b"\n")
    needed = b"\n" if rest else b""
    lines += [rest] if rest else []
    torn = lines.pop() if lines and not claimed(lines[-1]) else None
    if lines and claimed(lines[-1]):
        return _End(lines[-1], torn, needed)
    if lines or (torn is not None and not torn.startswith(FIRST_BYTES[: len(torn)])):
        raise OSError(errno.EINVAL, "it holds something else than an audit log")
    os.ftruncate(descriptor, 0)  # nothing but a piece of the first line
    return _End()
