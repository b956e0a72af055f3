"""The ledger's file: opening it, bringing it to this version, copying it."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from agent_service.ledger.sqlite import migrations
from agent_service.ledger.store import LedgerUnusable

log = logging.getLogger(__name__)

FILE = "ledger.db"
SLACK = 1 << 20
"""Bytes that are to be free beyond what a migration needs."""
BUSY_TIMEOUT = 5000
"""Milliseconds that a statement waits for a lock that another process holds."""
READING_KIB, WRITING_KIB = 2048, 4096
"""Cache of each connection, in KiB. The host caches the file too, and a larger cache was no faster."""


def open_file(path: Path) -> sqlite3.Connection:
    """Open the file for writing and bring it to this version. Raises LedgerUnusable."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        db = connect(path)
        try:
            _prepare(db, path)
        except BaseException:
            db.close()
            raise
    except (OSError, sqlite3.Error) as error:
        raise unusable(path, error) from error
    return db


def unusable(path: Path, error: Exception) -> LedgerUnusable:
    """Make the error for the operator who starts the service."""
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        return LedgerUnusable(f"{path} is damaged, or no ledger: {error}. Put a backup in its place.")
    return LedgerUnusable(f"{path} cannot be used: {error}")


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a connection that commits by itself."""
    db = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={'ro' if read_only else 'rw'}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=BUSY_TIMEOUT / 1000,
    )
    try:
        db.execute(f"PRAGMA cache_size = -{READING_KIB if read_only else WRITING_KIB}")
    except sqlite3.Error:  # the first statement reads the file, which may be no database
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    """Bring the file to this version. Raises LedgerUnusable."""
    version = value(db, "PRAGMA user_version")
    if version > migrations.VERSION:
        raise LedgerUnusable(
            f"{path} was written by a newer version of agent-service (schema {version}, this one knows "
            f"{migrations.VERSION}). Use that version, or another directory."
        )
    known = value(db, "PRAGMA application_id") == migrations.APPLICATION_ID
    if not known and (version or value(db, "SELECT COUNT(*) FROM sqlite_master")):
        raise LedgerUnusable(f"{path} is a database of something else. Use another directory.")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA wal_autocheckpoint = 4000")
    db.execute("PRAGMA journal_size_limit = 67108864")
    db.execute("PRAGMA secure_delete = ON")
    for number in range(version, migrations.VERSION):
        _check_room(db, path, number)
        _migrate(db, number)


def _check_room(db: sqlite3.Connection, path: Path, number: int) -> None:
    """Raise LedgerUnusable when the disk has no room for a migration."""
    needed = value(db, migrations.ROOM[number]) if number in migrations.ROOM else 0
    free = shutil.disk_usage(path.parent).free
    if needed and needed + SLACK > free:
        raise LedgerUnusable(
            f"{path} was written by an older version (schema {number}), and bringing it up to date needs "
            f"{(needed + SLACK) >> 20} MiB of free disk; there are {free >> 20}. Nothing was changed."
        )


def _migrate(db: sqlite3.Connection, number: int) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        for statement in migrations.MIGRATIONS[number]:
            db.execute(statement)
        db.execute(f"PRAGMA application_id = {migrations.APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {number + 1}")
        db.execute("COMMIT")
    except sqlite3.Error:
        rollback(db)
        raise


def copy_ledger(directory: Path, destination: Path) -> None:
    """Copy the ledger of one directory, which may be in use, into another. Raises LedgerUnusable."""
    try:
        backup(directory / FILE, destination / FILE)
    except sqlite3.Error as error:
        raise LedgerUnusable(f"{directory / FILE} cannot be copied: {error}") from error


def backup(source: Path, path: Path) -> None:
    """Copy a ledger into a new file."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    with closing(connect(source, read_only=True)) as db, closing(connect(path)) as copy:
        db.backup(copy)


@contextmanager
def snapshot(db: sqlite3.Connection) -> Iterator[None]:
    """See one state of the file for as long as it lasts."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        db.execute("COMMIT")


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether a statement failed because another process holds a lock."""
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def rollback(db: sqlite3.Connection) -> None:
    """Undo a transaction, as far as that is still possible."""
    try:
        db.execute("ROLLBACK")
    except sqlite3.Error as error:
        log.critical("rollback failed: %s", error)


def value(db: sqlite3.Connection, sql: str, *parameters: object) -> Any:
    """The first column of the first row; None when there is none."""
    row = db.execute(sql, parameters).fetchone()
    return row[0] if row is not None else None
