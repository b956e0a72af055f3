"""Ledger: sessions, turns, events and request ids on disk, and the one way to them. SQLite lives here and nowhere else.

One thread writes. It takes whatever waits, writes it in one transaction, and tells the event loop once; only then is it
visible. Readers have threads and read-only connections of their own. The ledger stores what it is given: sequences and
records are made by the one owner of each session.

What goes wrong with the disk is the end of the ledger: all that waits fails, all that comes fails, and `wait_failed`
returns. A commit that does not fit its log is a bug of its owner: it is refused alone, and with it whatever that
session sends later, because a gap would be worse; the sessions of others go on.
"""

from agent_service.ledger.commits import REQUEST_ID_SECONDS, Commit, RequestId, Whole
from agent_service.ledger.journal import AT_REST, Journal, is_at_rest, now_us
from agent_service.ledger.ledger import Ledger, Messages
from agent_service.ledger.sqlite.check import fsck, stored_sessions
from agent_service.ledger.sqlite.file import copy_ledger
from agent_service.ledger.store import LedgerUnusable, PageCursor, StoredStatus
from agent_service.ledger.tail import BATCH_EVENTS, Event, Position, Tail

__all__ = [
    "AT_REST",
    "BATCH_EVENTS",
    "REQUEST_ID_SECONDS",
    "Commit",
    "Event",
    "Journal",
    "Ledger",
    "LedgerUnusable",
    "Messages",
    "PageCursor",
    "Position",
    "RequestId",
    "StoredStatus",
    "Tail",
    "Whole",
    "copy_ledger",
    "fsck",
    "is_at_rest",
    "now_us",
    "stored_sessions",
]
