"""Listing: queries for pages of sessions, answered by an index without a look at all sessions."""

from __future__ import annotations

from collections.abc import Sequence

from agentpb import agent_pb2 as pb

from agent_service.ledger.commits import folded, micros
from agent_service.ledger.sqlite.schema import COUNTS, BatchQuery, Query, all_of, marks


class Condition:
    """A part of a filter that an index answers: sessions with one of some values."""

    def __init__(self, table: str, tests: Sequence[Query], *, ordered: bool = True) -> None:
        """Rows `n` of `table` meet one of `tests`. `ordered`: the index has them by time of creation for each test."""
        self.table = table
        self.tests = tests
        self.ordered = ordered

    def keys(self) -> Query:
        """Make the query for the keys of all that meet it."""
        return union(
            [
                Query(f"SELECT n.session_key FROM {self.table} AS n WHERE {test.sql}", test.parameters)
                for test in self.tests
            ]
        )


class Listing:
    """A listing of sessions, along the index of what it asks for.

    Such an index is by time of creation. By time of update there is only that of all sessions: those that meet a
    condition are sorted when they are few, and looked for among all when they are many.
    """

    def __init__(
        self, wanted: pb.SessionFilter, owner: str | None, order: pb.SessionOrder.ValueType | None = None
    ) -> None:
        """Take what is asked for apart; without an owner there is no condition that an index answers."""
        self._wanted = wanted
        self.owner = owner
        self._column = "update_time" if order == pb.SESSION_ORDER_UPDATE_TIME_DESC else "create_time"
        self._order = "ASC" if order == pb.SESSION_ORDER_CREATE_TIME_ASC else "DESC"

    def follows(self, condition: Condition) -> bool:
        """Return whether the index of a condition has its sessions in the listing's order."""
        return condition.ordered and self._column == "create_time"

    def conditions(self) -> list[Condition]:
        """Take the filter's parts that an index answers."""
        if self.owner is None:
            return []
        wanted, owner = self._wanted, Query("n.owner = ?", (self.owner,))
        found = [
            Condition("labels", [all_of([owner, Query("n.label = ? AND n.value = ?", label)])])
            for label in sorted(wanted.labels.items())
        ]
        for column, values in (("phase", wanted.phases), ("state", wanted.states)):
            tests = [all_of([owner, Query(f"n.{column} = ?", (value,))]) for value in sorted(set(values))]
            found += [Condition("sessions", tests)] if tests else []
        if wanted.created_by:
            found.append(Condition("sessions", [all_of([owner, Query("n.created_by = ?", (wanted.created_by,))])]))
        for column in ("create_time", "update_time"):
            bounds = self._times(column, f"n.{column}")
            if bounds and column != self._column:
                found.append(Condition("sessions", [all_of([owner, *bounds])], ordered=False))
        return found

    def page(self, condition: Condition | None, after: tuple[int, int] | None, limit: int) -> BatchQuery:
        """Make the query for a page; it notes time, session_key and `COUNTS`.

        It begins with those that meet a condition, or with all. Keys come first, of `limit` sessions and one more: what
        else is told of a session would be read of each that is looked at.
        """
        keys = union([Query(f"SELECT * FROM ({sql})", its) for sql, its in self.arms(condition, after, limit)])
        order = f"ORDER BY k.time {self._order}, k.session_key {self._order}"
        source = f"FROM ({keys.sql}) AS k CROSS JOIN sessions AS s WHERE s.session_key = k.session_key {order}"
        notes = ("k.time", "k.session_key", *COUNTS)
        return BatchQuery.of(notes, "s.record", "NULL", source, keys.parameters)

    def arms(self, condition: Condition | None, after: tuple[int, int] | None, limit: int) -> list[Query]:
        """Make the queries for times and keys that have the page among what they find, each as much as a page has."""
        source, session, tests = self._source(condition)
        column = f"n.{self._column}"
        others = [*self._times(self._column, column), *self._behind(after), *self._admits(session)]
        order = f"ORDER BY {column} {self._order}, n.session_key {self._order} LIMIT {limit + 1}"
        wheres = [all_of([*each, *others]) for each in tests]
        return [
            Query(f"SELECT {column} AS time, n.session_key FROM {source} WHERE {sql} {order}", parameters)
            for sql, parameters in wheres
        ]

    def _source(self, condition: Condition | None) -> tuple[str, str, list[list[Query]]]:
        """The tables of rows `n`, the name of the session there, and the first conditions of each arm."""
        if condition is None:
            return "sessions AS n", "n", [[Query("n.owner = ?", (self.owner,))] if self.owner is not None else []]
        if not self.follows(condition):
            sql, parameters = condition.keys()
            return f"({sql}) AS c CROSS JOIN sessions AS n", "n", [[Query("n.session_key = c.session_key", parameters)]]
        if condition.table == "sessions":
            return "sessions AS n", "n", [[test] for test in condition.tests]
        joined = Query("s.session_key = n.session_key", ())
        return "labels AS n CROSS JOIN sessions AS s", "s", [[test, joined] for test in condition.tests]

    def unordered(self, condition: Condition | None) -> list[tuple[str, str, Query]]:
        """Take the tables, the name of the session there, and the condition of each arm; arms share no session."""
        source, session, tests = self._source(condition)
        others = [*self._times(self._column, f"n.{self._column}"), *self._admits(session)]
        return [(source, session, all_of([*each, *others])) for each in tests]

    def admits(self, session: str) -> list[Query]:
        """The filter's conditions on a session."""
        return [*self._times(self._column, f"+{session}.{self._column}"), *self._admits(session)]

    def _behind(self, after: tuple[int, int] | None) -> list[Query]:
        sign = ">" if self._order == "ASC" else "<"
        return [Query(f"(n.{self._column}, n.session_key) {sign} (?, ?)", after)] if after is not None else []

    def at_rest(self, cutoff: int, limit: int) -> Query:
        """Make the query for the ids of those at rest since `cutoff` or longer, longest first."""
        owned = [Query("s.owner = ?", (self.owner,))] if self.owner is not None else []
        rested = Query("s.rest_time IS NOT NULL AND s.rest_time <= ?", (cutoff,))
        where, parameters = all_of([rested, *owned, *self._times("create_time", "+s.create_time"), *self._admits("s")])
        sql = f"SELECT s.session_id FROM sessions AS s WHERE {where} ORDER BY s.rest_time, s.session_key LIMIT ?"
        return Query(sql, (*parameters, limit))

    def _admits(self, session: str) -> list[Query]:
        """The filter's conditions on a session, without those on the time that orders the listing."""
        # The sign before a column keeps the planner from an index that would need a sort.
        wanted = self._wanted
        other = "update_time" if self._column == "create_time" else "create_time"
        conditions = self._times(other, f"+{session}.{other}")
        for column, values in (("state", wanted.states), ("phase", wanted.phases)):
            if values:
                conditions.append(Query(f"+{session}.{column} IN ({marks(values)})", tuple(values)))
        for label in sorted(wanted.labels.items()):
            labelled = (
                f"SELECT 1 FROM labels AS l WHERE l.session_key = {session}.session_key AND l.label = ? AND l.value = ?"
            )
            conditions.append(Query(f"EXISTS ({labelled})", label))
        if wanted.created_by:
            conditions.append(Query(f"+{session}.created_by = ?", (wanted.created_by,)))
        if wanted.title_contains:
            conditions.append(Query(f"{session}.title LIKE ? ESCAPE '!'", (f"%{_escaped(wanted.title_contains)}%",)))
        return conditions

    def _times(self, column: str, expression: str) -> list[Query]:
        bounds = ((f"{column}_min", ">="), (f"{column}_max", "<"))
        return [
            Query(f"{expression} {comparison} ?", (micros(getattr(self._wanted, field)),))
            for field, comparison in bounds
            if self._wanted.HasField(field)  # type: ignore[arg-type]
        ]


def union(queries: Sequence[Query]) -> Query:
    """Make one query for the rows of all."""
    parameters = tuple(value for query in queries for value in query.parameters)
    return Query(" UNION ALL ".join(query.sql for query in queries), parameters)


def _escaped(text: str) -> str:
    return folded(text).replace("!", "!!").replace("%", "!%").replace("_", "!_")
