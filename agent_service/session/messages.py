"""Messages: what was sent to an agent at work, until taken in, begun as a turn of its own, or dropped."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from agentpb import agent_pb2 as pb

from agent_service import errors, events
from agent_service.agents.agent import AgentFailed
from agent_service.ledger import RequestId
from agent_service.session.run import Run
from agent_service.session.turn import message_content


class Messages:
    """The messages of one session that its agent has not begun with, by their uuids."""

    def __init__(self, course: Run) -> None:
        """Send them into the turn that `course` is at."""
        self._course = course
        self._journal = course.journal
        self._sent: dict[str, pb.SendMessageRequest] = {}

    def __len__(self) -> int:
        """How many the agent has not begun with."""
        return len(self._sent)

    def __getitem__(self, uuid: str) -> pb.SendMessageRequest:
        """One of them."""
        return self._sent[uuid]

    def __contains__(self, uuid: str) -> bool:
        """Whether it is one of them."""
        return uuid in self._sent

    async def send(
        self, uuid: str, request: pb.SendMessageRequest, request_id: RequestId | None
    ) -> asyncio.Future[None]:
        """Give the agent a message while it works; the future is done when that is durable. Raises SessionNotActive."""
        course = self._course
        agent = course.agent
        if (
            agent is None
            or not course.can_be_asked
            or course.stopping is not None
            or course.ended is None
            or course.ended.done()
        ):
            raise errors.SessionNotActive(
                f"session {course.session_id} has no turn that could take a message; use Execute",
                resource=course.session_id,
            )
        self._sent[uuid] = request
        self._journal.add(events.user_prompt(request.text, request.attachments, uuid), turn_id=course.turn_id)
        self._journal.commit()
        try:
            await agent.prompt(uuid, message_content(request.text, request.attachments))
        except AgentFailed as failure:
            self._note_unread(uuid)
            self._journal.commit()
            raise errors.SessionNotActive(
                f"the agent of session {course.session_id} has just ended: {failure.message}",
                resource=course.session_id,
            ) from failure
        return self._journal.commit(request_id=request_id)

    def arrived(self, uuids: Iterable[str]) -> None:
        """Take note that the agent has begun with these, or dropped them."""
        for uuid in uuids:
            self._sent.pop(uuid, None)

    def drop(self) -> bool:
        """Say of all that are left that the agent did not take them in; whether there were any. The caller commits."""
        unread = list(self._sent)
        for uuid in unread:
            self._note_unread(uuid)
        return bool(unread)

    def _note_unread(self, uuid: str) -> None:
        if self._sent.pop(uuid, None) is not None:
            notice = events.from_frame({"type": "command_lifecycle", "command_uuid": uuid, "state": "cancelled"})
            assert notice is not None
            self._journal.add(notice, turn_id=self._course.turn_id)
