"""Checks attachments: bytes of their media type, or an https URL with a host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from agentpb import agent_pb2 as pb

from agent_service.errors import FieldViolation
from agent_service.options import is_http_url

MAX_BYTES = 3 << 20
"""Bytes of all attachments of a request."""
MAX_COUNT = 64
MAX_TITLE = 255
"""Characters of a title."""
PDF_HEADER_WITHIN = 1024
"""Bytes at the beginning of a file within which readers of PDF look for its header."""


def _is_text(data: bytes) -> bool:
    try:
        return "\0" not in data.decode("utf-8")
    except UnicodeDecodeError:
        return False


MEDIA_TYPES: Mapping[str, Callable[[bytes], bool]] = {
    "application/pdf": lambda data: b"%PDF-" in data[:PDF_HEADER_WITHIN],
    "image/gif": lambda data: data[:6] in (b"GIF87a", b"GIF89a"),
    "image/jpeg": lambda data: data[:3] == b"\xff\xd8\xff",
    "image/png": lambda data: data[:8] == b"\x89PNG\r\n\x1a\n",
    "image/webp": lambda data: data[:4] == b"RIFF" and data[8:12] == b"WEBP",
    "text/plain": _is_text,
}
"""Media type → whether bytes begin as its files do. The API refuses others, and with them every later turn."""


def check_attachments(attachments: Sequence[pb.Attachment]) -> Iterator[FieldViolation]:
    """Everything that is wrong with the attachments of a request."""
    if len(attachments) > MAX_COUNT:
        yield FieldViolation("attachments", f"must have at most {MAX_COUNT} entries, not {len(attachments)}")
    for index, attachment in enumerate(attachments):
        yield from _check(attachment, f"attachments[{index}]")
    if sum(len(attachment.data) for attachment in attachments) > MAX_BYTES:
        yield FieldViolation("attachments", f"must have at most {MAX_BYTES} bytes of data together")


def _check(attachment: pb.Attachment, where: str) -> Iterator[FieldViolation]:
    is_one = MEDIA_TYPES.get(attachment.media_type)
    if is_one is None:
        yield FieldViolation(f"{where}.media_type", f"must be one of {', '.join(sorted(MEDIA_TYPES))}")
    source = attachment.WhichOneof("source")
    if source is None or (source == "data" and not attachment.data):
        yield FieldViolation(where, "must have data or url")
    elif source == "data" and is_one is not None and not is_one(attachment.data):
        yield FieldViolation(f"{where}.data", f"{_wanted(attachment.media_type)}; {_found(attachment.data)}")
    elif source == "url" and not (attachment.url.startswith("https://") and is_http_url(attachment.url)):
        yield FieldViolation(f"{where}.url", "must begin with https:// and name a host, without credentials")
    elif source == "url" and attachment.media_type == "text/plain":
        yield FieldViolation(f"{where}.url", "the API fetches images and PDFs only; send text as data")
    if len(attachment.title) > MAX_TITLE:
        yield FieldViolation(f"{where}.title", f"must have at most {MAX_TITLE} characters")


def _wanted(media_type: str) -> str:
    return "must be UTF-8 text without NUL" if media_type == "text/plain" else f"must be what {media_type} says"


def _found(data: bytes) -> str:
    found = next((name for name, fits in MEDIA_TYPES.items() if fits(data)), "")
    return f"its bytes are {found}" if found else "its bytes are of no media type that is accepted"
