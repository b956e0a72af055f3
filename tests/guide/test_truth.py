"""What the service says of a session is what is so: the mode, the model and the effort that its agent works with."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from agentpb import agent_pb2 as pb

from tests.conftest import Service
from tests.interactions.conftest import asked, policy, respond, start_asking

PLAN, DEFAULT = pb.PERMISSION_MODE_PLAN, pb.PERMISSION_MODE_DEFAULT
WRITE = 'tool: Write {"file_path": "written.txt", "content": "x"}\nresult'


async def planned(service: Service, **options: Any) -> pb.Session:
    """A session whose plan was approved, at rest."""
    response = await service.execute(
        'tool: ExitPlanMode {"plan": "write a file"}\nsay: planned',
        options=pb.AgentOptions(
            permission_mode=PLAN, interactions=pb.InteractionPolicy(permissions=True, questions=True), **options
        ),
    )
    plan = await asked(service, response.session_id)
    assert plan.tool_name == "ExitPlanMode"
    await respond(service, response.session_id, plan.interaction_id, allow=pb.PermissionAllow())
    return (await service.rest(response.session_id)).session


async def test_an_approved_plan_ends_plan_mode_and_the_session_says_so(service: Service) -> None:
    session = await planned(service)
    assert session.permission_mode == DEFAULT
    assert session.options.permission_mode == DEFAULT


async def test_a_turn_that_demands_plan_mode_has_it_although_the_agent_left_it_before(service: Service) -> None:
    session = await planned(service, allowed_tools=["Write"])
    await service.execute(WRITE, session_id=session.session_id, options=pb.AgentOptions(permission_mode=PLAN))
    asking = await asked(service, session.session_id)
    assert asking.tool_name == "Write"
    await respond(service, session.session_id, asking.interaction_id, deny=pb.PermissionDeny())
    again = await service.rest(session.session_id)
    assert again.session.permission_mode == PLAN
    assert os.listdir(session.cwd) == []


@pytest.mark.parametrize("agent", ["the same", "another"])
async def test_a_turn_that_names_no_mode_goes_on_in_the_one_that_was_in_force(
    start: Callable[..., Any], agent: str
) -> None:
    service = await start(idle_timeout=300.0 if agent == "the same" else 0.05)
    session = await planned(service, allowed_tools=["Write"])
    if agent == "another":
        await service.until(session.session_id, pb.SESSION_PHASE_DORMANT)
    again = await service.run(WRITE, session_id=session.session_id)
    assert again.session.permission_mode == DEFAULT
    assert os.listdir(session.cwd) == ["written.txt"]


async def test_a_fork_begins_in_the_mode_that_is_in_force(service: Service) -> None:
    session = await planned(service)
    fork = await service.run("say: forked", fork_from=session.session_id)
    assert fork.session.permission_mode == DEFAULT


async def test_an_agent_that_enters_plan_mode_by_itself_is_in_plan_mode(service: Service) -> None:
    first = await service.run("tool: EnterPlanMode {}\nsay: planning", options=policy())
    assert first.session.permission_mode == PLAN
    again = await service.run(
        WRITE, session_id=first.session_id, options=pb.AgentOptions(permission_mode=pb.PERMISSION_MODE_ACCEPT_EDITS)
    )
    assert again.session.permission_mode == pb.PERMISSION_MODE_ACCEPT_EDITS
    assert os.listdir(again.session.cwd) == ["written.txt"]


async def test_a_mode_that_is_cleared_returns_to_the_agents_own(service: Service) -> None:
    first = await service.run("tool: EnterPlanMode {}\nsay: planning", options=policy())
    again = await service.run("say: on", session_id=first.session_id, clear_options=["permission_mode"])
    assert again.session.permission_mode == DEFAULT


async def test_an_answer_that_switches_the_mode_changes_what_is_in_force(service: Service) -> None:
    session_id, interaction = await start_asking(service, WRITE)
    assert [each.type for each in interaction.suggestions] == ["setMode"]
    allow = pb.PermissionAllow(updated_permissions=interaction.suggestions)
    await respond(service, session_id, interaction.interaction_id, allow=allow)
    status = await service.rest(session_id)
    assert status.session.permission_mode == pb.PERMISSION_MODE_ACCEPT_EDITS
    named = pb.AgentOptions(permission_mode=DEFAULT)
    await service.execute(WRITE.replace("written", "second"), session_id=session_id, options=named)
    await asked(service, session_id)


@pytest.mark.parametrize("agent", ["the same", "another"])
async def test_a_model_that_a_prompt_chose_is_shown_and_stays_until_another_is_named(
    start: Callable[..., Any], agent: str
) -> None:
    service = await start(idle_timeout=300.0 if agent == "the same" else 0.05)
    first = await service.run("request: model")
    assert first.turn.result.result == "offline"
    chosen = await service.run("/model opus", session_id=first.session_id)
    assert chosen.session.model.startswith("claude-opus")
    if agent == "another":
        await service.until(first.session_id, pb.SESSION_PHASE_DORMANT)
    later = await service.run("request: model", session_id=first.session_id)
    assert later.turn.result.result == later.session.model == chosen.session.model
    named = await service.run("request: model", session_id=first.session_id, options=pb.AgentOptions(model="offline"))
    assert named.turn.result.result == named.session.model == "offline"


async def test_a_model_that_was_named_holds_again_when_it_is_named_again(service: Service) -> None:
    named = pb.AgentOptions(model="claude-sonnet-4-5")
    first = await service.run("request: model", options=named)
    await service.run("/model opus", session_id=first.session_id)
    again = await service.run("request: model", session_id=first.session_id, options=named)
    assert again.turn.result.result == "claude-sonnet-4-5"


async def test_the_effort_in_force_is_shown_and_one_that_is_named_holds(service: Service) -> None:
    high, opus = pb.AgentOptions(effort=pb.EFFORT_HIGH, model="opus"), "request: output_config.effort"
    first = await service.run(opus, options=high)
    assert (first.turn.result.result, first.session.effort) == ("high", "high")
    changed = await service.run("/effort low", session_id=first.session_id)
    assert changed.session.effort == "low"
    later = await service.run(opus, session_id=first.session_id)
    assert (later.turn.result.result, later.session.effort) == ("low", "low")
    again = await service.run(opus, session_id=first.session_id, options=high)
    assert (again.turn.result.result, again.session.effort) == ("high", "high")


async def test_without_a_named_mode_the_session_shows_the_agents_own(service: Service) -> None:
    response = await service.run("say: x", options=policy())
    assert response.session.permission_mode == DEFAULT
    assert response.session.options.permission_mode == pb.PERMISSION_MODE_UNSPECIFIED
    assert response.session.effort
