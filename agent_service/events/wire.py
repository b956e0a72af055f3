"""The bytes of events: never larger than a response can carry, encoded once, joined by concatenation.

A repeated field of messages is tag, length and bytes for each; so a batch is made of stored bytes without reading them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from agentpb import agent_pb2 as pb

from agent_service.events.limits import MAX_EVENT, fit
from agent_service.events.text import clean, to_json

WATCH_EVENTS = pb.WatchSessionResponse.EVENTS_FIELD_NUMBER
LIST_EVENTS = pb.ListEventsResponse.EVENTS_FIELD_NUMBER

_USUAL = 4 << 10
_LENGTH_DELIMITED = 2
_RAW_JSON_NAMED = pb.SessionEvent(truncated_fields=["raw_json"]).SerializeToString()
STUB_START = b'{"truncated":true,'
_RAW_JSON_TAG = bytes([pb.SessionEvent.RAW_JSON_FIELD_NUMBER << 3 | _LENGTH_DELIMITED])


def seal(event: pb.SessionEvent, *, session_id: str, sequence: int, time_us: int, turn_id: str) -> bytes:
    """Give an event its place in the log and encode it, once and for all; at most MAX_EVENT bytes."""
    event.session_id = clean(session_id)
    event.sequence = sequence
    event.time.FromMicroseconds(time_us)
    event.turn_id = clean(turn_id)
    fit(event, MAX_EVENT)
    return event.SerializeToString()


def raw_json(frame: Mapping[str, Any]) -> bytes:
    """The agent's own message as ASCII JSON, whole."""
    return to_json(frame).encode("ascii")


def raw_stub(size: int) -> bytes:
    """Return the object sent in place of a message above MAX_EVENT bytes; the ledger's SQL makes the same."""
    return STUB_START + b'"bytes":%d}' % size


def is_stub(raw: bytes) -> bool:
    """Whether this stands for a message that is too long. No message of the agent begins like that: `type` is first."""
    return raw.startswith(STUB_START)


def with_raw(body: bytes, raw: bytes | None) -> bytes:
    """A sealed event with `raw_json` filled in, if there is any, without reading it again.

    A message above MAX_EVENT bytes is replaced by an object that says its size, and named in `truncated_fields`.
    """
    if not raw:
        return body
    if len(raw) > MAX_EVENT:
        raw = raw_stub(len(raw))
    named = _RAW_JSON_NAMED if is_stub(raw) else b""
    return b"".join((body, _RAW_JSON_TAG, _varint(len(raw)), raw, named))


def response_bytes(bodies: Iterable[bytes], field: int = WATCH_EVENTS) -> bytes:
    """Sealed events as the repeated field `field` of a response: its encoding, or the beginning of it."""
    heads = _heads(field)
    return b"".join([part for body in bodies for part in (heads[len(body)], body)])


class _Heads(dict[int, bytes]):
    """The tag and length before an event of so many bytes. Those of the usual sizes are made once."""

    def __init__(self, field: int) -> None:
        super().__init__()
        self._tag = _varint(field << 3 | _LENGTH_DELIMITED)

    def __missing__(self, size: int) -> bytes:
        head = self._tag + _varint(size)
        if size < _USUAL:
            self[size] = head
        return head


_heads = cache(_Heads)


@cache
def heads(most: int, field: int = WATCH_EVENTS) -> bytes:
    """Return the tags and lengths before events of 0 to `most` bytes, three bytes each; below 128 they use two."""
    return b"".join(_heads(field)[size].ljust(3, b"\0") for size in range(most + 1))


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)
