"""Arguments: what the client's methods take by name, with its types; every field of the contract is here.

Strings stand for enums ("acceptEdits" or "ACCEPT_EDITS"), dicts for messages (snake_case or camelCase), seconds or
timedelta for durations. None means unset. What becomes of them is told in options.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypedDict

from agentpb import agent_pb2 as pb
from google.protobuf.duration_pb2 import Duration

Seconds = float | timedelta | Duration
Json = Mapping[str, Any]
Strings = Sequence[str]


class OptionArguments(TypedDict, total=False):
    """Every field of AgentOptions, and the SDK's names where they differ."""

    model: str | None
    fallback_model: str | None
    system_prompt: str | Json | pb.SystemPrompt | None
    tools: Strings | Json | None
    allowed_tools: Strings | None
    disallowed_tools: Strings | None
    permission_mode: str | int | None
    max_turns: int | None
    max_budget_usd: float | None
    task_budget_tokens: int | None
    thinking: Json | pb.Thinking | None
    effort: str | int | None
    output_schema_json: str | Json | None
    cwd: str | os.PathLike[str] | None
    add_dirs: Sequence[str | os.PathLike[str]] | None
    env: Mapping[str, str] | None
    mcp_servers: Mapping[str, Json | pb.McpServer] | None
    strict_mcp_config: bool | None
    agents: Mapping[str, Any] | None
    skills: Strings | str | None
    setting_sources: Sequence[str | int] | None
    settings_json: str | Json | None
    sandbox: Json | pb.Sandbox | None
    plugins: Sequence[Any] | None
    betas: Strings | None
    include_partial_messages: bool | None
    include_hook_events: bool | None
    forward_subagent_text: bool | None
    enable_file_checkpointing: bool | None
    resume_at_message_uuid: str | None
    extra_args: Mapping[str, str | None] | None
    client_app: str | None
    interactions: bool | Json | pb.InteractionPolicy | None
    verbatim_prompts: bool | None
    file_mentions: bool | None
    # The SDK's other names and shapes for some of the above, and plainer ones.
    output_schema: Json | None
    output_format: Json | None
    settings: str | Json | None
    task_budget: Json | int | None
    max_thinking_tokens: int | None
    resume_session_at: str | None


class ExecuteArguments(OptionArguments, total=False):
    """Every field of ExecuteRequest but the prompt, and every option by its own name."""

    session_id: str
    options: pb.AgentOptions | None
    request_id: str
    labels: Mapping[str, str] | None
    title: str
    mode: str | int | None
    fork_from: str
    fork_at_turn_id: str
    on_busy: str | int | None
    attachments: Sequence[pb.Attachment | Json | os.PathLike[str]]
    execution_timeout: Seconds | None
    queue_timeout: Seconds | None
    ttl: Seconds | None
    restart_policy: str | int | None
    wait: Seconds | None
    validate_only: bool
    clear_options: Strings
    profile: str


class PrepareArguments(OptionArguments, total=False):
    """The options of sessions to come: whole, or each by its own name."""

    options: pb.AgentOptions | None


class FilterArguments(TypedDict, total=False):
    """Every field of SessionFilter."""

    states: Sequence[str | int]
    phases: Sequence[str | int]
    labels: Mapping[str, str] | None
    create_time_min: datetime | None
    create_time_max: datetime | None
    update_time_min: datetime | None
    update_time_max: datetime | None
    title_contains: str
    created_by: str
