"""Small logs to test with: sessions, events, and a reader that reads to the end."""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from agentpb import agent_pb2 as pb

from agent_service.events import WATCH_EVENTS
from agent_service.ledger import Commit, Event, Ledger, SessionKey, key_of
from tests.rpc import split

START_US = 1_700_000_000_000_000
WORKING = (pb.SESSION_STATE_RUNNING, pb.SESSION_PHASE_WORKING)
DORMANT = (pb.SESSION_STATE_COMPLETED, pb.SESSION_PHASE_DORMANT)


def key(session_id: str, owner: str = "") -> SessionKey:
    """The name of a session, of the empty tenant unless another is named."""
    return SessionKey(owner, session_id)


def session(
    session_id: str = "", *, place: tuple[Any, Any] = WORKING, created: int = START_US, **fields: Any
) -> pb.Session:
    """A session's record; one at rest came to rest when it was created."""
    record = pb.Session(session_id=session_id or str(uuid.uuid4()), state=place[0], phase=place[1], **fields)
    record.create_time.FromMicroseconds(created)
    if not fields.get("update_time"):
        record.update_time.FromMicroseconds(created)
    if place[0] not in (pb.SESSION_STATE_PENDING, pb.SESSION_STATE_RUNNING):
        record.rest_time.FromMicroseconds(created)
    return record


def event(
    session_id: str | SessionKey,
    sequence: int,
    kind: str = "message.assistant",
    text: str = "",
    raw: bytes | None = None,
) -> Event:
    """A durable event, as the service would make it."""
    session_id = session_id.session_id if isinstance(session_id, SessionKey) else session_id
    body = pb.SessionEvent(session_id=session_id, sequence=sequence, type=kind)
    if text:
        body.stderr_output.text = text
    return Event(sequence, kind, body.SerializeToString(), raw)


def events(session_id: str | SessionKey, first: int, count: int, **fields: Any) -> list[Event]:
    """Consecutive events."""
    return [event(session_id, number, **fields) for number in range(first, first + count)]


def partial(text: str) -> Event:
    """An ephemeral event."""
    body = pb.SessionEvent(type="message.partial", ephemeral=True, partial_message=pb.PartialMessage(text=text))
    return Event(0, "message.partial", body.SerializeToString(), None)


async def begin(ledger: Ledger, record: pb.Session, count: int = 0) -> SessionKey:
    """Store a session with so many events; its name."""
    await ledger.append(Commit(key_of(record), session=record, events=events(record.session_id, 1, count)))
    return key_of(record)


async def read_on(ledger: Ledger, session_id: SessionKey, after: int = 0, **options: Any) -> list[Event]:
    """All that is visible past a sequence, batch by batch."""
    position, found = ledger.cursor(session_id, after), []
    while True:
        responses, position = await ledger.follow(session_id, position, **options)
        if not responses:
            return found
        found += shown(responses)


def shown(responses: list[bytes]) -> list[Event]:
    """The events in responses, as they tell it themselves."""
    bodies = [body for response in responses for body in split(response, WATCH_EVENTS)]
    parsed = map(pb.SessionEvent.FromString, bodies)
    return [Event(each.sequence, each.type, body, None) for each, body in zip(parsed, bodies, strict=True)]


def numbers(found: list[Event]) -> list[int]:
    """Their sequences."""
    return [each.sequence for each in found]


def rows(directory: Path, table: str) -> int:
    """How many rows a table has."""
    with closing(sqlite3.connect(directory / "ledger.db")) as db:
        return int(db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])


async def until(true: Callable[[], bool]) -> None:
    """Wait for what another thread brings about."""
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)
