"""Ledger: durable storage of sessions, turns, events and request ids. Everything else of the service stores through it.

`Ledger` keeps the live end of each session's log and decides what is visible; a `Store` writes and reads rows;
`Journal` writes one session's record and log; `Feed` reads the changes of all sessions. SQL is in `sqlite/`.

The store writes all waiting commits in one transaction and then tells the event loop once; only then are they visible.
Sequences and records are made by each session's only owner, and stored as they are.

An error of the disk ends the ledger: all waiting and later commits fail, and `wait_failed` returns. A commit that does
not continue its session's log is a bug of the owner: it is refused, and so are all later commits of that session, since
a gap would be worse. Other sessions go on.
"""

from agent_service.ledger.clock import CLOCK, now_us
from agent_service.ledger.commits import REQUEST_ID_SECONDS, Commit, RequestId, Whole, key_of
from agent_service.ledger.journal import AT_REST, Journal, is_at_rest
from agent_service.ledger.ledger import Ledger, Messages
from agent_service.ledger.obstruction import Obstruction
from agent_service.ledger.sqlite.assign import Assigned, assign
from agent_service.ledger.sqlite.check import fsck, stored_sessions
from agent_service.ledger.sqlite.file import copy_ledger
from agent_service.ledger.sqlite.generation import accept
from agent_service.ledger.store import Counted, GroupBy, LedgerUnusable, PageCursor, StoredStatus
from agent_service.ledger.tail import BATCH_EVENTS, Event, Position, SessionKey, Tail

__all__ = [
    "AT_REST",
    "BATCH_EVENTS",
    "CLOCK",
    "REQUEST_ID_SECONDS",
    "Assigned",
    "Commit",
    "Counted",
    "Event",
    "GroupBy",
    "Journal",
    "Ledger",
    "LedgerUnusable",
    "Messages",
    "Obstruction",
    "PageCursor",
    "Position",
    "RequestId",
    "SessionKey",
    "StoredStatus",
    "Tail",
    "Whole",
    "accept",
    "assign",
    "copy_ledger",
    "fsck",
    "is_at_rest",
    "key_of",
    "now_us",
    "stored_sessions",
]
