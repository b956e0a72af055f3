"""Counting: how many sessions meet a filter, in all and by a property, along the same indexes as a listing."""

from __future__ import annotations

import sqlite3

from agent_service.ledger.sqlite.listing import Condition, Listing, union
from agent_service.ledger.sqlite.reader import narrowest
from agent_service.ledger.sqlite.schema import Query, all_of
from agent_service.ledger.store import Counted, GroupBy


def count_query(listing: Listing, condition: Condition | None, group_by: GroupBy, limit: int) -> Query:
    """Make the query for values and how many sessions have each, most first, beginning with those of a condition."""
    if group_by.label and condition is None:
        arms = [_labelled(listing, group_by.label)]
    else:
        arms = [_grouped(listing, *arm, group_by) for arm in listing.unordered(condition)]
    sql, parameters = union(arms)
    return Query(f"SELECT value, SUM(n) FROM ({sql}) GROUP BY value ORDER BY 2 DESC, 1 LIMIT {limit}", parameters)


def _grouped(listing: Listing, source: str, session: str, where: Query, group_by: GroupBy) -> Query:
    if group_by.label:
        joined = Query(f"g.session_key = {session}.session_key AND g.label = ?", (group_by.label,))
        source, where = f"{source} CROSS JOIN labels AS g", all_of([where, joined])
        value = "g.value"
    elif group_by.column:
        value = f"{session}.{group_by.column}"
    else:  # a constant would be sorted before it is counted, which takes six times as long
        return Query(f"SELECT '' AS value, COUNT(*) AS n FROM {source} WHERE {where.sql}", where.parameters)
    return Query(f"SELECT {value} AS value, COUNT(*) AS n FROM {source} WHERE {where.sql} GROUP BY 1", where.parameters)


def _labelled(listing: Listing, label: str) -> Query:
    """Count along the index of labels; sessions are looked at only if the filter says more of them."""
    conditions = [Query("g.owner = ? AND g.label = ?", (listing.owner, label))]
    source, others = "labels AS g", listing.admits("n")
    if others:
        source += " CROSS JOIN sessions AS n"
        conditions += [Query("n.session_key = g.session_key", ()), *others]
    where, parameters = all_of(conditions)
    return Query(f"SELECT g.value AS value, COUNT(*) AS n FROM {source} WHERE {where} GROUP BY 1", parameters)


def read_counts(db: sqlite3.Connection, listing: Listing, group_by: GroupBy, limit: int) -> Counted:
    """Count, with at most `limit` values."""
    condition = narrowest(db, listing)
    query = count_query(listing, condition, group_by, limit + 1)
    rows = [(str(value), int(n)) for value, n in db.execute(query.sql, query.parameters) if n]
    total = sum(n for _, n in rows)
    if group_by.label:  # not every session has it
        in_all = count_query(listing, condition, GroupBy(), 1)
        total = sum(n for _, n in db.execute(in_all.sql, in_all.parameters))
    return Counted(rows[:limit], total, len(rows) > limit)
