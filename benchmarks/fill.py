"""Fills a data directory as a busy past would have left it. `python -m benchmarks.fill DIRECTORY SESSIONS EVENTS`."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from uuid import UUID

from agentpb import agent_pb2 as pb

from agent_service import events
from agent_service.ledger import Commit, Event, Ledger, SessionKey
from agent_service.ledger.chain import links
from agent_service.ledger.commits import Record
from agent_service.ledger.directory import take
from agent_service.ledger.sqlite import schema
from agent_service.ledger.sqlite.file import FILE, open_file

LONG = str(UUID(int=1))
"""The one session that has all the events."""
MESSAGES = 5
AT_ONCE = 5000
"""Sessions in a transaction."""
_ANY, _ANY_TURN = str(UUID(int=2)), str(UUID(int=3))
"""The ids in the pattern; each session has its own in their place."""
_PATH = (
    (pb.SESSION_STATE_RUNNING, pb.SESSION_PHASE_WORKING),
    (pb.SESSION_STATE_COMPLETED, pb.SESSION_PHASE_IDLE),
    (pb.SESSION_STATE_COMPLETED, pb.SESSION_PHASE_DORMANT),
)
"""How a session comes to rest, and gives up its process later."""


def session_id(number: int) -> str:
    """The id of a filled session: known to whoever asks for it later."""
    return str(UUID(int=1000 + number))


def turn_of(at: int) -> pb.Turn:
    """A turn that has ended, with a result as it comes from a real agent."""
    turn = pb.Turn(turn_id=_ANY_TURN, number=1, state=pb.TURN_STATE_COMPLETED, prompt="bash: echo hello")
    for stamp in (turn.create_time, turn.start_time, turn.end_time):
        stamp.FromMicroseconds(at)
    result = pb.TurnResult(subtype="success", result="done", stop_reason="end_turn", terminal_reason="completed")
    turn.result.CopyFrom(result)
    turn.result.num_turns = 2
    turn.result.duration.FromMilliseconds(272)
    turn.result.usage.MergeFrom(pb.Usage(input_tokens=15, output_tokens=8))
    turn.result.model_usage["offline"].usage.CopyFrom(turn.result.usage)
    turn.result.cost_usd = 0.00022
    return turn


def log(session: str, turn: pb.Turn, count: int, at: int) -> list[Event]:
    """What a session's log holds after a turn of `count` messages of about 300 bytes."""
    message = pb.SessionEvent(type="message.assistant")
    message.assistant_message.model = "offline"
    message.assistant_message.content.add().text.text = "a" * 150
    moves, place = [], (pb.SESSION_STATE_UNSPECIFIED, pb.SESSION_PHASE_UNSPECIFIED)
    for state, phase in _PATH:
        moves.append(events.state_changed(from_state=place[0], from_phase=place[1], state=state, phase=phase))
        place = (state, phase)
    found = []
    told = [moves[0], *[message] * count, events.turn_completed(turn), *moves[1:]]
    for sequence, event in enumerate(told, 1):
        turn_id = turn.turn_id if event is not moves[-1] else ""
        body = events.seal(event, session_id=session, sequence=sequence, time_us=at, turn_id=turn_id)
        found.append(Event(sequence, event.type, body, None))
    return found


def record_of(session: str, turn: pb.Turn, count: int, at: int) -> pb.Session:
    """A session after that turn, as it is stored."""
    record = pb.Session(
        session_id=session,
        state=_PATH[-1][0],
        phase=_PATH[-1][1],
        turn_count=1,
        model="offline",
        permission_mode=pb.PERMISSION_MODE_DEFAULT,
        agent_session_id=session,
        last_sequence=count + 4,
        first_available_sequence=1,
        message_count=count,
        labels={"team": "bench"},
        cwd=f"/var/lib/agent-service/sessions/{session}/work",
        options=pb.AgentOptions(allowed_tools=["Bash"]),
        total_usage=turn.result.usage,
        total_cost_usd=turn.result.cost_usd,
    )
    for stamp in (record.create_time, record.update_time, record.rest_time):
        stamp.FromMicroseconds(at)
    return record


def rows(numbers: range, at: int) -> Iterator[tuple[tuple[object, ...], tuple[object, ...], list[tuple[object, ...]]]]:
    """The rows of finished sessions: of the session, of its turn, of its events; a pattern with other ids in it."""
    turn = turn_of(at)
    pattern, record = log(_ANY, turn, MESSAGES, at), record_of(_ANY, turn, MESSAGES, at)
    turn_body = turn.SerializeToString()
    for number in numbers:
        key, session, turn_id = number + 1, session_id(number), str(UUID(int=number << 64))
        record.session_id = record.agent_session_id = session
        record.cwd = f"/var/lib/agent-service/sessions/{session}/work"
        for stamp in (record.create_time, record.update_time, record.rest_time):
            stamp.FromMicroseconds(at + number)
        made = Record.of(record)
        searched = (made.state, made.phase, made.title, made.update_time, made.rest_time, made.expire_time)
        ids = (_ANY.encode(), session.encode()), (_ANY_TURN.encode(), turn_id.encode())
        yield (
            (key, "", session, made.created_by, made.create_time, *searched, made.last_sequence, key, made.body),
            (turn_id, key, turn.number, turn.state, turn_body.replace(*ids[1])),
            list(chained(key, pattern, *ids)),
        )


def chained(
    key: int, pattern: list[Event], *ids: tuple[bytes, bytes]
) -> Iterator[tuple[int, int, str, bytes, None, int]]:
    """The rows of a session's events, each with its link of the chain of checksums."""
    events = [event._replace(body=_replaced(event.body, ids)) for event in pattern]
    for event, checksum in zip(events, links(0, events), strict=True):
        yield key, event.sequence, event.type, event.body, None, checksum


def _replaced(body: bytes, ids: Sequence[tuple[bytes, bytes]]) -> bytes:
    for old, new in ids:
        body = body.replace(old, new)
    return body


def fill_sessions(directory: Path, sessions: int, at: int) -> None:
    """Write finished sessions as the ledger's writer would, but many at once and with no one waiting for each."""
    lock = take(directory)
    with closing(open_file(directory / FILE)) as db:
        for first in range(0, sessions, AT_ONCE):
            of_sessions, of_turns, of_events = zip(*rows(range(first, min(first + AT_ONCE, sessions)), at), strict=True)
            db.execute("BEGIN")
            db.executemany(schema.INSERT_SESSION, of_sessions)
            db.executemany(schema.INSERT_LABEL, ((each[0], "team", "bench", "", each[4]) for each in of_sessions))
            db.executemany(schema.UPSERT_TURN, of_turns)
            db.executemany(schema.INSERT_EVENTS[1], chain.from_iterable(of_events))
            db.execute(schema.SET_LAST_CHANGE, (of_sessions[-1][0],))
            db.execute("COMMIT")
    os.close(lock)


async def fill(directory: Path, sessions: int, long: int) -> None:
    """Write `sessions` of five messages, and one of `long`."""
    await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
    at = time.time_ns() // 1000 - 3600_000_000
    if sessions:
        await asyncio.to_thread(fill_sessions, directory, sessions, at)
    if long:
        turn = turn_of(at)
        async with Ledger(directory) as ledger:
            commit = Commit(SessionKey("", LONG), log(LONG, turn, long, at), record_of(LONG, turn, long, at), [turn])
            await ledger.append(commit)


if __name__ == "__main__":
    asyncio.run(fill(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
