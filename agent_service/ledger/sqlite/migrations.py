"""The ledger's tables: the statements that make them, version by version.

Rows hang on an integer key of the session, never used twice: so a session vanishes with one row, its events can be
swept later, and a new session under the same id has nothing to do with them.
"""

from __future__ import annotations

APPLICATION_ID = 0x41474C31

# One entry per version: the statements that lead to it. Entries that were released are never changed.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE sessions (
            session_key   INTEGER NOT NULL PRIMARY KEY,
            session_id    TEXT    NOT NULL UNIQUE,
            owner         TEXT    NOT NULL,
            state         INTEGER NOT NULL,
            phase         INTEGER NOT NULL,
            title         TEXT    NOT NULL,
            create_time   BIGINT  NOT NULL,
            update_time   BIGINT  NOT NULL,
            rest_time     BIGINT,
            expire_time   BIGINT,
            last_sequence BIGINT  NOT NULL,
            record        BLOB    NOT NULL
        )""",
        "CREATE INDEX sessions_by_create ON sessions (create_time, session_key)",
        "CREATE INDEX sessions_by_owner_create ON sessions (owner, create_time, session_key)",
        "CREATE INDEX sessions_by_owner_update ON sessions (owner, update_time, session_key)",
        "CREATE INDEX sessions_by_owner_state ON sessions (owner, state)",
        "CREATE INDEX sessions_by_owner_phase ON sessions (owner, phase)",
        "CREATE INDEX sessions_unfinished ON sessions (create_time) WHERE state IN (1, 2) OR phase = 9",
        "CREATE INDEX sessions_at_rest ON sessions (rest_time) WHERE rest_time IS NOT NULL",
        "CREATE INDEX sessions_to_expire ON sessions (expire_time) WHERE expire_time IS NOT NULL",
        """CREATE TABLE labels (
            session_key INTEGER NOT NULL,
            label       TEXT    NOT NULL,
            value       TEXT    NOT NULL,
            owner       TEXT    NOT NULL,
            PRIMARY KEY (session_key, label)
        )""",
        "CREATE INDEX labels_by_value ON labels (owner, label, value, session_key)",
        """CREATE TABLE turns (
            turn_id     TEXT    NOT NULL PRIMARY KEY,
            session_key INTEGER NOT NULL,
            number      INTEGER NOT NULL,
            state       INTEGER NOT NULL,
            record      BLOB    NOT NULL
        )""",
        "CREATE INDEX turns_by_session ON turns (session_key, number)",
        """CREATE TABLE turn_requests (
            turn_id     TEXT    NOT NULL PRIMARY KEY,
            session_key INTEGER NOT NULL,
            request     BLOB    NOT NULL
        )""",
        "CREATE INDEX turn_requests_by_session ON turn_requests (session_key)",
        """CREATE TABLE events (
            session_key INTEGER NOT NULL,
            sequence    BIGINT  NOT NULL,
            type        TEXT    NOT NULL,
            body        BLOB    NOT NULL,
            raw         BLOB,
            PRIMARY KEY (session_key, sequence)
        )""",
        """CREATE TABLE request_ids (
            owner       TEXT   NOT NULL,
            request_id  TEXT   NOT NULL,
            fingerprint TEXT   NOT NULL,
            session_id  TEXT   NOT NULL,
            turn_id     TEXT   NOT NULL,
            method      TEXT   NOT NULL,
            response    BLOB   NOT NULL,
            create_time BIGINT NOT NULL,
            PRIMARY KEY (owner, request_id)
        )""",
        "CREATE INDEX request_ids_by_create ON request_ids (create_time)",
        "CREATE TABLE deletions (session_key INTEGER NOT NULL PRIMARY KEY)",
    ),
    (  # what a listing asks for has its sessions in the listing's order
        "DROP INDEX sessions_by_owner_state",
        "DROP INDEX sessions_by_owner_phase",
        "CREATE INDEX sessions_by_owner_state ON sessions (owner, state, create_time, session_key)",
        "CREATE INDEX sessions_by_owner_phase ON sessions (owner, phase, create_time, session_key)",
        "DROP INDEX labels_by_value",
        "ALTER TABLE labels ADD COLUMN create_time BIGINT NOT NULL DEFAULT 0",
        """UPDATE labels SET create_time = COALESCE((SELECT s.create_time FROM sessions AS s
            WHERE s.session_key = labels.session_key), 0)""",
        "CREATE INDEX labels_by_value ON labels (owner, label, value, create_time, session_key)",
    ),
    (  # fields that are too long for the record they belong to
        """CREATE TABLE wholes (
            session_key INTEGER NOT NULL,
            record      TEXT    NOT NULL,
            field       TEXT    NOT NULL,
            body        BLOB    NOT NULL,
            PRIMARY KEY (session_key, record, field)
        )""",
    ),
    (  # a request id is of one RPC; answers had no fingerprint
        "DELETE FROM request_ids WHERE method = 'RespondToInteraction'",
        "UPDATE request_ids SET request_id = method || ' ' || request_id",
    ),
    (  # the number of a record's last write, from one counter that is never set back
        "CREATE TABLE counters (name TEXT NOT NULL PRIMARY KEY, value BIGINT NOT NULL)",
        "INSERT INTO counters SELECT 'change', COUNT(*) FROM sessions",
        "ALTER TABLE sessions ADD COLUMN change BIGINT NOT NULL DEFAULT 0",
        """UPDATE sessions SET change = n.number FROM (SELECT session_key AS numbered,
            ROW_NUMBER() OVER (ORDER BY update_time, session_key) AS number FROM sessions) AS n
            WHERE n.numbered = session_key""",
        "CREATE UNIQUE INDEX sessions_by_change ON sessions (change)",
    ),
    (  # ids are a tenant's own; what never changes stands first, and what has no bound last
        """CREATE TABLE tenant_sessions (
            session_key   INTEGER NOT NULL PRIMARY KEY,
            owner         TEXT    NOT NULL,
            session_id    TEXT    NOT NULL,
            created_by    TEXT    NOT NULL,
            create_time   BIGINT  NOT NULL,
            state         INTEGER NOT NULL,
            phase         INTEGER NOT NULL,
            title         TEXT    NOT NULL,
            update_time   BIGINT  NOT NULL,
            rest_time     BIGINT,
            expire_time   BIGINT,
            last_sequence BIGINT  NOT NULL,
            change        BIGINT  NOT NULL,
            record        BLOB    NOT NULL,
            UNIQUE (owner, session_id)
        )""",
        """INSERT INTO tenant_sessions SELECT session_key, owner, session_id, '', create_time, state, phase, title,
            update_time, rest_time, expire_time, last_sequence, change, record FROM sessions ORDER BY session_key""",
        "DROP TABLE sessions",
        "ALTER TABLE tenant_sessions RENAME TO sessions",
        "CREATE INDEX sessions_by_create ON sessions (create_time, session_key)",
        "CREATE INDEX sessions_by_owner_create ON sessions (owner, create_time, session_key)",
        "CREATE INDEX sessions_by_owner_creator ON sessions (owner, created_by, create_time, session_key)",
        "CREATE INDEX sessions_by_owner_update ON sessions (owner, update_time, session_key)",
        "CREATE INDEX sessions_by_owner_state ON sessions (owner, state, create_time, session_key)",
        "CREATE INDEX sessions_by_owner_phase ON sessions (owner, phase, create_time, session_key)",
        "CREATE INDEX sessions_unfinished ON sessions (create_time) WHERE state IN (1, 2) OR phase = 9",
        "CREATE INDEX sessions_at_rest ON sessions (owner, rest_time) WHERE rest_time IS NOT NULL",
        "CREATE INDEX sessions_to_expire ON sessions (expire_time) WHERE expire_time IS NOT NULL",
        "CREATE UNIQUE INDEX sessions_by_change ON sessions (change)",
    ),
    (  # checksums from here on (see chain.py): sessions with a greater key have them from their first event
        "ALTER TABLE events ADD COLUMN chain INTEGER",
        """INSERT INTO counters SELECT 'unchained', COALESCE(MAX(session_key), 0) FROM
            (SELECT session_key FROM sessions UNION ALL SELECT session_key FROM deletions)""",
        "INSERT INTO counters VALUES ('ledger', RANDOM() & 9223372036854775807)",
    ),
)
VERSION = len(MIGRATIONS)
ROOM = {
    1: "SELECT COUNT(*) * 600 FROM labels",
    4: "SELECT COUNT(*) * 600 + COALESCE(SUM(LENGTH(record)) * 3, 0) FROM sessions",
    5: "SELECT COUNT(*) * 2400 + COALESCE(SUM(LENGTH(record)) * 4, 0) FROM sessions",
}
"""Queries for the bytes that a migration (by its index) may need: changed pages lie in the log too."""
