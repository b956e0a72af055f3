"""Store: the questions that the ledger asks of a database. Every store passes tests/ledger/test_store.py.

The ledger keeps the live ends of logs, their order and what is visible. A store keeps rows. The seam is the question
and not the SQL, because fast statements of one database are slow ones of another.

All methods belong to the event loop's thread. Reading raises StoreUnavailable when the database does not answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from agentpb import agent_pb2 as pb

from agent_service.errors import StoreUnavailable
from agent_service.ledger.commits import Append, Job, RequestId
from agent_service.ledger.tail import Event, SessionKey, Tail

OnGroup = Callable[[Sequence["Append | Job[Any]"], Exception | None], None]
"""Called on the event loop once for each group: its commits in their order, and the error when none was written."""

OnObstruction = Callable[[bool], None]
"""Called on the event loop when another process keeps the store from writing for seconds, and when that is over."""

PageCursor = tuple[int, str]
"""End of a page of sessions: a time in microseconds, and what decides between equal times. Opaque to callers."""


class LedgerUnusable(Exception):
    """The ledger's directory cannot be used: it is taken, damaged, or of a newer version. The text says what to do."""


class StoredStatus(NamedTuple):
    """A session and its current turn; at rest the one that brought it to its state, which need not be the newest."""

    session: pb.Session
    turn: pb.Turn | None


class EventQuery(NamedTuple):
    """Selection of one session's stored events. `types` are exact ("rate_limit") or families ("task.*"); none: all."""

    session: SessionKey
    after: int = 0
    before: int | None = None
    types: tuple[str, ...] = ()
    newest_first: bool = False
    with_raw: bool = False


class GroupBy(NamedTuple):
    """A property of sessions: a column ("state", "phase") or a label's value. Neither: all in one."""

    column: str = ""
    label: str = ""


class Counted(NamedTuple):
    """Values and how many sessions have each, most first; how many there are in all; whether values were left out."""

    counts: list[tuple[str, int]]
    total: int
    truncated: bool


class Stretch(NamedTuple):
    """Part of a log to replay: events behind `after` up to `last`, of some types, with the agent's JSON or without."""

    session: SessionKey
    after: int
    last: int
    types: tuple[str, ...]
    with_raw: bool


