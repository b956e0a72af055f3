"""AgentService: each RPC reads as a sentence about the registry. Requests stop here; below, it is sessions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio
from agentpb import agent_pb2 as pb
from agentpb import agent_pb2_grpc

from agent_service import events
from agent_service import options as translate
from agent_service.api import pages
from agent_service.api.validation import check
from agent_service.errors import InvalidField
from agent_service.ledger import Event
from agent_service.registry.registry import SessionRegistry
from agent_service.registry.status_cache import CachedStatus
from agent_service.registry.watcher import Wanted, check_sequence

Context = grpc.aio.ServicerContext[Any, Any]

DEADLINE_MARGIN = 0.25
"""Seconds before the caller's deadline at which a wait ends with OK."""

HEARTBEAT_DEFAULT, HEARTBEAT_MIN, HEARTBEAT_MAX = 15.0, 1.0, 300.0
DEFAULT_HISTORY = 100
DEFAULT_PAGE, DEFAULT_EVENT_PAGE = 50, 100
PAGE_BYTES = 1 << 20
MESSAGES_FIELD = pb.GetStatusResponse.MESSAGES_FIELD_NUMBER
NOBODY = ""
"""The owner of sessions while nobody is authenticated."""


class AgentService(agent_pb2_grpc.AgentServiceServicer):
    """The twelve RPCs of agentservice.v1."""

    def __init__(
        self,
        registry: SessionRegistry,
        *,
        retention: float,
        server_info: Callable[[], pb.GetServerInfoResponse],
    ) -> None:
        """Serve `registry`; sessions at rest are kept for `retention` seconds; `server_info` says what runs here."""
        self._registry = registry
        self._retention = retention
        self._server_info = server_info

    async def Execute(self, request: pb.ExecuteRequest, context: Context) -> pb.ExecuteResponse:
        """Start a session or its next turn; answer once it is durable, or once it is at rest, with `wait`."""
        check(request)
        if request.validate_only:
            return self._checked(request, await self._registry.execution.check_start(request, NOBODY))
        started = await self._registry.start(request, NOBODY)
        session, turn, expired = started.session, started.turn, False
        if request.HasField("wait") and request.wait.ToNanoseconds():
            patience = _bounded(context, request.wait.ToMicroseconds() / 1e6)
            expired = not await self._registry.execution.wait_turn(session.session_id, turn.turn_id, patience)
            session = await self._registry.get(session.session_id, NOBODY)
            turn = await self._registry.ledger.turn(turn.turn_id) or turn
        return pb.ExecuteResponse(
            session_id=session.session_id,
            state=session.state,
            turn=turn,
            session=_shown(session),
            watch_after_sequence=started.watch_after_sequence,
            deduplicated=started.deduplicated,
            wait_expired=expired,
            warnings=_warnings(request, session),
        )

    @staticmethod
    def _checked(request: pb.ExecuteRequest, session: pb.Session | None) -> pb.ExecuteResponse:
        response = pb.ExecuteResponse(warnings=_warnings(request, session or pb.Session()))
        if session is not None:
            response.session_id, response.state = session.session_id, session.state
            response.session.CopyFrom(_shown(session))
        return response

    async def GetStatus(self, request: pb.GetStatusRequest, context: Context) -> bytes:  # type: ignore[override]
        """Read a session, after a wait if asked to. What does not change is encoded once."""
        check(request)
        if request.HasField("wait"):
            wanted = Wanted(request.wait_for, request.after_sequence)
            if request.wait_for == pb.WAIT_FOR_NEW_EVENT:
                check_sequence(await self._registry.get(request.session_id, NOBODY), request.after_sequence)
            patience = _bounded(context, request.wait.ToMicroseconds() / 1e6)
            session, met = await self._registry.wait_until(request.session_id, NOBODY, patience, wanted)
            body = _head(session, await self._registry.turn_of(session))
            head = CachedStatus(NOBODY, 0, body, session.message_count > 0)
            return await self._with_messages(request, head, expired=not met)
        return await self._with_messages(
            request, await self._registry.head(request.session_id, NOBODY, _head), expired=False
        )

    async def _with_messages(self, request: pb.GetStatusRequest, head: CachedStatus, *, expired: bool) -> bytes:
        """A status with its newest messages, as the stored bytes."""
        limit = request.history_limit if request.HasField("history_limit") else DEFAULT_HISTORY
        if not limit:
            return head.body + _STATUS_TAILS[head.has_messages, expired]
        page = await self._registry.newest_messages(request.session_id, head, limit, PAGE_BYTES, _messages)
        return head.body + page.body + _STATUS_TAILS[page.truncated, expired]

    async def WatchSession(self, request: pb.WatchSessionRequest, context: Context) -> None:  # type: ignore[override]
        """Write what the watcher reads, as the stored bytes. A coroutine: a generator would end in another task."""
        check(request)
        watcher = await self._registry.watch(
            request.session_id,
            NOBODY,
            request.after_sequence,
            follow=request.follow,
            types=tuple(request.event_types),
            partials=not request.skip_partials,
            with_raw=request.include_raw,
        )
        interval = _heartbeat_interval(request)
        started = pb.WatchStarted(session=_shown(watcher.session), last_sequence=watcher.session.last_sequence)
        await context.write(pb.WatchSessionResponse(started=started))
        with self._registry.watching():
            while (end := watcher.end) is None:
                responses = await watcher.read(interval)
                for response in responses:
                    await context.write(response)
                if not responses and watcher.end is None:
                    await context.write(_heartbeat(watcher.session))
            last = pb.WatchEnd(reason=end, last_sequence=watcher.last_sequence, session=_shown(watcher.session))
            await context.write(pb.WatchSessionResponse(end=last))

    async def Cancel(self, request: pb.CancelRequest, context: Context) -> pb.CancelResponse:
        """End a session's work and say how."""
        check(request)
        grace = request.grace.ToMicroseconds() / 1e6 if request.HasField("grace") else 5.0
        wait = request.wait.ToMicroseconds() / 1e6 if request.HasField("wait") else None
        done = await self._registry.cancel(
            request.session_id,
            NOBODY,
            grace=grace,
            force=request.force,
            reason=request.reason,
            wait=_patience(context, wait),
        )
        return pb.CancelResponse(
            session=_shown(done.session), already_at_rest=done.already_at_rest, receipt=done.receipt
        )

    async def ListSessions(self, request: pb.ListSessionsRequest, context: Context) -> pb.ListSessionsResponse:
        """List a page of sessions."""
        check(request)
        sessions, cursor = await self._registry.list(
            request, NOBODY, after=pages.read_token(request), limit=request.page_size or DEFAULT_PAGE
        )
        return pb.ListSessionsResponse(
            sessions=[_shown(session) for session in sessions], next_page_token=pages.make_token(request, cursor)
        )

    async def Cleanup(self, request: pb.CleanupRequest, context: Context) -> pb.CleanupResponse:
        """Delete what has been at rest for long enough."""
        check(request)
        older_than = request.older_than.ToMicroseconds() / 1e6 if request.HasField("older_than") else self._retention
        return await self._registry.deletion.cleanup(request, NOBODY, older_than=older_than)

    async def DeleteSession(self, request: pb.DeleteSessionRequest, context: Context) -> pb.DeleteSessionResponse:
        """Delete one session."""
        check(request)
        session = await self._registry.deletion.delete_one(request, NOBODY)
        return pb.DeleteSessionResponse(session=_shown(session) if session is not None else None)

    async def ListEvents(self, request: pb.ListEventsRequest, context: Context) -> bytes:  # type: ignore[override]
        """Read a page of stored events, as the bytes that are stored."""
        check(request)
        session = await self._registry.get(request.session_id, NOBODY)
        check_sequence(session, request.after_sequence)
        cursor = pages.read_token(request)
        limit = request.page_size or DEFAULT_EVENT_PAGE
        page = await self._registry.ledger.read(
            request.session_id,
            request.after_sequence if cursor is None or request.newest_first else int(cursor),
            limit=limit + 1,
            max_bytes=PAGE_BYTES,
            types=tuple(request.event_types),
            newest_first=request.newest_first,
            before_sequence=int(cursor) if cursor is not None and request.newest_first else None,
            with_raw=request.include_raw,
        )
        return await self._event_page(request, session, page, limit)

    async def _event_page(
        self, request: pb.ListEventsRequest, session: pb.Session, page: list[Event], limit: int
    ) -> bytes:
        shown = page[:limit]
        tail = pb.ListEventsResponse(last_sequence=session.last_sequence)
        if shown and await self._more_after(request, session, shown[-1].sequence, len(page) > limit):
            tail.next_page_token = pages.make_token(request, shown[-1].sequence)
        sent = (event.sent(request.include_raw) for event in shown)
        return events.response_bytes(sent, field=events.LIST_EVENTS) + tail.SerializeToString()

    async def _more_after(self, request: pb.ListEventsRequest, session: pb.Session, last: int, certainly: bool) -> bool:
        """Whether there is a further page: a page may also end because it had enough bytes."""
        if certainly:
            return True
        backwards = request.newest_first
        further = await self._registry.ledger.read(
            session.session_id,
            request.after_sequence if backwards else last,
            limit=1,
            types=tuple(request.event_types),
            newest_first=backwards,
            before_sequence=last if backwards else None,
        )
        return bool(further)

    async def ReadField(self, request: pb.ReadFieldRequest, context: Context) -> None:  # type: ignore[override]
        """Read the whole of a field that was cut."""
        check(request)
        await self._registry.get(request.session_id, NOBODY)
        raise InvalidField.of("field", "names no field that was cut")

    async def SendMessage(self, request: pb.SendMessageRequest, context: Context) -> pb.SendMessageResponse:
        """Send a message into the running turn."""
        check(request)
        sent = await self._registry.control.send(request, NOBODY)
        sent.session.CopyFrom(_shown(sent.session))
        return sent

    async def Interrupt(self, request: pb.InterruptRequest, context: Context) -> pb.InterruptResponse:
        """Stop the running turn and keep the session."""
        check(request)
        session, interrupted = await self._registry.control.interrupt(request.session_id, NOBODY, request.turn_id)
        return pb.InterruptResponse(session=_shown(session), interrupted=interrupted)

    async def RespondToInteraction(
        self, request: pb.RespondToInteractionRequest, context: Context
    ) -> pb.RespondToInteractionResponse:
        """Answer what the agent asks; the first answer wins."""
        check(request)
        interaction, session, repeated = await self._registry.control.respond(
            request, NOBODY, by=context.peer() or "", key=_metadata(context, "agent-request-id")
        )
        return pb.RespondToInteractionResponse(interaction=interaction, session=_shown(session), deduplicated=repeated)

    async def GetServerInfo(self, request: pb.GetServerInfoRequest, context: Context) -> pb.GetServerInfoResponse:
        """Say what runs here."""
        response = self._server_info()
        response.draining = self._registry.draining
        busy = self._registry.statistics()
        response.load.MergeFrom(pb.ServerLoad(**busy, sessions=await self._registry.ledger.count()))
        return response


