"""Handlers: the RPCs of agentservice.v1 over a Call. Requests stop here; the registry below knows sessions.

Requests are parsed and validated already (chain.py). What a handler returns as bytes is an encoded response.
"""

from __future__ import annotations

from collections.abc import Callable

from agentpb import agent_pb2 as pb

from agent_service import events
from agent_service import options as translate
from agent_service.api import pages
from agent_service.api.call import Call
from agent_service.api.caller import caller, versions
from agent_service.api.counts import MAX_COUNTED, counts_response, group_by
from agent_service.api.shown import show, shown, shown_turn
from agent_service.api.status import STATUS_TAILS, status_head, status_messages
from agent_service.api.validation import check_host
from agent_service.auth import ANONYMOUS
from agent_service.events import cut
from agent_service.ledger import SessionKey, key_of
from agent_service.policy import Policy
from agent_service.registry import (
    CachedStatus,
    Cancellation,
    Checked,
    Control,
    Deletion,
    Execution,
    MassCancellation,
    Preparation,
    Queries,
    Wanted,
    check_sequence,
)

HEARTBEAT_DEFAULT, HEARTBEAT_MIN, HEARTBEAT_MAX = 15.0, 1.0, 300.0
DEFAULT_HISTORY = 100
DEFAULT_PAGE, DEFAULT_EVENT_PAGE = 50, 100
MAX_WARNINGS, MAX_WARNING = 100, 4096
"""How many warnings an answer has, and bytes of each."""

SESSIONS_FIELD = pb.ListSessionsResponse.SESSIONS_FIELD_NUMBER


