"""What becomes of an interaction when its turn ends first: it is withdrawn, and a late answer is told so."""

from __future__ import annotations

from pathlib import Path

import grpc.aio
import pytest
from agentpb import agent_pb2 as pb

from agent_service.session import interactions
from tests.conftest import Service
from tests.interactions.conftest import details, policy, respond, start_asking
from tests.process.live import serve


async def resolved(service: Service, session_id: str) -> pb.Interaction:
    """The one interaction of the session, which was asked once and resolved once."""
    events = await service.events(session_id)
    requested = [event.interaction_requested.interaction for event in events if event.type == "interaction.requested"]
    found = [event.interaction_resolved.interaction for event in events if event.type == "interaction.resolved"]
    assert [each.interaction_id for each in requested] == [each.interaction_id for each in found]
    assert len(found) == 1
    return found[0]


async def refused(service: Service, session_id: str, interaction_id: str, key: str = "") -> dict[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await respond(service, session_id, interaction_id, key=key, allow=pb.PermissionAllow())
    reason, metadata = details(caught.value)
    assert reason == "INTERACTION_CLOSED"
    return metadata


@pytest.mark.parametrize("how", ["cancel", "interrupt"])
async def test_stopping_a_turn_withdraws_what_it_asks(service: Service, how: str) -> None:
    session_id, interaction = await start_asking(service, "bash: touch asked")
    if how == "cancel":
        await service.stub.Cancel(pb.CancelRequest(session_id=session_id))
    else:
        await service.stub.Interrupt(pb.InterruptRequest(session_id=session_id))
    status = await service.status(session_id)
    assert not status.session.pending_interactions
    assert status.state == pb.SESSION_STATE_CANCELLED
    withdrawn = await resolved(service, session_id)
    assert withdrawn.state == pb.INTERACTION_STATE_WITHDRAWN
    assert withdrawn.resolved_by == "cancel"
    metadata = await refused(service, session_id, interaction.interaction_id)
    assert metadata == {"resolved_by": "cancel", "state": "INTERACTION_STATE_WITHDRAWN"}


async def test_a_death_of_the_service_withdraws_what_was_asked(tmp_path: Path) -> None:
    async with serve(tmp_path / "data") as service:
        session_id, interaction = await start_asking(service, "bash: touch asked")
        await service.kill()
    async with serve(tmp_path / "data") as service:
        status = await service.status(session_id)
        assert status.session.phase == pb.SESSION_PHASE_INTERRUPTED
        assert not status.session.pending_interactions
        withdrawn = await resolved(service, session_id)
        assert withdrawn.state == pb.INTERACTION_STATE_WITHDRAWN
        assert withdrawn.resolved_by == "restart"
        metadata = await refused(service, session_id, interaction.interaction_id)
        assert metadata == {"resolved_by": "restart", "state": "INTERACTION_STATE_WITHDRAWN"}


async def test_an_answer_is_known_after_a_restart(tmp_path: Path) -> None:
    async with serve(tmp_path / "data") as service:
        session_id, interaction = await start_asking(service, "bash: touch asked")
        first = await respond(service, session_id, interaction.interaction_id, key="k", allow=pb.PermissionAllow())
        assert not first.deduplicated
        await service.rest(session_id)
        await service.kill()
    async with serve(tmp_path / "data") as service:
        again = await respond(service, session_id, interaction.interaction_id, key="k", allow=pb.PermissionAllow())
        assert again.deduplicated
        assert again.interaction == first.interaction
        metadata = await refused(service, session_id, interaction.interaction_id, key="another")
        assert metadata["resolved_by"] == first.interaction.resolved_by


@pytest.mark.parametrize("limit", ["MAX_PENDING", "MAX_PENDING_BYTES"])
async def test_a_question_beyond_what_may_be_pending_is_denied_and_the_log_says_so(
    service: Service, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(interactions, limit, 0)
    done = await service.run("bash: touch asked\nresult", options=policy())
    assert not done.session.pending_interactions
    events = await service.stub.ListEvents(
        pb.ListEventsRequest(session_id=done.session_id, event_types=["warning", "interaction.*"])
    )
    [warning] = [event.warning for event in events.events]
    assert warning.code == "TOO_MANY_QUESTIONS"
    assert "nobody was asked" in warning.message
    assert "Bash" in warning.message
