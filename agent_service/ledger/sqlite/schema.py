"""Every SQL text that the ledger runs, but for the making of its tables (migrations.py).

Plain SQL: a twin on PostgreSQL is to understand it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from agent_service.events import MAX_EVENT, STUB_START
from agent_service.ledger.store import EventQuery

# -------------------------------------------------------------------------------------------------------------- writing

INSERT_SESSION = f"INSERT INTO sessions VALUES ({', '.join('?' * 14)})"
UPDATE_SESSION = """UPDATE sessions SET state = ?, phase = ?, title = ?, update_time = ?, rest_time = ?,
    expire_time = ?, last_sequence = ?, change = ?, record = ? WHERE session_key = ?"""
# Naming a column costs the upkeep of its indexes, so what did not change is not named.
TOUCH_SESSION = "UPDATE sessions SET update_time = ?, last_sequence = ?, change = ?, record = ? WHERE session_key = ?"
LAST_CHANGE = "SELECT value FROM counters WHERE name = 'change'"
LEDGER_ID = "SELECT value FROM counters WHERE name = 'ledger'"
UNCHAINED = "SELECT value FROM counters WHERE name = 'unchained'"
SET_LAST_CHANGE = "UPDATE counters SET value = ? WHERE name = 'change'"
DELETE_LABELS = "DELETE FROM labels WHERE session_key = ?"
INSERT_LABEL = "INSERT INTO labels VALUES (?, ?, ?, ?, ?)"
UPSERT_TURN = """INSERT INTO turns VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (turn_id) DO UPDATE SET number = excluded.number, state = excluded.state, record = excluded.record"""
UPSERT_TURN_REQUEST = """INSERT INTO turn_requests VALUES (?, ?, ?)
    ON CONFLICT (turn_id) DO UPDATE SET request = excluded.request"""
DELETE_TURN_REQUEST = "DELETE FROM turn_requests WHERE turn_id = ?"
UPSERT_WHOLE = """INSERT INTO wholes VALUES (?, ?, ?, ?)
    ON CONFLICT (session_key, record, field) DO UPDATE SET body = excluded.body"""
UPSERT_REQUEST_ID = """INSERT INTO request_ids VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (owner, request_id) DO UPDATE SET fingerprint = excluded.fingerprint, session_id = excluded.session_id,
    turn_id = excluded.turn_id, method = excluded.method, response = excluded.response,
    create_time = excluded.create_time"""
# Each step of a statement gives up the interpreter's lock and has to win it back: many rows a step, and few steps.
INSERT_EVENTS = {
    rows: "INSERT INTO events VALUES " + ", ".join(["(?, ?, ?, ?, ?, ?)"] * rows) for rows in (128, 32, 8, 2, 1)
}
FIND_SESSION = """SELECT s.session_key, COALESCE(e.sequence, 0), COALESCE(e.chain, 0) FROM sessions AS s
    LEFT JOIN events AS e ON e.session_key = s.session_key
        AND e.sequence = (SELECT MAX(m.sequence) FROM events AS m WHERE m.session_key = s.session_key)
    WHERE s.owner = ? AND s.session_id = ?"""
LAST_KEYS = "SELECT MAX(session_key) FROM sessions UNION ALL SELECT MAX(session_key) FROM deletions"
DELETE_SESSION = "DELETE FROM sessions WHERE session_key = ?"
INSERT_DELETION = "INSERT INTO deletions VALUES (?)"
DELETIONS = "SELECT session_key FROM deletions"
SWEEP_EVENTS = """DELETE FROM events WHERE session_key = ?
    AND sequence < (SELECT MIN(sequence) FROM events WHERE session_key = ?) + ?"""
SWEEP_REST = tuple(
    f"DELETE FROM {table} WHERE session_key = ?" for table in ("turn_requests", "turns", "labels", "wholes")
)
DELETE_DELETION = "DELETE FROM deletions WHERE session_key = ?"
OWNED = "SELECT session_key, session_id FROM sessions WHERE owner = ? ORDER BY session_key"
RECORD = "SELECT record FROM sessions WHERE session_key = ?"
SET_OWNER = "UPDATE sessions SET owner = ?, change = ?, record = ? WHERE session_key = ?"
SET_LABELS_OWNER = "UPDATE labels SET owner = ? WHERE session_key = ?"
SET_REQUEST_IDS_OWNER = "UPDATE OR IGNORE request_ids SET owner = ? WHERE owner = ?"
SWEEP_REQUEST_IDS = """DELETE FROM request_ids WHERE (owner, request_id) IN
    (SELECT owner, request_id FROM request_ids WHERE create_time < ? ORDER BY create_time LIMIT ?)"""

# -------------------------------------------------------------------------------------------------------------- reading

KEY = "SELECT session_key FROM sessions WHERE owner = ? AND session_id = ?"
_KEY = f"({KEY})"
# A commit may bring events without a record: what a record counts is made good when it is read.
LAST = """COALESCE((SELECT MAX(e.sequence) FROM events AS e WHERE e.session_key = s.session_key), 0)"""
MESSAGES_SINCE = """(SELECT COUNT(*) FROM events AS e WHERE e.session_key = s.session_key
    AND e.sequence > s.last_sequence AND e.type IN ('message.user', 'message.assistant'))"""
COUNTS = (LAST, MESSAGES_SINCE, "s.change")
"""Columns that are read beside a session's record: last sequence, messages since the record, change number."""
_RECORD = f"s.record, {', '.join(COUNTS)}"
SESSION = f"SELECT {_RECORD} FROM sessions AS s WHERE s.owner = ? AND s.session_id = ?"
UNFINISHED = f"""SELECT {_RECORD} FROM sessions AS s
    WHERE s.state IN (1, 2) OR s.phase = 9 ORDER BY s.create_time, s.session_key"""
