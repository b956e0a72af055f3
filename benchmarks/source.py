"""The service, with sessions in it that speak without an agent: a known number of events at a known rate.

`python -m benchmarks.source DIRECTORY SESSIONS RATE SECONDS partial|durable`. It says where it listens,
begins when a line comes in, and ends the sessions when it has said everything.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from uuid import UUID

from agentpb import agent_pb2 as pb

from agent_service.config import Config
from agent_service.host_share import calm_collector
from agent_service.ledger.journal import Journal
from agent_service.server import running
from agent_service.session.states import move

BEGINNING = (pb.SESSION_PHASE_QUEUED, pb.SESSION_PHASE_STARTING, pb.SESSION_PHASE_WORKING)
"""The phases through which a session gets to work; each is an event."""


def speaking(number: int) -> str:
    """The id of the session `number`."""
    return str(UUID(int=5000 + number))


def begin(ledger: object, number: int) -> Journal:
    """A session at work."""
    record = pb.Session(session_id=speaking(number), first_available_sequence=1, agent_session_id=speaking(number))
    record.create_time.GetCurrentTime()
    journal = Journal(record, ledger, new=True)  # type: ignore[arg-type]
    for phase in BEGINNING:
        move(journal, phase)
    return journal


def say(journal: Journal, partial: bool) -> None:
    """One more event."""
    if partial:
        event = pb.SessionEvent(type="message.partial", ephemeral=True)
        event.partial_message.text = "word " * 4
        journal.publish(event, turn_id="")
    else:
        event = pb.SessionEvent(type="message.assistant")
        event.assistant_message.content.add().text.text = "word " * 20
        journal.add(event)
        journal.commit()


async def speak(journal: Journal, rate: float, count: int, partial: bool) -> None:
    """Say `count` things, each at its time, and come to rest."""
    begun = time.monotonic()
    for number in range(count):
        await asyncio.sleep(begun + number / rate - time.monotonic())
        say(journal, partial)
    move(journal, pb.SESSION_PHASE_DORMANT)
    await journal.commit()


async def appended(journals: list[Journal], each: int) -> float:
    """Seconds that many durable events take, one commit each, from all sessions at once."""
    begun = time.monotonic()

    async def write(journal: Journal) -> None:
        for _ in range(each):
            say(journal, False)
            await journal.keep_up()
            await asyncio.sleep(0)
        await journal.flushed()

    await asyncio.gather(*(write(journal) for journal in journals))
    return time.monotonic() - begun


async def main(directory: Path, sessions: int, rate: float, seconds: float, how: str) -> None:
    """Serve, speak, and say what was said."""
    config = Config(data_dir=directory, listen=("127.0.0.1:0",), model="offline", warm_agents=0, auth="none")
    async with running(config) as service:
        journals = [begin(service.ledger, number) for number in range(sessions)]
        await asyncio.gather(*(journal.commit() for journal in journals))
        calm_collector()  # as `serve` does
        print(f"source listening on {service.address}", flush=True)
        line = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
        while (order := (await line).strip()) not in ("", "end"):
            if order == "append":
                each = int(seconds * rate)
                took = await appended(journals, each)
                print(json.dumps({"events": each * sessions, "seconds": took}), flush=True)
            else:
                count = int(rate * seconds)
                await asyncio.gather(*(speak(journal, rate, count, how == "partial") for journal in journals))
                print(json.dumps({"events": count}), flush=True)
            line = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]), sys.argv[5]))
