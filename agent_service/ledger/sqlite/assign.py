"""Assign: gives the sessions that belong to no tenant to one, in a ledger that no service uses."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from agentpb import agent_pb2 as pb

from agent_service.ledger import directory as directories
from agent_service.ledger.sqlite import schema
from agent_service.ledger.sqlite.file import FILE, open_file, unusable, value
from agent_service.ledger.store import LedgerUnusable


class Assigned(NamedTuple):
    """The outcome: how many sessions were given, and the ids of those that were not, as the tenant uses their ids."""

    given: int
    left: list[str]


def assign(directory: Path, owner: str, prepare: Callable[[pb.Session], None]) -> Assigned:
    """Give every session of the empty tenant to `owner`; `prepare` is called with each before. Raises LedgerUnusable.

    Their request ids go with them.
    """
    path = directory / FILE
    if not path.exists():
        raise LedgerUnusable(f"{path} is missing: there is nothing to assign")
    lock = directories.take(directory)
    try:
        with closing(open_file(path)) as db:
            return _assign(db, owner, prepare)
    except sqlite3.Error as error:
        raise unusable(path, error) from error
    finally:
        os.close(lock)


def _assign(db: sqlite3.Connection, owner: str, prepare: Callable[[pb.Session], None]) -> Assigned:
    db.execute("BEGIN IMMEDIATE")
    change, count, left = value(db, schema.LAST_CHANGE), 0, []
    for key, session_id in db.execute(schema.OWNED, ("",)).fetchall():
        if db.execute(schema.KEY, (owner, session_id)).fetchone() is not None:
            left.append(session_id)
            continue
        session = pb.Session.FromString(value(db, schema.RECORD, key))
        prepare(session)
        session.owner = owner
        change, count = change + 1, count + 1
        db.execute(schema.SET_OWNER, (owner, change, session.SerializeToString(), key))
        db.execute(schema.SET_LABELS_OWNER, (owner, key))
    db.execute(schema.SET_LAST_CHANGE, (change,))
    db.execute(schema.SET_REQUEST_IDS_OWNER, (owner, ""))
    db.execute("COMMIT")
    return Assigned(count, left)