TURN = "SELECT t.record FROM turns AS t JOIN sessions AS s ON s.session_key = t.session_key WHERE t.turn_id = ?"
TURN_REQUEST = """SELECT t.request FROM turn_requests AS t JOIN sessions AS s ON s.session_key = t.session_key
    WHERE t.turn_id = ?"""
TURNS = f"SELECT state, record FROM turns WHERE session_key = {_KEY} ORDER BY number"
LAST_TURN = f"SELECT record FROM turns WHERE session_key = {_KEY} ORDER BY number DESC LIMIT 1"
MOVE_BEFORE = """SELECT sequence, body FROM events WHERE session_key = ? AND sequence < ? AND type = 'state.changed'
    ORDER BY sequence DESC LIMIT 1"""
LAST_SEQUENCE = f"SELECT MAX(sequence) FROM events WHERE session_key = {_KEY}"
LOG_COUNTS = f"""SELECT COALESCE(MAX(sequence), 0),
    COALESCE(SUM(CASE WHEN type IN ('message.user', 'message.assistant') THEN 1 ELSE 0 END), 0)
    FROM events WHERE session_key = {_KEY}"""
REQUEST_ID = """SELECT owner, request_id, fingerprint, session_id, turn_id, method, response, create_time
    FROM request_ids WHERE owner = ? AND request_id = ? AND create_time >= ?"""
EXPIRED = """SELECT owner, session_id FROM sessions WHERE rest_time IS NOT NULL AND expire_time IS NOT NULL
    AND expire_time <= ? ORDER BY expire_time LIMIT ?"""
OUTSTAYED = """SELECT owner, session_id FROM sessions WHERE owner = ? AND rest_time IS NOT NULL AND rest_time <= ?
    AND expire_time IS NULL ORDER BY rest_time LIMIT ?"""
# One step of the index for each owner, however many sessions there are.
OWNERS = """WITH RECURSIVE found (owner) AS (SELECT MIN(owner) FROM sessions UNION ALL
    SELECT (SELECT MIN(s.owner) FROM sessions AS s WHERE s.owner > found.owner) FROM found
        WHERE found.owner IS NOT NULL)
    SELECT owner FROM found WHERE owner IS NOT NULL"""
ALL_WHOLES = "SELECT record, field, body FROM wholes WHERE session_key = ? ORDER BY record, field"
COUNT = "SELECT COUNT(*) FROM sessions"
COUNT_OWNED = "SELECT COUNT(*) FROM sessions WHERE owner = ?"
LAST_OF_KEY = """SELECT COALESCE((SELECT MAX(e.sequence) FROM events AS e WHERE e.session_key = s.session_key), 0)
    FROM sessions AS s WHERE s.session_key = ?"""
