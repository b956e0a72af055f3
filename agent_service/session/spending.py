"""Spending: counts a session's tokens and cost while its agent works, so that a killed turn is counted too.

The totals of the session are those of its last result and of what the agent has used since: the agent is asked in
mid-turn, and once more before it is killed. So a turn that is killed, or whose agent or service dies, is counted up to
the last answer or, where that knew less, by the tokens of the messages in the log; a request to the model that was in
flight is in neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from agentpb import agent_pb2 as pb

from agent_service import events
from agent_service.agents.agent import Agent
from agent_service.events import RunningTotals, add_usage
from agent_service.ledger import Journal

ASK_AFTER = 1.0
"""Seconds after a message in which a turn that is about to end ends: a question would only slow its result down."""
ASK_EVERY = 2.0
"""Seconds between two questions of a turn that goes on."""
PATIENCE = 5.0
"""Seconds that an agent at work may take to answer."""


class Spending:
    """The totals of one session, counted from its agent's results, answers and messages."""

    def __init__(self, journal: Journal) -> None:
        """Count into the record of `journal`."""
        self._journal = journal
        self._totals = RunningTotals()
        """What the agent's process counts up to the last result."""
        self._told = pb.TurnResult()
        """The figures of its last answer, since the last result."""
        self._messages: dict[str, pb.Usage] = {}
        """The usage of each message since the last result, by the API's message id: its parts repeat it."""
        self._cost = 0.0
        self._usage = pb.Usage()
        self._asking: asyncio.Task[None] | None = None
        self._asked = 0.0
        self._settle()

    def begin(self, totals: RunningTotals) -> None:
        """Count an agent's process that begins with these totals; what was counted of the last one stands."""
        self.stop_asking()
        self._totals = totals
        self._settle()

    def result(self, frame: Mapping[str, Any]) -> pb.TurnResult:
        """Count a result in place of what was known of its turn; returns the turn's figures."""
        self.stop_asking()
        result, self._totals = events.turn_result(frame, self._totals)
        self._show(self._cost + result.cost_usd, _usage_of(result))
        self._settle()
        return result

    def message(self, event: pb.SessionEvent, agent: Agent | None) -> None:
        """Count the tokens of an assistant's message, and ask the agent for the rest if the turn goes on."""
        message = event.assistant_message
        known = self._messages.setdefault(message.message_id, pb.Usage())
        _raise(known, message.usage)
        self._show_open()
        if agent is not None and (self._asking is None or self._asking.done()):
            goes_on = any(block.HasField("tool_use") for block in message.content)
            self._asking = asyncio.create_task(self._ask_soon(agent, 0.0 if goes_on else ASK_AFTER), name="usage")

    async def ask(self, agent: Agent, *, patience: float) -> None:
        """Ask the agent what it has used, and count that; nothing changes if it does not answer in time."""
        told = await agent.usage(patience=patience)
        if told is None:
            return
        figures, totals = events.turn_result(told, self._totals)
        if totals.cost_usd < self._totals.cost_usd or figures.cost_usd < self._told.cost_usd:
            return  # an answer from before the last result, or of a conversation that was cleared meanwhile
        self._told = figures
        if self._show_open():
            self._journal.commit()

    def stop_asking(self) -> None:
        """Give up a question that is under way."""
        if self._asking is not None:
            self._asking.cancel()
            self._asking = None

    async def _ask_soon(self, agent: Agent, delay: float) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(delay, self._asked + ASK_EVERY - loop.time()))
        self._asked = loop.time()
        await self.ask(agent, patience=PATIENCE)

    def _settle(self) -> None:
        """Take what is counted so far as the base of what comes."""
        record = self._journal.record
        self._cost, self._usage = record.total_cost_usd, pb.Usage()
        self._usage.CopyFrom(record.total_usage)
        self._told, self._messages = pb.TurnResult(), {}

    def _show_open(self) -> bool:
        """Count what is known since the last result; whether that is more than before."""
        usage = pb.Usage()
        for each in self._messages.values():
            add_usage(usage, each)
        _raise(usage, _usage_of(self._told))
        return self._show(self._cost + self._told.cost_usd, usage)

    def _show(self, cost: float, usage: pb.Usage) -> bool:
        total = pb.Usage()
        total.CopyFrom(self._usage)
        add_usage(total, usage)
        record = self._journal.record
        if (record.total_cost_usd, record.total_usage) == (cost, total):
            return False
        with self._journal.update() as record:
            record.total_cost_usd = cost
            record.total_usage.CopyFrom(total)
        return True


def _usage_of(result: pb.TurnResult) -> pb.Usage:
    """Tokens of all models, subagents included; `result.usage` has those of the main conversation only."""
    if not result.model_usage:
        return result.usage
    usage = pb.Usage()
    for model in result.model_usage.values():
        add_usage(usage, model.usage)
    return usage


def _raise(usage: pb.Usage, least: pb.Usage) -> None:
    """Let no figure of `usage` be below that of `least`."""
    for field in pb.Usage.DESCRIPTOR.fields:
        setattr(usage, field.name, max(getattr(usage, field.name), getattr(least, field.name)))
