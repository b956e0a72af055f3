"""Chain: the checksums of a session's events, each made of its event and of the checksum before it.

Whoever changes an event, its order or its type in the database changes what the checksum must be; `fsck` compares. The
checksums hold no secret: they find accidents and careless hands, not somebody who computes them anew.
"""

from __future__ import annotations

from hashlib import sha256

from agent_service.ledger.tail import Event

LENGTH = 16
"""Bytes of a checksum."""


def link(before: bytes, event: Event) -> bytes:
    """Return the checksum of an event that follows one with the checksum `before`, or none (b"")."""
    sequence, kind, body, raw = event
    head = b"%b %d %b %d " % (before, sequence, kind.encode(), len(body))
    # One buffer: three calls cost more than the copy, as most events have less than 2 KiB.
    return sha256(b"".join((head, body, raw or b""))).digest()[:LENGTH]