class Store(Protocol):
    """Sessions, turns, events and request ids in a database."""

    async def open(self, on_group: OnGroup, on_obstruction: OnObstruction = lambda obstructed: None) -> None:
        """Open the database and bring it to this version. Raises LedgerUnusable, also when it lacks what it had.

        While another process holds a lock, commits wait; `on_obstruction` is called with True when that has lasted for
        seconds, and with False when it is over. A database that is deleted or replaced while it is open ends writing.
        """

    async def close(self) -> None:
        """Write all commits that were put, then close."""

    # ---- writing

    def put(self, item: Append) -> None:
        """Write a commit as a whole, in the order of the calls; many may share a transaction, called a group.

        A commit that does not fit what is stored of its session gets `refused` and is not written; so are all later
        ones of that session, and its tail has `broken`. Each record gets the next number of one counter of the
        database in the same transaction, `Append.change`; the last one of a session is stored. Raises RuntimeError when
        the store is not open.
        """

    def remember(self, request_id: RequestId) -> asyncio.Future[None]:
        """Write a request id in its place among the commits; the future is done when it is durable.

        One that is there already is replaced. The future has StoreUnavailable when it is not written.
        """

    async def bury(self, tail: Tail, request_id: RequestId | None = None) -> bool:
        """Delete a session's record in its place among the commits, its other rows soon; False when there is none.

        `request_id` is written with the deletion, and only then; the session's other request ids stay. Raises
        StoreUnavailable.
        """

    @property
    def failure(self) -> Exception | None:
        """The error that ended all writing; None while the store works. It stays until the store is closed."""

    @property
    def last_written(self) -> int:
        """The time (microseconds) until which the database was open before this time; 0 when that is not known."""

    # ---- one session

    async def session(self, key: SessionKey) -> pb.Session | None:
        """A session as it is stored, secrets included."""

    async def standing(self, key: SessionKey) -> StoredStatus | None:
        """A session and its turn, read together. Asked often and by many at once."""

    async def size(self, key: SessionKey) -> int:
        """Bytes of a session's events and of what was cut in its records."""

    async def last_sequence(self, key: SessionKey) -> int:
        """The sequence of a session's last event; 0 without events."""

    async def log_counts(self, key: SessionKey) -> tuple[int, int]:
        """The last sequence and the number of messages, counted in the log itself."""

    async def events(self, query: EventQuery, limit: int, max_bytes: int) -> tuple[list[Event], bool]:
        """Events, at least one if there is any, and whether these are all."""

    async def responses(self, stretch: Stretch, limit: int, max_bytes: int) -> tuple[list[bytes], int]:
        """Events as contents of responses of at most `limit` each, and the sequence up to which that is all."""

    async def turn(self, turn_id: str) -> pb.Turn | None:
        """A turn as it is stored."""

    async def turns(self, key: SessionKey, states: Sequence[pb.TurnState.ValueType]) -> list[pb.Turn]:
        """A session's turns by number; only those in one of `states`, if any are given."""

    async def turn_of(self, key: SessionKey, turn_id: str) -> pb.Turn | None:
        """A turn of this session as it is stored."""

    async def whole(self, key: SessionKey, record: str, field: str) -> bytes | None:
        """The body of the Whole (see commits.py) that was stored last; None when there is none."""

    async def raw(self, key: SessionKey, sequence: int) -> bytes | None:
        """The agent's own message of an event, whole; `events` has a stub in its place above MAX_EVENT bytes."""

    async def turn_at(self, key: SessionKey, sequence: int) -> pb.Turn | None:
        """The turn in which a session was, or that had brought it to rest, right after an event."""

    async def turn_request(self, turn_id: str) -> pb.ExecuteRequest | None:
        """The request of an unfinished turn; it is deleted when the turn ends."""

    # ---- all sessions

    async def page(
        self,
        wanted: pb.SessionFilter,
        order: pb.SessionOrder.ValueType,
        *,
        owner: str | None,
        after: PageCursor | None,
        limit: int,
        max_bytes: int,
    ) -> tuple[list[pb.Session], PageCursor | None]:
        """A page of sessions and where the next one begins; of every owner when `owner` is None."""

    async def counts(self, wanted: pb.SessionFilter, owner: str, group_by: GroupBy, limit: int) -> Counted:
        """How many sessions meet a filter, and how many of them have each value of a property, at most `limit` values.

        Columns have their numbers as text. Sessions without the label are in the total alone.
        """

    async def at_rest_since(self, cutoff: int, wanted: pb.SessionFilter, owner: str | None, limit: int) -> list[str]:
        """Ids of sessions at rest since `cutoff` (microseconds) or longer, longest first."""

    async def expired(self, now: int, limit: int) -> list[SessionKey]:
        """Sessions at rest past their own expire_time (microseconds), the earliest first."""

    async def outstayed(self, owner: str, cutoff: int, limit: int) -> list[SessionKey]:
        """An owner's sessions without an expire_time that are at rest since `cutoff` or longer, longest first."""

    async def owners(self) -> list[str]:
        """Everybody who has sessions, in their order. It takes longer the more owners there are, not sessions."""

    async def unfinished(self) -> list[pb.Session]:
        """Sessions in state PENDING or RUNNING, and those in phase IDLE, oldest first."""

    async def request(self, owner: str, request_id: str, since: int) -> RequestId | None:
        """The use of a request id, unless that was before `since` (microseconds)."""

    async def count(self, owner: str | None = None) -> int:
        """The number of sessions of an owner, or of all, commits included that were put before."""

    async def changes(self, after: int, limit: int, max_bytes: int) -> list[pb.Session]:
        """Sessions with a change number greater than `after`, by number; at least one if there is any."""

    async def last_change(self) -> int:
        """The last change number that was given, also to a session that is deleted; 0 before the first one."""

    # ---- upkeep

    async def backup(self, path: Path) -> None:
        """Copy the database into a new file, while it is in use."""

    async def check(self) -> list[str]:
        """Contradictions in what is stored, while it is in use."""

    def statistics(self) -> dict[str, int]:
        """`commits`, `groups`, `events` and `bytes` written since the start; `queued` commits and `deletions`."""


def unavailable(failure: Exception | None) -> StoreUnavailable:
    """Make the error for callers whose commit was not written."""
    return StoreUnavailable(f"the ledger cannot be written: {failure}")
