"""The tenants' tables of the access file: merged field by field, and wrong ones refused with their place."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from agentpb import agent_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError

from agent_service.access.document import AccessFile
from agent_service.errors import OptionNotAllowed
from agent_service.options import MAX_DURATION_SECONDS
from agent_service.policy import Grant, McpTable, Policy, TenantTable, check_names, grant, table_json
from agent_service.policy.ceilings import beyond
from agent_service.policy.defaults import fill
from agent_service.policy.tables import SILENT
from agent_service.policy.units import byte_count, duration_text, per_second, rate_text, seconds, size_text

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "access"


class Tables(BaseModel):
    """The part of an access file that is the policy's."""

    model_config = ConfigDict(extra="forbid")

    tenant: dict[str, TenantTable] = {}
    mcp: dict[str, McpTable] = {}


PLATFORM = """
[tenant.default]
models           = ["claude-sonnet-*", "claude-haiku-*"]
permission_modes = ["default", "accept_edits", "plan", "dont_ask"]
cwd_roots        = ["/srv/{tenant}"]
tools_deny       = ["WebFetch", "Bash(sudo *)", "Read(//etc/shadow)"]
max_budget_usd   = 5
env              = ["CI", "NPM_CONFIG_*"]
mcp_servers      = ["github", "jira"]
sandbox          = "workspace"
sessions         = { at_work = 4, queued = 100, kept = 5000 }
rate             = { execute = "30/m" }
retention        = "7d"
memory           = "2g"
[tenant.payments]
models  = ["claude-haiku-*"]
sandbox = "sealed"
sessions = { at_work = 10 }
[tenant.data]
cwd_roots = ["/srv/data", "/mnt/lake"]
max_turns = "any"
mcp_servers = ["jira"]
[mcp.github]
stdio = { command = "/opt/mcp/github", args = ["--read-only"], env = { GITHUB_TOKEN = "secret://github-{tenant}" } }
[mcp.jira]
http = { url = "https://mcp.corp.example/jira", headers = { Authorization = "secret://jira" } }
[mcp.internal]
sse = { url = "https://mcp.corp.example/internal" }
"""


def read(text: str) -> Tables:
    return Tables(**tomllib.loads(text))


def held(text: str, tenant: str) -> Grant:
    tables = read(text)
    return grant(tenant, tables.tenant, tables.mcp)


def test_a_tenants_table_lies_over_the_default_field_by_field() -> None:
    payments = held(PLATFORM, "payments")
    assert payments.models == ("claude-haiku-*",)
    assert payments.cwd_roots == ("/srv/payments",)
    assert payments.max_budget_usd == 5
    assert payments.sandbox == "sealed"
    assert (payments.sessions.at_work, payments.sessions.queued) == (10, 100)
    assert (payments.retention, payments.memory, payments.execute_rate) == (7 * 86400, 2 << 30, 0.5)
    assert payments.places["models"] == "tenant.payments"
    assert payments.places["cwd_roots"] == "tenant.default"
    assert payments.places["sessions.at_work"] == "tenant.payments"


def test_what_no_table_says_is_as_narrow_as_a_hosted_service_needs_it() -> None:
    silent = held("", "acme")
    assert silent.limited
    for name, value in SILENT.items():
        assert getattr(silent, name) == value
    assert "bypass_permissions" not in (silent.permission_modes or ())
    assert (silent.settings_json, silent.extra_args, silent.env, silent.cwd_roots) == (False, (), (), ())


def test_any_lifts_a_limit() -> None:
    assert held(PLATFORM, "data").max_turns is None
    free = held('[tenant.default]\nenv = "any"\nmcp_servers = "any"\ncwd_roots = "any"', "x")
    assert (free.env, free.mcp_servers, free.cwd_roots) == (None, None, None)


def test_projects_settings_are_read_where_a_sandbox_is_certain() -> None:
    assert held('[tenant.default]\nsandbox = "workspace"', "x").setting_sources == ("project",)
    assert held('[tenant.default]\nsandbox = "off"', "x").setting_sources == ()
    silent = Policy(lambda tenant: held("", tenant), sandbox="workspace").grant("x")
    assert (silent.sandbox, silent.setting_sources) == ("workspace", ("project",))


def test_bypassing_permissions_needs_walls_that_are_there() -> None:
    bypass = pb.ExecuteRequest(options={"permission_mode": pb.PERMISSION_MODE_BYPASS_PERMISSIONS})
    listed = held('[tenant.default]\npermission_modes = ["bypass_permissions"]', "x")
    Policy(lambda tenant: listed, sandbox="workspace").check_given(bypass, "x")
    with pytest.raises(OptionNotAllowed, match="needs a sandbox"):
        Policy(lambda tenant: listed, sandbox="off").check_given(bypass, "x")


