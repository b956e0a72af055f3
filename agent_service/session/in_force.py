"""Mode, model and effort as the agent reports them, kept in the session's record for the next turn."""

from __future__ import annotations

from typing import Any

from agentpb import agent_pb2 as pb

from agent_service.agents.in_force import InForce, Setting
from agent_service.events import clean
from agent_service.ledger import Journal
from agent_service.options import EFFORTS, PERMISSION_MODES

MODES: dict[str, Any] = {word: mode for mode, word in PERMISSION_MODES.items()}
EFFORT_NUMBERS: dict[str, Any] = {word: effort for effort, word in EFFORTS.items()}


def follow(journal: Journal, now: InForce) -> None:
    """Write what is in force into the record, and into its options what the agent has changed; the caller commits.

    A turn that names no mode, model or effort inherits the options: so it goes on with what was in force at the end of
    the turn before, with this agent, with another one after a restart, and in a fork.
    """
    _follow_mode(journal, now.permission_mode)
    if now.model.take_change():
        model = clean(now.model.value or "")
        with journal.update() as record:
            record.options.model = model
            if record.model:  # set only once there is a transcript to resume
                record.model = model
        now.effort.take_change()  # another model has another effort of its own, which nobody has named
    if now.effort.value and now.effort.value != journal.record.effort:
        with journal.update() as record:
            record.effort = clean(now.effort.value)
    if now.effort.take_change() and now.effort.value in EFFORT_NUMBERS:
        with journal.update() as record:
            record.options.effort = EFFORT_NUMBERS[now.effort.value]


def _follow_mode(journal: Journal, mode: Setting) -> None:
    reported = MODES.get(mode.value or "")
    if reported is None:
        return
    if reported != journal.record.permission_mode:
        with journal.update() as record:
            record.permission_mode = reported
    if mode.take_change():
        with journal.update() as record:
            record.options.permission_mode = reported


def agree(journal: Journal, named: pb.AgentOptions, options: pb.AgentOptions) -> None:
    """Let the record and a turn's `options` agree, as the agent may have reported a change since they were resolved.

    What the turn's request `named` holds; the rest is as the record has it now.
    """
    for name in ("model", "permission_mode", "effort"):
        value, current = getattr(named, name), getattr(journal.record.options, name)
        if value and value != current:
            with journal.update() as record:
                setattr(record.options, name, value)
        elif not value and current:
            setattr(options, name, current)
