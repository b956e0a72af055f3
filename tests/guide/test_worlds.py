"""One session, one world: each has a HOME, a configuration and conversations of its own, and all of it goes with it."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from agentpb import agent_pb2 as pb

from agent_service.agents.workspace import Workspaces
from tests.conftest import Service

BASH = pb.AgentOptions(allowed_tools=["Bash"])


def world(service: Service, session: pb.Session) -> Path:
    """The directory with everything of a session."""
    return service.data_dir / "sessions" / session.workspace_id


async def output(service: Service, command: str, **fields: Any) -> tuple[pb.Session, str]:
    """A session that ran a command, and what the command wrote."""
    done = await service.run(f"bash: {command}", options=BASH, **fields)
    events = await service.events(done.session_id)
    blocks = [block for event in events for block in event.user_message.content if block.HasField("tool_result")]
    return done.session, str(blocks[-1])


async def test_each_session_has_its_own_home_and_configuration(service: Service) -> None:
    first, said = await output(service, 'touch ~/mine "$CLAUDE_CONFIG_DIR/mine"; echo "$HOME $CLAUDE_CONFIG_DIR"')
    assert f"{world(service, first)}/home {world(service, first)}/config" in said
    second, said = await output(service, 'ls -A ~ "$CLAUDE_CONFIG_DIR"')
    assert "mine" not in said
    assert (await output(service, "ls ~", session_id=first.session_id))[1].count("mine") == 1
    assert world(service, first) != world(service, second)


async def test_a_session_gets_a_copy_of_what_its_tenant_shares_and_cannot_change_the_others(
    start: Callable[..., Any],
) -> None:
    service = await start(idle_timeout=0)
    shared = service.data_dir / "tenants" / "default" / "config"
    (shared / "skills" / "greet").mkdir(parents=True)
    (shared / "skills" / "greet" / "SKILL.md").write_text("a shared skill")
    (shared / "settings.json").write_text('{"model": "shared"}')
    (shared / "projects").mkdir()
    (shared / "projects" / "x.jsonl").write_text("nobody's business")
    show = 'cd "$CLAUDE_CONFIG_DIR"; cat settings.json skills/greet/SKILL.md; ls projects'
    first, said = await output(service, f"{show}; echo changed | tee settings.json > skills/greet/SKILL.md")
    assert "a shared skill" in said
    assert "x.jsonl" not in said
    for fields in ({}, {"session_id": first.session_id}):
        _, said = await output(service, show, **fields)
        assert "a shared skill" in said
        assert "changed" not in said


@pytest.mark.parametrize("tenant", ["", "payments", "../acme", "~x", "default", "a/b", "x" * 200])
def test_what_a_tenant_shares_lies_in_a_folder_of_its_own(tmp_path: Path, tenant: str) -> None:
    others = {"", "payments", "../acme", "~x", "default", "a/b", "x" * 200} - {tenant}
    workspaces = Workspaces(tmp_path)
    folder = workspaces.tenant_config(tenant)
    assert folder.parent.parent == tmp_path / "tenants"
    assert folder not in {workspaces.tenant_config(other) for other in others}
    if tenant in ("", "payments"):
        assert folder.parent.name == tenant or folder.parent.name == "default"


async def test_credentials_that_an_operator_takes_away_are_taken_from_every_session(
    start: Callable[..., Any],
) -> None:
    service = await start(idle_timeout=0)
    shared = service.data_dir / "tenants" / "default" / "config"
    shared.mkdir(parents=True)
    (shared / ".credentials.json").write_text('{"key": "sesame"}')
    show = 'cat "$CLAUDE_CONFIG_DIR/.credentials.json"'
    session, said = await output(service, show)
    assert "sesame" in said
    (shared / ".credentials.json").unlink()
    _, said = await output(service, show, session_id=session.session_id)
    assert "No such file" in said


async def test_no_agent_listens_for_other_sessions(start: Callable[..., Any]) -> None:
    service = await start(warm_agents=1)
    session = (await service.run("say: hi", options=pb.AgentOptions(tools=["none"]))).session
    speaks = f'tool: SendMessage {{"to": "{session.agent_session_id}", "summary": "x", "message": "bash: touch x"}}'
    other = await service.run(speaks)
    refused = [event for event in await service.events(other.session_id) if event.type == "message.user"]
    assert "No agent named" in str(refused) or "not available in this session" in str(refused), refused
    assert not [path for path in files(service.data_dir) if path.suffix == ".sock"]
    assert (await service.status(session.session_id)).session.last_sequence == session.last_sequence


async def test_nothing_of_a_deleted_session_is_left_on_the_disk(service: Service) -> None:
    mark = "QUAGGA"
    done = await service.run(f'bash: echo {mark} | tee ~/a "$TMPDIR/b" > c\nsay: {mark}', options=BASH)
    await service.run("/clear", session_id=done.session_id)
    await service.run(f"say: {mark}", session_id=done.session_id)
    fork = await service.run("recall", fork_from=done.session_id)
    session = (await service.status(done.session_id)).session
    names = {mark, session.session_id, session.agent_session_id, session.workspace_id}
    assert traces(service.data_dir, names) != []
    for session_id in (fork.session_id, done.session_id):
        await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id=session_id))
    async with asyncio.timeout(10):  # what the agents' processes left behind is moved away at once, and removed soon
        while service.running.pool.launch.workspaces.removals.left():
            await asyncio.to_thread(service.running.pool.launch.workspaces.removals.retry)
    assert traces(service.data_dir, names) == []
    for outside in clis_own(Path("/tmp")):
        assert traces(outside, names) == []


def clis_own(tmp: Path) -> list[Path]:
    """Where the CLI leaves files when nothing tells it another place."""
    return [*tmp.glob("claude*"), *tmp.glob("cc-*")]


def files(folder: Path) -> list[Path]:
    """All that is below a folder, in which processes may be at work."""
    return [Path(at, name) for at, folders, names in os.walk(folder) for name in (*folders, *names)]


def traces(folder: Path, names: set[str]) -> list[str]:
    """The files that are named like, or hold, one of these; the ledger is the business of its own tests."""
    return [
        str(path.relative_to(folder))
        for path in files(folder)
        if not path.name.startswith("ledger")
        and (any(name in str(path) for name in names) or (path.is_file() and _holds(path, names)))
    ]


def _holds(path: Path, names: set[str]) -> bool:
    with suppress(FileNotFoundError):
        content = path.read_bytes()
        return any(name.encode() in content for name in names)
    return False


async def test_a_fork_keeps_nothing_of_what_its_parent_said_after_it_branched_off(start: Callable[..., Any]) -> None:
    service = await start(idle_timeout=0.05)
    first = await service.run("say: shared")
    await service.run("say: QUAGGA", session_id=first.session_id)
    fork = await service.run("recall", fork_from=first.session_id, fork_at_turn_id=first.turn.turn_id)
    assert fork.turn.result.result == "say: shared"
    assert traces(world(service, fork.session), {"QUAGGA"}) == []
    await service.until(fork.session_id, pb.SESSION_PHASE_DORMANT)
    again = await service.run("recall", session_id=fork.session_id)
    assert again.turn.result.result == "say: shared"


@pytest.mark.parametrize("planted", ["ln -s {secret} {own}", "mkfifo {own}", "truncate -s 1T {own}"])
async def test_what_an_agent_puts_in_its_conversations_place_is_not_followed(
    start: Callable[..., Any], planted: str
) -> None:
    service = await start(idle_timeout=0)
    other = (await service.run("say: the other's secret")).session
    [secret] = world(service, other).glob("config/projects/*/*.jsonl")
    session = (await service.run("say: mine")).session
    [own] = world(service, session).glob("config/projects/*/*.jsonl")
    own.unlink()
    await output(service, planted.format(secret=secret, own=own))
    for fields in ({"session_id": session.session_id}, {"fork_from": session.session_id}):
        with pytest.raises(Exception, match=r"RESUME_REJECTED|no conversation|transcript"):
            await service.run("recall", **fields)


# ------------------------------------------------------------------------------- data directories of earlier versions


def as_before(service: Service, session: pb.Session) -> None:
    """Put a session's files where they were when the sessions of a tenant had one configuration."""
    own, tenant = world(service, session) / "config", service.data_dir / "tenants" / "default" / "config"
    for file in sorted(own.rglob("*")):
        if file.is_file() and file.parent != own:
            target = tenant / file.relative_to(own)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.rename(target)
    for folder in sorted((path for path in own.rglob("*") if path.is_dir()), reverse=True):
        folder.rmdir()