ALL_SESSIONS = f"""SELECT s.session_key, s.session_id, s.owner, s.created_by, s.create_time, s.state, s.phase, s.title,
    s.update_time, s.rest_time, s.expire_time, {_RECORD} FROM sessions AS s ORDER BY s.session_key"""
ALL_EVENTS = "SELECT sequence, type, body, raw, chain FROM events WHERE session_key = ? ORDER BY sequence"
ALL_TURNS = "SELECT turn_id, number, state, record FROM turns WHERE session_key = ? ORDER BY number"
ALL_LABELS = "SELECT label, value, owner, create_time FROM labels WHERE session_key = ? ORDER BY label"
ORPHANS = tuple(
    f"""SELECT '{table}', COUNT(*) FROM {table} WHERE session_key NOT IN
    (SELECT session_key FROM sessions UNION ALL SELECT session_key FROM deletions)"""
    for table in ("events", "turns", "turn_requests", "labels", "wholes")
)
CHANGES_TWICE = "SELECT COUNT(*) - COUNT(DISTINCT change) FROM sessions NOT INDEXED"
CHANGES_BEYOND = f"SELECT COUNT(*) FROM sessions WHERE change > COALESCE(({LAST_CHANGE}), 0) OR change < 1"
# The events between two sequences, joined as a response has them. They come in the order of the primary key, which is
# also the one they were written in. `:heads` has what stands before an event: three bytes for each size, of which those
# below 128 use two. Events of more than `:most` bytes are left out.
JOINED = """SELECT COUNT(*), SUM(LENGTH(body)), MAX(LENGTH(body)),
    CAST(group_concat(CASE WHEN LENGTH(body) <= :most THEN
        substr(:heads, LENGTH(body) * 3 + 1, CASE WHEN LENGTH(body) < 128 THEN 2 ELSE 3 END) || body END, '') AS BLOB)
    FROM events WHERE session_key =
        (SELECT session_key FROM sessions WHERE owner = :owner AND session_id = :session_id)
    AND sequence > :after AND sequence <= :last"""
# Where many sessions stand, joined into one row for the reason that reader.py gives. Of each: its place in what was
# asked, key, last sequence, messages since its record, change number, sequence of its last move, four sizes; then all
# records, last moves, the moves right before those, newest turns.
_STANDINGS = f"""SELECT group_concat(w.place || ' ' || s.session_key || ' ' || {LAST} || ' ' || {MESSAGES_SINCE}
        || ' ' || s.change || ' ' || COALESCE(e.sequence, 0) || ' ' || LENGTH(s.record)
        || ' ' || COALESCE(LENGTH(e.body), 0) || ' ' || COALESCE(LENGTH(b.body), 0)
        || ' ' || COALESCE(LENGTH(t.record), 0), ' '),
    CAST(group_concat(s.record, '') AS BLOB), CAST(group_concat(COALESCE(e.body, ''), '') AS BLOB),
    CAST(group_concat(COALESCE(b.body, ''), '') AS BLOB), CAST(group_concat(COALESCE(t.record, ''), '') AS BLOB)
    FROM wanted AS w CROSS JOIN sessions AS s ON s.owner = w.owner AND s.session_id = w.session_id
    LEFT JOIN events AS e ON e.session_key = s.session_key AND e.sequence = (SELECT m.sequence FROM events AS m
        WHERE m.session_key = s.session_key AND m.type = 'state.changed' ORDER BY m.sequence DESC LIMIT 1)
    LEFT JOIN events AS b ON b.session_key = e.session_key AND b.sequence = e.sequence - 1 AND b.type = 'state.changed'
    LEFT JOIN turns AS t ON t.session_key = s.session_key
        AND t.number = (SELECT MAX(n.number) FROM turns AS n WHERE n.session_key = s.session_key)"""
STANDINGS = {
    count: f"WITH wanted (place, owner, session_id) AS (VALUES {', '.join(f'({n}, ?, ?)' for n in range(count))}) "
    + _STANDINGS
    for count in (1, 2, 4, 8, 16, 32)
}
SIZE = f"""SELECT COALESCE((SELECT SUM(LENGTH(body) + COALESCE(LENGTH(raw), 0)) FROM events
    WHERE session_key = {_KEY}), 0) + COALESCE((SELECT SUM(LENGTH(body)) FROM wholes WHERE session_key = {_KEY}), 0)"""
