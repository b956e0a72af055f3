"""`agent-service policy check`: what an access file says of a request, without a service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agent_service import __main__ as main

FILE = f"""
version = 1
unknown_tenants = "deny"
[tenant.default]
models = ["claude-haiku-*"]
[tenant.payments]
max_turns = 50
profiles = ["review"]
[principal.ci]
token = "sha256:{"a" * 64}"
tenant = "payments"
[principal.lead]
token = "sha256:{"b" * 64}"
tenant = "payments"
rpcs = ["@read", "@answer"]
"""


@pytest.fixture
def check(tmp_path: Path) -> Any:
    """Run the command on FILE."""
    (tmp_path / "access.toml").write_text(FILE)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "review.toml").write_text('locked = ["tools"]\n[options]\nmodel = "claude-haiku-4"')

    def run(request: Any, *arguments: str, name: str = "ci") -> Result:
        where = ["--profiles", str(tmp_path / "profiles")]
        command = ["policy", "check", str(tmp_path / "access.toml"), "-", "--as", name, *where, *arguments]
        return CliRunner().invoke(main.cli, command, input=json.dumps(request))

    return run


def test_an_allowed_request_is_told_what_is_filled_in(check: Any) -> None:
    result = check({"prompt": "x", "options": {"model": "claude-haiku-4"}})
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        "options.max_turns: 50, since the request says nothing (tenant.payments.max_turns)",
        "options.max_budget_usd: 10, since the request says nothing (tenant.payments.max_budget_usd)",
        "allowed, as ci for tenant payments",
    ]


def test_a_refused_request_is_told_each_reason(check: Any) -> None:
    result = check({"model": "claude-opus-5", "maxTurns": 60})
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        "options.model: 'claude-opus-5' is not allowed; allowed are claude-haiku-* (tenant.default.models)",
        "options.max_turns: must be at most 50 (tenant.payments.max_turns)",
        "OPTION_NOT_ALLOWED, as ci for tenant payments",
    ]


def test_what_nobody_may_set_and_what_a_profile_locks_is_told_too(check: Any) -> None:
    assert "INVALID_FIELD" in check({"env": {"LD_PRELOAD": "/x"}}).output
    locked = check({"prompt": "x", "profile": "review", "options": {"tools": ["Bash"]}})
    assert (locked.exit_code, "tools is locked by profile review" in locked.output) == (1, True)
    assert check({"prompt": "x", "profile": "review"}).exit_code == 0


def test_a_principal_that_may_not_execute_is_told_so(check: Any) -> None:
    result = check({"model": "claude-haiku-4"}, name="lead")
    assert (result.exit_code, result.output.splitlines()[0]) == (1, "lead may not call Execute")


def test_a_question_that_makes_no_sense_is_refused(check: Any) -> None:
    assert "no principal 'cj'" in check({}, name="cj").output
    assert check({}, name="cj").exit_code == 2
    assert "no ExecuteRequest" in check({"options": {"modle": "x"}}).output
    assert "may not call for the tenant" in check({}, "--tenant", "data").output
