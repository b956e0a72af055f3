"""The second wall: managed settings hold in the pinned CLI, whatever the caller's own options say.

Each start tries several things at once, since a start is what takes time. What is not held, and need not be: a caller's
`apiKeyHelper` and settings' `env` win over managed ones, and both are refused by the service for everybody.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agentpb import agent_pb2 as pb

from agent_service.agents import launch
from agent_service.policy import Grant, managed_settings
from tests.conftest import Service
from tests.policy.rules import Rules
from tests.sandbox.walls import absent

pytestmark = pytest.mark.asyncio(loop_scope="module")

Manage = Callable[..., None]


@pytest.fixture
def manage(monkeypatch: pytest.MonkeyPatch) -> Manage:
    """Give the agents of this test these managed settings."""

    def set_(**settings: Any) -> None:
        monkeypatch.setattr(launch, "managed_settings", lambda grant, options, model: json.dumps(settings))

    return set_


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A plugin with a hook that leaves a mark."""
    directory = tmp_path / "plugin"
    (directory / ".claude-plugin").mkdir(parents=True)
    (directory / ".claude-plugin" / "plugin.json").write_text(json.dumps({"name": "p", "version": "1.0.0"}))
    (directory / "hooks").mkdir()
    (directory / "hooks" / "hooks.json").write_text(json.dumps(hooks(tmp_path / "plugin-hook")))
    return directory


def hooks(mark: Path) -> dict[str, Any]:
    return {"hooks": {"SessionStart": [{"hooks": [{"type": "command", "command": f"touch {mark}"}]}]}}


def everything(tmp_path: Path, plugin: Path) -> pb.AgentOptions:
    """Options that run commands in each way there is, with leave for all tools."""
    options = pb.AgentOptions(
        allowed_tools=["Bash", "Read"], plugins=[str(plugin)], settings_json=json.dumps(hooks(tmp_path / "hook"))
    )
    options.mcp_servers["x"].stdio.command = "/bin/sh"
    options.mcp_servers["x"].stdio.args.extend(["-c", f"touch {tmp_path}/server"])
    return options


async def marks(ruled: Service, tmp_path: Path, prompt: str, options: pb.AgentOptions) -> set[str]:
    """Run a turn; the marks that it left, and the contents that its tools were told."""
    options.model = "offline"
    done = await ruled.run(prompt, options=options)
    assert done.state == pb.SESSION_STATE_COMPLETED, done.session.error
    told = "".join(
        block.tool_result.text
        for event in await ruled.events(done.session_id)
        for block in event.user_message.content
        if block.HasField("tool_result")
    )
    return files(tmp_path) - {"secret"} | ({"secret"} if "TOPSECRET" in told else set())


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if path.is_file()}


@pytest.fixture
def secret(tmp_path: Path) -> str:
    """Directives that try a command, and to read a file outside the agent's directory."""
    (tmp_path / "secret").write_text("TOPSECRET")
    read = json.dumps({"file_path": str(tmp_path / "secret")})
    return f"bash: touch {tmp_path}/bash\nbash: echo x > {tmp_path}/echo\ntool: Read {read}"


async def test_without_managed_settings_all_of_it_runs(
    ruled: Service, tmp_path: Path, plugin: Path, secret: str
) -> None:
    """So that the other tests would notice."""
    left = await marks(ruled, tmp_path, secret, everything(tmp_path, plugin))
    assert left == {"bash", "echo", "secret", "hook", "plugin-hook", "server"}


async def test_denials_hooks_and_servers_are_held(
    ruled: Service, manage: Manage, tmp_path: Path, plugin: Path, secret: str
) -> None:
    manage(
        permissions={"deny": ["Bash(touch *)", f"Read(/{tmp_path}/**)"]},
        allowManagedHooksOnly=True,
        allowedMcpServers=[],
    )
    assert await marks(ruled, tmp_path, secret, everything(tmp_path, plugin)) == {"echo"}


