"""Pages: tokens that carry a cursor and say which question they belong to. Opaque, and refused when tampered with."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from google.protobuf.message import Message

from agent_service.errors import InvalidPageToken

MAX_TOKEN = 512
"""Characters of a token; nothing longer was made here."""


def make_token(request: Message, cursor: Any) -> str:
    """The token of the page after `cursor` (anything JSON, and short) of this request's question."""
    if cursor is None:
        return ""
    payload = json.dumps([_seal(request, cursor), cursor], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(payload).decode().rstrip("=")


def read_token(request: Message) -> Any:
    """The cursor in the request's page token; None for the first page. Raises InvalidPageToken."""
    token: str = request.page_token  # type: ignore[attr-defined]
    if not token:
        return None
    try:
        if len(token) > MAX_TOKEN:
            raise ValueError("too long")
        payload = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        seal, cursor = json.loads(payload)
    except (ValueError, TypeError):
        raise InvalidPageToken("page_token was not made by this service; begin again without one") from None
    if seal != _seal(request, cursor):
        raise InvalidPageToken(
            "page_token was changed, or belongs to another question; repeat that one, or begin again without a token"
        )
    return cursor


def _seal(request: Message, cursor: Any) -> str:
    """Return the checksum that binds a cursor to its request; the page size may change from page to page."""
    question = type(request)()
    question.CopyFrom(request)
    for name in ("page_token", "page_size"):
        question.ClearField(name)
    content = (
        request.DESCRIPTOR.name.encode(),
        json.dumps(cursor).encode(),
        question.SerializeToString(deterministic=True),
    )
    return hashlib.sha256(b"\0".join(content)).hexdigest()[:16]
