"""A question of the agent: it waits for an answer, and the answer is what the model reads."""

from __future__ import annotations

import json
from typing import Any

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


TWO = (
    'tool: AskUserQuestion {"questions": ['
    '{"question": "Which colour?", "header": "Colour", "multiSelect": true,'
    ' "options": [{"label": "red", "description": "r"}, {"label": "blue", "description": "b"}]},'
    '{"question": "Which size?", "header": "Size", "multiSelect": false,'
    ' "options": [{"label": "small", "description": "s"}, {"label": "large", "description": "l"}]}]}\nresult'
)


async def test_the_documented_way_of_the_agents_own_library_answers_too(service: Service) -> None:
    session_id, question = await start_asking(service, TWO)
    given = {
        "questions": json.loads(question.input_json)["questions"],
        "answers": {"Which colour?": ["red", "blue"], "Which size?": "large"},
    }
    allow = pb.PermissionAllow(updated_input_json=json.dumps(given))
    response = await respond(service, session_id, question.interaction_id, allow=allow)
    assert dict(response.interaction.answers) == {"Which colour?": "red, blue", "Which size?": "large"}
    status = await service.rest(session_id)
    assert "red, blue" in status.result.result
    assert "large" in status.result.result


async def test_an_answer_under_a_header_goes_to_the_question_with_that_header(service: Service) -> None:
    session_id, question = await start_asking(service, TWO)
    response = await respond(
        service, session_id, question.interaction_id, allow=pb.PermissionAllow(answers={"Size": "small"})
    )
    assert dict(response.interaction.answers) == {"Which size?": "small"}
    status = await service.rest(session_id)
    assert '"Which size?"="small"' in status.result.result


async def test_a_response_in_words_to_all_questions_reaches_the_model(service: Service) -> None:
    session_id, question = await start_asking(service, TWO)
    allow = pb.PermissionAllow(updated_input_json='{"response": "ask my colleague"}')
    await respond(service, session_id, question.interaction_id, allow=allow)
    status = await service.rest(session_id)
    assert "ask my colleague" in status.result.result


@pytest.mark.parametrize(
    ("answer", "field"),
    [
        ({"answers": {"Which shape?": "round"}}, 'allow.answers["Which shape?"]'),
        ({"answers": {"Which size?": " "}}, 'allow.answers["Which size?"]'),
        ({"answers": {"Which size?": "small", "Size": "large"}}, "a second time"),
        ({"answers": {"": "small"}}, 'allow.answers[""]'),
        ({"updated_input_json": "{}"}, "allow.answers"),
        ({"updated_input_json": '{"answers": {}}'}, "allow.answers"),
        ({"updated_input_json": '{"answers": {"Which size?": 1}}'}, 'updated_input_json.answers["Which size?"]'),
        ({"updated_input_json": '{"response": " "}'}, "allow.answers"),
        ({"updated_input_json": '{"questions": [], "answers": {"Which size?": "small"}}'}, "must be left out"),
    ],
    ids=["unknown", "blank", "twice", "no-key", "nothing", "empty", "number", "blank-response", "other-questions"],
)
async def test_what_answers_nothing_is_refused_and_the_question_stays_open(
    service: Service, answer: dict[str, Any], field: str
) -> None:
    session_id, question = await start_asking(service, TWO)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await respond(service, session_id, question.interaction_id, allow=pb.PermissionAllow(**answer))
    assert details(caught.value)[0] == "INVALID_FIELD"
    assert field in str(caught.value.details())
    status = await service.status(session_id)
    assert [each.interaction_id for each in status.session.pending_interactions] == [question.interaction_id]
    await respond(service, session_id, question.interaction_id, allow=pb.PermissionAllow(answers={"Size": "large"}))
    status = await service.rest(session_id)
    assert "large" in status.result.result


async def test_whoever_names_no_question_reads_the_questions_that_there_are(service: Service) -> None:
    session_id, question = await start_asking(service, TWO)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await respond(service, session_id, question.interaction_id, allow=pb.PermissionAllow(answers={"q1": "red"}))
    assert "Which colour?" in str(caught.value.details())
    assert "Which size?" in str(caught.value.details())
