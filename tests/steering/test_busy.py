"""Execute on a session at work: refused, queued, or in place of what runs. The queue is in sight and survives."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from agentpb import agent_pb2 as pb

from tests.conftest import Service
from tests.interactions.conftest import start_asking
from tests.process.live import serve
from tests.steering.conftest import BASH, details, turns

QUEUE = pb.ON_BUSY_ENQUEUE


async def begin(service: Service, prompt: str = "slow: 30") -> pb.ExecuteResponse:
    started = await service.execute(prompt)
    await service.until_begun(started.session_id, started.turn.turn_id)
    return started


async def test_a_session_at_work_refuses_a_turn_unless_told_otherwise(service: Service) -> None:
    started = await begin(service)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.execute("say: no", session_id=started.session_id)
    assert details(caught.value)[0] == "SESSION_BUSY"
    await service.stub.Cancel(pb.CancelRequest(session_id=started.session_id))


async def test_queued_turns_are_in_sight_and_run_in_order(service: Service) -> None:
    first = await begin(service, "slow: 1")
    second, third = [
        await service.execute(f"say: {word}", session_id=first.session_id, on_busy=QUEUE) for word in ("two", "three")
    ]
    assert [second.turn.state, third.turn.state] == [pb.TURN_STATE_QUEUED, pb.TURN_STATE_QUEUED]
    assert [second.turn.number, third.turn.number] == [2, 3]
    status = await service.status(first.session_id)
    assert status.session.queued_turn_count == 2
    assert status.turn.turn_id == first.turn.turn_id
    rested = await service.rest(first.session_id)
    assert rested.session.queued_turn_count == 0
    events = await service.events(first.session_id)
    assert [turn.result.result[:5] for turn in turns(events)] == ["tick ", "two", "three"]
    queued = [event.turn_queued.turn.turn_id for event in events if event.type == "turn.queued"]
    assert queued == [each.turn.turn_id for each in (first, second, third)]
    watched = await service.events(first.session_id, after_sequence=third.watch_after_sequence)
    assert watched[0].type == "turn.queued"
    assert watched[0].turn_queued.turn.turn_id == third.turn.turn_id


async def test_an_interrupting_turn_overtakes_the_queue(service: Service) -> None:
    first = await begin(service)
    queued = await service.execute("say: queued", session_id=first.session_id, on_busy=QUEUE)
    urgent = await service.run("say: urgent", session_id=first.session_id, on_busy=pb.ON_BUSY_INTERRUPT)
    assert urgent.turn.result.result == "urgent"
    await service.rest(first.session_id)
    ended = turns(await service.events(first.session_id))
    assert [(turn.turn_id, turn.state) for turn in ended] == [
        (first.turn.turn_id, pb.TURN_STATE_CANCELLED),
        (urgent.turn.turn_id, pb.TURN_STATE_COMPLETED),
        (queued.turn.turn_id, pb.TURN_STATE_COMPLETED),
    ]


async def test_an_interrupting_turn_runs_behind_a_current_turn_that_waits_for_a_place(
    start: Callable[..., Any],
) -> None:
    service = await start(max_sessions=1)
    busy = await begin(service)
    first = await service.execute("say: first")
    await service.execute("say: queued", session_id=first.session_id, on_busy=QUEUE)
    await service.execute("say: urgent", session_id=first.session_id, on_busy=pb.ON_BUSY_INTERRUPT)
    await service.stub.Cancel(pb.CancelRequest(session_id=busy.session_id))
    await service.rest(first.session_id)
    ended = turns(await service.events(first.session_id))
    assert [turn.result.result for turn in ended] == ["first", "urgent", "queued"]


async def test_a_queued_turn_runs_with_what_the_turns_that_ran_before_it_set(service: Service) -> None:
    first = await begin(service)

    async def ask(on_busy: pb.OnBusy.ValueType = QUEUE, **options: Any) -> pb.ExecuteResponse:
        request = pb.ExecuteRequest(prompt="request: model", session_id=first.session_id, on_busy=on_busy)
        request.options.CopyFrom(pb.AgentOptions(**options))
        if options.get("model") == "offline-never":
            request.queue_timeout.FromMilliseconds(1)
        return await service.stub.Execute(request)

    never = await ask(model="offline-never")
    await service.until_event(
        first.session_id, lambda event: event.type == "turn.completed" and event.turn_id == never.turn.turn_id
    )
    last = [await ask(permission_mode=pb.PERMISSION_MODE_PLAN), await ask(model="offline-named"), await ask()]
    urgent = await ask(pb.ON_BUSY_INTERRUPT, model="offline-urgent")
    rested = await service.rest(first.session_id)
    ended = {turn.turn_id: turn.result.result for turn in turns(await service.events(first.session_id))}
    assert ended[never.turn.turn_id] == ""
    assert [ended[each.turn.turn_id] for each in (urgent, *last)] == [
        "offline-urgent",
        "offline-urgent",
        "offline-named",
        "offline-named",
    ]
    assert rested.session.options.permission_mode == pb.PERMISSION_MODE_PLAN


async def test_an_interrupt_keeps_the_session_and_its_queue(service: Service) -> None:
    first = await begin(service)
    second = await service.execute("recall", session_id=first.session_id, on_busy=QUEUE)
    other = await service.stub.Interrupt(pb.InterruptRequest(session_id=first.session_id, turn_id=second.turn.turn_id))
    assert not other.interrupted
    assert other.session.phase == pb.SESSION_PHASE_WORKING
    this = await service.stub.Interrupt(pb.InterruptRequest(session_id=first.session_id, turn_id=first.turn.turn_id))
    assert this.interrupted
    status = await service.rest(first.session_id)
    assert status.turn.turn_id == second.turn.turn_id
    assert "slow: 30" in status.result.result
    at_rest = await service.stub.Interrupt(pb.InterruptRequest(session_id=first.session_id))
    assert not at_rest.interrupted


async def test_a_cancel_drops_the_queue_in_one_commit(service: Service) -> None:
    first = await begin(service)
    for _ in range(2):
        await service.execute("say: never", session_id=first.session_id, on_busy=QUEUE)
    cancelled = await service.stub.Cancel(pb.CancelRequest(session_id=first.session_id, reason="enough"))
    assert cancelled.session.queued_turn_count == 0
    events = await service.events(first.session_id)
    assert [turn.state for turn in turns(events)] == [pb.TURN_STATE_CANCELLED] * 3
    dropped = [index for index, event in enumerate(events) if event.type == "turn.completed"][:2]
    together = events[dropped[0] : dropped[0] + 3]
    assert [event.type for event in together] == ["turn.completed", "turn.completed", "state.changed"]
    assert together[2].state_changed.phase == pb.SESSION_PHASE_STOPPING
    assert together[2].state_changed.reason == "enough"
    starts = [event for event in events if event.type == "turn.started"]
    assert len(starts) == 1


async def test_a_failed_turn_cancels_the_queue_behind_it(service: Service) -> None:
    first = await begin(service, "slow: 1\nfail: 400")
    queued = await service.execute("say: never", session_id=first.session_id, on_busy=QUEUE)
    status = await service.rest(first.session_id)
    assert status.session.phase == pb.SESSION_PHASE_FAILED
    ended = turns(await service.events(first.session_id))
    assert [(turn.turn_id, turn.state) for turn in ended] == [
        (first.turn.turn_id, pb.TURN_STATE_ERROR),
        (queued.turn.turn_id, pb.TURN_STATE_CANCELLED),
    ]


async def test_queued_turns_survive_the_services_death(tmp_path: Path) -> None:
    async with serve(tmp_path / "data") as service:
        first = await begin(service)
        queued = [
            await service.execute(f"say: {word}", session_id=first.session_id, on_busy=QUEUE)
            for word in ("two", "three")
        ]
        await service.kill()
    async with serve(tmp_path / "data") as service:
        status = await service.rest(first.session_id)
        assert status.session.phase in (pb.SESSION_PHASE_IDLE, pb.SESSION_PHASE_DORMANT)
        ended = turns(await service.events(first.session_id))
        assert [(turn.turn_id, turn.state) for turn in ended] == [
            (first.turn.turn_id, pb.TURN_STATE_ERROR),
            (queued[0].turn.turn_id, pb.TURN_STATE_COMPLETED),
            (queued[1].turn.turn_id, pb.TURN_STATE_COMPLETED),
        ]
        assert ended[2].result.result == "three"


async def test_options_of_a_queued_turn_hold_from_its_beginning(service: Service) -> None:
    first = await begin(service, "slow: 1")
    queued = await service.execute(
        "bash: echo allowed\nresult", session_id=first.session_id, on_busy=QUEUE, options=BASH
    )
    assert not queued.session.options.allowed_tools
    status = await service.rest(first.session_id)
    assert status.result.result == "allowed"
    assert list(status.session.options.allowed_tools) == ["Bash"]


async def test_a_refusal_says_since_when_the_session_is_at_work_and_what_it_waits_for(service: Service) -> None:
    session_id, asked = await start_asking(service, "bash: touch asked\nresult")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.execute("say: more", session_id=session_id)
    text = str(caught.value.details())
    assert "turn 1 awaits an answer to a permission prompt (SESSION_PHASE_AWAITING_PERMISSION, since 20" in text
    assert asked.interaction_id in text
    assert "answer it with RespondToInteraction" in text
    metadata = details(caught.value)[1]
    assert metadata["interaction_id"] == asked.interaction_id
    assert metadata["since"].endswith("Z")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id=session_id))
    assert details(caught.value)[1] == metadata
    await service.stub.Cancel(pb.CancelRequest(session_id=session_id, force=True))
