"""SessionHandle: one session, and everything that can be done with it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from agentpb import agent_pb2 as pb

from agent_client.arguments import ExecuteArguments, Seconds
from agent_client.results import RunResult
from agent_client.watching import SessionWatch
from agent_client.whole import R

if TYPE_CHECKING:
    from agent_client.client import AgentClient

# A turn's ending is logged just before its session comes to rest.
SETTLING = 5.0


class SessionHandle:
    """A session by its id; from `execute` also the turn that was started, and where to watch it from."""

    def __init__(self, client: AgentClient, session_id: str, started: pb.ExecuteResponse | None = None) -> None:
        """Point to a session; nothing is asked of the service."""
        self._client = client
        self.session_id = session_id
        self.started = started or pb.ExecuteResponse()
        self.turn_id = self.started.turn.turn_id
        self.after_sequence = self.started.watch_after_sequence

    def __repr__(self) -> str:
        """Name the session."""
        return f"SessionHandle({self.session_id!r})"

    def watch(
        self,
        after_sequence: int | None = None,
        *,
        follow: bool = False,
        event_types: Sequence[str] = (),
        partials: bool = True,
        include_raw: bool = False,
    ) -> SessionWatch:
        """Watch events past `after_sequence`, by default those of the turn that was started, or else all."""
        return self._client.watch(
            self.session_id,
            self.after_sequence if after_sequence is None else after_sequence,
            follow=follow,
            event_types=event_types,
            partials=partials,
            include_raw=include_raw,
        )

    async def result(self, timeout: float | None = None, *, check: bool = False) -> RunResult:
        """Wait for the turn to end and return what came of it, whole; TimeoutError leaves the run as it is.

        Without a turn of its own (`client.session(...)`) the session's last one is meant, once the session is at rest.
        """
        async with asyncio.timeout(timeout):
            turn = await self._completed_turn()
            status = await self.status(history_limit=0)
            if turn.turn_id and status.session.current_turn.turn_id == turn.turn_id:
                # Not yet known as ended. Where no turn is current it has: background tasks may go on for hours.
                known = status.session.last_sequence
                status = await self.status(
                    history_limit=0, wait=SETTLING, wait_for=pb.WAIT_FOR_NEW_EVENT, after_sequence=known
                )
            turn = await self.complete(turn)
        result = RunResult(session=status.session, turn=turn)
        return result.check() if check else result

    async def status(
        self,
        *,
        history_limit: int | None = None,
        wait: Seconds | None = None,
        wait_for: str | int | None = None,
        after_sequence: int = 0,
    ) -> pb.GetStatusResponse:
        """Read state, newest messages and result; long-poll with `wait`."""
        return await self._client.status(
            self.session_id, history_limit=history_limit, wait=wait, wait_for=wait_for, after_sequence=after_sequence
        )

    async def execute(self, prompt: str, **arguments: Unpack[ExecuteArguments]) -> SessionHandle:
        """Give the session its next turn."""
        arguments.setdefault("mode", "resume")
        arguments["session_id"] = self.session_id
        return await self._client.execute(prompt, **arguments)

    async def cancel(
        self,
        *,
        reason: str = "",
        grace: Seconds | None = None,
        force: bool = False,
        wait: Seconds | None = None,
    ) -> pb.CancelResponse:
        """End the session's work for good and return the receipt."""
        return await self._client.cancel(self.session_id, reason=reason, grace=grace, force=force, wait=wait)

    async def interrupt(self, *, turn_id: str = "") -> pb.InterruptResponse:
        """Stop the running turn; keep the session and its queue."""
        return await self._client.interrupt(self.session_id, turn_id=turn_id)

    async def send(self, text: str, *, attachments: Sequence[Any] = (), request_id: str = "") -> pb.SendMessageResponse:
        """Send a message into the running turn."""
        return await self._client.send_message(self.session_id, text, attachments=attachments, request_id=request_id)

    async def allow(
        self,
        interaction_id: str,
        *,
        updated_input: str | Mapping[str, Any] | None = None,
        updated_permissions: Sequence[Any] = (),
        answers: Mapping[str, str | Sequence[str]] | None = None,
    ) -> pb.RespondToInteractionResponse:
        """Allow what the agent asks permission for, or answer its question."""
        return await self._client.allow(
            self.session_id,
            interaction_id,
            updated_input=updated_input,
            updated_permissions=updated_permissions,
            answers=answers,
        )

    async def deny(
        self, interaction_id: str, *, message: str = "", interrupt: bool = False
    ) -> pb.RespondToInteractionResponse:
        """Refuse what the agent asks."""
        return await self._client.deny(self.session_id, interaction_id, message=message, interrupt=interrupt)

    async def delete(
        self, *, force: bool = False, allow_missing: bool = False, keep_transcript: bool = False
    ) -> pb.DeleteSessionResponse:
        """Delete the session with its log."""
        return await self._client.delete(
            self.session_id, force=force, allow_missing=allow_missing, keep_transcript=keep_transcript
        )

    def events(
        self,
        *,
        after_sequence: int = 0,
        event_types: Sequence[str] = (),
        newest_first: bool = False,
        include_raw: bool = False,
        limit: int | None = None,
    ) -> AsyncIterator[pb.SessionEvent]:
        """Read the stored events, page by page."""
        return self._client.list_events(
            self.session_id,
            after_sequence=after_sequence,
            event_types=event_types,
            newest_first=newest_first,
            include_raw=include_raw,
            limit=limit,
        )

    async def complete(self, record: R) -> R:
        """Return an event, a turn or an interaction of the session with nothing cut in it."""
        return await self._client.complete(self.session_id, record)

    async def _completed_turn(self) -> pb.Turn:
        last = pb.Turn()
        async with self.watch(event_types=("turn.completed",), partials=False) as watch:
            async for event in watch:
                last = event.turn_completed.turn
                if last.turn_id == self.turn_id:
                    return last
        return last if last.turn_id and not self.turn_id else (await self.status(history_limit=0)).turn
