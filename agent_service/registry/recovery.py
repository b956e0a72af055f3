"""Recovery: what the service does at its start with sessions that its last run left at work.

Queued turns are kept and run. A running turn ends as ERROR/INTERRUPTED, unless its restart policy lets it continue. No
cursor, no request id and no cost is lost: all of that was in the ledger before anybody was told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

from agentpb import agent_pb2 as pb

from agent_service import events
from agent_service.agents.conversations import Conversation
from agent_service.agents.workspace import conversation_of
from agent_service.ledger import Journal, Ledger, SessionKey, now_us
from agent_service.session import outcomes
from agent_service.session.states import move
from agent_service.session.turn import QueuedTurn, end_turn, may_continue, requeue, set_expiry

log = logging.getLogger(__name__)


async def recover(ledger: Ledger) -> list[tuple[Journal, list[QueuedTurn]]]:
    """End or queue again what was left at work; the sessions that have turns to run, oldest turn first."""
    left, commits = [], []
    for record in await ledger.unfinished():
        journal, waiting = await _recover_session(ledger, record)
        commits.append(journal.commit())
        if waiting:
            left.append((journal, waiting))
    await asyncio.gather(*commits)
    left.sort(key=lambda each: each[1][0].turn.create_time.ToMicroseconds())
    if left:
        log.info("%d sessions go on after the restart", len(left))
    return left


async def _recover_session(ledger: Ledger, record: pb.Session) -> tuple[Journal, list[QueuedTurn]]:
    journal = Journal(record, ledger, new=False)
    last_sequence, message_count = await ledger.log_counts(journal.key)
    with journal.update() as written:
        written.last_sequence, written.message_count = last_sequence, message_count
    if record.phase == pb.SESSION_PHASE_IDLE:
        move(journal, pb.SESSION_PHASE_DORMANT, reason="the service was restarted")
        return journal, []
    await _withdraw_interactions(ledger, journal)
    turns = await ledger.turns(journal.key, states=(pb.TURN_STATE_QUEUED, pb.TURN_STATE_RUNNING))
    waiting = [
        QueuedTurn(turn, await _request_of(ledger, turn), fork_of=await _fork_of(ledger, record)) for turn in turns
    ]
    running = next((queued for queued in waiting if queued.turn.state == pb.TURN_STATE_RUNNING), None)
    what = "the turn ran" if running is not None else "background tasks were at work"
    outcome = outcomes.interrupted(f"the service ended while {what}; the next Execute resumes the conversation")
    if running is not None:
        waiting.remove(running)
        waiting = _continued(journal, running, outcome) + waiting
    await _note_recorded(ledger, journal.key, waiting)
    with journal.update() as written:
        del written.pending_interactions[:]
        written.ClearField("current_turn")
        written.queued_turn_count = len(waiting)
    if not waiting:
        move(journal, outcome.phase, error=outcome.error, reason="the service was restarted")
        set_expiry(journal, running.request if running is not None else pb.ExecuteRequest())
    return journal, waiting


def _continued(journal: Journal, queued: QueuedTurn, outcome: outcomes.Outcome) -> list[QueuedTurn]:
    """The interrupted turn again when its policy says so, otherwise nothing: it has ended."""
    turn = queued.turn
    if may_continue(queued):
        requeue(turn)
        journal.turn_changed(turn)
        return [queued]
    end_turn(turn, outcome, None)
    journal.turn_changed(turn)
    journal.add(events.turn_completed(turn), turn_id=turn.turn_id)
    return []


async def _note_recorded(ledger: Ledger, key: SessionKey, waiting: list[QueuedTurn]) -> None:
    """Mark the turns whose prompt is in the log: they had begun before."""
    restarted = {queued.turn.turn_id: queued for queued in waiting if queued.turn.restart_count}
    if not restarted:
        return
    async for event in _events(ledger, key, ("turn.started",)):
        turn_id = event.turn_started.turn.turn_id
        if turn_id in restarted:
            restarted[turn_id].recorded = True


async def _withdraw_interactions(ledger: Ledger, journal: Journal) -> None:
    """Resolve what the agent had asked and nobody answered: its process is gone."""
    open_ones: dict[str, tuple[pb.Interaction, list[str]]] = {}
    async for event in _events(ledger, journal.key, ("interaction.requested", "interaction.resolved")):
        if event.HasField("interaction_requested"):
            interaction = event.interaction_requested.interaction
            open_ones[interaction.interaction_id] = interaction, list(event.truncated_fields)
        else:
            open_ones.pop(event.interaction_resolved.interaction.interaction_id, None)
    for interaction, cut in open_ones.values():
        interaction.state = pb.INTERACTION_STATE_WITHDRAWN
        interaction.resolved_by = "restart"
        interaction.resolve_time.FromMicroseconds(now_us())
        withdrawn = events.interaction_resolved(interaction)
        withdrawn.truncated_fields.extend(
            path.replace("interaction_requested", "interaction_resolved", 1) for path in cut
        )
        journal.add(withdrawn, turn_id=interaction.turn_id)


async def _events(ledger: Ledger, key: SessionKey, types: tuple[str, ...]) -> AsyncIterator[pb.SessionEvent]:
    """All events of some types, oldest first. A read is bounded in bytes, so it takes several."""
    after = 0
    while page := await ledger.read(key, after, types=types):
        for stored in page:
            yield pb.SessionEvent.FromString(stored.body)
        after = page[-1].sequence


async def _request_of(ledger: Ledger, turn: pb.Turn) -> pb.ExecuteRequest:
    request = await ledger.turn_request(turn.turn_id)
    return request if request is not None else pb.ExecuteRequest(prompt=turn.prompt)


async def _fork_of(ledger: Ledger, record: pb.Session) -> Conversation | None:
    if not record.parent_session_id:
        return None
    parent = await ledger.session(SessionKey(record.owner, record.parent_session_id))
    return conversation_of(parent) if parent is not None else None
