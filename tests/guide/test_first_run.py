"""The service explained by tests: a first run, its events, its resumption."""

from __future__ import annotations

from agentpb import agent_pb2 as pb

from tests.conftest import Service


async def test_a_run_uses_a_real_tool_and_reports_its_result(service: Service) -> None:
    response = await service.run(
        "bash: echo hello from a real tool\nsay: all done", options=pb.AgentOptions(allowed_tools=["Bash"])
    )
    assert response.state == pb.SESSION_STATE_COMPLETED
    assert "all done" in response.turn.result.result
    assert response.turn.result.cost_usd > 0
    assert response.session.total_cost_usd == response.turn.result.cost_usd
    events = await service.events(response.session_id)
    results = [
        block.tool_result.text
        for event in events
        if event.type == "message.user"
        for block in event.user_message.content
        if block.HasField("tool_result")
    ]
    assert results == ["hello from a real tool"]


async def test_the_log_is_numbered_without_gaps_and_tells_each_step(service: Service) -> None:
    response = await service.run("say: hi")
    events = await service.events(response.session_id)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    kinds = [event.type for event in events]
    assert kinds[:4] == ["state.changed", "turn.queued", "state.changed", "turn.started"]
    assert kinds[-2:] == ["turn.completed", "state.changed"]


async def test_a_resumed_session_remembers_and_keeps_its_options(service: Service) -> None:
    first = await service.run("say: one", options=pb.AgentOptions(system_prompt=pb.SystemPrompt(text="be brief")))
    second = await service.run("recall", session_id=first.session_id)
    assert "say: one" in second.turn.result.result
    assert second.session.options.system_prompt.text == "be brief"
    assert second.turn.number == 2


async def test_a_fork_begins_with_the_parents_conversation_and_leaves_it_alone(service: Service) -> None:
    parent = await service.run("say: the beginning")
    fork = await service.run("recall", fork_from=parent.session_id)
    assert fork.session_id != parent.session_id
    assert "say: the beginning" in fork.turn.result.result
    unchanged = await service.status(parent.session_id)
    assert unchanged.session.turn_count == 1
    assert unchanged.session.last_sequence == parent.session.last_sequence