def test_the_operators_servers_are_given_by_name_with_the_tenant_in_them() -> None:
    servers = held(PLATFORM, "payments").servers
    assert sorted(servers) == ["github", "jira"]
    assert servers["github"].stdio.env["GITHUB_TOKEN"] == "secret://github-payments"
    assert sorted(held(PLATFORM, "data").servers) == ["jira"]


def test_the_empty_tenant_has_no_path_or_server_that_a_tenants_name_makes() -> None:
    nobody = held(PLATFORM, "")
    assert nobody.cwd_roots == ()
    assert sorted(nobody.servers) == ["jira"]


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("modles = ['a']", "modles", "Extra inputs are not permitted"),
        ("spend = { day_usd = 50 }", "", "no budgets over time"),
        ("max_execution = 30", "max_execution", 'such as "90s"'),
        ("memory = '2 gigs'", "memory", 'such as "512m"'),
        ("rate = { execute = '30' }", "rate.execute", 'such as "30/m"'),
        ("max_turns = 0", "max_turns", "greater than or equal to 1"),
        ("max_turns = true", "max_turns", "valid integer"),
        ("permission_modes = ['acceptEdits']", "permission_modes.0", "'accept_edits'"),
        ("cwd_roots = ['srv']", "cwd_roots.0", "absolute path"),
        ("cwd_roots = ['/srv/../etc']", "cwd_roots.0", "absolute path without .."),
        ("cwd_roots = ['/srv/{name}']", "cwd_roots.0", "no other placeholder"),
        ("mcp_http_hosts = ['https://x']", "mcp_http_hosts.0", "must be a host"),
        ("tools_deny = ['Bash(a', 'b']", "tools_deny.0", "one tool or rule"),
        ("sandbox = 'off'\npermission_modes = ['bypass_permissions']", "", "needs a sandbox"),
    ],
)
def test_a_wrong_table_is_refused_with_its_place(text: str, place: str, said: str) -> None:
    with pytest.raises(ValidationError) as refused:
        read(f"[tenant.x]\n{text}")
    found = refused.value.errors()
    assert any(".".join(map(str, each["loc"])).startswith(f"tenant.x.{place}".rstrip(".")) for each in found), found
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "exactly one of stdio, http and sse"),
        ("http = { url = 'ftp://x' }", "http.url: must be an http or https URL"),
        ("stdio = { command = '' }", "stdio.command: must name a program"),
        ("stdio = { command = 'x', cwd = '/' }", "Extra inputs"),
    ],
)
def test_a_wrong_server_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        read(f"[mcp.x]\n{text}")


@pytest.mark.parametrize("name", ["operator", "a/b", "", "x" * 129])
def test_names_that_no_tenant_can_have(name: str) -> None:
    with pytest.raises(ValueError, match="reserved"):
        check_names({name: None}, {})


def test_the_table_as_it_holds_can_be_read_as_a_table_again() -> None:
    """So that what GetServerInfo shows is exactly what holds."""
    before = held(PLATFORM, "payments")
    shown: dict[str, Any] = json.loads(table_json(before, ["review"]))
    assert shown["retention"] == "7d"
    assert shown["memory"] == "2g"
    assert shown["profiles"] == ["review"]
    tables = read(PLATFORM)
    again = grant("payments", {"payments": TenantTable(**shown)}, tables.mcp)
    different = {"places", "profiles", "run_as"}
    assert again.model_dump(exclude=different) == before.model_dump(exclude=different)


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.toml")), ids=lambda file: file.stem)
def test_what_the_examples_fill_in_is_within_their_own_ceilings(file: Path) -> None:
    document = AccessFile(**tomllib.loads(file.read_text()))
    for tenant in ["", "any", *document.tenant]:
        whole = grant(tenant, document.tenant, document.mcp)
        for mode in (pb.AgentOptions(), pb.AgentOptions(interactions={"questions": True}, setting_sources=[1, 2])):
            filled, _ = fill(mode, whole, "")
            filled.ClearField("setting_sources")
            assert beyond(filled, whole, resolve=False) == []
            assert fill(filled, whole, "") == (filled, []), "what is filled in is filled in once"


@given(st.integers(1, MAX_DURATION_SECONDS))
def test_units_read_back_as_they_were(number: int) -> None:
    assert seconds(duration_text(float(number))) == number
    assert byte_count(size_text(number)) == number
    assert per_second(rate_text(per_second(f"{number}/m"))) == per_second(f"{number}/m")
