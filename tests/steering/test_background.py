"""Background tasks: the result is in, the process is kept, its later events arrive, and then the session rests."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import grpc.aio
import pytest
from agentpb import agent_pb2 as pb

from tests.conftest import Service
from tests.interactions.conftest import asked, respond
from tests.steering.conftest import BASH, details, texts, turns

FOR_EVER = "background: python3 -c 'import time; time.sleep(600)'\nsay: end"


async def test_a_session_rests_only_after_its_background_tasks(service: Service) -> None:
    started = await service.execute("background: sleep 1; echo x\nsay: end", options=BASH)
    background = await service.until(started.session_id, pb.SESSION_PHASE_BACKGROUND)
    assert background.state == pb.SESSION_STATE_RUNNING
    assert not background.HasField("current_turn")
    assert not background.HasField("rest_time")
    early = await service.status(started.session_id)
    assert early.turn.state == pb.TURN_STATE_COMPLETED
    assert early.result.result == "end"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.execute("say: no", session_id=started.session_id)
    assert details(caught.value)[0] == "SESSION_BUSY"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.stub.SendMessage(pb.SendMessageRequest(session_id=started.session_id, text="say: no"))
    assert details(caught.value)[0] == "SESSION_NOT_ACTIVE"

    status = await service.rest(started.session_id)
    assert status.session.phase == pb.SESSION_PHASE_IDLE
    events = await service.events(started.session_id)
    kinds = [event.type for event in events]
    phases = [event.state_changed.phase for event in events if event.type == "state.changed"]
    assert phases[-2:] == [pb.SESSION_PHASE_BACKGROUND, pb.SESSION_PHASE_IDLE]
    assert kinds.index("turn.completed") < kinds.index("task.notification") < len(kinds) - 1
    assert kinds[-1] == "state.changed"
    [notification] = [event.task for event in events if event.type == "task.notification"]
    assert notification.status == "completed"
    assert any(text.startswith("noted:") for text in texts(events))
    assert len(turns(events)) == 1
    assert status.session.total_cost_usd > status.result.cost_usd


async def test_execute_waits_for_the_turn_and_not_for_its_background_tasks(service: Service) -> None:
    response = await service.run(FOR_EVER, options=BASH)
    assert response.turn.result.result == "end"
    assert response.session.phase == pb.SESSION_PHASE_BACKGROUND
    cancelled = await service.stub.Cancel(pb.CancelRequest(session_id=response.session_id))
    assert cancelled.session.phase == pb.SESSION_PHASE_CANCELLED
    assert not cancelled.already_at_rest
    assert cancelled.receipt.process_ids
    ended = turns(await service.events(response.session_id))
    assert [turn.state for turn in ended] == [pb.TURN_STATE_COMPLETED]


async def test_a_subagent_in_the_background_may_ask_after_the_result(service: Service) -> None:
    delegate = {"description": "d", "prompt": "bash: touch below\nsay: did it", "subagent_type": "general-purpose"}
    options = pb.AgentOptions(interactions=pb.InteractionPolicy(permissions=True))
    started = await service.run(f"tool: Agent {json.dumps(delegate)}\nsay: end", options=options)
    assert started.turn.result.result == "end"
    interaction = await asked(service, started.session_id)
    status = await service.status(started.session_id)
    assert status.session.phase == pb.SESSION_PHASE_AWAITING_PERMISSION
    assert status.state == pb.SESSION_STATE_RUNNING
    assert not status.session.HasField("current_turn")
    await respond(service, started.session_id, interaction.interaction_id, allow=pb.PermissionAllow())
    status = await service.rest(started.session_id)
    assert status.state == pb.SESSION_STATE_COMPLETED
    assert os.listdir(status.session.cwd) == ["below"]
    events = await service.events(started.session_id)
    phases = [event.state_changed.phase for event in events if event.type == "state.changed"]
    assert phases[-3:] == [
        pb.SESSION_PHASE_AWAITING_PERMISSION,
        pb.SESSION_PHASE_BACKGROUND,
        pb.SESSION_PHASE_IDLE,
    ]
    [task] = {event.task.task_id for event in events if event.type == "task.started"}
    assert task
    assert [event for event in events if event.parent_tool_use_id]


@pytest.mark.parametrize("on_busy", [pb.ON_BUSY_ENQUEUE, pb.ON_BUSY_INTERRUPT], ids=["enqueue", "interrupt"])
async def test_a_new_turn_does_not_wait_for_background_tasks(service: Service, on_busy: pb.OnBusy.ValueType) -> None:
    first = await service.run(FOR_EVER, options=BASH)
    second = await service.run("say: meanwhile", session_id=first.session_id, on_busy=on_busy)
    assert second.turn.result.result == "meanwhile"
    assert second.session.phase == pb.SESSION_PHASE_BACKGROUND
    await service.stub.Cancel(pb.CancelRequest(session_id=first.session_id, force=True))
    kinds = [event.type for event in await service.events(first.session_id)]
    assert kinds.count("turn.started") == kinds.count("turn.completed") == 2


async def test_background_tasks_have_a_limit(start: Callable[..., Any]) -> None:
    service: Service = await start(background_timeout=0.5)
    started = await service.run(FOR_EVER, options=BASH)
    status = await service.rest(started.session_id)
    assert status.session.phase == pb.SESSION_PHASE_TIMED_OUT
    assert "background tasks" in status.error.message
    assert status.turn.state == pb.TURN_STATE_COMPLETED
    assert status.result.result == "end"
