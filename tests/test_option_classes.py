"""How dangerous each option is, and how far it goes: without an access file, and for a tenant of which it says nothing.

A new option needs its line here, and in policy/ceilings.py a ceiling or the reason why it needs none.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from agentpb import agent_pb2 as pb
from google.protobuf import text_format

from agent_service import options
from agent_service.policy import grant
from agent_service.policy.ceilings import CEILINGS as CHECKED
from agent_service.policy.ceilings import FREE, beyond


class Ceiling(NamedTuple):
    """Classes: A runs code or lifts guards, B files, C network and credentials, D money and resources, E harmless."""

    classes: str
    bound: str
    """How far it goes for callers without an access file; "any" where only its form is checked."""
    beyond: str = ""
    """The option beyond the bound, which is refused; empty where there is no bound or another test has it."""
    tenant: str = "any"
    """How far it goes for a tenant whose table, and the default one, say nothing."""
    beyond_tenant: str = ""
    """The option beyond that."""


CEILINGS = {
    "model": Ceiling("D", "any"),
    "fallback_model": Ceiling("D", "any"),
    "system_prompt": Ceiling("E", "any"),
    "tools": Ceiling("A", "any"),
    "allowed_tools": Ceiling("A", "any"),
    "disallowed_tools": Ceiling("E", "any"),
    "permission_mode": Ceiling(
        "A", "any", tenant="no bypass", beyond_tenant="permission_mode: PERMISSION_MODE_BYPASS_PERMISSIONS"
    ),
    "max_turns": Ceiling("D", "10,000", "max_turns: 10001", tenant="200", beyond_tenant="max_turns: 201"),
    "max_budget_usd": Ceiling("D", "any", tenant="10", beyond_tenant="max_budget_usd: 10.01"),
    "task_budget_tokens": Ceiling("D", "any"),
    "thinking": Ceiling("D", "any"),
    "effort": Ceiling("D", "any"),
    "output_schema_json": Ceiling("E", "any that the agent can check", 'output_schema_json: \'{"type":"array"}\''),
    "cwd": Ceiling("B", "any but the data directory", tenant="its own directory", beyond_tenant='cwd: "/srv"'),
    "add_dirs": Ceiling("B", "any but the data directory", tenant="none", beyond_tenant='add_dirs: "/srv"'),
    "env": Ceiling(
        "AC",
        "any but the reserved",
        'env { key: "LD_PRELOAD" value: "/x" }',
        tenant="none",
        beyond_tenant='env { key: "CI" value: "1" }',
    ),
    "mcp_servers": Ceiling(
        "AC",
        "any",
        tenant="the operator's, by name",
        beyond_tenant='mcp_servers { key: "x" value { stdio { command: "/bin/sh" } } }',
    ),
    "strict_mcp_config": Ceiling("A", "any", tenant="true", beyond_tenant="strict_mcp_config: false"),
    "agents": Ceiling(
        "A",
        "any",
        tenant="within the other ceilings",
        beyond_tenant='agents { key: "w" value { description: "d" prompt: "p" max_turns: 201 } }',
    ),
    "skills": Ceiling("A", "any"),
    "setting_sources": Ceiling(
        "A", "any", tenant="none; the project's in a sandbox", beyond_tenant="setting_sources: SETTING_SOURCE_PROJECT"
    ),
    "settings_json": Ceiling(
        "AC",
        "known keys but the reserved",
        'settings_json: \'{"apiKeyHelper":"x"}\'',
        tenant="none",
        beyond_tenant='settings_json: "{}"',
    ),
    "sandbox": Ceiling(
        "A", "any", tenant="tighter only", beyond_tenant="sandbox { enabled: true enable_weaker_nested_sandbox: true }"
    ),
    "plugins": Ceiling("A", "any", tenant="none", beyond_tenant='plugins: "/srv"'),
    "betas": Ceiling("D", "any"),
    "include_partial_messages": Ceiling("E", "any"),
    "include_hook_events": Ceiling("E", "any"),
    "forward_subagent_text": Ceiling("E", "any"),
    "enable_file_checkpointing": Ceiling("DE", "any"),
    "resume_at_message_uuid": Ceiling("E", "any"),
    "extra_args": Ceiling(
        "ABC",
        "a list",
        'extra_args { key: "plugin-url" value: "http://x" }',
        tenant="none",
        beyond_tenant='extra_args { key: "brief" value: "" }',
    ),
    "client_app": Ceiling("E", "any"),
    "interactions": Ceiling(
        "D",
        "any",
        tenant="a wait of 24 h",
        beyond_tenant="interactions { permissions: true timeout { seconds: 86401 } }",
    ),
    "verbatim_prompts": Ceiling("E", "any"),
    "file_mentions": Ceiling("B", "off unless asked for", tenant="off", beyond_tenant="file_mentions: true"),
}


def test_every_option_has_its_class_and_its_bound() -> None:
    assert set(CEILINGS) == {field.name for field in pb.AgentOptions.DESCRIPTOR.fields}
    assert all(ceiling.classes and set(ceiling.classes) <= set("ABCDE") for ceiling in CEILINGS.values())


@pytest.mark.parametrize("name", [name for name, ceiling in CEILINGS.items() if ceiling.beyond])
def test_what_is_beyond_the_bound_is_refused(name: str) -> None:
    given = text_format.Parse(CEILINGS[name].beyond, pb.AgentOptions())
    [violation] = options.check(given)
    assert violation.field.startswith(f"options.{name}")


def test_every_option_has_a_ceiling_or_the_reason_why_none() -> None:
    assert set(CEILINGS) == set(CHECKED) | set(FREE)
    assert not set(CHECKED) & set(FREE)
    assert all(FREE.values())
    assert {name for name, ceiling in CEILINGS.items() if ceiling.tenant != "any"} <= set(CHECKED)


@pytest.mark.parametrize("name", [name for name, ceiling in CEILINGS.items() if ceiling.tenant != "any"])
def test_what_is_beyond_a_silent_tenants_ceiling_is_refused(name: str) -> None:
    given = text_format.Parse(CEILINGS[name].beyond_tenant, pb.AgentOptions())
    assert not options.check(given), "it is the tenant's policy that forbids it, nothing else"
    [violation] = beyond(given, grant("acme", {}, {}), resolve=False)
    assert violation.field.startswith(f"options.{name}")
    assert violation.rule.startswith("tenant.acme.")
    assert violation.rule in violation.description
