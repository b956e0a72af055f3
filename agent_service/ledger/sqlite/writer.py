"""The thread that writes: it takes whatever waits, writes it in one transaction, and tells the event loop once."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import astuple
from itertools import chain
from queue import Empty, SimpleQueue
from typing import Any

from agent_service.ledger.chain import links
from agent_service.ledger.clock import Ages
from agent_service.ledger.commits import FINISHED, REQUEST_ID_SECONDS, Append, Job, Record, RequestId
from agent_service.ledger.sqlite import schema
from agent_service.ledger.sqlite.file import BUSY_TIMEOUT, FILE, connect, is_busy, rollback, value
from agent_service.ledger.sqlite.generation import INTERVAL, Generation, LedgerGone
from agent_service.ledger.store import OnGroup
from agent_service.ledger.tail import Tail, weight

log = logging.getLogger(__name__)

GROUP = 1024
"""Commits in one transaction, at most."""
SWEEP_ROWS = 500
SWEEP_PAUSE = 0.02
PURGE_PAUSE = 3600.0
EMPTYING_PAUSE = 1.0
"""Seconds between two attempts to empty the write-ahead log, at least."""
EMPTYING_PATIENCE = 20
"""Milliseconds that an attempt waits for readers."""

_NEW = object()


class Writer:
    """The thread that writes. Everything but `queue` and the counters is its own."""

    def __init__(self, db: sqlite3.Connection, clock: Callable[[], float], generation: Generation) -> None:
        self.queue: SimpleQueue[Append | Job[Any] | None] = SimpleQueue()
        self.failure: Exception | None = None
        self.counts: dict[str | None, int] = {}
        """Sessions of each owner, and of all (None), as far as they have been counted."""
        self.commits = self.groups = self.events = self.bytes = 0
        self.dead = deque(key for (key,) in db.execute(schema.DELETIONS))
        self._db = db
        self._clock = clock
        self._next_key: int = 1 + max(key or 0 for (key,) in db.execute(schema.LAST_KEYS))
        self._change: int = value(db, schema.LAST_CHANGE)
        self._generation = generation
        generation.begin(db, self._change)
        before = generation.before
        self._last_event = (before.session, before.event) if before is not None else (0, 0)
        self.last_written = before.time if before is not None else 0
        self._ages = Ages(clock, self.last_written)
        self._stopping = False
        self._obstructed = False
        self._on_obstruction: Callable[[bool], None] = lambda obstructed: None
        self._swept = 0.0
        self._purged = 0.0
        self._purging = True
        self._to_empty = bool(self.dead)
        self._emptied = 0.0
        self._open = True
        self._pending = Pending()
        self._thread: threading.Thread | None = None

    def start(self, loop: asyncio.AbstractEventLoop, on_group: OnGroup, on_obstruction: Callable[[bool], None]) -> None:
        """Begin to write; `on_group` is called on the loop, once per group, and `on_obstruction` see Store."""
        self._on_obstruction = lambda obstructed: loop.call_soon_threadsafe(on_obstruction, obstructed)  # type: ignore[assignment]
        self._thread = threading.Thread(target=self._run, args=(loop, on_group), name="ledger-writer")
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, then end the thread."""
        self._stopping = True
        self.queue.put(None)
        if self._thread is not None:
            self._thread.join()

    def close(self) -> None:
        """Close the file; the last connection that may write empties the log, so readers close before."""
        self._db.close()
        self._generation.close(self._now())

    def _now(self) -> int:
        return round(self._clock() * 1_000_000)

    def remember(self, request_id: RequestId) -> None:
        """Store a request id that has no commit to go with. A job."""
        self._pending.add_request_id(request_id)

    def bury(self, tail: Tail, request_id: RequestId | None = None) -> bool:
        """Take a session's row away, leave a note of what is to be swept, and store a request id. A job."""
        self._pending.flush(self._db)
        row = self._db.execute(schema.FIND_SESSION, tail.session).fetchone()
        if row is None:
            return False
        tail.broken = ValueError(f"session {tail.session.session_id} has been deleted")
        self._db.execute(schema.DELETE_SESSION, row[:1])
        self._db.execute(schema.INSERT_DELETION, row[:1])
        self._change += 1  # so that a deletion that was lost is noticed (see generation.py)
        self._db.execute(schema.SET_LAST_CHANGE, (self._change,))
        self.dead.append(row[0])
        self._count(tail, -1)
        if request_id is not None:
            self._pending.add_request_id(request_id)
        return True

    def count(self, owner: str | None) -> int:
        """The number of sessions of an owner, or of all. SQLite counts them once; from then on it is kept. A job."""
        if owner not in self.counts:
            self._pending.flush(self._db)
            counted = (schema.COUNT,) if owner is None else (schema.COUNT_OWNED, owner)
            self.counts[owner] = value(self._db, *counted)
        return self.counts[owner]

    def _count(self, tail: Tail, change: int) -> None:
        for owner in (None, tail.session.owner):
            if owner in self.counts:
                self.counts[owner] += change

    def _run(self, loop: asyncio.AbstractEventLoop, on_group: OnGroup) -> None:
        while self._open:
            group = self._take()
            if group:
                self._guarded(self._write, group)
                loop.call_soon_threadsafe(on_group, group, self.failure)
                del group  # or the last tail would live until the next commit comes
            had = self.failure
            self._guarded(self._sweep)
            self._empty_log()
            if self._generation.is_due:
                self._guarded(self._generation.write, self._now())
            if self.failure is not had:
                loop.call_soon_threadsafe(on_group, (), self.failure)

    def _take(self) -> list[Append | Job[Any]]:
        """All waiting commits and jobs, at most GROUP; waits for the first unless there is something else to do."""
        group: list[Append | Job[Any]] = []
        try:
            item = self.queue.get(timeout=self._pause)
            while item is not None:
                group.append(item)
                if len(group) == GROUP:
                    return group
                item = self.queue.get_nowait()
            self._open = False
        except Empty:
            pass
        return group

    @property
    def _pause(self) -> float | None:
        """Seconds until there is something to do besides commits; None when there is nothing."""
        if self.failure is not None:
            return None
        if self.dead or self._purging:
            return SWEEP_PAUSE / 10
        if self._to_empty:
            return EMPTYING_PAUSE / 4
        return INTERVAL if self._generation.is_behind else None

    def _guarded(self, do: Callable[..., None], *arguments: object) -> None:
        """Do something in a transaction; what goes wrong there is the ledger's end."""
        if self.failure is not None:
            return
        try:
            do(*arguments)
        except Exception as error:
            if isinstance(error, LedgerGone):
                error = LedgerGone(f"{error}; {self._rescue()}")
                with suppress(OSError):  # what was acknowledged is to be missed at the next start
                    self._generation.write(self._now())
            log.critical("the ledger cannot be written: %s", error, exc_info=error)
            self.failure = error
            self._pending = Pending()
            if self._db.in_transaction:
                rollback(self._db)

    def _write(self, group: Sequence[Append | Job[Any]]) -> None:
        self._begin()
        for item in group:
            if isinstance(item, Job):
                item.result.append(item.run())
            else:
                self._add(item)
        self._pending.flush(self._db)
        self._db.execute("COMMIT")
        self.groups += 1
        self._generation.check_files()
        self._generation.note(self._change, self._last_event)

    def _begin(self) -> None:
        """Begin a transaction, however long another process holds a lock on the file."""
        while True:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                break
            except sqlite3.OperationalError as error:
                if not is_busy(error) or self._stopping:
                    raise
                if not self._obstructed:
                    log.error("another process holds a lock on the ledger: nothing can be written until it lets go")
                    self._obstructed = True
                    self._on_obstruction(True)
        if self._obstructed:
            log.warning("the lock on the ledger is gone: writing goes on")
            self._obstructed = False
            self._on_obstruction(False)

    def _rescue(self) -> str:
        """Copy what the lost file holds, which can be read for as long as it is open; the sentence that says so."""
        path = self._generation.ledger.with_name(f"{FILE}.rescued")
        try:
            path.unlink(missing_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            with closing(connect(path)) as copy:
                self._db.backup(copy)
        except (OSError, sqlite3.Error) as error:
            return f"its content could not be saved: {error}"
        return f"its content was saved as {path}"

    def _add(self, item: Append) -> None:
        item.refused = self._refusal(item)
        if item.refused is not None:
            item.tail.broken = item.refused
            log.error("%s", item.refused)
            return
        item.tail.stored += len(item.events)
        if item.events:
            self._last_event = (item.tail.key or 0, item.last)
        if item.record is not None:
            self._change += 1
            item.change = self._change
        self._pending.add(item)
        self.commits += 1
        self.events += len(item.events)
        self.bytes += sum(weight(event, True) for event in item.events)

    def _refusal(self, item: Append) -> Exception | None:
        """The error of a commit that does not fit the file, or None; notes on its tail what the file holds."""
        tail = item.tail
        if tail.broken is not None:
            return tail.broken
        if tail.key is None:
            row = self._db.execute(schema.FIND_SESSION, tail.session).fetchone()
            if row is not None:
                tail.key, tail.stored, tail.chain = row
            elif item.record is None:
                return ValueError(f"session {tail.session.session_id} does not exist")
        if item.events and item.events[0].sequence != tail.stored + 1:
            return ValueError(
                f"session {tail.session.session_id}: event {item.events[0].sequence} where {tail.stored + 1} is due"
            )
        if tail.key is None:
            tail.key, tail.searched = self._next_key, _NEW
            self._next_key += 1
            self._count(tail, 1)
        return None

    def _sweep(self) -> None:
        """Delete a few rows of what is gone; rarely enough that commits hardly notice."""
        now = time.monotonic()
        if now - self._purged > PURGE_PAUSE:
            self._purging = True
        if not (self.dead or self._purging) or (now - self._swept < SWEEP_PAUSE and not self.queue.empty()):
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if not is_busy(error):
                raise
            self._swept = now  # it can wait for the lock of another process to go
            return
        swept = self._sweep_session(self.dead[0]) if self.dead else False
        if self._purging:
            self._purge(now)
        self._db.execute("COMMIT")
        if swept:
            self.dead.popleft()
            self._to_empty = True
        self._swept = time.monotonic()

    def _empty_log(self) -> None:
        """Empty the write-ahead log once deletions are swept: it still has the pages as they were before.

        Deleted content is zeros in the file (secure_delete). Readers of an old state hold the log; then it is tried
        again. The log has about 16 MiB at most, and a commit that comes meanwhile waits for the copying of those.
        """
        now = time.monotonic()
        if not self._to_empty or self.failure is not None or now - self._emptied < EMPTYING_PAUSE:
            return
        try:
            self._db.execute(f"PRAGMA busy_timeout = {EMPTYING_PATIENCE}")
            busy, _, _ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            self._to_empty = bool(busy or self.dead)
        except sqlite3.Error as error:
            log.warning("the write-ahead log cannot be emptied: %s; it is tried again", error)
        finally:
            self._db.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")
            self._emptied = time.monotonic()

    def _sweep_session(self, key: int) -> bool:
        if self._db.execute(schema.SWEEP_EVENTS, (key, key, SWEEP_ROWS)).rowcount:
            return False
        for sql in (*schema.SWEEP_REST, schema.DELETE_DELETION):
            self._db.execute(sql, (key,))
        return True

    def _purge(self, now: float) -> None:
        oldest = self._ages.now() - REQUEST_ID_SECONDS * 1_000_000
        self._purging = self._db.execute(schema.SWEEP_REQUEST_IDS, (oldest, SWEEP_ROWS)).rowcount == SWEEP_ROWS
        self._purged = now


class Pending:
    """Rows that a group writes; of a record that changed several times only the last state."""

    def __init__(self) -> None:
        self._records: dict[Tail, tuple[Record, int]] = {}
        self._events: list[tuple[object, ...]] = []
        self._turns: dict[str, tuple[object, ...]] = {}
        self._requests: dict[str, tuple[object, ...]] = {}
        self._finished: list[tuple[str]] = []
        self._request_ids: list[tuple[object, ...]] = []
        self._wholes: list[tuple[object, ...]] = []

    def add(self, item: Append) -> None:
        """Take a commit that fits."""
        key = item.tail.key
        if item.record is not None:
            self._records[item.tail] = (item.record, item.change)
        if item.events:
            chain = links(item.tail.chain, item.events)
            item.tail.chain = chain[-1]
            self._events += [(key, *event, checksum) for event, checksum in zip(item.events, chain, strict=True)]
        for turn_id, number, state, body in item.turns:
            self._turns[turn_id] = (turn_id, key, number, state, body)
            if state in FINISHED:
                self._finished.append((turn_id,))
        for turn_id, body in item.requests:
            self._requests[turn_id] = (turn_id, key, body)
        if item.request_id is not None:
            self.add_request_id(item.request_id)
        self._wholes += [(key, *whole) for whole in item.wholes]

    def add_request_id(self, request_id: RequestId) -> None:
        """Take a request id; one that is there already is replaced."""
        self._request_ids.append(astuple(request_id))

    def flush(self, db: sqlite3.Connection) -> None:
        """Write it all, and be empty."""
        for tail, (record, change) in self._records.items():
            _write_record(db, tail, record, change)
        if self._records:
            db.execute(schema.SET_LAST_CHANGE, (max(change for _, change in self._records.values()),))
        _write_events(db, self._events)
        db.executemany(schema.UPSERT_TURN, self._turns.values())
        db.executemany(schema.UPSERT_TURN_REQUEST, self._requests.values())
        db.executemany(schema.DELETE_TURN_REQUEST, self._finished)
        db.executemany(schema.UPSERT_REQUEST_ID, self._request_ids)
        if self._wholes:
            db.executemany(schema.UPSERT_WHOLE, self._wholes)
        written = (self._records, self._events, self._turns, self._requests, self._finished, self._request_ids)
        for rows in (*written, self._wholes):
            rows.clear()


def _write_record(db: sqlite3.Connection, tail: Tail, record: Record, change: int) -> None:
    if tail.searched == record.searched:
        db.execute(schema.TOUCH_SESSION, (record.update_time, record.last_sequence, change, record.body, tail.key))
        return
    shown = (record.state, record.phase, record.title, record.update_time, record.rest_time, record.expire_time)
    row = (*shown, record.last_sequence, change, record.body)
    if tail.searched is _NEW:
        db.execute(schema.INSERT_SESSION, (tail.key, *tail.session, record.created_by, record.create_time, *row))
    else:
        db.execute(schema.UPDATE_SESSION, (*row, tail.key))
        db.execute(schema.DELETE_LABELS, (tail.key,))
    made = (record.owner, record.create_time)
    db.executemany(schema.INSERT_LABEL, [(tail.key, *label, *made) for label in record.labels])
    tail.searched = record.searched


def _write_events(db: sqlite3.Connection, rows: Sequence[tuple[object, ...]]) -> None:
    start = 0
    for count, sql in schema.INSERT_EVENTS.items():
        while len(rows) - start >= count:
            db.execute(sql, tuple(chain.from_iterable(rows[start : start + count])))
            start += count
