"""Backends: which of the service's variables an agent gets."""

from __future__ import annotations

import pytest

from agent_service.__main__ import agent_environment
from agent_service.backends import open_backend

OPERATORS = {
    "PATH": "/bin",
    "ANTHROPIC_API_KEY": "key",
    "ANTHROPIC_AUTH_TOKEN": "token",
    "ANTHROPIC_BASE_URL": "https://proxy.example",
    "ANTHROPIC_FOUNDRY_API_KEY": "key",
    "ANTHROPIC_VERTEX_PROJECT_ID": "project",
    "AWS_REGION": "eu-central-1",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AZURE_CLIENT_SECRET": "secret",
    "CLOUD_ML_REGION": "global",
    "GITHUB_TOKEN": "token",
    "GOOGLE_APPLICATION_CREDENTIALS": "/etc/key.json",
    "OPENAI_API_KEY": "key",
    "PGPASSWORD": "secret",
}
API = {"PATH", "ANTHROPIC_BASE_URL"}


@pytest.mark.parametrize(
    ("chosen", "given"),
    [
        ({}, {"ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"}),
        ({"CLAUDE_CODE_USE_BEDROCK": "0"}, {"ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"}),
        ({"CLAUDE_CODE_USE_BEDROCK": "1"}, {"AWS_REGION", "AWS_SECRET_ACCESS_KEY"}),
        (
            {"CLAUDE_CODE_USE_BEDROCK": "1", "CLAUDE_CODE_SKIP_BEDROCK_AUTH": "1"},
            {"ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "AWS_REGION", "AWS_SECRET_ACCESS_KEY"},
        ),
        (
            {"CLAUDE_CODE_USE_VERTEX": "true"},
            {"ANTHROPIC_VERTEX_PROJECT_ID", "CLOUD_ML_REGION", "GOOGLE_APPLICATION_CREDENTIALS"},
        ),
        ({"CLAUDE_CODE_USE_FOUNDRY": "1"}, {"ANTHROPIC_FOUNDRY_API_KEY", "AZURE_CLIENT_SECRET"}),
    ],
)
async def test_an_agent_gets_the_credentials_of_the_provider_in_use_and_no_others(
    chosen: dict[str, str], given: set[str]
) -> None:
    async with open_backend("claude", agent_environment({**OPERATORS, **chosen})) as backend:
        assert set(backend.environment) == API | given | set(chosen)


async def test_with_the_offline_model_an_agent_gets_none() -> None:
    async with open_backend("offline", agent_environment(OPERATORS)) as backend:
        assert set(backend.environment) == {"PATH", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL", "CLAUDE_CODE_CERT_STORE"}
        assert backend.environment["ANTHROPIC_API_KEY"] != "key"


@pytest.mark.parametrize(
    ("operators", "model", "store"),
    [
        ({}, "offline", "bundled"),
        ({"NODE_EXTRA_CA_CERTS": "/etc/ca.pem"}, "offline", None),
        ({"CLAUDE_CODE_CERT_STORE": "system"}, "offline", "system"),
        ({}, "claude", None),
        ({"CLAUDE_CODE_CERT_STORE": "bundled"}, "claude", "bundled"),
    ],
)
async def test_an_agent_trusts_whom_the_operator_says(operators: dict[str, str], model: str, store: str | None) -> None:
    async with open_backend(model, agent_environment({**OPERATORS, **operators})) as backend:
        assert backend.environment.get("CLAUDE_CODE_CERT_STORE") == store
