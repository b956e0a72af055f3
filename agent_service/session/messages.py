"""Messages: texts sent to an agent at work, until it takes them in, begins one as a turn, or drops them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from agent_service import errors, events
from agent_service.agents.agent import AgentFailed
from agent_service.ledger import Journal, RequestId
from agent_service.session.run import Run
from agent_service.session.turn import SentMessage, message_content


class Messages:
    """The messages of one session that its agent has not begun with, by their uuids."""

    def __init__(self, journal: Journal) -> None:
        """Record what is sent in `journal`."""
        self._journal = journal
        self._sent: dict[str, SentMessage] = {}

    def __len__(self) -> int:
        """Return how many the agent has not begun with."""
        return len(self._sent)

    def __getitem__(self, uuid: str) -> SentMessage:
        """One of them."""
        return self._sent[uuid]

    def __contains__(self, uuid: str) -> bool:
        """Return whether it is one of them."""
        return uuid in self._sent

    async def send(
        self, run: Run | None, uuid: str, message: SentMessage, request_id: RequestId | None
    ) -> asyncio.Future[None]:
        """Give the agent a message while it works; the future is done when that is durable. Raises SessionNotActive."""
        agent, session_id = run.agent if run is not None else None, self._journal.session_id
        if run is None or agent is None or not run.can_be_asked or run.stopping is not None or run.has_ended:
            raise errors.SessionNotActive(
                f"session {session_id} has no turn that could take a message; use Execute", resource=session_id
            )
        turn_id = run.turn_id
        self._sent[uuid], request = message, message.request
        self._journal.add(events.user_prompt(request.text, request.attachments, uuid), turn_id=turn_id)
        self._journal.commit()
        try:
            await agent.prompt(uuid, message_content(request.text, request.attachments))
        except AgentFailed as failure:
            self._note_unread(uuid, turn_id)
            self._journal.commit()
            raise errors.SessionNotActive(
                f"the agent of session {session_id} has just ended: {failure.message}", resource=session_id
            ) from failure
        return self._journal.commit(request_id=request_id)

    def arrived(self, uuids: Iterable[str]) -> None:
        """Forget these: the agent has begun with them, or dropped them."""
        for uuid in uuids:
            self._sent.pop(uuid, None)

    def drop(self) -> bool:
        """Record, between turns, that the agent did not take in what is left; whether any is. The caller commits."""
        unread = list(self._sent)
        for uuid in unread:
            self._note_unread(uuid, turn_id="")
        return bool(unread)

    def _note_unread(self, uuid: str, turn_id: str) -> None:
        if self._sent.pop(uuid, None) is not None:
            notice = events.from_frame({"type": "command_lifecycle", "command_uuid": uuid, "state": "cancelled"})
            assert notice is not None
            self._journal.add(notice, turn_id=turn_id)
