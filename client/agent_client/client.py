"""AgentClient: the service's RPCs as Python methods, with deadlines, retries and typed errors."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import grpc
import grpc.aio
from agentpb import agent_pb2 as pb

from agent_client import options, retry, whole
from agent_client.arguments import ExecuteArguments, FilterArguments, PrepareArguments, Seconds
from agent_client.calls import Calls
from agent_client.channel import ChannelOptions
from agent_client.connection import Access, Connection
from agent_client.credentials import TokenWanted
from agent_client.handle import SessionHandle
from agent_client.results import RunResult
from agent_client.watching import SessionWatch
from agent_client.whole import R

DEFAULT_TARGET = "127.0.0.1:50051"
DEFAULT_GRACE = 5.0


class AgentClient:
    """A client of the agent service; one is enough for a program, and it may be used by many tasks at once.

    Every call has a deadline and is tried again while the service restarts. Leaving a call or the client stops no run.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        ca: str | os.PathLike[str] | None = None,
        cert: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
        tenant: str | None = None,
        insecure: bool = False,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        timeout: float = 30.0,
        retry_for: float = 30.0,
        first_contact_for: float | None = None,
        channel_options: ChannelOptions | None = None,
    ) -> None:
        """Describe the connection; it opens with the first call.

        `token`, or what `token_file` holds, tells the service who calls. Without both, the variables AGENT_TOKEN and
        AGENT_TOKEN_FILE do, then the file that a service on this host leaves for its callers; "" sends no token.
        `ca` encrypts and names the authorities to trust, `cert` and `key` are a client certificate, `tenant` is for
        principals of several (AGENT_CA, AGENT_CERT, AGENT_KEY, AGENT_TENANT). A target may be written `tls:HOST:PORT`
        for the system's authorities. Beyond this host a token is sent over TLS only, unless `insecure` says otherwise.
        With `credentials`, made by the caller, no variable is looked at.

        `metadata` goes with every call; `timeout` is the deadline of each try, beside what the call itself is told to
        wait; `retry_for` is how many seconds a call, or a cut watch, keeps trying to reach the service, and
        `first_contact_for` the same until the service has answered for the first time.
        """
        access = Access(
            token=TokenWanted(token, token_file),
            ca=ca,
            cert=cert,
            key=key,
            tenant=tenant,
            insecure=insecure,
            ready=credentials,
        )
        self._connection = Connection(target, access, metadata, channel_options)
        self.target = target
        self.timeout = timeout
        self._patience = retry.Patience(retry_for, first_contact_for)
        self._calls = Calls(self._connection, self._patience, timeout)

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        await self.close()

    async def close(self) -> None:
        """Close the connection; runs go on. The next call opens another."""
        await self._connection.close()

    # --- running ------------------------------------------------------------------------------------------------------

    async def execute(self, prompt: str, **arguments: Unpack[ExecuteArguments]) -> SessionHandle:
        """Start a session, or give an existing one its next turn; return once it is durable.

        Takes every field of ExecuteRequest, and every agent option, by name: see `ExecuteArguments`.
        """
        request = options.execute_request(prompt, **arguments)
        response = await self._calls.unary("Execute", request, extra=_seconds(request.wait))
        return SessionHandle(self, response.session_id, response)

    async def run(self, prompt: str, *, check: bool = True, **arguments: Unpack[ExecuteArguments]) -> RunResult:
        """Execute and wait for the end; RunFailed tells of a run that ended in an error, unless `check` is false."""
        handle = await self.execute(prompt, **arguments)
        return await handle.result(check=check)

    async def prepare_agents(
        self, count: int, *, hold: Seconds | None = None, profile: str = "", **arguments: Unpack[PrepareArguments]
    ) -> pb.PrepareAgentsResponse:
        """Have agents connected ahead of `count` sessions with these options, given as to `execute`.

        Unused ones are held for `hold`, a minute without it. The answer says how many are ready, how many will be, and
        what allows no more; it does not wait for them. A repeat tops up and holds longer.
        """
        request = options.prepare_request(count, hold, profile, **arguments)
        response: pb.PrepareAgentsResponse = await self._calls.unary("PrepareAgents", request)
        return response

    def session(self, session_id: str) -> SessionHandle:
        """Return a handle on an existing session, without asking the service."""
        return SessionHandle(self, session_id)

    def watch(
        self,
        session_id: str,
        after_sequence: int = 0,
        *,
        follow: bool = False,
        event_types: Sequence[str] = (),
        partials: bool = True,
        include_raw: bool = False,
    ) -> SessionWatch:
        """Watch a session's events past a cursor, through every cut of the connection."""
        request = pb.WatchSessionRequest(
            session_id=session_id,
            after_sequence=after_sequence,
            follow=follow,
            event_types=event_types,
            skip_partials=not partials,
            include_raw=include_raw,
        )
        return SessionWatch(self._connection, request, patience=self._patience)

    # --- reading ------------------------------------------------------------------------------------------------------

    async def status(
        self,
        session_id: str,
        *,
        history_limit: int | None = None,
        wait: Seconds | None = None,
        wait_for: str | int | None = None,
        after_sequence: int = 0,
    ) -> pb.GetStatusResponse:
        """Read a session: state, newest messages, result. With `wait`, not before `wait_for` is true or it is over.

        The result is whole, however long; messages and prompts may be cut (see `complete`).
        """
        fields = {"history_limit": history_limit, "wait": wait, "wait_for": wait_for, "after_sequence": after_sequence}
        request = options.build(pb.GetStatusRequest, {"session_id": session_id, **fields})
        response: pb.GetStatusResponse = await self._calls.unary("GetStatus", request, extra=_seconds(request.wait))
        if response.result.truncated_fields:
            turn = await self.complete(session_id, response.turn)
            response.result.CopyFrom(turn.result)
            response.turn.result.CopyFrom(turn.result)
        return response

    async def list_sessions(
        self,
        *,
        order_by: str | int | None = None,
        page_size: int = 0,
        limit: int | None = None,
        **conditions: Unpack[FilterArguments],
    ) -> AsyncIterator[pb.Session]:
        """Iterate over all sessions that meet the conditions, page by page; `limit` ends it sooner."""
        request = options.build(pb.ListSessionsRequest, {"order_by": order_by, "page_size": page_size})
        request.filter.CopyFrom(options.session_filter(**conditions))
        async for session in self._calls.pages("ListSessions", request, "sessions", limit):
            yield session

    async def count_sessions(
        self, group_by: str = "", **conditions: Unpack[FilterArguments]
    ) -> pb.CountSessionsResponse:
        """Count the sessions that meet the conditions, in all and by "state", "phase" or "labels.KEY"."""
        wanted = options.session_filter(**conditions)
        request = pb.CountSessionsRequest(filter=wanted, group_by=group_by)
        response: pb.CountSessionsResponse = await self._calls.unary("CountSessions", request)
        return response

    async def list_events(
        self,
        session_id: str,
        *,
        after_sequence: int = 0,
        event_types: Sequence[str] = (),
        newest_first: bool = False,
        include_raw: bool = False,
        page_size: int = 0,
        limit: int | None = None,
    ) -> AsyncIterator[pb.SessionEvent]:
        """Iterate over a session's stored events, page by page; `limit` ends it sooner."""
        request = pb.ListEventsRequest(
            session_id=session_id,
            after_sequence=after_sequence,
            event_types=event_types,
            newest_first=newest_first,
            include_raw=include_raw,
            page_size=page_size,
        )
        async for event in self._calls.pages("ListEvents", request, "events", limit):
            yield event

    async def read_field(
        self, session_id: str, field: str, *, sequence: int = 0, turn_id: str = "", interaction_id: str = ""
    ) -> str:
        """Read the whole of a field that was cut: a text, or anything else as JSON.

        `field` is a path from `truncated_fields`, of the event, the turn or the interaction that is named with it.
        """
        request = pb.ReadFieldRequest(session_id=session_id, field=field)
        if sequence:
            request.sequence = sequence
        elif turn_id:
            request.turn_id = turn_id
        elif interaction_id:
            request.interaction_id = interaction_id
        responses = await self._calls.stream("ReadField", request)
        return b"".join(response.data for response in responses).decode()

    async def complete(self, session_id: str, record: R) -> R:
        """Return an event, a turn or an interaction with nothing cut in it, however long its texts are."""
        return await whole.complete(self.read_field, session_id, record)

    async def server_info(self) -> pb.GetServerInfoResponse:
        """Tell what runs there: versions, limits, load, model backend."""
        response: pb.GetServerInfoResponse = await self._calls.unary("GetServerInfo", pb.GetServerInfoRequest())
        return response

    # --- ending and deleting ------------------------------------------------------------------------------------------

    async def cancel(
        self,
        session_id: str,
        *,
        reason: str = "",
        grace: Seconds | None = None,
        force: bool = False,
        wait: Seconds | None = None,
    ) -> pb.CancelResponse:
        """End the session's work for good, its queue included, and return the receipt. At rest, it changes nothing."""
        fields = {"session_id": session_id, "reason": reason, "grace": grace, "force": force, "wait": wait}
        request = options.build(pb.CancelRequest, fields)
        patience = _seconds(request.grace) if request.HasField("grace") else DEFAULT_GRACE
        patience += _seconds(request.wait)
        response: pb.CancelResponse = await self._calls.unary("Cancel", request, extra=patience)
        return response

    async def cancel_sessions(
        self, *, reason: str = "", force: bool = False, dry_run: bool = False, **conditions: Unpack[FilterArguments]
    ) -> list[pb.CancelSessionsResponse]:
        """Cancel all sessions at work that meet the conditions; one response for each, the last is the summary.

        `dry_run` tells which ones and cancels none. After a cut connection, the summary is of those that were left.
        """
        wanted = options.session_filter(**conditions)
        request = pb.CancelSessionsRequest(filter=wanted, reason=reason, force=force, dry_run=dry_run)
        return await self._calls.stream("CancelSessions", request, resumes=True)

    async def cleanup(
        self,
        *,
        older_than: Seconds | None = None,
        limit: int = 0,
        dry_run: bool = False,
        keep_transcripts: bool = False,
        **conditions: Unpack[FilterArguments],
    ) -> pb.CleanupResponse:
        """Delete sessions that have been at rest for `older_than` (the operator's retention when None)."""
        fields = {"older_than": older_than, "limit": limit, "dry_run": dry_run, "keep_transcripts": keep_transcripts}
        request = options.build(pb.CleanupRequest, fields)
        if conditions:
            request.filter.CopyFrom(options.session_filter(**conditions))
        response: pb.CleanupResponse = await self._calls.unary("Cleanup", request)
        return response

    async def delete(
        self, session_id: str, *, force: bool = False, allow_missing: bool = False, keep_transcript: bool = False
    ) -> pb.DeleteSessionResponse:
        """Delete a session with its log; `force` cancels it first if it is at work."""
        request = pb.DeleteSessionRequest(
            session_id=session_id, force=force, allow_missing=allow_missing, keep_transcript=keep_transcript
        )
        response: pb.DeleteSessionResponse = await self._calls.unary("DeleteSession", request)
        return response

    # --- steering -----------------------------------------------------------------------------------------------------

    async def send_message(
        self, session_id: str, text: str, *, attachments: Sequence[Any] = (), request_id: str = ""
    ) -> pb.SendMessageResponse:
        """Send a message into the running turn."""
        fields = {"session_id": session_id, "text": text, "attachments": attachments, "request_id": request_id}
        request = options.build(pb.SendMessageRequest, fields)
        response: pb.SendMessageResponse = await self._calls.unary("SendMessage", request)
        return response

    async def interrupt(self, session_id: str, *, turn_id: str = "") -> pb.InterruptResponse:
        """Stop the running turn; keep the session and its queue."""
        response: pb.InterruptResponse = await self._calls.unary(
            "Interrupt", pb.InterruptRequest(session_id=session_id, turn_id=turn_id)
        )
        return response

    async def respond(
        self,
        session_id: str,
        interaction_id: str,
        *,
        allow: pb.PermissionAllow | Mapping[str, Any] | None = None,
        deny: pb.PermissionDeny | Mapping[str, Any] | None = None,
    ) -> pb.RespondToInteractionResponse:
        """Answer an interaction with exactly one of `allow` and `deny`."""
        if (allow is None) == (deny is None):
            raise TypeError("respond takes exactly one of allow= and deny=")
        fields = {"session_id": session_id, "interaction_id": interaction_id, "allow": allow, "deny": deny}
        response: pb.RespondToInteractionResponse = await self._calls.unary(
            "RespondToInteraction", options.build(pb.RespondToInteractionRequest, fields)
        )
        return response

    async def allow(
        self,
        session_id: str,
        interaction_id: str,
        *,
        updated_input: str | Mapping[str, Any] | None = None,
        updated_permissions: Sequence[Any] = (),
        answers: Mapping[str, str | Sequence[str]] | None = None,
    ) -> pb.RespondToInteractionResponse:
        """Allow what the agent asks permission for, perhaps with another input, or answer its questions.

        `answers` are labels of options, or other texts, by the question's text; a list where several may be chosen.
        """
        given = (answers or {}).items()
        text = updated_input if isinstance(updated_input, str) else json.dumps(updated_input)
        answer = {
            "updated_input_json": "" if updated_input is None else text,
            "updated_permissions": updated_permissions,
            "answers": {asked: each if isinstance(each, str) else ", ".join(each) for asked, each in given},
        }
        return await self.respond(session_id, interaction_id, allow=answer)

    async def deny(
        self, session_id: str, interaction_id: str, *, message: str = "", interrupt: bool = False
    ) -> pb.RespondToInteractionResponse:
        """Refuse what the agent asks; `interrupt` stops the turn as well."""
        return await self.respond(session_id, interaction_id, deny={"message": message, "interrupt": interrupt})


def _seconds(value: Any) -> float:
    return float(value.ToTimedelta().total_seconds())
