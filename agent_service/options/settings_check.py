"""Validation of `settings_json`: one value that the agent does not like voids all settings, deny rules included.

`settings_schema.json` says what the agent knows, as JSON Schema; a test compares it with the real agent. What the agent
refuses nevertheless, such as a newer one, it says after its start: see `Agent.connect`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from agent_service.options.output_check import problem_of
from agent_service.options.strict_json import BadJson, parse_object
from agent_service.options.words import is_one_rule

_CREDENTIALS = "is the operator's: it decides which credentials the agent uses and where they go"
_MANAGED = "is for the operator's managed settings only"
RESERVED: Mapping[str, str] = {
    "env": "has an option of its own: env",
    "crossSessionInbound": "is the service's own: sessions do not speak to each other",
    "additionalMarketplaces": "has an option of its own: plugins",
    "extraKnownMarketplaces": "has an option of its own: plugins",
    "managedMcpServers": "has an option of its own: mcp_servers",
    **dict.fromkeys(
        (
            "apiKeyHelper",
            "awsAuthRefresh",
            "awsCredentialExport",
            "forceLoginGatewayUrl",
            "forceLoginMethod",
            "forceLoginOrgUUID",
            "gcpAuthRefresh",
            "otelHeadersHelper",
            "proxyAuthHelper",
            "xaaIdp",
        ),
        _CREDENTIALS,
    ),
    **dict.fromkeys(
        (
            "allowedMarketplaces",
            "allowedProviders",
            "blockedMarketplaces",
            "forceRemoteSettingsRefresh",
            "gatewayInternalNetworks",
            "managedSourcesBehavior",
            "parentSettingsBehavior",
            "policyHelper",
            "policyHelpers",
            "processWrapper",
            "sshHostCommands",
            "strictKnownMarketplaces",
        ),
        _MANAGED,
    ),
}
"""Settings that are not a caller's → why."""


@cache
def known_settings() -> dict[str, Any]:
    """Return the agent's settings as a JSON Schema."""
    schema: dict[str, Any] = json.loads(Path(__file__).with_name("settings_schema.json").read_text(encoding="utf-8"))
    return schema


def settings_problem(settings_json: str) -> str:
    """Return the reason why a caller's settings are refused; empty when they are accepted."""
    try:
        settings = parse_object(settings_json)
    except BadJson as bad:
        return f"must be a JSON object; {bad}"
    for name in settings:
        if problem := _problem_of_name(name):
            return problem
    if problem := problem_of(known_settings(), settings):
        return f"the agent would drop all of the settings for one that it does not take: {problem}"
    return next(_bad_rules(settings), "")


def _problem_of_name(name: str) -> str:
    if reason := RESERVED.get(name):
        return f"$.{name} {reason}"
    known = known_settings()["properties"]
    if name in known:
        return ""
    near = difflib.get_close_matches(name[:64], known, n=1)
    return f"$ has {name[:64]!r}, which is no setting of the agent" + (f"; is {near[0]} meant?" if near else "")


def _bad_rules(settings: Mapping[str, Any]) -> Iterator[str]:
    """Rules that the agent would leave out."""
    for kind in ("allow", "deny", "ask"):
        for index, rule in enumerate(settings.get("permissions", {}).get(kind, ())):
            if not is_one_rule(rule):
                yield f'$.permissions.{kind}[{index}] must be one tool or rule, such as "Read" or "Bash(git status)"'