async def test_a_denied_tool_is_gone_and_all_hooks_may_be(
    ruled: Service, manage: Manage, tmp_path: Path, plugin: Path, secret: str
) -> None:
    manage(permissions={"deny": ["Bash"]}, disableAllHooks=True, allowedMcpServers=[{"serverName": "y"}])
    options = everything(tmp_path, plugin)
    options.agents["w"].description, options.agents["w"].prompt = "d", "p"
    options.agents["w"].tools.append("Bash")
    asked = json.dumps({"subagent_type": "w", "description": "x", "prompt": f"bash: touch {tmp_path}/subagent"})
    left = await marks(ruled, tmp_path, f"{secret}\ntool: Task {asked}", options)
    assert left == {"secret"}


async def test_denials_hold_where_permissions_are_bypassed(
    ruled: Service, manage: Manage, tmp_path: Path, secret: str
) -> None:
    manage(permissions={"deny": [f"Read(/{tmp_path}/**)"]})
    options = pb.AgentOptions(permission_mode=pb.PERMISSION_MODE_BYPASS_PERMISSIONS)
    assert await marks(ruled, tmp_path, secret, options) == {"bash", "echo"}


async def test_bypassing_is_switched_off_and_only_managed_rules_allow(
    ruled: Service, manage: Manage, tmp_path: Path, secret: str
) -> None:
    manage(permissions={"disableBypassPermissionsMode": "disable"}, allowManagedPermissionRulesOnly=True)
    options = pb.AgentOptions(
        permission_mode=pb.PERMISSION_MODE_BYPASS_PERMISSIONS, allowed_tools=["Bash"]
    )  # either of the two would run the commands
    assert not {"bash", "echo"} & await marks(ruled, tmp_path, secret, options)


async def test_commands_are_confined(ruled: Service, manage: Manage, tmp_path: Path, secret: str) -> None:
    if not (shutil.which("bwrap") and shutil.which("socat")):
        absent("the CLI's own sandbox needs bwrap and socat")
    manage(sandbox={"enabled": True, "failIfUnavailable": True, "allowUnsandboxedCommands": False})
    assert "bash" not in await marks(ruled, tmp_path, secret, pb.AgentOptions(allowed_tools=["Bash"]))


async def test_a_tenants_denials_win_over_what_its_callers_allow(
    rules: Rules, ruled: Service, tmp_path: Path, secret: str
) -> None:
    rules.set('[tenant.default]\ntools_deny = ["Bash(touch *)"]')
    options = pb.AgentOptions(allowed_tools=["Bash"])
    assert await marks(ruled, tmp_path, secret, options) == {"echo"}


async def test_a_prompt_switches_to_no_model_that_is_not_allowed(rules: Rules, ruled: Service) -> None:
    rules.set('[tenant.default]\nmodels = ["offline", "claude-haiku-*"]')
    done = await ruled.run("/model claude-opus-4-8")
    assert "restricts model selection" in done.turn.result.result
    await ruled.run("/model claude-haiku-4-5", session_id=done.session_id)
    assert (await ruled.status(done.session_id)).session.options.model == "claude-haiku-4-5"


async def test_a_grant_becomes_managed_settings() -> None:
    options = pb.AgentOptions(mcp_servers={"gh": pb.McpServer(configured="github")})
    assert managed_settings(Grant.dev(), options, "m") == ""
    strict = Grant(
        limited=True,
        tools_deny=("WebFetch",),
        permission_modes=("default",),
        settings_json=False,
        plugins=(),
        mcp_servers=("github",),
        cli_sandbox="required",
        models=("claude-haiku-*", "claude-sonnet-5", "*-opus-*", "m"),
    )
    assert json.loads(managed_settings(strict, options, "m")) == {
        "permissions": {"deny": ["WebFetch"], "disableBypassPermissionsMode": "disable"},
        "allowManagedHooksOnly": True,
        "availableModels": ["claude-haiku", "claude-sonnet-5", "m"],
        "allowedMcpServers": [{"serverName": "gh"}],
        "sandbox": {"enabled": True, "failIfUnavailable": True, "allowUnsandboxedCommands": False},
    }
    assert json.loads(managed_settings(Grant(limited=True), options, "m")) == {"permissions": {"deny": []}}
