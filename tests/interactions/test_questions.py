"""A question of the agent: it waits for an answer, and the answer is what the model reads."""

from __future__ import annotations

import grpc.aio
import pytest
from agentpb import agent_pb2 as pb

from tests.conftest import Service
from tests.interactions.conftest import details, respond, start_asking


async def test_a_question_is_answered_and_the_model_reads_it(service: Service) -> None:
    session_id, question = await start_asking(service, "ask: Which colour? | red | blue\nresult")
    assert question.kind == pb.INTERACTION_KIND_QUESTION
    [asked] = question.questions
    assert asked.text == "Which colour?"
    assert [option.label for option in asked.options] == ["red", "blue"]
    status = await service.status(session_id)
    assert status.session.phase == pb.SESSION_PHASE_AWAITING_INPUT

    for answer in ({}, {"updated_permissions": [pb.PermissionUpdate(type="setMode", mode="plan")]}):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await respond(service, session_id, question.interaction_id, allow=pb.PermissionAllow(**answer))
        assert details(caught.value)[0] == "INTERACTION_KIND_MISMATCH"

    allow = pb.PermissionAllow(answers={"Which colour?": "a shade of green"})
    response = await respond(service, session_id, question.interaction_id, allow=allow)
    assert dict(response.interaction.answers) == {"Which colour?": "a shade of green"}
    status = await service.rest(session_id)
    assert "a shade of green" in status.result.result


async def test_a_question_may_be_refused(service: Service) -> None:
    session_id, question = await start_asking(service, "ask: Which colour? | red | blue\nresult")
    await respond(service, session_id, question.interaction_id, deny=pb.PermissionDeny(message="ask me tomorrow"))
    status = await service.rest(session_id)
    assert "ask me tomorrow" in status.result.result


async def test_without_questions_in_the_policy_the_tool_for_them_is_not_there(service: Service) -> None:
    options = pb.AgentOptions(interactions=pb.InteractionPolicy(permissions=True))
    response = await service.run("ask: Which colour? | red | blue\nresult\nrequest: tools", options=options)
    assert response.state == pb.SESSION_STATE_COMPLETED
    assert "AskUserQuestion" not in response.turn.result.result
