"""Flags of the CLI and variables of its environment that are not a caller's to set, with what to do instead."""

from __future__ import annotations

import re
from collections.abc import Sequence

from agent_service.processes.tags import MARKER

_FLAG_OF_AN_OPTION = {
    "add-dir": "add_dirs",
    "agents": "agents",
    "allow-dangerously-skip-permissions": "permission_mode",
    "allowed-tools": "allowed_tools",
    "append-system-prompt": "system_prompt",
    "append-system-prompt-file": "system_prompt",
    "betas": "betas",
    "dangerously-skip-permissions": "permission_mode",
    "disallowed-tools": "disallowed_tools",
    "effort": "effort",
    "exclude-dynamic-system-prompt-sections": "system_prompt",
    "fallback-model": "fallback_model",
    "forward-subagent-text": "forward_subagent_text",
    "include-hook-events": "include_hook_events",
    "include-partial-messages": "include_partial_messages",
    "json-schema": "output_schema_json",
    "max-budget-usd": "max_budget_usd",
    "max-thinking-tokens": "thinking",
    "max-turns": "max_turns",
    "mcp-config": "mcp_servers",
    "model": "model",
    "permission-mode": "permission_mode",
    "plugin-dir": "plugins",
    "plugin-dir-no-mcp": "plugins",
    "resume-session-at": "resume_at_message_uuid",
    "setting-sources": "setting_sources",
    "settings": "settings_json",
    "strict-mcp-config": "strict_mcp_config",
    "system-prompt": "system_prompt",
    "system-prompt-file": "system_prompt",
    "task-budget": "task_budget_tokens",
    "thinking": "thinking",
    "thinking-display": "thinking",
    "tools": "tools",
}

_FLAGS_OF_THE_SERVICE = (
    "await-claim",
    "background",
    "bg",
    "cloud",
    "continue",
    "debug-to-stderr",
    "desktop",
    "environment",
    "fork-session",
    "from-pr",
    "help",
    "input-format",
    "no-session-persistence",
    "output-format",
    "permission-prompt-tool",
    "print",
    "remote-control",
    "replay-user-messages",
    "resume",
    "resume-drops-turn",
    "rewind-files",
    "sdk-url",
    "session-id",
    "session-mirror",
    "teleport",
    "tmux",
    "verbose",
    "version",
    "worktree",
)

RESERVED_FLAGS = {
    **{flag: f"has an option of its own: {option}" for flag, option in _FLAG_OF_AN_OPTION.items()},
    **dict.fromkeys(
        _FLAGS_OF_THE_SERVICE, "is the service's own: it decides how it speaks to the agent and where conversations are"
    ),
}
"""Flag, without dashes → what the caller is told."""

FREE_FLAGS = frozenset(
    {
        "agent",
        "autocompact",
        "bare",
        "brief",
        "debug",
        "disable-slash-commands",
        "name",
        "permission-prompts",
        "prompt-suggestions",
        "restricted",
        "safe-mode",
        "system-prompt-snapshot",
    }
)
"""Flags that callers may set. The CLI has about 140 more: some run code, write anywhere or fetch from any address."""


def refused_flag(flag: str) -> str:
    """Why a flag of the CLI is not a caller's to set; empty for one that is."""
    if flag in FREE_FLAGS:
        return ""
    return RESERVED_FLAGS.get(flag) or f"is not open to callers; open are {', '.join(sorted(FREE_FLAGS))}"


_ENV_OF_AN_OPTION = {
    "ANTHROPIC_MODEL": "model",
    "CLAUDE_AGENT_SDK_CLIENT_APP": "client_app",
    "CLAUDE_CODE_ADDITIONAL_DIRECTORIES": "add_dirs",
    "CLAUDE_CODE_DISABLE_FILE_MENTIONS": "file_mentions",
    "CLAUDE_CODE_EFFORT_LEVEL": "effort",
    "CLAUDE_CODE_ENABLE_SDK_FILE_CHECKPOINTING": "enable_file_checkpointing",
}

_FREE_ENV = frozenset(
    {
        "CLAUDE_AUTOCOMPACT_PCT_OVERRIDE",
        "CLAUDE_BASH_MAINTAIN_PROJECT_WORKING_DIR",
        "CLAUDE_CODE_DISABLE_ADAPTIVE_THINKING",
        "CLAUDE_CODE_DISABLE_AUTO_MEMORY",
        "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS",
        "CLAUDE_CODE_DISABLE_CLAUDE_MDS",
        "CLAUDE_CODE_DISABLE_FAST_MODE",
        "CLAUDE_CODE_DISABLE_GIT_INSTRUCTIONS",
        "CLAUDE_CODE_DISABLE_TERMINAL_TITLE",
        "CLAUDE_CODE_FILE_READ_MAX_OUTPUT_TOKENS",
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS",
        "CLAUDE_CODE_MAX_RETRIES",
        "NODE_ENV",
    }
)
"""Variables that callers may set although a rule below has their beginning. By name: a pattern would open others."""

_OF_THE_LOADER = "chooses what the agent's own process loads; set it for one command, or in the env of an MCP server"
_OF_THE_RUNTIME = (
    "is read by the agent's own runtime, which can run code by it or not start with it; set it for one command, such "
    "as Bash({name}=... node app.js), or in the env of an MCP server"
)
_OF_THE_OPERATOR = "is the operator's: it decides where the agent's requests and credentials go"
_OF_THE_SHELL = "makes every shell of the agent run a file or change its rules"
_OF_THE_SERVICE = "is the service's own: conversations and their processes are found by it"

_RULES: Sequence[tuple[str, str]] = (
    (r"LD_.*|DYLD_.*", _OF_THE_LOADER),
    (r"BUN_.*|NODE_.*", _OF_THE_RUNTIME),
    (r"BASH_ENV|ENV|SHELLOPTS|BASHOPTS|BASH_FUNC_.*", _OF_THE_SHELL),
    (r"ANTHROPIC_.*|OTEL_.*|TRACEPARENT|TRACESTATE|SSL_.*", _OF_THE_OPERATOR),
    (r"(?i:.*_PROXY)", _OF_THE_OPERATOR),
    (r"HOME|TMPDIR|XDG_.*|AGENT_SERVICE_.*|CLAUDECODE|CLAUDE_.*|IS_SANDBOX", _OF_THE_SERVICE),
)


def refused_env(name: str) -> str:
    """Why a variable of the agent's environment is not a caller's to set; empty for one that is."""
    if name in _FREE_ENV:
        return ""
    if option := _ENV_OF_AN_OPTION.get(name):
        return f"has an option of its own: {option}"
    reason = next((reason for pattern, reason in _RULES if re.fullmatch(pattern, name)), "")
    return reason.replace("{name}", name)


def refused_server_env(name: str) -> str:
    """Why a variable of an MCP server's environment is not a caller's to set; empty for one that is.

    The caller names the server's program anyway, so that only what the service finds its processes by is kept.
    """
    return _OF_THE_SERVICE if name == MARKER else ""
