"""The offline model, and the real SDK with the real CLI in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from claude_agent_sdk import (
    AssistantMessage,
    ClaudeAgentOptions,
    ClaudeSDKClient,
    Message,
    ResultMessage,
    StreamEvent,
    TextBlock,
    ToolResultBlock,
    UserMessage,
)

from agent_service.offline import OFFLINE_MODEL_NAME, OfflineModel

MakeOptions = Callable[..., ClaudeAgentOptions]


@pytest.fixture
async def model() -> AsyncIterator[OfflineModel]:
    async with OfflineModel() as model:
        yield model


@pytest.fixture
def options(model: OfflineModel, tmp_path: Path) -> MakeOptions:
    """Options of an agent that talks to the offline model alone."""
    cwd = tmp_path / "cwd"
    cwd.mkdir()

    def make(env: dict[str, str] | None = None, **more: Any) -> ClaudeAgentOptions:
        base = {
            "ANTHROPIC_BASE_URL": model.url,
            "ANTHROPIC_API_KEY": "anything",
            "CLAUDE_CONFIG_DIR": str(tmp_path / "config"),
            "CLAUDE_CODE_TMPDIR": str(tmp_path),
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_MAX_RETRIES": "0",
            "HOME": str(tmp_path),
        }
        given = {"model": OFFLINE_MODEL_NAME, "allowed_tools": ["Bash", "Write"], **more}
        return ClaudeAgentOptions(
            env={**base, **(env or {})}, setting_sources=[], cwd=cwd, stderr=lambda _: None, **given
        )

    return make


@dataclass(frozen=True)
class Turn:
    messages: list[Message]

    @property
    def result(self) -> ResultMessage:
        return next(message for message in self.messages if isinstance(message, ResultMessage))

    @property
    def blocks(self) -> list[Any]:
        contents = [message.content for message in self.messages if isinstance(message, AssistantMessage)]
        return [block for content in contents for block in content]

    @property
    def texts(self) -> list[str]:
        return [block.text for block in self.blocks if isinstance(block, TextBlock)]

    @property
    def tool_results(self) -> list[Any]:
        contents = [message.content for message in self.messages if isinstance(message, UserMessage)]
        return [block.content for content in contents for block in content if isinstance(block, ToolResultBlock)]

    @property
    def deltas(self) -> list[str]:
        events = [message.event for message in self.messages if isinstance(message, StreamEvent)]
        return [event["delta"]["text"] for event in events if event.get("delta", {}).get("type") == "text_delta"]


async def run(client: ClaudeSDKClient, prompt: str) -> Turn:
    await client.query(prompt)
    return Turn([message async for message in client.receive_response()])


async def run_once(options: ClaudeAgentOptions, prompt: str) -> Turn:
    async with ClaudeSDKClient(options) as client:
        turn = await run(client, prompt)
    return turn  # noqa: RET504 - mypy: the client might swallow an exception
