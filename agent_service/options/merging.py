"""Merging of a request's options with the session's, and redaction of secrets for display."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence

from agentpb import agent_pb2 as pb

from agent_service.options.references import is_reference

SECRET = "***"
MAX_OPTIONS_BYTES = 1 << 20
"""Bytes of a session's options: every answer that shows the session carries them."""
NEVER_INHERITED = frozenset({"resume_at_message_uuid"})


def merge(inherited: pb.AgentOptions, given: pb.AgentOptions, clear: Sequence[str] = ()) -> pb.AgentOptions:
    """Return the options of a resumed session: fields set in `given` replace the inherited ones.

    A field is replaced as a whole: lists, maps and messages are never joined. Fields named in `clear` return to their
    defaults, unless `given` sets them.
    """
    merged = pb.AgentOptions()
    merged.CopyFrom(inherited)
    for name in NEVER_INHERITED | (set(clear) & set(merged.DESCRIPTOR.fields_by_name)):
        merged.ClearField(name)  # type: ignore[arg-type]
    lay_over(merged, given)
    return merged


def lay_over(merged: pb.AgentOptions, given: pb.AgentOptions) -> None:
    """Replace each field of `merged` that `given` sets, in place."""
    overriding = pb.AgentOptions()
    overriding.CopyFrom(given)
    if is_blank(overriding.system_prompt):
        overriding.ClearField("system_prompt")
    for field, _ in overriding.ListFields():
        merged.ClearField(field.name)  # type: ignore[arg-type]
    merged.MergeFrom(overriding)


def too_large(options: pb.AgentOptions) -> str:
    """Return a sentence if the options are too large; empty otherwise."""
    size = options.ByteSize()
    return f"must have at most {MAX_OPTIONS_BYTES} bytes, not {size}" if size > MAX_OPTIONS_BYTES else ""


def is_blank(prompt: pb.SystemPrompt) -> bool:
    """Return whether a system prompt is blank, which is the same as unset."""
    return not (prompt.text.strip() or prompt.preset.strip() or prompt.append.strip())


def redact(options: pb.AgentOptions) -> None:
    """Make every secret in options read "***", in place; a reference to one stays as it is."""
    _hide(options.env)
    for server in options.mcp_servers.values():
        match server.WhichOneof("transport"):
            case "stdio":
                _hide(server.stdio.env)
            case "sse":
                _hide(server.sse.headers)
            case "http":
                _hide(server.http.headers)
    if options.settings_json:
        options.settings_json = SECRET


def _hide(secrets: MutableMapping[str, str]) -> None:
    for name, value in list(secrets.items()):
        if not is_reference(value):
            secrets[name] = SECRET
