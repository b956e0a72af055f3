"""The canary for a new SDK: each private name that agents/sdk.py uses, each undocumented request, on the real CLI."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient
from claude_agent_sdk._internal.transport import subprocess_cli

from agent_service.agents import sdk
from agent_service.offline import OFFLINE_MODEL_NAME, OfflineModel
from agent_service.options import OWN_SETTINGS
from agent_service.options.skills import skill_problem

ROOT = Path(__file__).parents[1]
PRIVATE = re.compile(r"claude_agent_sdk\._|client\._query|\._send_control_request|\._find_cli|\._build_command")


def test_private_names_of_the_sdk_are_in_one_module() -> None:
    found = [path for path in (ROOT / "agent_service").rglob("*.py") if PRIVATE.search(path.read_text())]
    assert [path.name for path in found] == ["sdk.py"]


def test_the_versions_are_told() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", sdk.SDK_VERSION)
    assert re.fullmatch(r"\d+\.\d+\.\d+", sdk.CLI_VERSION)


def test_the_command_line_is_that_of_the_sdk() -> None:
    argv = sdk.build_argv(ClaudeAgentOptions(model="m", can_use_tool=_never))
    assert argv[0] == sdk.bundled_cli()
    assert argv[argv.index("--permission-prompt-tool") + 1] == "stdio"
    assert argv[argv.index("--model") + 1] == "m"


async def _never(*arguments: Any) -> Any:
    raise AssertionError("nobody is asked")


@pytest.fixture
async def client(tmp_path: Path) -> Any:
    """A connected client of the SDK on the offline model."""
    async with OfflineModel() as model:
        environment = {
            "ANTHROPIC_BASE_URL": model.url,
            "ANTHROPIC_API_KEY": "offline",
            "CLAUDE_CONFIG_DIR": str(tmp_path / "config"),
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        }
        options = ClaudeAgentOptions(cwd=tmp_path, env=environment, model=OFFLINE_MODEL_NAME)
        async with ClaudeSDKClient(options) as connected:
            yield connected


async def test_usage_is_told_in_mid_turn_and_is_that_of_the_result(client: ClaudeSDKClient) -> None:
    assert (await sdk.usage(client, patience=10) or {})["modelUsage"] == {}
    await client.query("tokens: 200\nslow: 1")
    told: dict[str, Any] = {}
    async for frame in sdk.frames(client):
        if frame["type"] == "assistant":
            told = await sdk.usage(client, patience=10) or {}
        if frame["type"] == "result":
            break
    used, result = told["modelUsage"][OFFLINE_MODEL_NAME], frame["modelUsage"][OFFLINE_MODEL_NAME]
    assert used["outputTokens"] >= 200
    assert 0 < told["total_cost_usd"] <= frame["total_cost_usd"]
    assert set(used) == set(result), "both say the same of a model"


async def test_a_request_that_the_cli_does_not_know_or_answer_is_none(client: ClaudeSDKClient) -> None:
    assert await sdk.control(client, {"subtype": "no_such_request"}, patience=10) is None
    assert await sdk.control(client, {"subtype": "mcp_status"}, patience=10) is not None
    assert await sdk.control(client, {"subtype": "get_usage"}, patience=0) is None


GOOD = ["a", "plugin:skill", "with space", "ümlaut", "a.b-c_d", "a*", "a/b", "a\\b", "\u2028a", "a\u2028b"]
BAD = ["", " ", " a", "a ", "a,b", "a(b", "a)b", "a\tb", "a\x85b", "\ufeffa", "\ud800", "*", "a:*", "a *", "/a", "a\\"]


@pytest.mark.parametrize("name", [*GOOD, *BAD, "a\\\\b"], ids=ascii)
def test_a_skills_name_is_good_where_the_sdk_takes_it(name: str) -> None:
    try:
        subprocess_cli._validate_skill_name(name)
    except ValueError:
        assert skill_problem(name)
    else:
        assert not skill_problem(name)


@asynccontextmanager
async def started(model: OfflineModel, folder: Path, **fields: Any) -> AsyncIterator[ClaudeSDKClient]:
    """A client of the SDK whose files are all below `folder`."""
    (folder / "work").mkdir(parents=True)
    environment = {
        "ANTHROPIC_BASE_URL": model.url,
        "ANTHROPIC_API_KEY": "offline",
        "CLAUDE_CONFIG_DIR": str(folder / "config"),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_TMPDIR": str(folder),
        "TMPDIR": str(folder),
        "XDG_RUNTIME_DIR": "",
    }
    options = ClaudeAgentOptions(
        cwd=folder / "work", env=environment, model=OFFLINE_MODEL_NAME, setting_sources=[], **fields
    )
    async with ClaudeSDKClient(options) as connected:
        yield connected


def inboxes(*folder: str) -> list[Path]:
    """The sockets on which agents hear of others."""
    return list(Path(*folder).rglob("*.sock"))


async def frames_of_turn(client: ClaudeSDKClient, prompt: str) -> list[dict[str, Any]]:
    """The frames of one turn."""
    await client.query(prompt)
    seen: list[dict[str, Any]] = []
    async for frame in sdk.frames(client):
        seen.append(frame)
        if frame["type"] == "result":
            break
    return seen


async def test_the_services_settings_leave_an_agent_no_way_to_other_sessions() -> None:
    """Without them it has an inbox and a tool that lists others: should that change, the variable's name has too."""
    with TemporaryDirectory() as folder:  # a short path: a socket's is at most 107 bytes
        async with OfflineModel() as model:
            async with started(model, Path(folder, "open")) as client:
                init = _init(await frames_of_turn(client, "say: hi"))
                assert {"ListAgents", "CronCreate"} <= set(init["tools"])
                [inbox] = inboxes(folder)
                assert init["messaging_socket_path"] == str(inbox)
            async with started(model, Path(folder, "own"), settings=json.dumps(OWN_SETTINGS)) as client:
                init = _init(await frames_of_turn(client, "say: hi"))
                assert init.get("messaging_socket_path") is None
                assert not {"ListAgents", "CronCreate"} & set(init["tools"])
                assert inboxes(folder) == []
                told = {"to": f"uds:{inbox}", "summary": "x", "message": "bash: touch x"}
                seen = await frames_of_turn(client, f"tool: SendMessage {json.dumps(told)}")
                assert "Cross-session messaging is not available" in str(seen)


async def test_an_agent_that_refuses_messages_does_nothing_for_another_session() -> None:
    """The fallback for the variable: the documented setting alone."""
    with TemporaryDirectory() as folder:
        async with (
            OfflineModel() as model,
            started(model, Path(folder, "a"), settings='{"crossSessionInbound":"refuse"}') as deaf,
            started(model, Path(folder, "b")) as speaker,
        ):
            await frames_of_turn(deaf, "say: hi")
            [inbox] = inboxes(folder, "a")
            told = {"to": f"uds:{inbox}", "summary": "x", "message": "say: MARK"}
            seen = await frames_of_turn(speaker, f"tool: SendMessage {json.dumps(told)}")
            assert "in that session's inbox" in str(seen)
            # Its next turn is the one that it is asked for, and the message is in no prompt of it.
            assert "MARK" not in str(await frames_of_turn(deaf, "recall"))


def _init(seen: list[dict[str, Any]]) -> dict[str, Any]:
    return next(frame for frame in seen if frame.get("subtype") == "init")
