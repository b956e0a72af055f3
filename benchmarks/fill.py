"""Fills a data directory as a busy past would have left it. `python -m benchmarks.fill DIRECTORY SESSIONS EVENTS`."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from uuid import UUID, uuid4

from agentpb import agent_pb2 as pb

from agent_service import events
from agent_service.ledger import Commit, Event, Ledger

LONG = str(UUID(int=1))
"""The one session that has all the events."""


def session_id(number: int) -> str:
    """The id of a filled session: known to whoever asks for it later."""
    return str(UUID(int=1000 + number))


def body(session: str, sequence: int, at: int, text: str) -> Event:
    """An assistant's message of about 300 bytes."""
    event = pb.SessionEvent(type="message.assistant")
    event.assistant_message.model = "offline"
    event.assistant_message.content.add().text.text = text
    sealed = events.seal(event, session_id=session, sequence=sequence, time_us=at, turn_id=str(UUID(int=7)))
    return Event(sequence, "message.assistant", sealed, None)


def commit(session: str, count: int, at: int) -> Commit:
    """A finished session: its record, its turn, its last state and `count` messages."""
    turn = pb.Turn(turn_id=str(uuid4()), number=1, state=pb.TURN_STATE_COMPLETED, prompt="hello")
    record = pb.Session(
        session_id=session,
        state=pb.SESSION_STATE_COMPLETED,
        phase=pb.SESSION_PHASE_DORMANT,
        turn_count=1,
        model="offline",
        agent_session_id=str(uuid4()),
        last_sequence=count + 1,
        first_available_sequence=1,
        message_count=count,
        labels={"team": "bench"},
    )
    for stamp in (record.create_time, record.update_time, record.rest_time, turn.create_time, turn.end_time):
        stamp.FromMicroseconds(at)
    moved = pb.SessionEvent(type="state.changed")
    moved.state_changed.state = record.state
    last = events.seal(moved, session_id=session, sequence=count + 1, time_us=at, turn_id=turn.turn_id)
    log = [body(session, number, at, "a" * 150) for number in range(1, count + 1)]
    return Commit(session, [*log, Event(count + 1, "state.changed", last, None)], record, [turn])


async def fill(directory: Path, sessions: int, long: int) -> None:
    """Write `sessions` of five messages, and one of `long`."""
    await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
    at = time.time_ns() // 1000 - 3600_000_000
    async with Ledger(directory) as ledger:
        pending = []
        for number in range(sessions):
            pending.append(ledger.append(commit(session_id(number), 5, at + number)))
            if len(pending) == 2000:
                await asyncio.gather(*pending)
                pending.clear()
        if long:
            pending.append(ledger.append(commit(LONG, long, at)))
        await asyncio.gather(*pending)


if __name__ == "__main__":
    asyncio.run(fill(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
