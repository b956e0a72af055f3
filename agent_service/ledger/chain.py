"""Chain: the checksums of a session's events, each made of its event and of the checksum before it.

Whoever changes, drops or swaps events in the database changes what the checksums must be; `fsck` compares. A CRC-32 has
no secret: it finds accidents and careless hands, not somebody who computes all of them anew. A cryptographic hash would
find no more, as long as nothing outside of the database knows the last one, and costs three times as much.
"""

from __future__ import annotations

from zlib import crc32

from agent_service.ledger.tail import Event


def link(before: int, event: Event) -> int:
    """Return the checksum of an event that follows one with the checksum `before`; 0 at the beginning.

    Sequence and type are in the event's bytes as well.
    """
    checksum = crc32(event.body, before)
    return crc32(event.raw, checksum) if event.raw else checksum
