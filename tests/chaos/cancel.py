"""Cancels of every kind of run, and whether the receipt is true."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from dataclasses import dataclass, field

from agentpb import agent_pb2 as pb

from tests.chaos.looks import all_events, processes_of
from tests.process.live import BASH, SLEEPER, Live

KINDS = {
    "streaming": "slow: 600",
    "silent": "wait: 600",
    "bash": f"bash: {SLEEPER}",
    "setsid": f"bash: setsid {SLEEPER} & (setsid {SLEEPER} &) ; {SLEEPER}",
    "deaf": "bash: python3 -c 'import signal as s,time; [s.signal(n, s.SIG_IGN) for n in (2, 15)]; time.sleep(600)'",
    "stopped": "slow: 600",
}


@dataclass
class CancelReport:
    """The figures of cancels of one kind."""

    seconds: list[float] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def p99(self) -> float:
        return sorted(self.seconds)[max(0, round(len(self.seconds) * 0.99) - 1)]


async def cancel_once(live: Live, kind: str, report: CancelReport, *, grace: float = 2.0, settle: float = 0.0) -> None:
    """Start a run of a kind, cancel it, and look whether the answer told the truth."""
    session_id = (await live.execute(KINDS[kind], options=BASH)).session_id
    await _at_work(live, session_id, kind)
    await asyncio.sleep(settle)
    mine = processes_of(live, (await live.status(session_id, history_limit=0)).session.agent_session_id)
    if kind == "stopped":
        for pid, name in mine.items():
            if name == "claude":
                os.kill(pid, signal.SIGSTOP)
    request = pb.CancelRequest(session_id=session_id, reason="enough")
    request.grace.FromMilliseconds(round(grace * 1000))
    begun = time.monotonic()
    response = await live.stub.Cancel(request)
    report.seconds.append(time.monotonic() - begun)
    report.outcomes[pb.CancelOutcome.Name(response.receipt.outcome).removeprefix("CANCEL_OUTCOME_")] += 1
    alive = processes_of(live, response.session.agent_session_id)
    if alive:
        report.failures.append(f"{kind}: alive when Cancel answered: {alive}")
    if not set(mine) <= set(response.receipt.process_ids):
        report.failures.append(f"{kind}: not on the receipt: {set(mine) - set(response.receipt.process_ids)}")
    if response.session.phase != pb.SESSION_PHASE_CANCELLED:
        report.failures.append(f"{kind}: {pb.SessionPhase.Name(response.session.phase)}")
    log = await all_events(live, session_id, response.session.last_sequence)
    kinds = [event.type for event in log if event.sequence <= response.session.last_sequence]
    if kinds[-2:] != ["turn.completed", "state.changed"] or log[-1].state_changed.reason != "enough":
        report.failures.append(f"{kind}: the log ends with {kinds[-2:]}")


async def _at_work(live: Live, session_id: str, kind: str) -> None:
    await live.until(session_id, pb.SESSION_PHASE_WORKING)
    wanted = {"bash": 1, "setsid": 3, "deaf": 1}.get(kind, 0)
    agent = (await live.status(session_id, history_limit=0)).session.agent_session_id
    deadline = time.monotonic() + 20
    while list(processes_of(live, agent).values()).count("python3") < wanted:
        assert time.monotonic() < deadline, "the tool did not start"
        await asyncio.sleep(0.02)