WHOLE = f"SELECT body FROM wholes WHERE session_key = {_KEY} AND record = ? AND field = ?"
TURN_OF = f"SELECT record FROM turns WHERE session_key = {_KEY} AND turn_id = ?"
RAW = f"SELECT raw FROM events WHERE session_key = {_KEY} AND sequence = ?"


# What is shown of the agent's own message: one that is too long is not even read (see events.wire.raw_stub).
_SHOWN_RAW = f"""CASE WHEN LENGTH(raw) > {MAX_EVENT}
    THEN CAST('{STUB_START.decode()}"bytes":' || LENGTH(raw) || '}}' AS BLOB) ELSE raw END"""


class Query(NamedTuple):
    """An SQL text or a part of one, and its parameters."""

    sql: str
    parameters: tuple[object, ...]


class BatchQuery(NamedTuple):
    """Two texts for many rows at once, each joins them into a single row; both take the parameters and a limit.

    `notes`: the sizes of body and raw, then what else is noted, each column a text with spaces between the rows.
    `blobs`: the bodies and the raws, each column one blob.
    """

    notes: str
    blobs: str
    parameters: tuple[object, ...]

    @classmethod
    def of(cls, notes: Sequence[str], body: str, raw: str, source: str, parameters: tuple[object, ...]) -> BatchQuery:
        """Put it together: expressions for the columns, and where the rows come from, in order."""
        named = [f"{expression} AS note{number}" for number, expression in enumerate(notes)]
        joined = ", ".join(f"group_concat(b.note{number}, ' ')" for number in range(len(notes)))
        # PostgreSQL calls it string_agg. It copies bytes whatever they are; the cast makes a blob of them again.
        return cls(
            f"""SELECT group_concat(b.body, ' '), group_concat(b.raw, ' '), {joined}
                FROM (SELECT LENGTH({body}) AS body, COALESCE(LENGTH({raw}), -1) AS raw, {", ".join(named)}
                    {source} LIMIT ?) AS b""",
            f"""SELECT CAST(group_concat(b.body, '') AS BLOB), CAST(group_concat(b.raw, '') AS BLOB)
                FROM (SELECT {body} AS body, COALESCE({raw}, '') AS raw {source} LIMIT ?) AS b""",
            parameters,
        )


def changes_query(after: int) -> BatchQuery:
    """Make the query for sessions by change number; it notes `COUNTS`."""
    source = "FROM sessions AS s WHERE s.change > ? ORDER BY s.change"
    return BatchQuery.of(COUNTS, "s.record", "NULL", source, (after,))


def events_query(wanted: EventQuery) -> BatchQuery:
    """Make the query for a batch of events; it notes sequence and type."""
    conditions = [Query(f"session_key = {_KEY}", wanted.session), Query("sequence > ?", (wanted.after,))]
    if wanted.before is not None:
        conditions.append(Query("sequence < ?", (wanted.before,)))
    if wanted.types:
        conditions.append(_types(wanted.types))
    where, parameters = all_of(conditions)
    source = f"FROM events WHERE {where} ORDER BY sequence {'DESC' if wanted.newest_first else 'ASC'}"
    return BatchQuery.of(("sequence", "type"), "body", _SHOWN_RAW if wanted.with_raw else "NULL", source, parameters)


def _types(types: Sequence[str]) -> Query:
    exact = [kind for kind in types if not kind.endswith(".*")]
    # "task.*" is everything from "task." up to, not including, "task/": the character behind the dot.
    ranges = [(kind[:-1], kind[:-2] + "/") for kind in types if kind.endswith(".*")]
    parts = [f"type IN ({marks(exact)})"] if exact else []
    parts += ["(type >= ? AND type < ?)"] * len(ranges)
    return Query(f"({' OR '.join(parts)})", (*exact, *(bound for both in ranges for bound in both)))


def marks(values: Sequence[object]) -> str:
    """As many question marks."""
    return ", ".join("?" * len(values))


def all_of(conditions: Sequence[Query]) -> Query:
    """Make one condition of many."""
    parameters = tuple(value for condition in conditions for value in condition.parameters)
    return Query(" AND ".join(condition.sql for condition in conditions) or "1 = 1", parameters)
