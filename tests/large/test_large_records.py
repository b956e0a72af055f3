"""Whatever the model, the tools and the questions contain, every answer of the service arrives."""

from __future__ import annotations

from typing import Any

import pytest
from agentpb import agent_pb2 as pb

from agent_service.events.limits import MAX_RESPONSE
from tests.conftest import Service
from tests.interactions.conftest import policy, respond

MIB = 1 << 20
LONG = "x" * 1_900_000
"""As long a text as a prompt can ask the offline model for."""


def small(response: Any) -> Any:
    """The response, which has at most the size that the service keeps to."""
    assert response.ByteSize() <= MAX_RESPONSE
    return response


async def status_of(service: Service, session_id: str) -> pb.GetStatusResponse:
    """A status with as many messages as can be asked for."""
    status = await service.status(session_id, history_limit=1000)
    assert small(status) is status
    return status


@pytest.mark.parametrize(
    ("prompt", "options"),
    [
        (f"say: {LONG}", {}),
        (f'json: {{"a": "{LONG}"}}', {"output_schema_json": '{"type": "object"}'}),
        ("\n".join(f"bash: echo {'z' * 90_000} > /etc/{n}" for n in range(20)), {}),
    ],
    ids=["final text", "structured output", "denials"],
)
async def test_a_result_of_megabytes_can_be_read(service: Service, prompt: str, options: Any) -> None:
    done = await service.run(prompt, options=pb.AgentOptions(**options))
    assert small(done).turn.state == pb.TURN_STATE_COMPLETED
    status = await status_of(service, done.session_id)
    assert "prompt" in status.turn.truncated_fields
    assert status.result.truncated_fields
    small(await service.stub.ListSessions(pb.ListSessionsRequest()))
    events = await service.events(done.session_id)
    [ended] = [event for event in events if event.type == "turn.completed"]
    assert {f"turn_completed.turn.result.{name}" for name in status.result.truncated_fields} <= {
        *ended.truncated_fields
    }


async def test_large_questions_of_one_session_hide_no_other(service: Service) -> None:
    first = await service.execute(f"ask: {'q' * MIB} | {'a' * 400_000} | {'b' * 400_000}", options=policy())
    other = await service.run("say: hi")
    session = await service.until(first.session_id, pb.SESSION_PHASE_AWAITING_INPUT)
    [pending] = session.pending_interactions
    assert pending.input_truncated
    await status_of(service, first.session_id)
    page = small(await service.stub.ListSessions(pb.ListSessionsRequest()))
    assert {each.session_id for each in page.sessions} == {first.session_id, other.session_id}
    answered = await respond(service, first.session_id, pending.interaction_id, deny={"message": "n" * 2 * MIB})
    assert small(answered).interaction.state == pb.INTERACTION_STATE_DENIED
    done = await service.rest(first.session_id)
    assert small(done).state == pb.SESSION_STATE_COMPLETED


async def test_options_as_large_as_can_be_are_shown_with_their_session(service: Service) -> None:
    agents = {f"a{n}": pb.AgentDefinition(description="d" * 5000, prompt="p" * 5000) for n in range(80)}
    options = pb.AgentOptions(agents=agents, env={f"V{n}": "1" for n in range(5000)})
    done = await service.run(f"say: {LONG}", options=options)
    status = await status_of(service, done.session_id)
    assert len(status.session.options.agents) == 80
    assert not status.session.truncated_fields