def _warnings(request: pb.ExecuteRequest, session: pb.Session) -> list[str]:
    return translate.warnings(translate.merge(session.options, request.options, request.clear_options))


_STATUS_TAILS = {
    (truncated, expired): pb.GetStatusResponse(messages_truncated=truncated, wait_expired=expired).SerializeToString()
    for truncated in (False, True)
    for expired in (False, True)
}


def _messages(found: Sequence[Event]) -> bytes:
    return events.response_bytes((event.body for event in found), field=MESSAGES_FIELD)


def _head(session: pb.Session, turn: pb.Turn | None) -> bytes:
    """A status without its messages. A message's fields may come in any order, so the rest is put behind it."""
    response = pb.GetStatusResponse(
        session_id=session.session_id, state=session.state, session=_shown(session), turn=turn
    )
    if turn is not None and turn.HasField("result"):
        response.result.CopyFrom(turn.result)
    if session.HasField("error"):
        response.error.CopyFrom(session.error)
    return response.SerializeToString()


def _metadata(context: Context, key: str) -> str:
    values = dict(context.invocation_metadata() or ())
    value = values.get(key, "")
    return value if isinstance(value, str) else ""


def _bounded(context: Context, wanted: float) -> float:
    patience = _patience(context, wanted)
    return wanted if patience is None else patience


def _patience(context: Context, wanted: float | None) -> float | None:
    """How long a wait may take: as asked, but so that the answer comes before the caller's deadline."""
    left = context.time_remaining()
    if left is None:
        return wanted
    left = max(0.0, left - DEADLINE_MARGIN)
    return left if wanted is None else min(wanted, left)


def _heartbeat(session: pb.Session) -> pb.WatchSessionResponse:
    heartbeat = pb.Heartbeat(last_sequence=session.last_sequence, state=session.state)
    heartbeat.time.GetCurrentTime()
    return pb.WatchSessionResponse(heartbeat=heartbeat)


def _heartbeat_interval(request: pb.WatchSessionRequest) -> float:
    if not request.HasField("heartbeat_interval"):
        return HEARTBEAT_DEFAULT
    return min(max(request.heartbeat_interval.ToMicroseconds() / 1e6, HEARTBEAT_MIN), HEARTBEAT_MAX)


def _shown(session: pb.Session) -> pb.Session:
    """A copy of a session without its secrets."""
    shown = pb.Session()
    shown.CopyFrom(session)
    shown.options.CopyFrom(translate.redacted(session.options))
    return shown
