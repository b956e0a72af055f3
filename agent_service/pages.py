"""Pages: tokens that carry a cursor and say which question they belong to. Opaque to callers, refused when tampered with."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from google.protobuf.message import Message

from agent_service.errors import InvalidPageToken


def make_token(request: Message, cursor: Any) -> str:
    """The token of the page after `cursor` (anything JSON) of this request's question."""
    if cursor is None:
        return ""
    payload = json.dumps([_question(request), cursor], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(payload).decode().rstrip("=")


def read_token(request: Message) -> Any:
    """The cursor in the request's page token; None for the first page. Raises InvalidPageToken."""
    token: str = request.page_token  # type: ignore[attr-defined]
    if not token:
        return None
    try:
        payload = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        question, cursor = json.loads(payload)
    except (ValueError, TypeError):
        raise InvalidPageToken("page_token was not made by this service; begin again without one") from None
    if question != _question(request):
        raise InvalidPageToken(
            "page_token belongs to another question; repeat that one, or begin again without a token"
        )
    return cursor


def _question(request: Message) -> str:
    """What a request asks, without how much of it: page sizes may change from page to page."""
    question = type(request)()
    question.CopyFrom(request)
    for name in ("page_token", "page_size"):
        question.ClearField(name)
    return hashlib.sha256(
        request.DESCRIPTOR.name.encode() + question.SerializeToString(deterministic=True)
    ).hexdigest()[:16]
