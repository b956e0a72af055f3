"""Generation: how far the ledger of a data directory has come, written down outside of the database.

A database that somebody has deleted, exchanged for an older copy, or whose write-ahead log is lost opens without a
complaint: SQLite cannot know what is missing. So the file DATA/generation names the ledger, its last change number and
its last event, and a start compares them.

It is written once a second at most, and not flushed: what the database has was flushed before, so the file is never
ahead of it, whatever fails. Written with each group, it doubled the time of a commit: the flush of the log takes what
else is dirty in the file system along.
"""

from __future__ import annotations

import os
import re
import sqlite3
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from agent_service.ledger.sqlite import schema
from agent_service.ledger.sqlite.file import FILE, value
from agent_service.ledger.store import LedgerUnusable

NAME = "generation"
ACCEPT = "accept"
"""Content of the file that makes the next start take the ledger as it is."""
INTERVAL = 1.0
"""Seconds between two writings, at least. What is lost with the log within this time after a crash is not noticed."""
WIDTH = 128
"""Bytes of the file: one length for all numbers, so that it is written over in place."""

_LINE = re.compile(r"ledger (\d+) change (\d+) session (\d+) event (\d+) time (\d+)\s*")


class Stamp(NamedTuple):
    """How far a ledger has come. `session` is the key of the last event's session, 0 for none; `time` microseconds."""

    ledger: int
    change: int
    session: int = 0
    event: int = 0
    time: int = 0

    def __str__(self) -> str:
        """Its line in the file."""
        return f"ledger {self.ledger} change {self.change} session {self.session} event {self.event} time {self.time}"


class Generation:
    """The file of one data directory, and the ledger's two files, which must stay those that were opened."""

    def __init__(self, directory: Path) -> None:
        """Read the file. Raises LedgerUnusable when the ledger that it names is missing."""
        self._path = directory / NAME
        self.ledger = directory / FILE
        self._files: list[tuple[str, int, int]] = []
        self._descriptor = -1
        self._last = Stamp(0, 0)
        self._noted = (0, (0, 0))
        self._written = 0.0
        self.is_behind = False
        """Whether something was noted that is not written yet."""
        text = _read(self._path)
        self.before: Stamp | None = None
        """What the file said; None when there was none, or when it accepts everything."""
        if text is not None and text.strip() != ACCEPT:
            self.before = self._parsed(text)
        if not self.ledger.exists() and text is None and _has_sessions(directory):
            raise self._refusal(f"{self.ledger} is missing, and {directory / 'sessions'} has directories of sessions")
        if not self.ledger.exists() and self.before is not None:
            raise self._refusal(f"{self.ledger} is missing, and this directory had a ledger with sessions")

    def _parsed(self, text: str) -> Stamp:
        found = _LINE.fullmatch(text)
        if found is None:
            raise self._refusal(f"{self._path} cannot be read: {text[:80]!r}")
        return Stamp(*map(int, found.groups()))

    def _refusal(self, what: str) -> LedgerUnusable:
        return LedgerUnusable(
            f"{what}. Put the ledger's file back: {FILE} with {FILE}-wal, or {FILE}.rescued if the last run left one, "
            "or a backup. To go on with what is there, and without the rest, run: agent-service accept-ledger "
            f"--data-dir {self._path.parent}"
        )

    def begin(self, db: sqlite3.Connection, change: int) -> None:
        """Compare the file with the ledger that was opened, then write it anew. Raises LedgerUnusable."""
        ledger = value(db, schema.LEDGER_ID)
        if self.before is not None:
            self._compare(db, self.before, ledger, change)
        self._files = [_identity(path) for path in (f"{self.ledger}", f"{self.ledger}-wal")]
        last = self.before or Stamp(0, 0)
        self._last = last._replace(ledger=ledger, change=change)
        self._noted = (change, (last.session, last.event))
        self._replace()

    def _compare(self, db: sqlite3.Connection, before: Stamp, ledger: int, change: int) -> None:
        if before.ledger != ledger:
            raise self._refusal(f"{self.ledger} is another ledger than the one that this directory had")
        if change < before.change:
            raise self._refusal(
                f"{self.ledger} is older than it was: its last change is number {change}, and there was number "
                f"{before.change}; sessions or parts of them are missing"
            )
        last = value(db, schema.LAST_OF_KEY, before.session)
        if last is not None and last < before.event:
            raise self._refusal(
                f"{self.ledger} is older than it was: a session's last event is number {last}, and there was number "
                f"{before.event}"
            )

    def _replace(self) -> None:
        """Write the file as a whole and durably: from here on it is written over in place."""
        made = self._path.with_suffix(".new")
        descriptor = os.open(made, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, self._text())
            os.fsync(descriptor)
            made.rename(self._path)
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _text(self) -> bytes:
        return f"{self._last}".ljust(WIDTH - 1).encode() + b"\n"

    def check_files(self) -> None:
        """Raise LedgerGone when the ledger's files are not those that were opened. It takes 4 µs."""
        for path, device, inode in self._files:
            try:
                found = os.stat(path)
            except FileNotFoundError:
                raise LedgerGone(f"{path} has been deleted while it was in use") from None
            if found.st_ino != inode or found.st_dev != device:
                raise LedgerGone(f"{path} has been replaced while it was in use")

    def note(self, change: int, last_event: tuple[int, int]) -> None:
        """Take note of how far the ledger has come: its last change, and the last event's session and number."""
        self._noted = (change, last_event)
        self.is_behind = True

    @property
    def is_due(self) -> bool:
        """Whether the file is behind, and was written long enough ago."""
        return self.is_behind and monotonic() - self._written >= INTERVAL

    def write(self, time: int) -> None:
        """Write down what was noted, as of `time` (microseconds)."""
        change, (session, event) = self._noted
        self._last = Stamp(self._last.ledger, change, session, event, time)
        os.pwrite(self._descriptor, self._text(), 0)
        self._written, self.is_behind = monotonic(), False

    def close(self, time: int) -> None:
        """Write down the time, flush the file and close it."""
        if self._descriptor >= 0:
            self.write(time)
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


class LedgerGone(Exception):
    """The ledger's file is no longer the one in the data directory: what is written to it would be lost."""


def accept(directory: Path) -> None:
    """Have the next start take the ledger as it is, whatever is missing. Raises OSError."""
    (directory / NAME).write_text(ACCEPT + "\n")


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return None


def _identity(path: str) -> tuple[str, int, int]:
    found = os.stat(path)
    return path, found.st_dev, found.st_ino


def _has_sessions(directory: Path) -> bool:
    sessions = directory / "sessions"
    return sessions.is_dir() and any(sessions.iterdir())
