"""Calls that race on one session."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import grpc
import grpc.aio
from agentpb import agent_pb2 as pb

from tests.chaos.looks import AT_REST
from tests.process.live import Live


@dataclass
class RaceReport:
    """The figures of races on one session."""

    rounds: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


async def race_once(live: Live, report: RaceReport, chance: random.Random) -> None:
    """Two cancels, a resume and a delete, all at once, on a session that is just beginning, at work, or at rest."""
    session_id = str(uuid4())
    start = pb.ExecuteRequest(session_id=session_id, prompt=chance.choice(("say: hi", "slow: 5")))
    await live.stub.Execute(start)
    if chance.random() < 0.3:
        await live.rest(session_id) if start.prompt == "say: hi" else await live.until(
            session_id, pb.SESSION_PHASE_WORKING
        )
    cancel = pb.CancelRequest(session_id=session_id, force=chance.random() < 0.3)
    resume = pb.ExecuteRequest(
        session_id=session_id, prompt="say: again", on_busy=chance.choice((pb.ON_BUSY_REJECT, pb.ON_BUSY_ENQUEUE))
    )
    delete = pb.DeleteSessionRequest(session_id=session_id, force=chance.random() < 0.5)
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: live.stub.Cancel(cancel),
        lambda: live.stub.Cancel(cancel),
        lambda: live.stub.Execute(resume),
        lambda: live.stub.DeleteSession(delete),
    ]
    chance.shuffle(calls)
    for name in await asyncio.gather(*(_answer(call, chance.random() * 0.05) for call in calls)):
        report.answers[name] += 1
        if name.startswith(("UNKNOWN", "INTERNAL")):
            report.failures.append(f"round {report.rounds}: {name}")
    await _come_to_rest(live, session_id, report)
    report.rounds += 1


async def _answer(call: Callable[[], Awaitable[Any]], delay: float) -> str:
    await asyncio.sleep(delay)
    try:
        answer = await call()
    except grpc.aio.AioRpcError as error:
        return (
            f"{error.code().name}: {(error.details() or '')[:40]}"
            if error.code().value[0] in (2, 13)
            else error.code().name
        )
    return f"OK {type(answer).__name__}"


async def _come_to_rest(live: Live, session_id: str, report: RaceReport) -> None:
    with suppress(grpc.aio.AioRpcError):
        status = await live.rest(session_id)
        if status.state not in AT_REST or status.session.HasField("current_turn"):
            report.failures.append(f"{session_id}: {pb.SessionPhase.Name(status.session.phase)}")
        await live.stub.DeleteSession(pb.DeleteSessionRequest(session_id=session_id, force=True))
