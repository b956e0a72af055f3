"""The access files of examples/access say what docs/security.md says of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from agentpb import agent_pb2 as pb

from agent_service.access import Access
from agent_service.auth import Credentials, digest_of
from agent_service.errors import CredentialsInvalid
from agent_service.policy.ceilings import beyond

EXAMPLES = Path(__file__).parents[2] / "examples" / "access"


def loaded(name):
    return Access(file=EXAMPLES / f"{name}.toml")


def refused(access, tenant, **options):
    """The fields that a tenant may not set so, and the rules that forbid it."""
    found = beyond(pb.AgentOptions(**options), access.grant(tenant), resolve=False)
    return {each.field: each.rule for each in found}


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.toml")), ids=lambda file: file.stem)
def test_every_example_loads(file):
    assert len(Access(file=file).version) == 12


async def test_the_developer_s_pipeline_starts_agents_and_approves_nothing(tmp_path):
    tokens = {"me": "ast_" + "m" * 43, "ci": "ast_" + "c" * 43}
    text = (EXAMPLES / "developer.toml").read_text()
    for name, token in tokens.items():
        before, table, rest = text.partition(f"[principal.{name}]\ntoken = ")
        text = before + table + f'"{digest_of(token)}"' + rest[rest.index("\n") :]
    (tmp_path / "access.toml").write_text(text)
    access = Access(file=tmp_path / "access.toml")
    me, ci = [await access.authenticate(Credentials(bearer=token)) for token in tokens.values()]
    assert (me.rpcs, me.tenant, ci.tenant) == (None, "", "")
    assert {"Execute", "GetStatus", "Cancel"} <= ci.rpcs
    assert not {"RespondToInteraction", "DeleteSession"} & ci.rpcs
    with pytest.raises(CredentialsInvalid):
        await access.authenticate(Credentials(authorization="Bearer x", bearer="ast_" + "x" * 43))


def test_the_platform_s_teams_get_what_their_tables_say():
    access = loaded("platform")
    assert refused(
        access,
        "payments",
        model="claude-opus-5",
        cwd="/srv/search",
        max_budget_usd=11,
        env={"LANGUAGE": "de"},
        mcp_servers={"x": {"stdio": {"command": "sh"}}},
    ) == {
        "options.model": "tenant.payments.models",
        "options.cwd": "tenant.default.cwd_roots",
        "options.max_budget_usd": "tenant.default.max_budget_usd",
        'options.env["LANGUAGE"]': "tenant.default.env",
        'options.mcp_servers["x"].stdio': "tenant.default.mcp_servers",
    }
    allowed = {"model": "claude-haiku-5", "cwd": "/srv/payments/x", "max_budget_usd": 10, "env": {"CI": "1"}}
    assert refused(access, "payments", **allowed, mcp_servers={"github": {"configured": "github"}}) == {}
    assert refused(access, "data", cwd="/mnt/lake/2026") == {}
    assert (access.grant("payments").sandbox, access.grant("search").sandbox) == ("sealed", "workspace")
    github = access.grant("payments").servers["github"]
    assert github.stdio.env == {"GITHUB_TOKEN": "secret://github-payments"}


def test_whoever_is_on_call_sees_every_team_and_starts_nothing():
    document = loaded("platform")._rules.document
    assert document.principal["oncall"].tenants == ("*",)
    assert "@run" not in document.principal["oncall"].rpcs
    assert not {"@answer", "RespondToInteraction"} & set(document.principal["ci-payments"].rpcs)
    assert set(document.principal["payments-lead"].rpcs) == {"@read", "@answer"}


def test_the_hosted_product_knows_its_customers_and_nobody_else():
    access = loaded("hosted")
    assert access._rules.is_tenant("acme")
    assert not access._rules.is_tenant("initech")
    assert set(refused(access, "acme", model="claude-opus-5", settings_json="{}", tools=["WebFetch"])) == {
        "options.model",
        "options.settings_json",
        "options.tools[0]",
    }
    acme, globex = access.grant("acme"), access.grant("globex")
    assert (acme.sandbox, acme.run_as, acme.egress) == ("sealed", "auto", ("packages.host.example",))
    assert (acme.sessions.at_work, globex.sessions.at_work, globex.sessions.kept) == (2, 10, 500)
    assert acme.execute_rate == pytest.approx(0.5)
