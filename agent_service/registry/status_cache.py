"""StatusCache: answers about sessions that were encoded once, for as long as nothing in them changes."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from agent_service.ledger import SessionKey

MAX_BYTES = 6 << 20
"""Bytes kept in all; the least recently used go first."""
ENTRY = 512
"""Bytes that a status takes besides its own."""
MAX_PAGE = 16 << 10
"""Bytes of messages that are kept with a status, at most."""


class CachedMessages(NamedTuple):
    """A session's newest messages, `limit` at most, as the bytes that are sent; and whether there are older ones."""

    limit: int
    body: bytes
    truncated: bool


class CachedStatus(NamedTuple):
    """A session's encoded status without its messages, and the page of messages that was requested last."""

    version: int
    body: bytes
    has_messages: bool
    page: CachedMessages | None = None

    @property
    def size(self) -> int:
        """Bytes it takes."""
        return len(self.body) + (len(self.page.body) if self.page is not None else 0) + ENTRY


class StatusCache:
    """A bounded number of encoded statuses by session. `version` is the journal's; 0 for a session only on disk."""

    def __init__(self) -> None:
        """Keep none yet."""
        self._status_cache: OrderedDict[SessionKey, CachedStatus] = OrderedDict()
        self._size = 0
        self.changes = 0
        """How often a session was forgotten: what was read before and is put after that may be of yesterday."""

    def get(self, key: SessionKey, version: int) -> CachedStatus | None:
        """The status of a session, if it is still true."""
        status = self._status_cache.get(key)
        if status is None or status.version != version:
            return None
        self._status_cache.move_to_end(key)
        return status

    def put(self, key: SessionKey, status: CachedStatus) -> None:
        """Keep a status."""
        self._drop(key)
        self._status_cache[key] = status
        self._size += status.size
        while self._size > MAX_BYTES:
            self._drop(next(iter(self._status_cache)))

    def put_page(self, key: SessionKey, status: CachedStatus, page: CachedMessages) -> None:
        """Keep messages that were read after `status`, unless they are many or something has changed since."""
        if self._status_cache.get(key) is status and len(page.body) <= MAX_PAGE:
            self.put(key, status._replace(page=page))

    def forget(self, key: SessionKey) -> None:
        """Give up what is known of a session: from here on it is another's to say what is true of it."""
        self.changes += 1
        self._drop(key)

    def _drop(self, key: SessionKey) -> None:
        status = self._status_cache.pop(key, None)
        if status is not None:
            self._size -= status.size
