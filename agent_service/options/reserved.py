"""Flags of the CLI and variables of its environment that are not a caller's to set, with what to do instead."""

from __future__ import annotations

_OF_AN_OPTION = {
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

_OF_THE_SERVICE = (
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
    **{flag: f"has an option of its own: {option}" for flag, option in _OF_AN_OPTION.items()},
    **dict.fromkeys(
        _OF_THE_SERVICE, "is the service's own: it decides how it speaks to the agent and where conversations are"
    ),
}
"""Flag, without dashes → what the caller is told."""

RESERVED_ENV = {
    "CLAUDE_AGENT_SDK_CLIENT_APP": "has an option of its own: client_app",
    "CLAUDE_CODE_ENABLE_SDK_FILE_CHECKPOINTING": "has an option of its own: enable_file_checkpointing",
    **dict.fromkeys(
        (
            "CLAUDECODE",
            "CLAUDE_AGENT_SDK_VERSION",
            "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS",
            "CLAUDE_CODE_ENTRYPOINT",
            "CLAUDE_CODE_SDK_READS_SESSION_STATE",
            "CLAUDE_CODE_TMPDIR",
            "CLAUDE_CONFIG_DIR",
        ),
        "is the service's own: conversations and their processes are found by it",
    ),
}
"""Variable → what the caller is told."""
