"""Limits of requests, one constant each, and what ServerLimits says of them. docs/limits.md is made from it.

Limits of records and responses are in events/limits.py, those of options in the room options, those of an operator in
Config. The comment of each field in proto/agent.proto names the limit that the field has.
"""

from __future__ import annotations

from agentpb import agent_pb2 as pb

from agent_service.api import attachments
from agent_service.events import MAX_STRING
from agent_service.ledger import BATCH_EVENTS, REQUEST_ID_SECONDS
from agent_service.options import MAX_OPTIONS_BYTES
from agent_service.registry import MAX_LABELS, MAX_PENDING_TURNS, PIECE

MAX_MESSAGE_BYTES = 4 << 20
"""Bytes of a request or response."""
MAX_CONNECTION_STREAMS = 1000
"""Calls that may be open on one connection, watches among them."""
MAX_METADATA_BYTES = 10 << 10
"""Bytes of a call's metadata, names and values. A longer call is refused by gRPC with RESOURCE_EXHAUSTED."""
MAX_PROMPT_BYTES = 2 << 20
"""Bytes of a prompt, or of a message's text, in UTF-8."""
MAX_PAGE_SIZE = 1000
"""Sessions or events of a page, and messages of a status."""
MAX_LISTED = 64
"""Entries of a list in a filter, and of `event_types`."""
MAX_REQUEST_ID, MAX_TITLE, MAX_REASON = 128, 255, 1024
"""Characters of a request id, of a title, and of the reason of a cancel."""
MAX_LABEL_KEY, MAX_LABEL_VALUE = 63, 255
"""Characters of a label."""
MAX_FIELD_PATH = 1000
"""Characters of ReadFieldRequest.field."""
MAX_GRACE_SECONDS = 300
MAX_PREPARED, MAX_HOLD_SECONDS = 1000, 600
"""Sessions that a PrepareAgents expects, and how long unused agents are held for them."""


def fixed_limits() -> pb.ServerLimits:
    """Return the limits of every service of this version; the operator's own limits are unset."""
    limits = pb.ServerLimits(
        max_message_bytes=MAX_MESSAGE_BYTES,
        max_string_bytes=MAX_STRING,
        max_batch_events=BATCH_EVENTS,
        max_prompt_bytes=MAX_PROMPT_BYTES,
        max_attachment_bytes=attachments.MAX_BYTES,
        max_options_bytes=MAX_OPTIONS_BYTES,
        max_labels=MAX_LABELS,
        max_page_size=MAX_PAGE_SIZE,
        max_piece_bytes=PIECE,
        max_queued_turns=MAX_PENDING_TURNS,
        max_connection_streams=MAX_CONNECTION_STREAMS,
    )
    limits.request_id_retention.FromSeconds(REQUEST_ID_SECONDS)
    return limits
