"""A tool call that needs leave: it waits, somebody answers, and the answer is what happens."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from agentpb import agent_pb2 as pb
from google.protobuf.duration_pb2 import Duration

from tests.conftest import Service
from tests.interactions.conftest import asked, details, policy, respond, results, start_asking, texts
from tests.rpc import token_in

JAVASCRIPT = Path(__file__).parent / "javascript"
PROTO = Path(__file__).parents[2] / "proto" / "agent.proto"


def size_of(session: pb.Session, name: str) -> int:
    """Bytes of a file where the agent worked."""
    return os.path.getsize(os.path.join(session.cwd, name))


async def test_a_run_that_needs_leave_waits_where_everybody_sees_it(service: Service) -> None:
    session_id, interaction = await start_asking(service, "bash: touch asked\nresult")
    assert interaction.kind == pb.INTERACTION_KIND_PERMISSION
    assert interaction.state == pb.INTERACTION_STATE_PENDING
    assert interaction.tool_name == "Bash"
    assert "touch asked" in interaction.input_json
    assert interaction.tool_use_id
    assert interaction.title
    assert not interaction.HasField("expire_time")
    status = await service.status(session_id)
    assert status.session.phase == pb.SESSION_PHASE_AWAITING_PERMISSION
    assert interaction.turn_id == status.turn.turn_id
    listing = pb.ListSessionsRequest(
        filter=pb.SessionFilter(phases=[pb.SESSION_PHASE_AWAITING_PERMISSION, pb.SESSION_PHASE_AWAITING_INPUT])
    )
    found = await service.stub.ListSessions(listing)
    assert [session.session_id for session in found.sessions] == [session_id]
    assert [each.interaction_id for each in found.sessions[0].pending_interactions] == [interaction.interaction_id]
    info = await service.stub.GetServerInfo(pb.GetServerInfoRequest())
    assert info.load.pending_interactions == 1

    response = await respond(service, session_id, interaction.interaction_id, allow=pb.PermissionAllow())
    assert response.interaction.state == pb.INTERACTION_STATE_ALLOWED
    assert response.interaction.resolved_by
    assert not response.session.pending_interactions
    rested = await service.rest(session_id)
    assert os.listdir(rested.session.cwd) == ["asked"]
    found = await service.stub.ListSessions(listing)
    assert not found.sessions


@pytest.fixture(scope="module")
def node() -> str:
    """Node with the packages of the lock file."""
    program, npm = shutil.which("node"), shutil.which("npm")
    if program is None or npm is None:
        pytest.skip("node and npm are not here: they run the client in another language")
    if not (JAVASCRIPT / "node_modules" / ".package-lock.json").exists():
        subprocess.run(
            [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"], cwd=JAVASCRIPT, check=True
        )
    return program


async def test_a_program_in_another_language_allows_an_edited_command(service: Service, node: str) -> None:
    started = await service.execute("bash: touch as-proposed\nresult", options=policy())
    program = await asyncio.create_subprocess_exec(
        *(node, JAVASCRIPT / "approve.js", service.running.address, PROTO, started.session_id, "echo as edited"),
        env={**os.environ, "AGENT_TOKEN": token_in(service.data_dir)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    said, wrong = await asyncio.wait_for(program.communicate(), 30)
    assert program.returncode == 0, wrong.decode()
    assert said.decode().splitlines() == [
        "Bash INTERACTION_STATE_ALLOWED",
        "WATCH_END_REASON_AT_REST SESSION_STATE_COMPLETED",
    ]
    events = await service.events(started.session_id)
    assert results(events) == ["as edited"]
    status = await service.status(started.session_id)
    assert os.listdir(status.session.cwd) == []
    [resolved] = [event.interaction_resolved.interaction for event in events if event.type == "interaction.resolved"]
    assert "echo as edited" in resolved.updated_input_json


async def test_the_model_reads_why_it_was_denied_and_goes_on(service: Service) -> None:
    session_id, interaction = await start_asking(service, "bash: touch asked\nresult\nsay: then something else")
    deny = pb.PermissionDeny(message="use the other branch")
    response = await respond(service, session_id, interaction.interaction_id, deny=deny)
    assert response.interaction.state == pb.INTERACTION_STATE_DENIED
    assert response.interaction.message == "use the other branch"
    status = await service.rest(session_id)
    assert status.state == pb.SESSION_STATE_COMPLETED
    said = texts(await service.events(session_id))
    assert "use the other branch" in said[0]
    assert said[1] == "then something else"
    assert [denial.tool_name for denial in status.result.permission_denials] == ["Bash"]


async def test_a_denial_may_stop_the_turn(service: Service) -> None:
    session_id, interaction = await start_asking(service, "bash: touch asked\nsay: not reached")
    await respond(service, session_id, interaction.interaction_id, deny=pb.PermissionDeny(interrupt=True))
    status = await service.rest(session_id)
    assert status.session.phase == pb.SESSION_PHASE_INTERRUPTED_BY_CLIENT
    assert texts(await service.events(session_id)) == []
    again = await service.run("recall", session_id=session_id)
    assert "touch asked" in again.turn.result.result


@pytest.mark.parametrize(
    ("on_timeout", "phase"),
    [
        (pb.ON_TIMEOUT_DENY, pb.SESSION_PHASE_IDLE),
        (pb.ON_TIMEOUT_INTERRUPT, pb.SESSION_PHASE_INTERRUPTED_BY_CLIENT),
    ],
    ids=["deny", "interrupt"],
)
async def test_what_nobody_answers_ends_at_the_deadline(
    service: Service, on_timeout: pb.OnTimeout.ValueType, phase: pb.SessionPhase.ValueType
) -> None:
    session_id, interaction = await start_asking(
        service, "bash: touch asked\nsay: went on", timeout=Duration(nanos=300_000_000), on_timeout=on_timeout
    )
    assert interaction.HasField("expire_time")
    status = await service.rest(session_id)
    assert status.session.phase == phase
    events = await service.events(session_id)
    [resolved] = [event.interaction_resolved.interaction for event in events if event.type == "interaction.resolved"]
    assert resolved.state == pb.INTERACTION_STATE_EXPIRED
    assert resolved.resolved_by == "timeout"
    assert ("went on" in texts(events)) == (on_timeout == pb.ON_TIMEOUT_DENY)
    assert os.listdir(status.session.cwd) == []


async def test_a_rule_that_is_remembered_saves_the_next_question(service: Service) -> None:
    session_id, interaction = await start_asking(service, "bash: touch one\nbash: touch two\nbash: touch three")
    assert interaction.suggestions
    remember = pb.PermissionUpdate(type="addRules", behavior="allow", rules=[pb.PermissionRule(tool_name="Bash")])
    await respond(
        service, session_id, interaction.interaction_id, allow=pb.PermissionAllow(updated_permissions=[remember])
    )
    status = await service.rest(session_id)
    assert sorted(os.listdir(status.session.cwd)) == ["one", "three", "two"]
    kinds = [event.type for event in await service.events(session_id)]
    assert kinds.count("interaction.requested") == kinds.count("interaction.resolved") == 1


async def test_the_agents_own_suggestion_can_be_passed_back(service: Service) -> None:
    session_id, interaction = await start_asking(service, "bash: touch one\nbash: touch one")
    await respond(
        service,
        session_id,
        interaction.interaction_id,
        allow=pb.PermissionAllow(updated_permissions=interaction.suggestions),
    )
    status = await service.rest(session_id)
    assert status.state == pb.SESSION_STATE_COMPLETED
    kinds = [event.type for event in await service.events(session_id)]
    assert kinds.count("interaction.requested") == 1


async def test_unset_is_never_yes_and_what_cannot_be_followed_is_refused(service: Service) -> None:
    session_id, interaction = await start_asking(service, "bash: touch asked")
    bad: list[tuple[dict[str, Any], str, str]] = [
        ({}, "INVALID_FIELD", "answer"),
        ({"allow": pb.PermissionAllow(answers={"a": "b"})}, "INTERACTION_KIND_MISMATCH", ""),
        ({"allow": pb.PermissionAllow(updated_input_json="[1]")}, "INVALID_FIELD", "allow.updated_input_json"),
        ({"allow": pb.PermissionAllow(updated_input_json="{")}, "INVALID_FIELD", "allow.updated_input_json"),
        (
            {"allow": pb.PermissionAllow(updated_permissions=[pb.PermissionUpdate(type="addRule")])},
            "INVALID_FIELD",
            "allow.updated_permissions[0].type",
        ),
    ]
    for answer, reason, field in bad:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await respond(service, session_id, interaction.interaction_id, **answer)
        assert details(caught.value)[0] == reason
        assert field in str(caught.value.details())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await respond(service, session_id, "no-such-one", allow=pb.PermissionAllow())
    assert details(caught.value)[0] == "INTERACTION_NOT_FOUND"
    status = await service.status(session_id)
    assert status.session.phase == pb.SESSION_PHASE_AWAITING_PERMISSION
    await respond(service, session_id, interaction.interaction_id, deny=pb.PermissionDeny())
    await service.rest(session_id)


async def test_where_nobody_may_be_asked_the_answer_is_no(service: Service) -> None:
    response = await service.run("bash: touch asked\nresult")
    assert response.state == pb.SESSION_STATE_COMPLETED
    assert response.turn.result.permission_denials
    only_questions = pb.AgentOptions(interactions=pb.InteractionPolicy(questions=True))
    response = await service.run("bash: touch asked\nresult", options=only_questions)
    assert "Nobody can be asked" in response.turn.result.result
    kinds = {event.type for event in await service.events(response.session_id)}
    assert "interaction.requested" not in kinds


async def test_each_tool_call_is_an_interaction_of_its_own(service: Service) -> None:
    session_id, first = await start_asking(service, "bash: touch one\nbash: touch two")
    await respond(service, session_id, first.interaction_id, allow=pb.PermissionAllow())
    second = await asked(service, session_id)
    assert second.interaction_id != first.interaction_id
    await respond(service, session_id, second.interaction_id, allow=pb.PermissionAllow())
    status = await service.rest(session_id)
    assert sorted(os.listdir(status.session.cwd)) == ["one", "two"]


async def test_a_tools_input_that_is_long_is_cut_where_it_is_shown_and_whole_where_it_runs(service: Service) -> None:
    content = "x" * 600_000
    session_id, interaction = await start_asking(
        service, f'tool: Write {{"file_path": "long.txt", "content": "{content}"}}'
    )
    assert len(interaction.input_json) <= 256 << 10
    response = await respond(service, session_id, interaction.interaction_id, allow=pb.PermissionAllow())
    assert response.ByteSize() < 1 << 20
    status = await service.rest(session_id)
    assert size_of(status.session, "long.txt") == 600_000


async def test_of_fifty_answers_one_wins_and_the_tool_runs_once(start: Callable[..., Any]) -> None:
    service = await start()
    session_id, interaction = await start_asking(service, "bash: echo once >> count\nresult")
    answers = await asyncio.gather(
        *(
            respond(service, session_id, interaction.interaction_id, key=f"answer-{number}", allow=pb.PermissionAllow())
            for number in range(50)
        ),
        return_exceptions=True,
    )
    winners = [number for number, answer in enumerate(answers) if not isinstance(answer, BaseException)]
    refusals = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert len(winners) == 1
    assert len(refusals) == 49
    winner = answers[winners[0]]
    assert isinstance(winner, pb.RespondToInteractionResponse)
    for refusal in refusals:
        reason, metadata = details(refusal)
        assert reason == "INTERACTION_CLOSED"
        assert metadata["resolved_by"] == winner.interaction.resolved_by
        assert metadata["state"] == "INTERACTION_STATE_ALLOWED"
    status = await service.rest(session_id)
    assert size_of(status.session, "count") == len("once\n")
    kinds = [event.type for event in await service.events(session_id)]
    assert kinds.count("interaction.resolved") == 1

    again = await respond(
        service, session_id, interaction.interaction_id, key=f"answer-{winners[0]}", allow=pb.PermissionAllow()
    )
    assert again.deduplicated
    assert again.interaction == winner.interaction
