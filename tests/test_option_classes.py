"""How dangerous each option is, and how far it goes without an access file. A new option needs its line here."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from agentpb import agent_pb2 as pb
from google.protobuf import text_format

from agent_service import options


class Ceiling(NamedTuple):
    """Classes: A runs code or lifts guards, B files, C network and credentials, D money and resources, E harmless."""

    classes: str
    bound: str
    """How far it goes for callers without an access file; "any" where only its form is checked."""
    beyond: str = ""
    """The option beyond the bound, which is refused; empty where there is no bound or another test has it."""


CEILINGS = {
    "model": Ceiling("D", "any"),
    "fallback_model": Ceiling("D", "any"),
    "system_prompt": Ceiling("E", "any"),
    "tools": Ceiling("A", "any"),
    "allowed_tools": Ceiling("A", "any"),
    "disallowed_tools": Ceiling("E", "any"),
    "permission_mode": Ceiling("A", "any"),
    "max_turns": Ceiling("D", "10,000", "max_turns: 10001"),
    "max_budget_usd": Ceiling("D", "any"),
    "task_budget_tokens": Ceiling("D", "any"),
    "thinking": Ceiling("D", "any"),
    "effort": Ceiling("D", "any"),
    "output_schema_json": Ceiling("E", "any that the agent can check", 'output_schema_json: \'{"type":"array"}\''),
    "cwd": Ceiling("B", "any"),
    "add_dirs": Ceiling("B", "any"),
    "env": Ceiling("AC", "any but the reserved", 'env { key: "LD_PRELOAD" value: "/x" }'),
    "mcp_servers": Ceiling("AC", "any"),
    "strict_mcp_config": Ceiling("A", "any"),
    "agents": Ceiling("A", "any"),
    "skills": Ceiling("A", "any"),
    "setting_sources": Ceiling("A", "any"),
    "settings_json": Ceiling("AC", "known keys but the reserved", 'settings_json: \'{"apiKeyHelper":"x"}\''),
    "sandbox": Ceiling("A", "any"),
    "plugins": Ceiling("A", "any"),
    "betas": Ceiling("D", "any"),
    "include_partial_messages": Ceiling("E", "any"),
    "include_hook_events": Ceiling("E", "any"),
    "forward_subagent_text": Ceiling("E", "any"),
    "enable_file_checkpointing": Ceiling("DE", "any"),
    "resume_at_message_uuid": Ceiling("E", "any"),
    "extra_args": Ceiling("ABC", "a list", 'extra_args { key: "plugin-url" value: "http://x" }'),
    "client_app": Ceiling("E", "any"),
    "interactions": Ceiling("D", "any"),
    "verbatim_prompts": Ceiling("E", "any"),
    "file_mentions": Ceiling("B", "off unless asked for"),
}


def test_every_option_has_its_class_and_its_bound() -> None:
    assert set(CEILINGS) == {field.name for field in pb.AgentOptions.DESCRIPTOR.fields}
    assert all(ceiling.classes and set(ceiling.classes) <= set("ABCDE") for ceiling in CEILINGS.values())


@pytest.mark.parametrize("name", [name for name, ceiling in CEILINGS.items() if ceiling.beyond])
def test_what_is_beyond_the_bound_is_refused(name: str) -> None:
    given = text_format.Parse(CEILINGS[name].beyond, pb.AgentOptions())
    [violation] = options.check(given)
    assert violation.field.startswith(f"options.{name}")
