"""'Always' means always for that session: what an answer lets the agent do, it lets it do in every later turn."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agentpb import agent_pb2 as pb

from tests.conftest import Service, start_service
from tests.interactions.conftest import asked, respond, start_asking
from tests.rpc import refused

COMMAND = 'python3 -c "print(1 + 1)"'
RUN = f"bash: {COMMAND}\nresult"


async def always(service: Service, prompt: str = RUN, **fields: Any) -> pb.Session:
    """A session at rest, whose one question was answered with all that the agent suggested."""
    session_id, interaction = await start_asking(service, prompt, **fields)
    allow = pb.PermissionAllow(updated_permissions=interaction.suggestions)
    response = await respond(service, session_id, interaction.interaction_id, allow=allow)
    assert response.session.remembered_permissions
    return (await service.rest(session_id)).session


def rules(session: pb.Session) -> list[tuple[str, str, str]]:
    """The rules a session remembers."""
    return [
        (update.behavior, rule.tool_name, rule.rule_content)
        for update in session.remembered_permissions
        for rule in update.rules
    ]


def settings_files(folder: Path) -> list[str]:
    """Files that an agent would read rules from; empty ones stand where an agent must not make its own."""
    found = [path for path in folder.rglob("*") if path.name.startswith("settings") and ".claude" in path.parts]
    return [str(path) for path in found if path.read_text() != "{}\n"]


@pytest.mark.parametrize("agent", ["the same", "another"])
async def test_always_holds_in_every_later_turn(start: Callable[..., Any], agent: str) -> None:
    service = await start(idle_timeout=300.0 if agent == "the same" else 0.05)
    session = await always(service)
    assert rules(session) == [("allow", "Bash", COMMAND)]
    if agent == "another":
        await service.until(session.session_id, pb.SESSION_PHASE_DORMANT)
    again = await service.run(RUN, session_id=session.session_id)
    assert again.turn.result.result == "2"
    assert not again.turn.result.permission_denials


async def test_always_outlives_the_service(tmp_path: Path) -> None:
    async with start_service(tmp_path / "data") as first:
        session = await always(first)
    async with start_service(tmp_path / "data") as second:
        again = await second.run(RUN, session_id=session.session_id)
    assert again.turn.result.result == "2"
    assert rules(again.session) == rules(session)


async def test_a_fork_inherits_what_is_remembered(service: Service) -> None:
    session = await always(service)
    fork = await service.run(RUN, fork_from=session.session_id)
    assert fork.turn.result.result == "2"
    assert rules(fork.session) == rules(session)
    without = await service.execute(RUN, fork_from=session.session_id, clear_options=["remembered_permissions"])
    await asked(service, without.session_id)
    assert not rules((await service.status(without.session_id)).session)


@pytest.mark.parametrize("agent", ["the same", "another"])
async def test_what_is_forgotten_is_asked_again(start: Callable[..., Any], agent: str) -> None:
    service = await start(idle_timeout=300.0 if agent == "the same" else 0.05)
    session = await always(service)
    if agent == "another":
        await service.until(session.session_id, pb.SESSION_PHASE_DORMANT)
    await service.execute(RUN, session_id=session.session_id, clear_options=["remembered_permissions"])
    asking = await asked(service, session.session_id)
    assert COMMAND in json.loads(asking.input_json)["command"]
    status = await service.status(session.session_id)
    assert not status.session.remembered_permissions


async def test_another_session_asks_all_the_same_and_no_file_has_the_rule(service: Service, tmp_path: Path) -> None:
    workplace = tmp_path / "work"
    workplace.mkdir()
    policy = pb.InteractionPolicy(permissions=True, questions=True)
    response = await service.execute(RUN, options=pb.AgentOptions(cwd=str(workplace), interactions=policy))
    asking = await asked(service, response.session_id)
    allow = pb.PermissionAllow(updated_permissions=asking.suggestions)
    await respond(service, response.session_id, asking.interaction_id, allow=allow)
    await service.rest(response.session_id)
    assert set(os.listdir(workplace)) <= {".claude"}
    assert settings_files(tmp_path) == []
    await start_asking(service, RUN)


async def test_a_rule_that_denies_is_remembered_too(start: Callable[..., Any]) -> None:
    service = await start(idle_timeout=0.05)
    session_id, interaction = await start_asking(service, RUN)
    deny = pb.PermissionUpdate(type="addRules", behavior="deny", rules=[pb.PermissionRule(tool_name="WebFetch")])
    directory = pb.PermissionUpdate(type="addDirectories", directories=["/tmp"])
    allow = pb.PermissionAllow(updated_permissions=[deny, directory])
    await respond(service, session_id, interaction.interaction_id, allow=allow)
    await service.rest(session_id)
    await service.until(session_id, pb.SESSION_PHASE_DORMANT)
    again = await service.run("request: tools", session_id=session_id)
    assert "WebFetch" not in again.turn.result.result
    assert [update.type for update in again.session.remembered_permissions] == ["addRules", "addDirectories"]
    init = [event for event in await service.events(session_id) if event.system_message.subtype == "init"][-1]
    assert "/tmp" in json.loads(init.system_message.data_json)["additional_directories"]


async def test_a_rule_that_was_taken_away_is_asked_about_at_once(start: Callable[..., Any]) -> None:
    service = await start(idle_timeout=0.05)
    session = await always(service)
    await service.until(session.session_id, pb.SESSION_PHASE_DORMANT)
    await service.execute(f"bash: python3 -c 7\n{RUN}", session_id=session.session_id)
    asking = await asked(service, session.session_id)
    forget = pb.PermissionUpdate()
    forget.CopyFrom(session.remembered_permissions[0])
    forget.type = "removeRules"
    allow = pb.PermissionAllow(updated_permissions=[forget])
    response = await respond(service, session.session_id, asking.interaction_id, allow=allow)
    assert not response.session.remembered_permissions
    second = await asked(service, session.session_id)
    assert json.loads(second.input_json)["command"] == COMMAND


async def test_an_always_says_what_it_does_before_it_is_given(service: Service) -> None:
    _, on_file = await start_asking(service, 'tool: Write {"file_path": "a.txt", "content": "x"}')
    [mode] = on_file.suggestions
    assert mode.mode == "acceptEdits"
    assert "without asking" in mode.effect
    _, on_command = await start_asking(service, RUN)
    [rule] = on_command.suggestions
    assert rule.destination == "session"
    assert COMMAND in rule.effect


BAD: list[tuple[dict[str, Any], str]] = [
    ({"type": "addRules", "behavior": "allow"}, "rules"),
    ({"type": "addRules", "behavior": "allow", "rules": [pb.PermissionRule(tool_name="bash")]}, "rules[0].tool_name"),
    (
        {"type": "addRules", "behavior": "deny", "rules": [pb.PermissionRule(tool_name="mcp__a__b", rule_content="x")]},
        "rules[0].rule_content",
    ),
    ({"type": "setMode", "mode": "yolo"}, "mode"),
    ({"type": "setMode", "mode": "bypassPermissions"}, "mode"),
    ({"type": "addDirectories", "directories": ["here"]}, "directories[0]"),
    ({"type": "setMode", "mode": "plan", "destination": "userSettings"}, "destination"),
]


@pytest.mark.parametrize(("bad", "field"), BAD, ids=[field + str(index) for index, (_, field) in enumerate(BAD)])
async def test_one_bad_entry_is_refused_with_its_path_and_none_is_lost(
    service: Service, bad: dict[str, Any], field: str
) -> None:
    session_id, interaction = await start_asking(service, RUN)
    updates = [*interaction.suggestions, pb.PermissionUpdate(**bad)]
    call = respond(
        service, session_id, interaction.interaction_id, allow=pb.PermissionAllow(updated_permissions=updates)
    )
    refusal = await refused(call)
    assert refusal.reason == "INVALID_FIELD"
    assert list(refusal.fields) == [f"allow.updated_permissions[1].{field}"]
    status = await service.status(session_id)
    assert len(status.session.pending_interactions) == 1
    assert not status.session.remembered_permissions
