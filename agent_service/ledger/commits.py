"""Commits, the units of writing, and their form on the way to the disk: serialized at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, NamedTuple, TypeVar

from agentpb import agent_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp

from agent_service.ledger.tail import Event, SessionKey, Tail

MESSAGES = ("message.user", "message.assistant")
AT_REST = frozenset({pb.SESSION_STATE_COMPLETED, pb.SESSION_STATE_ERROR, pb.SESSION_STATE_CANCELLED})
FINISHED = frozenset({pb.TURN_STATE_COMPLETED, pb.TURN_STATE_ERROR, pb.TURN_STATE_CANCELLED})

REQUEST_ID_SECONDS = 24 * 3600
"""Seconds for which a request id is kept."""

T = TypeVar("T")


def key_of(session: pb.Session) -> SessionKey:
    """The name of a session."""
    return SessionKey(session.owner, session.session_id)


def micros(time: Timestamp) -> int:
    """Microseconds since 1970."""
    return time.seconds * 1_000_000 + time.nanos // 1000


def folded(title: str) -> str:
    """A title as it is searched: in no case."""
    return title.casefold()


@dataclass(frozen=True, slots=True)
class RequestId:
    """The use of a request id. `create_time` (microseconds) is filled in when it is stored."""

    owner: str
    request_id: str
    fingerprint: str
    session_id: str
    turn_id: str
    method: str
    response: bytes
    create_time: int = 0


class Whole(NamedTuple):
    """A field that is too long for the record it belongs to.

    `record` is "event SEQUENCE", "turn TURN_ID" or "interaction INTERACTION_ID"; `body` encodes a message of the
    record's type that has only this field.
    """

    record: str
    field: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Commit:
    """One atomic unit of one session: durable events with the next sequences, and the records they change."""

    key: SessionKey
    events: Sequence[Event] = ()
    session: pb.Session | None = None
    turns: Sequence[pb.Turn] = ()
    requests: Mapping[str, pb.ExecuteRequest] = field(default_factory=dict)
    request_id: RequestId | None = None
    wholes: Sequence[Whole] = ()


class Record(NamedTuple):
    """A session's row: what is searched, and the rest."""

    owner: str
    created_by: str
    create_time: int
    state: int
    phase: int
    title: str
    rest_time: int | None
    expire_time: int | None
    labels: tuple[tuple[str, str], ...]
    update_time: int
    last_sequence: int
    body: bytes

    @classmethod
    def of(cls, session: pb.Session) -> Record:
        """Make the row of a session."""
        return cls(
            session.owner,
            session.created_by,
            micros(session.create_time),
            session.state,
            session.phase,
            folded(session.title),
            micros(session.rest_time) if session.HasField("rest_time") else None,
            micros(session.expire_time) if session.HasField("expire_time") else None,
            tuple(sorted(session.labels.items())),
            micros(session.update_time),
            session.last_sequence,
            session.SerializeToString(),
        )

    @property
    def searched(self) -> tuple[object, ...]:
        """Columns that indexes have. They change rarely, and an update without them spares the indexes."""
        return self[:9]


@dataclass(slots=True, eq=False)
class Append:
    """A commit on its way to the disk, serialized."""

    tail: Tail
    future: asyncio.Future[int]
    events: Sequence[Event]
    record: Record | None
    turns: list[tuple[str, int, int, bytes]]
    requests: list[tuple[str, bytes]]
    request_id: RequestId | None
    wholes: Sequence[Whole]
    refused: Exception | None = None
    change: int = 0
    """The number that the write of its record got; 0 without a record."""

    @classmethod
    def of(cls, commit: Commit, tail: Tail, future: asyncio.Future[int], now: int) -> Append:
        """Serialize a commit: its owner may go on changing what it handed over."""
        used = commit.request_id
        return cls(
            tail,
            future,
            tuple(commit.events),
            Record.of(commit.session) if commit.session is not None else None,
            [(turn.turn_id, turn.number, turn.state, turn.SerializeToString()) for turn in commit.turns],
            [(turn_id, request.SerializeToString()) for turn_id, request in commit.requests.items()],
            replace(used, create_time=now) if used is not None and not used.create_time else used,
            tuple(commit.wholes),
        )

    @property
    def last(self) -> int:
        """The sequence of its last event; 0 without events."""
        return self.events[-1].sequence if self.events else 0

    def resolve(self) -> None:
        """Give the waiting caller the result or the refusal."""
        if self.refused is not None:
            fail(self.future, self.refused)
        elif not self.future.done():
            self.future.set_result(self.change)


@dataclass(slots=True, eq=False)
class Job(Generic[T]):
    """Something else to do within a group's transaction, in its place among the commits."""

    run: Callable[[], T]
    future: asyncio.Future[T]
    result: list[T] = field(default_factory=list)

    def resolve(self) -> None:
        """Give the waiting caller the result."""
        if not self.future.done():
            self.future.set_result(self.result[0])


def fail(future: asyncio.Future[Any], error: Exception) -> None:
    """Give a future its error. It counts as retrieved: failures are also told by `Ledger.wait_failed`."""
    if not future.done():
        future.set_exception(error)
        future.exception()
