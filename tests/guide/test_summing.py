"""The service explained by tests: summing. Tokens are told once for each message, and completely for each turn."""

from __future__ import annotations

from collections import Counter

from agent_client import AgentClient
from agentpb import agent_pb2 as pb

from tests.conftest import Service

PROMPT = "think: first\nsay: then\nbash: echo hi\nsay: " + "words " * 100


async def test_the_tokens_of_messages_in_several_parts_add_up_to_those_of_the_turn(service: Service) -> None:
    options = pb.AgentOptions(allowed_tools=["Bash"], include_partial_messages=True)
    done = await service.execute(PROMPT, options=options)
    events = await service.events(done.session_id)
    result = (await service.rest(done.session_id)).result
    parts = [event.assistant_message for event in events if event.type == "message.assistant"]
    assert max(Counter(part.message_id for part in parts).values()) == 3
    assert sum(part.usage.input_tokens for part in parts) == result.usage.input_tokens > 0
    assert all(count == 1 for count in Counter(part.message_id for part in parts if part.HasField("usage")).values())
    ends = [event.partial_message for event in events if event.partial_message.event_type == "message_delta"]
    assert sum(end.usage.output_tokens for end in ends) == result.usage.output_tokens > 100
    assert [end.stop_reason for end in ends] == ["tool_use", "end_turn"]
    assert result.stop_reason == "end_turn"


async def test_messages_of_a_subagent_are_told_once_too(service: Service) -> None:
    task = '{"description": "look", "prompt": "think: a\\\\nsay: b", "subagent_type": "general-purpose"}'
    done = await service.run(f"say: now\ntool: Agent {task}", options=pb.AgentOptions(forward_subagent_text=True))
    events = [event for event in await service.events(done.session_id) if event.type == "message.assistant"]
    of_subagent = [event for event in events if event.parent_tool_use_id]
    assert of_subagent
    told = Counter(event.assistant_message.message_id for event in events if event.assistant_message.HasField("usage"))
    assert set(told) == {event.assistant_message.message_id for event in events}
    assert set(told.values()) == {1}


async def test_a_part_that_was_cut_repeats_no_tokens_when_it_is_read_whole(service: Service) -> None:
    done = await service.run(f"think: short\nsay: {'x' * 400_000}")
    [first, second] = [e for e in await service.events(done.session_id) if e.type == "message.assistant"]
    async with AgentClient(service.running.address) as client:
        whole = await client.complete(done.session_id, second)
    assert len(whole.assistant_message.content[0].text.text) == 400_000
    assert first.assistant_message.HasField("usage")
    assert not whole.assistant_message.HasField("usage")
