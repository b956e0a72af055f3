"""Profiles: named options of the operator, under the caller's own, with fields that nobody else sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from agentpb import agent_pb2 as pb

from agent_service.errors import CannotServe
from agent_service.policy import Profiles
from agent_service.policy import profiles as module
from tests.conftest import Service
from tests.policy.rules import Rules
from tests.rpc import refused

pytestmark = pytest.mark.asyncio(loop_scope="module")

REVIEW = """
description = "Reads a change and says what it thinks"
locked = ["tools", "permission_mode", "system_prompt"]
labels = { kind = "review" }
[options]
model = "offline"
tools = ["Read", "Grep", "Glob"]
permission_mode = "PERMISSION_MODE_DONT_ASK"
max_turns = 20
"""
FIX = """
[options]
model = "offline"
max_turns = 50
effort = "EFFORT_LOW"
"""


@pytest.fixture
def files(ruled: Service, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of profiles, read at each look."""
    monkeypatch.setattr(module, "INTERVAL", 0.0)
    directory = ruled.data_dir.parent / "profiles"
    (directory / "review.toml").write_text(REVIEW)
    (directory / "fix.toml").write_text(FIX)
    return directory


def execute(**fields: object) -> pb.ExecuteRequest:
    return pb.ExecuteRequest(prompt="say: hi", **fields)  # type: ignore[arg-type]


async def test_a_profile_lies_under_what_the_caller_sets(rules: Rules, ruled: Service, files: Path) -> None:
    done = await ruled.run("say: hi", profile="review", options=pb.AgentOptions(max_turns=7), labels={"team": "a"})
    assert done.state == pb.SESSION_STATE_COMPLETED
    session = done.session
    assert (session.profile, session.options.max_turns, session.permission_mode) == (
        "review",
        7,
        pb.PERMISSION_MODE_DONT_ASK,
    )
    assert list(session.options.tools) == ["Read", "Grep", "Glob"]
    assert dict(session.labels) == {"kind": "review", "team": "a"}


async def test_what_a_profile_locks_cannot_be_set_or_cleared(rules: Rules, ruled: Service, files: Path) -> None:
    first = execute(profile="review", options={"tools": ["Bash"], "system_prompt": {"text": "x"}, "max_turns": 3})
    answer = await refused(ruled.stub.Execute(first))
    assert answer.reason == "OPTION_NOT_ALLOWED"
    assert set(answer.fields) == {"options.tools", "options.system_prompt"}
    assert answer.metadata["rule"] == "profile.review.locked"
    done = await ruled.run("say: hi", profile="review")
    for later in (
        execute(session_id=done.session_id, options={"tools": ["Bash"]}),
        execute(session_id=done.session_id, clear_options=["tools"]),
        execute(fork_from=done.session_id, options={"tools": ["Bash"]}),
    ):
        answer = await refused(ruled.stub.Execute(later))
        assert answer.reason == "OPTION_NOT_ALLOWED"


async def test_another_profile_takes_the_place_of_the_sessions(rules: Rules, ruled: Service, files: Path) -> None:
    done = await ruled.run("say: hi", profile="review", options=pb.AgentOptions(betas=["a-b"]))
    again = await ruled.run("say: hi", session_id=done.session_id, profile="fix")
    options = again.session.options
    assert (again.session.profile, options.max_turns, options.effort) == ("fix", 50, pb.EFFORT_LOW)
    assert (list(options.tools), list(options.betas)) == ([], ["a-b"])
    assert options.permission_mode == pb.PERMISSION_MODE_UNSPECIFIED


async def test_a_change_of_a_file_reaches_new_sessions_only(rules: Rules, ruled: Service, files: Path) -> None:
    done = await ruled.run("say: hi", profile="fix")
    (files / "fix.toml").write_text(FIX.replace("50", "60"))
    again = await ruled.run("say: hi", session_id=done.session_id)
    assert again.session.options.max_turns == 50
    assert (await ruled.run("say: hi", profile="fix")).session.options.max_turns == 60
    (files / "fix.toml").write_text("options = 7")
    assert (await ruled.stub.Execute(execute(profile="fix", validate_only=True))) is not None
    (files / "fix.toml").unlink()
    for gone in (execute(profile="fix"), execute(session_id=done.session_id)):
        answer = await refused(ruled.stub.Execute(gone))
        assert (answer.reason, answer.metadata) == ("PROFILE_NOT_FOUND", {"profile": "fix"})
        assert "there are review" in answer.text


async def test_a_tenant_may_be_held_to_profiles(rules: Rules, ruled: Service, files: Path) -> None:
    rules.set('[tenant.default]\nprofiles = ["rev*"]\nrequire_profile = true')
    none = await refused(ruled.stub.Execute(execute()))
    assert none.fields == {"profile": "must be set; there are review (tenant.default.require_profile)"}
    other = await refused(ruled.stub.Execute(execute(profile="fix")))
    assert (other.reason, "there are review" in other.text) == ("PROFILE_NOT_FOUND", True)
    assert (await ruled.run("say: hi", profile="review")).state == pb.SESSION_STATE_COMPLETED
    info = await ruled.stub.GetServerInfo(pb.GetServerInfoRequest())
    assert json.loads(info.caller.ceilings_json)["profiles"] == ["review"]


async def test_the_policy_goes_over_the_profile(rules: Rules, ruled: Service, files: Path) -> None:
    rules.set('[tenant.default]\nprofiles = "any"\nmax_turns = 10')
    answer = await refused(ruled.stub.Execute(execute(profile="review")))
    assert answer.fields == {"options.max_turns": "must be at most 10 (tenant.default.max_turns)"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("optons = {}", "unknown keys optons; known are description"),
        ("[options]\nmodle = 'x'", 'no field named "modle"'),
        ("[options]\nmax_turns = 0", "options.max_turns: must be 1 to 10000"),
        ("[options]\nenv = { LD_PRELOAD = 'x' }", "options.env"),
        ("locked = ['modle']", "locked: must be names of fields"),
        ("labels = { x = 1 }", "labels: must be texts"),
        ("x = ", "Invalid value"),
    ],
)
async def test_a_wrong_profile_is_refused_with_its_file(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(CannotServe, match=r"bad\.toml: ") as refusal:
        Profiles(tmp_path)
    assert said in str(refusal.value)
