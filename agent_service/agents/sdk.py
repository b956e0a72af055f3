"""Every private name of the Claude Agent SDK that the service uses, and every undocumented request of its CLI.

No other module names one. tests/test_agent_sdk.py is the canary: it runs each against the installed SDK and the real
CLI, so that a new version that moves one fails there, by name. What is missing is answered with None where the service
can do without (each method says how), and is an error where it cannot.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from claude_agent_sdk import ClaudeAgentOptions, ClaudeSDKClient, project_key_for_directory
from claude_agent_sdk import __version__ as SDK_VERSION
from claude_agent_sdk._cli_version import __cli_version__ as CLI_VERSION
from claude_agent_sdk._internal.transport.subprocess_cli import SubprocessCLITransport

__all__ = ["CLI_VERSION", "SDK_VERSION", "build_argv", "bundled_cli", "control", "frames", "project_folder", "usage"]

log = logging.getLogger(__name__)


def build_argv(options: ClaudeAgentOptions) -> list[str]:
    """The CLI's command line for `options`, as the SDK itself would build it.

    The SDK applies its permission callback to the transport it makes itself; for one of our own the flag must be set
    here.
    """
    if options.can_use_tool is not None:
        options = replace(options, can_use_tool=None, permission_prompt_tool_name="stdio")
    builder = SubprocessCLITransport(prompt="", options=options)
    if builder._cli_path is None:
        builder._cli_path = builder._find_cli()
    return builder._build_command()


def bundled_cli() -> str:
    """Path of the CLI that comes with the SDK. Raises CLINotFoundError."""
    return SubprocessCLITransport(prompt="", options=ClaudeAgentOptions())._find_cli()


def project_folder(cwd: str | Path) -> str:
    """Name of the folder under CLAUDE_CONFIG_DIR/projects with the transcripts of conversations begun in `cwd`."""
    return project_key_for_directory(cwd)


def frames(client: ClaudeSDKClient) -> AsyncIterator[dict[str, Any]]:
    """The raw frames of a connected client: the SDK's own messages drop fields, and whole frames of unknown types."""
    assert client._query is not None
    received: AsyncIterator[dict[str, Any]] = client._query.receive_messages()
    return received


async def control(client: ClaudeSDKClient, request: dict[str, Any], *, patience: float) -> dict[str, Any] | None:
    """The answer to a control request within `patience` seconds; None when there is none, or an error."""
    if client._query is None:
        return None
    try:
        return dict(await client._query._send_control_request(request, timeout=patience) or {})
    except Exception as error:  # noqa: BLE001 - the SDK raises bare Exception here
        log.info("control request %s was not acknowledged: %s", request["subtype"], error)
        return None


async def usage(client: ClaudeSDKClient, *, patience: float) -> dict[str, Any] | None:
    """Return the usage of the CLI's process so far in the form of a `result` frame, subagents included.

    `get_usage` is undocumented. None when the CLI does not know it or does not answer: then the usage of the messages
    in the log is what is known.
    """
    answer = await control(client, {"subtype": "get_usage"}, patience=patience)
    session = (answer or {}).get("session")
    if not isinstance(session, dict) or not isinstance(session.get("model_usage"), dict):
        return None
    return {
        "total_cost_usd": session.get("total_cost_usd"),
        "duration_api_ms": session.get("total_api_duration_ms"),
        "modelUsage": session["model_usage"],
    }