class Handlers:
    """The RPCs of agentservice.v1, one method each."""

    def __init__(
        self,
        *,
        queries: Queries,
        execution: Execution,
        control: Control,
        cancellation: Cancellation,
        mass_cancellation: MassCancellation,
        deletion: Deletion,
        preparation: Preparation,
        retention: float,
        policy: Policy,
        server_info: Callable[[str], pb.GetServerInfoResponse],
    ) -> None:
        """Sessions at rest are kept for `retention` seconds; `server_info` lacks the number of sessions stored."""
        self._queries = queries
        self._execution = execution
        self._control = control
        self._cancellation = cancellation
        self._mass_cancellation = mass_cancellation
        self._deletion = deletion
        self._preparation = preparation
        self._retention = retention
        self._policy = policy
        self._server_info = server_info

    async def Execute(self, request: pb.ExecuteRequest, call: Call) -> pb.ExecuteResponse:
        """Start a session or its next turn; answer once it is durable, or once it is at rest, with `wait`."""
        self._policy.check_given(request, call.owner)
        check_host(request)
        if request.validate_only:
            checked = await self._execution.check_start(request, call.owner)
            return _checked(checked, self._warnings(request, checked.options, call.owner))
        started = await self._execution.start(request, call.owner, by=call.principal.name)
        session, turn, expired = started.session, started.turn, False
        if request.HasField("wait") and request.wait.ToNanoseconds():
            key, patience = key_of(session), call.patience(translate.seconds_of(request.wait))
            expired = not await self._execution.wait_turn(key, turn.turn_id, patience)
            session = await self._queries.get(key)
            turn = await self._queries.turn(turn.turn_id) or turn
        response = pb.ExecuteResponse(
            session_id=session.session_id,
            state=session.state,
            turn=shown_turn(turn),
            session=session,
            watch_after_sequence=started.watch_after_sequence,
            deduplicated=started.deduplicated,
            wait_expired=expired,
            warnings=self._warnings(request, started.options, call.owner),
        )
        show(response.session)
        return response

    def _warnings(self, request: pb.ExecuteRequest, options: pb.AgentOptions, tenant: str) -> list[str]:
        """What was filled in, and what may surprise."""
        texts = [*self._policy.notes(request, options, tenant), *translate.warnings(options)]
        return [cut(text, MAX_WARNING) for text in texts[:MAX_WARNINGS]]

    async def GetStatus(self, request: pb.GetStatusRequest, call: Call) -> bytes:
        """Read a session, after a wait if asked to. What does not change is encoded once."""
        key = SessionKey(call.owner, request.session_id)
        if request.HasField("wait"):
            wanted = Wanted(request.wait_for, request.after_sequence)
            patience = call.patience(translate.seconds_of(request.wait))
            session, met = await self._queries.wait_until(key, patience, wanted)
            body = status_head(session, await self._queries.turn_of(session))
            status = CachedStatus(0, body, session.message_count > 0)
            return await self._with_messages(request, key, status, expired=not met)
        status = await self._queries.status(key, status_head)
        return await self._with_messages(request, key, status, expired=False)

    async def _with_messages(
        self, request: pb.GetStatusRequest, key: SessionKey, status: CachedStatus, *, expired: bool
    ) -> bytes:
        """A status with its newest messages, as the stored bytes."""
        limit = request.history_limit if request.HasField("history_limit") else DEFAULT_HISTORY
        if not limit:
            return status.body + STATUS_TAILS[status.has_messages, expired]
        page = await self._queries.newest_messages(key, status, limit, status_messages)
        return status.body + page.body + STATUS_TAILS[page.truncated, expired]

    async def WatchSession(self, request: pb.WatchSessionRequest, call: Call) -> None:
        """Write what the watcher reads, as the stored bytes. A coroutine: a generator would end in another task."""
        watcher = await self._queries.watch(request, call.owner)
        interval = _heartbeat_interval(request)
        started = pb.WatchStarted(session=shown(watcher.session), last_sequence=watcher.session.last_sequence)
        await call.write(pb.WatchSessionResponse(started=started))
        with self._queries.watching(call.owner):
            while (end := watcher.end) is None:
                responses = await watcher.read(interval)
                for response in responses:
                    await call.write(response)
                if not responses and watcher.end is None:
                    await call.write(_heartbeat(watcher.session))
            last = pb.WatchEnd(reason=end, last_sequence=watcher.last_sequence, session=shown(watcher.session))
            await call.write(pb.WatchSessionResponse(end=last))

    async def Cancel(self, request: pb.CancelRequest, call: Call) -> pb.CancelResponse:
        """End a session's work and say how."""
        wait = call.patience(translate.seconds_of(request.wait)) if request.HasField("wait") else call.patience_left()
        response = await self._cancellation.cancel(request, call.owner, wait=wait)
        show(response.session)
        return response

    async def ListSessions(self, request: pb.ListSessionsRequest, call: Call) -> bytes:
        """List a page of sessions. Each row was read for this call: it is made ready in place and encoded once."""
        sessions, cursor = await self._queries.list(
            request, call.owner, after=pages.read_token(request), limit=request.page_size or DEFAULT_PAGE
        )
        for session in sessions:
            show(session)
        rows = events.response_bytes((session.SerializeToString() for session in sessions), field=SESSIONS_FIELD)
        return rows + pb.ListSessionsResponse(next_page_token=pages.make_token(request, cursor)).SerializeToString()

    async def CountSessions(self, request: pb.CountSessionsRequest, call: Call) -> pb.CountSessionsResponse:
        """Count sessions, in all or by a property."""
        counted = await self._queries.counts(request.filter, call.owner, group_by(request.group_by), MAX_COUNTED)
        return counts_response(request.group_by, counted)

    async def CancelSessions(self, request: pb.CancelSessionsRequest, call: Call) -> None:
        """Cancel all that a filter names; tell of each as it is done."""
        async for response in self._mass_cancellation.cancel(request, call.owner):
            call.response = response  # the last one is the summary
            await call.write(response)

    async def PrepareAgents(self, request: pb.PrepareAgentsRequest, call: Call) -> pb.PrepareAgentsResponse:
        """Connect agents ahead of sessions, for options that Execute would take."""
        session = pb.ExecuteRequest(options=request.options, profile=request.profile)
        self._policy.check_given(session, call.owner)
        check_host(session)
        return self._preparation.prepare(request, session, call.owner)

    async def Cleanup(self, request: pb.CleanupRequest, call: Call) -> pb.CleanupResponse:
        """Delete what has been at rest for long enough."""
        older_than = translate.seconds_of(request.older_than) if request.HasField("older_than") else self._retention
        return await self._deletion.cleanup(request, call.owner, older_than=older_than)

    async def DeleteSession(self, request: pb.DeleteSessionRequest, call: Call) -> pb.DeleteSessionResponse:
        """Delete one session."""
        response = await self._deletion.delete_one(request, call.owner)
        if response.HasField("session"):
            show(response.session)
        return response

    async def ListEvents(self, request: pb.ListEventsRequest, call: Call) -> bytes:
        """Read a page of stored events, as the bytes that are stored."""
        session = await self._queries.get(SessionKey(call.owner, request.session_id))
        check_sequence(session, request.after_sequence)
        token = pages.read_token(request)
        page, cursor = await self._queries.events(
            request,
            call.owner,
            cursor=None if token is None else int(token),
            limit=request.page_size or DEFAULT_EVENT_PAGE,
        )
        tail = pb.ListEventsResponse(
            last_sequence=session.last_sequence, next_page_token=pages.make_token(request, cursor)
        )
        sent = (event.sent(request.include_raw) for event in page)
        return events.response_bytes(sent, field=events.LIST_EVENTS) + tail.SerializeToString()

    async def ReadField(self, request: pb.ReadFieldRequest, call: Call) -> None:
        """Read the whole of a field that was cut, in pieces."""
        session = await self._queries.get(SessionKey(call.owner, request.session_id))
        translate.redact(session.options)
        async with self._queries.fields.open(request, session) as field:
            response = pb.ReadFieldResponse(total_bytes=field.size)
            async for piece in field.pieces():
                response.data = piece
                await call.write(response)
                response = pb.ReadFieldResponse()

    async def SendMessage(self, request: pb.SendMessageRequest, call: Call) -> pb.SendMessageResponse:
        """Send a message into the running turn."""
        self._policy.check_message(request, call.owner)
        sent = await self._control.send(request, call.owner, by=call.principal.name)
        show(sent.session)
        return sent

    async def Interrupt(self, request: pb.InterruptRequest, call: Call) -> pb.InterruptResponse:
        """Stop the running turn and keep the session."""
        response = await self._control.interrupt(request, call.owner)
        show(response.session)
        return response

    async def RespondToInteraction(
        self, request: pb.RespondToInteractionRequest, call: Call
    ) -> pb.RespondToInteractionResponse:
        """Answer what the agent asks; the first answer wins."""
        self._policy.check_answer(request, call.owner)
        response = await self._control.respond(request, call.owner, by=call.principal.name)
        show(response.session)
        return response

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, call: Call) -> pb.GetServerInfoResponse:
        """Say what runs here, and who calls; without a credential, the versions alone."""
        response = self._server_info(call.owner)
        if call.principal is ANONYMOUS:
            return versions(response)
        response.caller.CopyFrom(caller(call))
        response.load.sessions = await self._queries.count(call.owner)
        response.policy_version = self._policy.version
        response.caller.ceilings_json = self._policy.ceilings_json(call.owner)
        return response


def _checked(checked: Checked, warnings: list[str]) -> pb.ExecuteResponse:
    response, session = pb.ExecuteResponse(warnings=warnings), checked.session
    if session is not None:
        response.session_id, response.state = session.session_id, session.state
        response.session.CopyFrom(session)
        show(response.session)
    return response


def _heartbeat(session: pb.Session) -> pb.WatchSessionResponse:
    heartbeat = pb.Heartbeat(last_sequence=session.last_sequence, state=session.state)
    heartbeat.time.GetCurrentTime()
    return pb.WatchSessionResponse(heartbeat=heartbeat)


def _heartbeat_interval(request: pb.WatchSessionRequest) -> float:
    if not request.HasField("heartbeat_interval"):
        return HEARTBEAT_DEFAULT
    return min(max(translate.seconds_of(request.heartbeat_interval), HEARTBEAT_MIN), HEARTBEAT_MAX)
