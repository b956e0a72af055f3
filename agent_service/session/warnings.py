"""Warnings: what a turn asked for and its agent has not, once in the log and for as long as it lasts in the session."""

from __future__ import annotations

from typing import Any

from agentpb import agent_pb2 as pb

from agent_service import events
from agent_service.ledger import Journal
from agent_service.options import MAX_WARNINGS, missing


class Warnings:
    """The warnings of one session."""

    def __init__(self, journal: Journal) -> None:
        """Write to `journal`; the caller commits."""
        self._journal = journal
        self._agent: object = None
        self._of_settings: list[str] = []
        """What `_agent` said of its settings: it does so in the first turn of its process only."""

    def observe(self, frame: dict[str, Any], options: pb.AgentOptions, *, agent: object, turn_id: str) -> None:
        """Compare a system frame of `agent` with the options of the turn."""
        if agent is not self._agent:
            self._agent, self._of_settings = agent, []
        found = missing(frame, options)
        before = list(self._journal.record.warnings)
        if frame.get("subtype") == "init":
            now = [warning.message for warning in found] + self._of_settings
        elif found:
            self._of_settings += [warning.message for warning in found]
            now = [*before, *self._of_settings]
        else:
            return
        now = [events.clean(text) for text in dict.fromkeys(now)][:MAX_WARNINGS]
        for warning in found:
            warning.message = events.clean(warning.message)
            if warning.message not in before:
                self._journal.add(events.warning(warning), turn_id=turn_id)
        if now != before:
            with self._journal.update() as record:
                record.warnings[:] = now
