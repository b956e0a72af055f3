"""Execution: what Execute does. All is read first, then decided and handed to the ledger without a pause in between."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import NamedTuple
from uuid import uuid4

from agentpb import agent_pb2 as pb

from agent_service import errors
from agent_service import options as translate
from agent_service.agents.pool import AgentPool
from agent_service.agents.workspace import Workspaces, conversation_of
from agent_service.ledger import Journal, Ledger, RequestId, SessionKey, now_us
from agent_service.options import missing_directories
from agent_service.policy import Policy
from agent_service.registry import refusals
from agent_service.registry.branching import branched
from agent_service.registry.capacity import Capacity
from agent_service.registry.drain import Drain
from agent_service.registry.idempotency import InFlightRequests, RequestKey
from agent_service.registry.live import LiveSessions
from agent_service.session.admission import Admission
from agent_service.session.session import Session
from agent_service.session.turn import QueuedTurn, new_turn
from agent_service.session.turn_options import resolve_options

MAX_LABELS = 64


@dataclass(frozen=True)
class Started:
    """The outcome of `start`."""

    session: pb.Session
    turn: pb.Turn
    options: pb.AgentOptions
    """With secrets: not to be shown."""
    watch_after_sequence: int
    deduplicated: bool


class Checked(NamedTuple):
    """The outcome that `start` would have: the session that it would resume, if any, and the options of the turn."""

    session: pb.Session | None
    options: pb.AgentOptions


class _Resolved(NamedTuple):
    request: pb.ExecuteRequest
    options: pb.AgentOptions


class _Admitted(NamedTuple):
    session: Session
    request: pb.ExecuteRequest
    """As it will run: with its profile's options and what the tenant's policy fills in."""
    options: pb.AgentOptions
    parent: pb.Session | None


class Execution:
    """Gives sessions their turns, or says why not."""

    def __init__(
        self,
        live: LiveSessions,
        *,
        ledger: Ledger,
        pool: AgentPool,
        workspaces: Workspaces,
        admission: Admission,
        in_flight: InFlightRequests,
        drain: Drain,
        capacity: Capacity,
        policy: Policy,
    ) -> None:
        """Give turns the places of `admission` within `capacity`; hold what is asked for against `policy`."""
        self._live = live
        self._ledger = ledger
        self._pool = pool
        self._workspaces = workspaces
        self._admission = admission
        self._in_flight = in_flight
        self._drain = drain
        self._capacity = capacity
        self._policy = policy

    async def start(self, request: pb.ExecuteRequest, owner: str, *, by: str) -> Started:
        """Give a session, new or existing, its next turn, in the name of `by`.

        Raises what the contract's table says of Execute. A caller who leaves does not end it: a request id is claimed
        until what it did is durable.
        """
        self._drain.check()

        async def again(earlier: RequestId) -> Started:
            return await self._started_before(earlier, request)

        return await self._in_flight.once(
            RequestKey.of(request, owner), lambda key: self._start(request, owner, by, key), again
        )

    async def _started_before(self, earlier: RequestId, request: pb.ExecuteRequest) -> Started:
        response = pb.ExecuteResponse.FromString(earlier.response)
        session = await self._live.get(SessionKey(earlier.owner, earlier.session_id))
        turn = await self._ledger.turn(earlier.turn_id)
        return Started(
            session, turn or response.turn, resolve_options(session, request), response.watch_after_sequence, True
        )

    async def _start(self, request: pb.ExecuteRequest, owner: str, by: str, key: RequestKey | None) -> Started:
        request = await self._branched(request, owner)
        return await self._submit(await self._admit(request, owner), by, key)

    async def _admit(self, request: pb.ExecuteRequest, owner: str) -> _Admitted:
        """The session that gets the turn, and the turn's options, if it may. It holds as long as nobody pauses."""
        await self._capacity.prepare(owner)
        parent = await self._parent(request, owner) if request.fork_from else None
        session = await self._live.open(SessionKey(owner, request.session_id)) if request.session_id else None
        if session is not None:
            request, options = self._check_resumable(session, request)
            self._drain.check()
        else:
            self._drain.check()
            session = self._new_session(request, owner, parent)
            request, options = self._resolve(session.journal.record, request)
        self._check_secrets(options, owner)
        self._capacity.check(session, new=not session.journal.record.turn_count)
        return _Admitted(session, request, options, parent)

    def options_of_new(self, request: pb.ExecuteRequest, owner: str) -> pb.AgentOptions:
        """The options that a new session of this request would have. Raises what `start` would raise for them."""
        self._drain.check()
        options = self._resolve(pb.Session(owner=owner), request).options
        self._check_secrets(options, owner)
        return options

    def _check_secrets(self, options: pb.AgentOptions, owner: str) -> None:
        if problems := self._pool.launch.secrets.check(options, owner):
            raise errors.InvalidField(problems)

    async def check_start(self, request: pb.ExecuteRequest, owner: str) -> Checked:
        """Raise what `start` would raise, and start nothing."""
        self._drain.check()
        key = RequestKey.of(request, owner)
        if key is not None:
            async with self._in_flight.claim(key) as earlier:
                if earlier is not None:
                    session = await self._live.get(SessionKey(owner, earlier.session_id))
                    return Checked(session, resolve_options(session, request))
        admitted = await self._admit(await self._branched(request, owner), owner)
        return Checked(admitted.session.journal.snapshot(), admitted.options)

    async def _branched(self, request: pb.ExecuteRequest, owner: str) -> pb.ExecuteRequest:
        """The request, with the message that a fork at a turn ends with."""
        if not request.fork_at_turn_id:
            return request
        return await branched(request, await self._parent(request, owner), self._ledger, self._workspaces)

    async def _parent(self, request: pb.ExecuteRequest, owner: str) -> pb.Session:
        parent = await self._live.get(SessionKey(owner, request.fork_from))
        if self._workspaces.transcript(parent) is None:
            raise errors.ResumeRejected(
                f"session {request.fork_from} has no conversation that could be continued", resource=request.fork_from
            )
        return parent

    def _new_session(self, request: pb.ExecuteRequest, owner: str, parent: pb.Session | None) -> Session:
        if request.session_id and request.mode == pb.EXECUTE_MODE_RESUME:
            raise errors.SessionNotFound(request.session_id)
        if not request.session_id and request.mode == pb.EXECUTE_MODE_RESUME:
            raise errors.InvalidField.of("session_id", "must name the session when mode is EXECUTE_MODE_RESUME")
        record = pb.Session(
            session_id=request.session_id or str(uuid4()),
            owner=owner,
            first_available_sequence=1,
            parent_session_id=request.fork_from,
        )
        record.create_time.FromMicroseconds(now_us())
        if parent is not None:
            record.options.CopyFrom(parent.options)
            record.profile = parent.profile
            record.permission_mode = parent.permission_mode
            record.remembered_permissions.extend(parent.remembered_permissions)
        return self._live.make(Journal(record, self._ledger, new=True))

    def _check_resumable(self, session: Session, request: pb.ExecuteRequest) -> _Resolved:
        """Raise what speaks against a further turn of the session; the options it would have."""
        record = session.journal.record
        if request.mode == pb.EXECUTE_MODE_CREATE or request.fork_from:
            raise errors.SessionAlreadyExists(f"session {record.session_id} exists already", resource=record.session_id)
        resolved = self._resolve(record, request)
        busy = not session.journal.at_rest
        if busy and request.on_busy in (pb.ON_BUSY_UNSPECIFIED, pb.ON_BUSY_REJECT):
            raise refusals.busy(record)
        _check_directories(resolved.options, "the session's")
        if not busy and record.model and self._workspaces.transcript(record) is None:
            raise errors.ResumeRejected(
                f"the transcript of session {record.session_id} is missing; start a new session",
                resource=record.session_id,
            )
        return resolved

    def _resolve(self, record: pb.Session, request: pb.ExecuteRequest) -> _Resolved:
        """The request as it will run, and the options of its turn, both within what the tenant may ask for.

        Raises InvalidField when what was given and what is inherited are too much together, and what Policy raises.
        """
        prepared = self._policy.prepared(request, record, record.owner)
        options = resolve_options(record, prepared)
        if problem := translate.too_large(options):
            raise errors.InvalidField.of("options", f"with what is inherited, they {problem}")
        count = len(set(record.labels) | set(prepared.labels))
        if count > MAX_LABELS:
            raise errors.InvalidField.of("labels", f"with the session's own there would be {count} of {MAX_LABELS}")
        self._policy.check_merged(prepared, options, record, record.owner)
        if problem := self._pool.launch.walls.problem(self._policy.grant(record.owner)):
            raise errors.SandboxUnavailable(problem)
        if prepared.profile:
            _check_directories(options, f"profile {prepared.profile}:")
        return _Resolved(prepared, options)

    async def _submit(self, admitted: _Admitted, by: str, key: RequestKey | None) -> Started:
        session, request, options, parent = admitted
        after = session.journal.record.last_sequence
        turn = new_turn(str(uuid4()), request.prompt, by)
        self._describe(admitted, request, by)
        interrupting = request.on_busy == pb.ON_BUSY_INTERRUPT and not session.journal.at_rest
        response = pb.ExecuteResponse(session_id=session.session_id, turn=turn, watch_after_sequence=after)
        kept = key.kept(session.session_id, turn.turn_id, response) if key is not None else None
        queued = QueuedTurn(turn, request, fork_of=conversation_of(parent) if parent is not None else None)
        running = session.running_turn
        new = not session.journal.record.turn_count
        durable = session.submit(queued, options, request_id=kept, next_up=interrupting)
        self._note(session, queued, durable, new=new)
        accepted = pb.Turn()
        accepted.CopyFrom(queued.turn)
        self._live.hold(session)
        if interrupting and running is not None:
            session.interrupt("another turn takes its place")
        await asyncio.shield(durable)
        shown = self._shown(session)
        current = shown.current_turn if shown.current_turn.turn_id == turn.turn_id else accepted
        return Started(shown, current, options, after, False)

    def _describe(self, admitted: _Admitted, request: pb.ExecuteRequest, by: str) -> None:
        """Record what the request says of the session, and name a new one's conversation.

        It is that of a warm agent if the turn can begin at once; a turn that must wait gets its agent when it begins.
        """
        with admitted.session.journal.update() as record:
            record.labels.update(request.labels)
            record.title = request.title or record.title
            if record.turn_count:
                return
            record.created_by = by
            if admitted.parent is not None:
                record.agent_session_id = record.workspace_id = str(uuid4())
            elif self._admission.has_room(record.owner):
                record.agent_session_id = record.workspace_id = self._pool.reserve(admitted.options, record.owner)

    def _note(self, session: Session, queued: QueuedTurn, durable: asyncio.Future[None], *, new: bool) -> None:
        """Count the turn, and the session if it is new; what the ledger refuses does not go on in memory."""
        owner = session.key.owner
        self._capacity.note_turn(queued, owner)
        self._capacity.note_session(owner, int(new))

        def recorded(done: asyncio.Future[None]) -> None:
            if done.cancelled() or done.exception() is None:
                return
            self._capacity.note_session(owner, -int(new))
            session.cancel(grace=0.0, force=True, reason="its turn could not be recorded")

        durable.add_done_callback(recorded)

    async def wait_turn(self, key: SessionKey, turn_id: str, seconds: float) -> bool:
        """Wait until the turn has ended; False when `seconds` were over first."""
        session = self._live.sessions.get(key)
        queued = session.find(turn_id) if session is not None else None
        if queued is None:
            if session is not None:
                await session.journal.flushed()
            return True
        waits = [queued.done, self._drain.over]
        await asyncio.wait(waits, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
        return queued.done.done()

    def _shown(self, session: Session) -> pb.Session:
        shown = session.journal.snapshot()
        assert shown is not None, "its first commit is durable"
        return shown


def _check_directories(options: pb.AgentOptions, whose: str) -> None:
    if missing := missing_directories(options):
        raise errors.WorkspaceMissing(f"{whose} {missing[0].field} is gone: {missing[0].description}")
