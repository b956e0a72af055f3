"""What the parts look at."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from agentpb import agent_pb2 as pb

from tests.process.live import Live

AT_REST = (pb.SESSION_STATE_COMPLETED, pb.SESSION_STATE_ERROR, pb.SESSION_STATE_CANCELLED)


async def all_events(live: Live, session_id: str, up_to: int) -> list[pb.SessionEvent]:
    """A session's log up to an event, page by page."""
    events: list[pb.SessionEvent] = []
    request = pb.ListEventsRequest(session_id=session_id, page_size=1000)
    while True:
        page = await live.stub.ListEvents(request)
        events += page.events
        request.page_token = page.next_page_token
        if not page.next_page_token or len(events) >= up_to:
            return events


def processes_of(live: Live, agent_session_id: str) -> dict[int, str]:
    """The processes of one session that live now: their ids and names."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                if f":{agent_session_id}\0".encode() in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (entry / "comm").read_text().strip()
    return found