async def earlier(service: Service) -> pb.Session:
    """A session that was cleared once and has a subagent's transcript, in the form of an earlier version."""
    done = await service.run("say: before it was cleared")
    await service.run("/clear", session_id=done.session_id)
    session = (await service.run("say: plum", session_id=done.session_id)).session
    [transcript] = world(service, session).glob(f"config/projects/*/{session.agent_session_id}.jsonl")
    transcript.with_suffix("").mkdir(exist_ok=True)
    (transcript.with_suffix("") / "agent-x.jsonl").write_text(json.dumps({"of": "a subagent"}))
    await service.until(session.session_id, pb.SESSION_PHASE_DORMANT)
    as_before(service, session)
    return session


def conversations(folder: Path) -> list[str]:
    return sorted(path.name for path in files(folder) if path.suffix == ".jsonl")


async def test_a_session_of_an_earlier_version_takes_its_conversations_along(start: Callable[..., Any]) -> None:
    service = await start(idle_timeout=0.05)
    session = await earlier(service)
    tenant = service.data_dir / "tenants"
    held = conversations(tenant)
    assert len(held) == 3
    again = await service.run("recall", session_id=session.session_id)
    assert again.turn.result.result == "say: plum"
    assert conversations(tenant) == []
    assert conversations(world(service, session)) == held


async def test_a_session_of_an_earlier_version_can_be_forked_and_deleted_before_it_ran_again(
    start: Callable[..., Any],
) -> None:
    service = await start(idle_timeout=0.05)
    session = await earlier(service)
    fork = await service.run("recall", fork_from=session.session_id)
    assert fork.turn.result.result == "say: plum"
    await service.stub.DeleteSession(pb.DeleteSessionRequest(session_id=session.session_id))
    assert conversations(service.data_dir / "tenants") == []
    assert not world(service, session).exists()
    again = await service.run("recall", session_id=fork.session_id)
    assert again.turn.state == pb.TURN_STATE_COMPLETED
