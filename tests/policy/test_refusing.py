"""What a tenant's policy forbids is refused with every violation at once; what it fills in is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from agentpb import agent_pb2 as pb

from tests.conftest import Service
from tests.policy.rules import Rules
from tests.rpc import Refusal, refused

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAYMENTS = """
[tenant.default]
models = ["claude-haiku-*", "offline"]
cwd_roots = ["/srv/payments"]
env = ["CI", "NPM_CONFIG_*"]
mcp_servers = ["github", "jira"]
max_execution = "30m"
attachment_hosts = ["files.example.com"]
[mcp.github]
stdio = { command = "/bin/cat" }
[mcp.jira]
http = { url = "http://127.0.0.1:9/jira" }
"""


async def refusal(service: Service, **fields: Any) -> Refusal:
    return await refused(service.stub.Execute(pb.ExecuteRequest(prompt="say: hi", **fields)))


async def test_all_violations_are_told_at_once_with_what_is_allowed(rules: Rules, ruled: Service) -> None:
    rules.set(PAYMENTS)
    options = pb.AgentOptions(model="claude-opus-5", cwd="/srv/search/repo", max_budget_usd=50)
    options.env["FOO"] = "x"
    options.mcp_servers["x"].stdio.command = "sh"
    answer = await refusal(ruled, options=options)
    assert (answer.code, answer.reason) == (grpc.StatusCode.PERMISSION_DENIED, "OPTION_NOT_ALLOWED")
    assert answer.metadata == {"tenant": "", "rule": "tenant.default.models", "policy": rules.version}
    assert answer.fields == {
        "options.model": "'claude-opus-5' is not allowed; allowed are claude-haiku-*, offline (tenant.default.models)",
        "options.cwd": "must be below /srv/payments (tenant.default.cwd_roots)",
        'options.env["FOO"]': "is not allowed; allowed are CI, NPM_CONFIG_* (tenant.default.env)",
        'options.mcp_servers["x"].stdio': "commands are the operator's to name; there are github, jira "
        "(tenant.default.mcp_servers)",
        "options.max_budget_usd": "must be at most 10 (tenant.default.max_budget_usd)",
    }
    assert ruled.running.pool.statistics().cold_starts == 0, "of this module's tests it is the first"


async def test_a_refusal_of_directories_tells_nothing_of_the_host(rules: Rules, ruled: Service, tmp_path: Path) -> None:
    rules.set(f'[tenant.default]\ncwd_roots = ["{tmp_path}/open"]')
    there, absent = tmp_path / "there", tmp_path / "absent"
    there.mkdir()
    answers = [await refusal(ruled, options=pb.AgentOptions(cwd=str(each))) for each in (there, absent)]
    assert [answer.reason for answer in answers] == ["PATH_NOT_ALLOWED", "PATH_NOT_ALLOWED"]
    assert answers[0].text == answers[1].text
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "link").symlink_to(there)
    for path in ("open/link", "open/link/..", "open/../there"):
        answer = await refusal(ruled, options=pb.AgentOptions(cwd=str(tmp_path / path)))
        assert answer.reason == "PATH_NOT_ALLOWED", path
    missing = await refusal(ruled, options=pb.AgentOptions(cwd=str(tmp_path / "open" / "no")))
    assert missing.reason == "INVALID_FIELD", "below a root, callers may know"


async def test_the_data_directory_is_closed_to_everybody(rules: Rules, ruled: Service, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(ruled.data_dir)
    done = await ruled.run("say: hi")
    for path in (ruled.data_dir, ruled.data_dir / "any", tmp_path / "link", Path(done.session.cwd).parent):
        for given in ({"cwd": str(path)}, {"add_dirs": [str(path)]}):
            answer = await refusal(ruled, options=pb.AgentOptions(**given))
            assert answer.reason == "INVALID_FIELD", given
            assert set(answer.fields.values()) == {"must not be in the service's data directory"}
    request = pb.ExecuteRequest(prompt="x", options={"cwd": done.session.cwd}, validate_only=True)
    assert await ruled.stub.Execute(request), "the directory that a session shows"


async def test_durations_and_attachments_have_ceilings_too(rules: Rules, ruled: Service) -> None:
    rules.set(PAYMENTS)
    image = pb.Attachment(media_type="image/png", url="https://169.254.169.254/latest")
    answer = await refusal(ruled, execution_timeout={"seconds": 1801}, attachments=[image])
    assert answer.fields == {
        "attachments[0].url": "its host is not allowed; allowed are files.example.com "
        "(tenant.default.attachment_hosts)",
        "execution_timeout": "must be above 0 and at most 30m (tenant.default.max_execution)",
    }
    image.url = "https://files.example.com/a.png"
    request = pb.ExecuteRequest(prompt="x", attachments=[image], validate_only=True, options={"model": "offline"})
    assert await ruled.stub.Execute(request)
    image.url = "https://files.example.com.evil.net/a.png"
    message = pb.SendMessageRequest(session_id="any", text="x", attachments=[image])
    assert (await refused(ruled.stub.SendMessage(message))).reason == "OPTION_NOT_ALLOWED"


async def test_a_dry_run_says_what_would_be_filled_in(rules: Rules, ruled: Service) -> None:
    rules.set(PAYMENTS)
    request = pb.ExecuteRequest(prompt="x", validate_only=True)
    warnings = list((await ruled.stub.Execute(request)).warnings)
    assert warnings == [
        "execution_timeout: 30m, since the request says nothing (tenant.default.max_execution)",
        "options.max_turns: 200, since the request says nothing (tenant.default.max_turns)",
        "options.max_budget_usd: 10, since the request says nothing (tenant.default.max_budget_usd)",
    ]


async def test_what_is_filled_in_holds_and_is_not_inherited(rules: Rules, ruled: Service) -> None:
    rules.set("[tenant.default]\nmax_turns = 2")
    done = await ruled.run("turns: 4")
    assert (await ruled.status(done.session_id)).session.phase == pb.SESSION_PHASE_LIMIT_REACHED
    assert not done.session.options.HasField("max_turns")
    rules.set("[tenant.default]\nmax_turns = 1")
    again = await ruled.run("say: hi", session_id=done.session_id)
    assert again.state == pb.SESSION_STATE_COMPLETED, "the former ceiling is not what the session asked for"


async def test_what_a_session_inherits_is_held_against_the_policy_of_today(rules: Rules, ruled: Service) -> None:
    done = await ruled.run("say: hi", options=pb.AgentOptions(env={"FOO": "x"}))
    rules.set("[tenant.default]")
    answer = await refusal(ruled, session_id=done.session_id)
    assert list(answer.fields) == ['options.env["FOO"]']
    again = await ruled.run("say: ho", session_id=done.session_id, clear_options=["env"])
    assert again.state == pb.SESSION_STATE_COMPLETED


async def test_a_turn_that_waited_is_held_against_the_policy_at_its_start(rules: Rules, ruled: Service) -> None:
    first = await ruled.execute("wait: 60")
    second = pb.AgentOptions(env={"FOO": "x"})
    await ruled.execute("say: hi", session_id=first.session_id, options=second, on_busy=pb.ON_BUSY_ENQUEUE)
    await ruled.until_begun(first.session_id, first.turn.turn_id)
    rules.set("[tenant.default]")
    await ruled.stub.Interrupt(pb.InterruptRequest(session_id=first.session_id))
    status = await ruled.rest(first.session_id)
    assert status.session.error.reason == "POLICY_DENIED"
    assert 'options.env["FOO"]' in status.session.error.message


async def test_a_changed_policy_ends_the_agent_that_a_session_kept(rules: Rules, ruled: Service) -> None:
    rules.set("[tenant.default]")
    mode = pb.AgentOptions(permission_mode=pb.PERMISSION_MODE_PLAN)
    done = await ruled.run("say: hi", options=mode)
    rules.set('[tenant.default]\ntools_deny = ["WebFetch"]')
    before = pb.PoolStatistics()
    before.CopyFrom(ruled.running.pool.statistics())
    await ruled.run("say: hi", session_id=done.session_id)
    await ruled.run("say: hi", session_id=done.session_id)
    now = ruled.running.pool.statistics()
    assert (now.cold_starts - before.cold_starts, now.warm_starts - before.warm_starts) == (1, 1)


async def test_an_answer_opens_no_more_than_the_policy(rules: Rules, ruled: Service) -> None:
    rules.set('[tenant.default]\ncwd_roots = ["/srv/x"]')
    update = pb.PermissionUpdate(type="setMode", mode="bypassPermissions", destination="session")
    directory = pb.PermissionUpdate(type="addDirectories", directories=["/etc"], destination="session")
    request = pb.RespondToInteractionRequest(session_id="s", interaction_id="i")
    request.allow.updated_permissions.extend([update, directory])
    answer = await refused(ruled.stub.RespondToInteraction(request))
    assert answer.reason == "OPTION_NOT_ALLOWED"
    assert list(answer.fields) == [
        "allow.updated_permissions[0].mode",
        "allow.updated_permissions[1].directories[0]",
    ]


async def test_rules_that_answers_made_are_held_against_the_policy_of_today(rules: Rules, ruled: Service) -> None:
    options = pb.AgentOptions(interactions={"permissions": True})
    asking = await ruled.execute("bash: touch /tmp/x", options=options)
    session = await ruled.until(asking.session_id, pb.SESSION_PHASE_AWAITING_PERMISSION)
    directory = pb.PermissionUpdate(type="addDirectories", directories=["/etc"], destination="session")
    answer = pb.RespondToInteractionRequest(
        session_id=asking.session_id, interaction_id=session.pending_interactions[0].interaction_id
    )
    answer.allow.updated_permissions.append(directory)
    await ruled.stub.RespondToInteraction(answer)
    await ruled.rest(asking.session_id)
    rules.set("[tenant.default]")
    refused_now = await refusal(ruled, session_id=asking.session_id)
    assert (refused_now.reason, list(refused_now.fields)) == (
        "PATH_NOT_ALLOWED",
        ["remembered_permissions[0].directories[0]"],
    )
    again = await ruled.run("say: ho", session_id=asking.session_id, clear_options=["remembered_permissions"])
    assert again.state == pb.SESSION_STATE_COMPLETED


async def test_waits_and_keeping_are_bounded(rules: Rules, ruled: Service) -> None:
    rules.set('[tenant.default]\nmax_interaction_wait = "50ms"\nretention = "1h"')
    options = pb.AgentOptions(interactions={"permissions": True})
    done = await ruled.run("bash: touch /tmp/x", options=options)
    assert "options.interactions.timeout: 0.05 s" in "".join(done.warnings)
    assert not done.session.options.interactions.HasField("timeout")
    log = await ruled.events(done.session_id)
    [resolved] = [event for event in log if event.type == "interaction.resolved"]
    assert resolved.interaction_resolved.interaction.state == pb.INTERACTION_STATE_EXPIRED
    session = (await ruled.status(done.session_id)).session
    assert session.expire_time.seconds - session.rest_time.seconds == 3600


async def test_a_caller_is_shown_its_table_as_it_holds(rules: Rules, ruled: Service) -> None:
    info = await ruled.stub.GetServerInfo(pb.GetServerInfoRequest())
    assert (info.caller.ceilings_json, info.policy_version) == ("", "")
    rules.set(PAYMENTS)
    info = await ruled.stub.GetServerInfo(pb.GetServerInfoRequest())
    table = json.loads(info.caller.ceilings_json)
    assert (table["max_execution"], table["max_turns"], table["settings_json"]) == ("30m", 200, False)
    assert table["mcp_servers"] == ["github", "jira"]
    assert info.policy_version == rules.version


async def test_the_operators_servers_are_used_by_name(rules: Rules, ruled: Service) -> None:
    options = pb.AgentOptions(mcp_servers={"j": pb.McpServer(configured="jira")}, model="offline")
    without = await refusal(ruled, options=options)
    assert (without.reason, "there is none" in without.text) == ("INVALID_FIELD", True)
    rules.set(PAYMENTS)
    done = await ruled.run("say: hi", options=options)
    events = await ruled.events(done.session_id)
    init = next(event for event in events if event.system_message.subtype == "init")
    assert '"j"' in init.system_message.data_json
    assert done.session.options.mcp_servers["j"].configured == "jira", "the record has the name, not the command"
    options.mcp_servers["j"].configured = "gitlab"
    unknown = await refusal(ruled, options=options)
    assert "'gitlab' is not available; there are github, jira" in unknown.text
