"""Chain: the checksums of a session's events, each made of its event and of the checksum before it.

Whoever changes, drops or swaps events in the database changes what the checksums must be; `fsck` compares. A CRC-32 has
no secret: it finds accidents and careless hands, not somebody who computes all of them anew. A cryptographic hash would
find no more, as long as nothing outside of the database knows the last one, and costs three times as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

from agent_service.ledger.tail import Event


def links(before: int, events: Sequence[Event]) -> list[int]:
    """Return the checksums of events that follow one with the checksum `before`; 0 at the beginning.

    Sequence and type are in the events' bytes as well.
    """
    found = []
    for _, _, body, raw in events:
        before = crc32(body, before)
        if raw:
            before = crc32(raw, before)
        found.append(before)
    return found
