"""Output: the lines on stdout and the log on stderr, which never stop the service when nobody reads them.

A write blocks while a pipe is full, while a terminal is paused (Ctrl-S), and for a background job on a terminal with
`stty tostop` it stops the whole process. So a thread writes, and what it cannot write in time is dropped and counted.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

MAX_PENDING = 1 << 20
"""Bytes that wait for a reader; lines beyond are dropped."""
FLUSH_PATIENCE = 1.0
"""Seconds that the end of the service waits for a reader of its last lines."""


class LineWriter:
    """Writes lines to a descriptor from a thread of its own."""

    def __init__(self, descriptor: int, *, report: Callable[[int], str] | None = None) -> None:
        """Write to `descriptor`; `report` makes the line that tells how many lines were dropped."""
        self._descriptor = descriptor
        self._report = report
        self._pending: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._idle = True
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name=f"output {descriptor}", daemon=True).start()

    def put(self, line: str) -> None:
        """Write a line soon; never waits, never raises."""
        data = f"{line}\n".encode(errors="backslashreplace")
        with self._changed:
            if self._pending and self._size + len(data) > MAX_PENDING:
                self._dropped += 1
                return
            self._pending.append(data)
            self._size += len(data)
            self._idle = False
            self._changed.notify_all()

    def flush(self, patience: float = FLUSH_PATIENCE) -> bool:
        """Wait until every line is written, for `patience` seconds at most; return whether it is."""
        deadline = time.monotonic() + patience
        with self._changed:
            while not self._idle:
                if (left := deadline - time.monotonic()) <= 0:
                    return False
                self._changed.wait(left)
            return True

    def _run(self) -> None:
        # A blocked SIGTTOU lets a background job write to its terminal. Blocked here alone, children do not inherit it.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        while True:
            data, lines = self._next()
            try:
                write_all(self._descriptor, data)
            except OSError:  # the reader is gone, or the disk is full: a log cannot tell of that
                with self._changed:
                    self._dropped += lines

    def _next(self) -> tuple[bytes, int]:
        """Wait for lines; all that are pending, and how many."""
        with self._changed:
            while not self._pending:
                self._idle = True
                self._changed.notify_all()
                self._changed.wait()
            if self._dropped and self._report is not None:
                self._pending.append(f"{self._report(self._dropped)}\n".encode())
                self._dropped = 0
            lines, data = len(self._pending), b"".join(self._pending)
            self._pending.clear()
            self._size = 0
            return data, lines


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`, waiting for room, also where the descriptor does not block. Raises OSError."""
    room = select.poll()
    room.register(descriptor, select.POLLOUT)
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            room.poll()


class LineHandler(logging.Handler):
    """A logging handler that never waits for a reader."""

    def __init__(self, descriptor: int) -> None:
        """Log to `descriptor`."""
        super().__init__()
        self.lines = LineWriter(descriptor, report=self._dropped)

    def emit(self, record: logging.LogRecord) -> None:
        """Format the record and hand it to the writer."""
        try:
            self.lines.put(self.format(record))
        except Exception:  # noqa: BLE001 - as in every handler: a record that cannot be formatted stops nothing
            self.handleError(record)

    def flush(self) -> None:
        """Wait for the reader, up to FLUSH_PATIENCE."""
        self.lines.flush()

    def _dropped(self, count: int) -> str:
        text = f"{count} lines of the log were dropped, because nobody read them in time"
        return self.format(logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, (), None))


class Output(NamedTuple):
    """The writers of the standard streams."""

    stdout: LineWriter
    stderr: LineWriter


def open_output(log_level: str) -> Output:
    """Take over the standard streams of this process, and log to stderr from now on."""
    prepare_standard_streams()
    return Output(LineWriter(1), configure_logging(log_level))


def prepare_standard_streams() -> None:
    """See that descriptors 0 to 2 are open, and that no write to stdout or stderr blocks where that can be had.

    Were one of them closed, as by `2>&-`, the next file to be opened would get its number, and the log would be written
    into the ledger. Native code, as gRPC's core, writes to stderr from threads that must not wait; a pipe or a terminal
    is opened anew for that, since O_NONBLOCK on the inherited description would change it for the shell as well.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free
    for descriptor in (1, 2):
        _stop_blocking(descriptor)


def _stop_blocking(descriptor: int) -> None:
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISFIFO(mode) and not os.isatty(descriptor):
        return
    try:
        anew = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:  # another user's, or nobody reads it: then a write fails at once, too
        return
    os.dup2(anew, descriptor, inheritable=True)
    os.close(anew)


def configure_logging(level: str) -> LineWriter:
    """Log to stderr: for people on a terminal, JSON lines otherwise. Returns the writer of stderr."""
    handler = LineHandler(2)
    handler.setFormatter(_for_people() if os.isatty(2) else JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # It calls every killed agent a fatal error. What it tells is in exceptions too, which sessions record.
    logging.getLogger("claude_agent_sdk").setLevel(logging.CRITICAL)
    return handler.lines


def _for_people() -> logging.Formatter:
    import structlog

    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        structlog.processors.format_exc_info,
    ]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.dev.ConsoleRenderer()],
    )


class JsonLines(logging.Formatter):
    """Formats each record as one line of JSON, whatever it contains."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message, the logger, the level and the time, and the traceback if there is one."""
        line = {
            "event": record.getMessage(),
            "logger": record.name,
            "level": record.levelname.lower(),
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")[:-6] + "Z",
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
