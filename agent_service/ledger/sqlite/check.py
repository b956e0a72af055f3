"""Contradictions in a ledger: what must be true of what is stored, and where it is not."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from agentpb import agent_pb2 as pb
from google.protobuf.message import DecodeError, Message

from agent_service.ledger.chain import links
from agent_service.ledger.commits import AT_REST, FINISHED, MESSAGES, Record
from agent_service.ledger.sqlite import migrations, schema
from agent_service.ledger.sqlite.file import FILE, connect, snapshot, value
from agent_service.ledger.sqlite.reader import read_session
from agent_service.ledger.tail import Event


def fsck(path: Path) -> list[str]:
    """Name every contradiction in a ledger: a file, or the directory it lies in. It may be in use."""
    file = path / FILE if path.is_dir() else path
    try:
        with closing(connect(file, read_only=True)) as db, snapshot(db):
            if other := _other_version(db):
                return [f"{file} {other}"]
            problems = [text for (text,) in db.execute("PRAGMA quick_check") if text != "ok"]
            problems += _change_problems(db)
            for sql in schema.ORPHANS:
                table, count = db.execute(sql).fetchone()
                problems += [f"{count} rows of {table} belong to no session"] if count else []
            with closing(db.execute(schema.ALL_SESSIONS)) as rows:
                for row in rows:
                    whose = f" of tenant {row[2]}" if row[2] else ""
                    problems += [f"session {row[1]}{whose}: {text}" for text in _session_problems(db, row)]
            return problems
    except sqlite3.Error as error:
        return [f"{file} is damaged, or no ledger: {error}"]


def stored_sessions(directory: Path) -> list[pb.Session]:
    """Every session of a ledger, which may be in use, as it is stored."""
    with closing(connect(directory / FILE, read_only=True)) as db, snapshot(db):
        return [read_session(*row[-4:]) for row in db.execute(schema.ALL_SESSIONS)]


def _other_version(db: sqlite3.Connection) -> str:
    version = value(db, "PRAGMA user_version")
    if version < migrations.VERSION and value(db, "PRAGMA application_id") == migrations.APPLICATION_ID:
        return f"was written by an older version (schema {version}): start the service once, which brings it up to date"
    return f"was written by a newer version (schema {version})" if version > migrations.VERSION else ""


def _change_problems(db: sqlite3.Connection) -> Iterator[str]:
    if twice := value(db, schema.CHANGES_TWICE):
        yield f"{twice} sessions have the change number of another one"
    if beyond := value(db, schema.CHANGES_BEYOND):
        yield f"{beyond} sessions have a change number that was never given"


def _session_problems(db: sqlite3.Connection, row: Sequence[Any]) -> Iterator[str]:
    key, session_id, *columns, body, last, since, _ = row
    stored = Record.of(session := pb.Session.FromString(body))
    if (session.session_id, *stored[:6], stored.update_time, *stored[6:8]) != (session_id, *columns):
        yield "its columns differ from its record"
    labels = db.execute(schema.ALL_LABELS, (key,)).fetchall()
    if labels != [(*label, stored.owner, stored.create_time) for label in stored.labels]:
        yield "its labels differ from its record"
    if session.last_sequence > last:
        yield f"its record knows event {session.last_sequence}, the log ends at {last}"
    yield from _rest_problems(session)
    log_ = _Log(session_id, chained=key > (value(db, schema.UNCHAINED) or 0))
    with closing(db.execute(schema.ALL_EVENTS, (key,))) as rows:
        for *event, chain in rows:
            yield from log_.problems(Event(*event), chain)
    yield from log_.end_problems(session, since)
    turns = db.execute(schema.ALL_TURNS, (key,)).fetchall()
    yield from _turn_problems(turns, session, log_.completed)
    with closing(db.execute(schema.ALL_WHOLES, (key,))) as rows:
        yield from _whole_problems(rows, [pb.Turn.FromString(record) for *_, record in turns])


_RECORDS: Mapping[str, type[Message]] = {"event": pb.SessionEvent, "turn": pb.Turn, "interaction": pb.Interaction}


def _whole_problems(rows: Iterable[Sequence[Any]], turns: Sequence[pb.Turn]) -> Iterator[str]:
    """Problems of fields that were cut and are kept beside their records."""
    kept = set()
    for record, name, body in rows:
        kept.add((record, name))
        kind = _RECORDS.get(record.partition(" ")[0])
        try:
            fields = [field.name for field, _ in kind.FromString(body).ListFields()] if kind is not None else []
        except DecodeError:
            fields = []
        if fields != [name]:
            yield f"the whole of {name} of {record} cannot be parsed"
    for turn in turns:
        cut = {path.partition(".")[0] for path in turn.truncated_fields} - {"…"}
        for name in sorted(cut):
            if (f"turn {turn.turn_id}", name) not in kept:
                yield f"{name} of turn {turn.turn_id} was cut, and its whole is missing"


def _rest_problems(session: pb.Session) -> Iterator[str]:
    at_rest = session.state in AT_REST
    if at_rest != session.HasField("rest_time"):
        yield "it is at rest without a rest_time, or the other way round"
    if at_rest and session.pending_interactions:
        yield "it is at rest with pending interactions"
    if at_rest and session.HasField("current_turn"):
        yield "it is at rest with a running turn"
    if (session.state == pb.SESSION_STATE_ERROR) != session.HasField("error"):
        yield "it is in state ERROR without an error, or the other way round"


class _Log:
    """Findings of a walk through one session's events."""

    def __init__(self, session_id: str, *, chained: bool) -> None:
        self.completed: Counter[str] = Counter()
        self._session_id = session_id
        self._place: tuple[int, int] = (pb.SESSION_STATE_UNSPECIFIED, pb.SESSION_PHASE_UNSPECIFIED)
        self._last = 0
        self._messages = 0
        self._chained = chained
        self._chain = 0

    def problems(self, stored: Event, chain: int | None) -> Iterator[str]:
        sequence, kind, body, _ = stored
        yield from self._chain_problems(stored, chain)
        if sequence != self._last + 1:
            yield f"event {sequence} follows event {self._last}"
        self._last = sequence
        self._messages += kind in MESSAGES
        try:
            event = pb.SessionEvent.FromString(body)
        except DecodeError:
            yield f"event {sequence} cannot be parsed"
            return
        if (event.session_id, event.sequence, event.type) != (self._session_id, sequence, kind):
            yield f"event {sequence} says it is event {event.sequence}, {event.type}, of session {event.session_id}"
        if kind == "turn.completed":
            self.completed[event.turn_completed.turn.turn_id] += 1
        if kind == "state.changed":
            yield from self._move(sequence, event.state_changed)

    def _chain_problems(self, stored: Event, chain: int | None) -> Iterator[str]:
        """Problems of checksums, of which events of earlier versions have none."""
        if chain is None:
            if self._chained:
                yield f"event {stored.sequence} has no checksum"
            return
        if chain != links(self._chain, [stored])[0]:
            yield f"event {stored.sequence} is not as it was written, or does not follow the one before it"
        self._chained, self._chain = True, chain

    def _move(self, sequence: int, change: pb.StateChanged) -> Iterator[str]:
        if (change.from_state, change.from_phase) != self._place:
            yield f"event {sequence}: the session was not in the state it is said to leave"
        self._place = (change.state, change.phase)

    def end_problems(self, session: pb.Session, messages_since: int) -> Iterator[str]:
        if self._last and self._place != (session.state, session.phase):
            yield "its last state.changed is not the state of its record"
        if session.message_count + messages_since != self._messages:
            yield f"it counts {session.message_count + messages_since} messages, the log has {self._messages}"


def _turn_problems(rows: Sequence[Sequence[Any]], session: pb.Session, completed: Mapping[str, int]) -> Iterator[str]:
    for expected, (turn_id, number, state, body) in enumerate(rows, 1):
        turn = pb.Turn.FromString(body)
        if number != expected or (turn.turn_id, turn.number, turn.state) != (turn_id, number, state):
            yield f"turn {turn_id} is number {number} where {expected} is due, or differs from its record"
        if completed.get(turn_id, 0) != (state in FINISHED):
            yield f"turn {turn_id} is in state {state} and has {completed.get(turn_id, 0)} events turn.completed"
        if session.state in AT_REST and state == pb.TURN_STATE_RUNNING:
            yield f"turn {turn_id} runs while the session is at rest"
    if len(rows) != session.turn_count:
        yield f"it counts {session.turn_count} turns, {len(rows)} are stored"
    for turn_id in completed.keys() - {row[0] for row in rows}:
        yield f"turn {turn_id} has ended and is not stored"
