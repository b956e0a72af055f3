"""SessionRegistry: admission, task ownership, cancel, watch, drain. The core behind every RPC; it knows nothing of gRPC.

It holds only sessions that are at work or keep a warm process. All others are rows in the ledger and cost nothing. Decisions
are synchronous: whatever must be read is read first, then decided and handed to the ledger without a pause in between.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from uuid import uuid4

from agentpb import agent_pb2 as pb

from agent_service import errors
from agent_service import options as translate
from agent_service.admission import Admission
from agent_service.events.text import cut
from agent_service.events.wire import MAX_STRING
from agent_service.heads import Head, Heads
from agent_service.idempotency import Claims, RequestKey, answer_key
from agent_service.interactions import closed_error, shown
from agent_service.journal import Journal, now_us
from agent_service.ledger import Ledger, RequestId
from agent_service.options.live import missing_directories
from agent_service.outcomes import StopCause
from agent_service.pool import AgentPool
from agent_service.recovery import recover
from agent_service.session import Limits, Session
from agent_service.stopping import Stop
from agent_service.turns import Work
from agent_service.watcher import Wanted, Watcher
from agent_service.workspace import Workspaces

log = logging.getLogger(__name__)

MAX_LISTED = 1000
"""Session ids and failures that a cleanup names; it counts all."""

MAX_LABELS = 64
USUAL_SESSIONS = 4
"""How many of the latest sessions tell, at a start, what will be asked for."""
MAX_PENDING_TURNS = 100
"""Turns that may wait in one session."""


@dataclass(frozen=True)
class Started:
    """What `start` did."""

    session: pb.Session
    turn: pb.Turn
    watch_after_sequence: int
    deduplicated: bool


@dataclass(frozen=True)
class Cancelled:
    """What `cancel` did; no receipt when the session was at rest, or when the wait was over first."""

    session: pb.Session
    already_at_rest: bool
    receipt: pb.CancelReceipt | None


class SessionRegistry:
    """All sessions of one data directory, and whatever may be done with them."""

    def __init__(
        self,
        ledger: Ledger,
        pool: AgentPool,
        workspaces: Workspaces,
        *,
        limits: Limits,
        max_sessions: int,
        max_queued: int,
    ) -> None:
        """Run at most `max_sessions` at once; let `max_queued` turns wait."""
        self.ledger = ledger
        self._pool = pool
        self._workspaces = workspaces
        self._limits = limits
        self._max_queued = max_queued
        self._admission = Admission(max_sessions)
        self._sessions: dict[str, Session] = {}
        self._opening: dict[str, asyncio.Task[Session | None]] = {}
        self._deleting: dict[str, asyncio.Future[None]] = {}
        self._deletions = 0
        self._claims = Claims(ledger)
        self._heads = Heads()
        self._open_turns = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.draining = False
        self.drained = False
        self._drain_over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watchers = 0

    async def __aenter__(self) -> Self:
        """End what a crash left unfinished, and go on with what it left waiting."""
        for journal, works in await recover(self.ledger):
            session = self._adopt(journal)
            self._open_turns += len(works)
            for work in works:
                work.done.add_done_callback(self._turn_closed)
            session.restore(works)
        await self._expect_the_usual()
        return self

    async def _expect_the_usual(self) -> None:
        """Have the pool prepare for sessions like the last ones; without any, for one that sets no options."""
        latest, _ = await self.ledger.sessions(
            pb.SessionFilter(), pb.SESSION_ORDER_CREATE_TIME_DESC, owner=None, limit=USUAL_SESSIONS
        )
        for record in reversed(latest):
            self._pool.expect(record.options, record.owner)
        if not latest:
            self._pool.expect(pb.AgentOptions(), "")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop whatever still runs; its end is recorded when the ledger still can."""
        await self.drain(0)

    # ---------------------------------------------------------------------------------------------------------- Execute

    async def start(self, request: pb.ExecuteRequest, owner: str) -> Started:
        """Give a session, new or existing, its next turn. Raises what the contract's table says of Execute."""
        self.check_draining()
        key = RequestKey.of(request, owner)
        if key is None:
            return await self._start(request, owner, None)
        async with self._claims.claim(key) as earlier:
            if earlier is not None:
                return await self._started_before(earlier)
            return await self._start(request, owner, key)

    def check_draining(self) -> None:
        """Raise ServerDraining once a shutdown has begun."""
        if self.draining:
            raise errors.ServerDraining("the service is shutting down; try again elsewhere or later", retry_after=1.0)

    async def _started_before(self, earlier: RequestId) -> Started:
        response = pb.ExecuteResponse.FromString(earlier.response)
        session = await self.get(earlier.session_id, earlier.owner)
        turn = await self.ledger.turn(earlier.turn_id)
        return Started(session, turn or response.turn, response.watch_after_sequence, True)

    async def _start(self, request: pb.ExecuteRequest, owner: str, key: RequestKey | None) -> Started:
        parent = await self._parent(request, owner) if request.fork_from else None
        session = await self._open(request.session_id, owner) if request.session_id else None
        if session is not None:
            self._check_resumable(session, request)
        self.check_draining()
        if session is None:
            session = self._new_session(request, owner, parent)
        self._check_capacity(session, request)
        return await self._submit(session, request, key, parent)

    async def check_start(self, request: pb.ExecuteRequest, owner: str) -> pb.Session | None:
        """Raise what `start` would raise, and start nothing; the session that would be resumed."""
        self.check_draining()
        key = RequestKey.of(request, owner)
        if key is not None:
            async with self._claims.claim(key) as earlier:
                if earlier is not None:
                    return await self.get(earlier.session_id, owner)
        parent = await self._parent(request, owner) if request.fork_from else None
        session = await self._open(request.session_id, owner) if request.session_id else None
        if session is not None:
            self._check_resumable(session, request)
            self._check_capacity(session, request)
            return session.journal.snapshot()
        self._check_capacity(self._new_session(request, owner, parent), request)
        return None

    async def _parent(self, request: pb.ExecuteRequest, owner: str) -> pb.Session:
        parent = await self.get(request.fork_from, owner)
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
            record.permission_mode = parent.permission_mode
            self._check_merged(record, request)
        return self._make(Journal(record, self.ledger, new=True))

    def _check_resumable(self, session: Session, request: pb.ExecuteRequest) -> None:
        record = session.journal.record
        if request.mode == pb.EXECUTE_MODE_CREATE or request.fork_from:
            raise errors.SessionAlreadyExists(f"session {record.session_id} exists already", resource=record.session_id)
        busy = not session.journal.at_rest
        if busy and request.on_busy in (pb.ON_BUSY_UNSPECIFIED, pb.ON_BUSY_REJECT):
            raise errors.SessionBusy(
                f"session {record.session_id} is at work ({pb.SessionPhase.Name(record.phase)}); wait for it, cancel it, "
                "or set on_busy to ENQUEUE or INTERRUPT",
                resource=record.session_id,
            )
        self._check_merged(record, request)
        options = translate.merge(record.options, request.options, request.clear_options)
        missing = missing_directories(options)
        if missing:
            raise errors.WorkspaceMissing(f"the session's {missing[0].field} is gone: {missing[0].description}")
        if not busy and record.model and self._workspaces.transcript(record) is None:
            raise errors.ResumeRejected(
                f"the transcript of session {record.session_id} is missing; start a new session",
                resource=record.session_id,
            )

    @staticmethod
    def _check_merged(record: pb.Session, request: pb.ExecuteRequest) -> None:
        """Raise InvalidField when what was given and what is inherited are too much together."""
        options = translate.merge(record.options, request.options, request.clear_options)
        if problem := translate.too_large(options):
            raise errors.InvalidField.of("options", f"with what is inherited, they {problem}")
        count = len(set(record.labels) | set(request.labels))
        if count > MAX_LABELS:
            raise errors.InvalidField.of("labels", f"with the session's own there would be {count} of {MAX_LABELS}")

    def _check_capacity(self, session: Session, request: pb.ExecuteRequest) -> None:
        # Places are taken a moment after a turn was accepted: whoever is on the way to one is counted too.
        limit = self._admission.places + self._max_queued
        # All sessions are asked only when it may be too much: an admission must not take longer the more wait.
        most = self._open_turns + self._admission.running
        if most >= limit and sum(each.load for each in self._sessions.values()) >= limit:
            waiting = sum(each.waiting for each in self._sessions.values())
            raise errors.QueueFull(f"{waiting} turns wait already, the most this service lets wait", retry_after=1.0)
        if session.waiting >= MAX_PENDING_TURNS:
            raise errors.QueueFull(
                f"{session.waiting} turns of this session wait already, the most it may have", retry_after=1.0
            )

    async def _submit(
        self, session: Session, request: pb.ExecuteRequest, key: RequestKey | None, parent: pb.Session | None
    ) -> Started:
        record = session.journal.record
        after = record.last_sequence
        turn = pb.Turn(turn_id=str(uuid4()), prompt=cut(request.prompt, MAX_STRING))
        turn.create_time.FromMicroseconds(now_us())
        record.labels.update(request.labels)
        record.title = request.title or record.title
        if record.turn_count == 0:
            self._assign_agent(record, request, parent)
        interrupting = request.on_busy == pb.ON_BUSY_INTERRUPT and not session.journal.at_rest
        response = pb.ExecuteResponse(session_id=record.session_id, turn=turn, watch_after_sequence=after)
        kept = key.kept(record.session_id, turn.turn_id, response) if key is not None else None
        work = Work(turn, request, fork_of=parent.agent_session_id if parent is not None else None)
        running = session.running_turn
        self._open_turns += 1
        work.done.add_done_callback(self._turn_closed)
        durable = session.submit(work, request_id=kept, next_up=interrupting)
        accepted = pb.Turn()
        accepted.CopyFrom(work.turn)
        self._heads.forget(record.session_id)
        self._sessions[record.session_id] = session
        if interrupting and running is not None:
            session.stop(StopCause.INTERRUPT, grace=5.0, reason="another turn takes its place")
        await asyncio.shield(durable)
        shown = self._shown(session)
        current = shown.current_turn if shown.current_turn.turn_id == turn.turn_id else accepted
        return Started(shown, current, after, False)

    def _turn_closed(self, _: object) -> None:
        self._open_turns -= 1

    def _assign_agent(self, record: pb.Session, request: pb.ExecuteRequest, parent: pb.Session | None) -> None:
        """Name the conversation of a new session: a warm agent's, if it can begin at once; who has to wait gets one then."""
        if parent is not None:
            record.agent_session_id = str(uuid4())
        elif self._admission.has_room:
            record.agent_session_id = self._pool.reserve(request.options, record.owner)

    async def wait_turn(self, session_id: str, turn_id: str, seconds: float) -> bool:
        """Wait until the turn has ended; False when `seconds` were over first."""
        session = self._sessions.get(session_id)
        work = session.find(turn_id) if session is not None else None
        if work is None:
            if session is not None:
                await session.journal.flushed()
            return True
        waits = [work.done, self._drain_over]
        await asyncio.wait(waits, timeout=max(0.0, seconds), return_when=asyncio.FIRST_COMPLETED)
        return work.done.done()

    # ---------------------------------------------------------------------------------------------------------- reading

    async def get(self, session_id: str, owner: str) -> pb.Session:
        """A session as of its last durable commit. Raises SessionNotFound."""
        session = self._sessions.get(session_id)
        if session is not None and session.journal.is_behind:
            await asyncio.sleep(0)  # never show less than the events that were sent already
        shown = session.journal.snapshot() if session is not None else None
        if shown is None and session_id not in self._deleting:
            shown = await self.ledger.session(session_id)
        if shown is None or shown.owner != owner or session_id in self._deleting:
            raise errors.SessionNotFound(session_id)
        return shown

    async def head(self, session_id: str, owner: str, encode: Callable[[pb.Session, pb.Turn | None], bytes]) -> Head:
        """What `encode` makes of the session and its turn, made once for as long as both stay the same."""
        session = self._sessions.get(session_id)
        if session is not None and session.journal.is_behind:
            await asyncio.sleep(0)
        version = session.journal.version if session is not None else 0
        known = self._heads.get(session_id, owner, version)
        if known is not None and session_id not in self._deleting:
            return known
        changes = self._heads.changes
        shown = await self.get(session_id, owner)
        head = Head(owner, version, encode(shown, await self.turn_of(shown)), shown.message_count > 0)
        if changes == self._heads.changes and (session is None or session.journal.version == version):
            self._heads.put(session_id, head)
        return head

    async def turn_of(self, session: pb.Session) -> pb.Turn | None:
        """The session's current turn; at rest the one that brought it to this state, which need not be the newest."""
        if session.HasField("current_turn"):
            return session.current_turn
        moves = await self.ledger.read(
            session.session_id,
            0,
            limit=4,
            types=("state.changed",),
            newest_first=True,
            before_sequence=session.last_sequence + 1,
        )
        for move in moves:
            if turn_id := pb.SessionEvent.FromString(move.body).turn_id:
                return await self.ledger.turn(turn_id)
        return await self.ledger.last_turn(session.session_id)

    async def wait_until(self, session_id: str, owner: str, seconds: float, wanted: Wanted) -> tuple[pb.Session, bool]:
        """The session once `wanted` is true of it, and whether it became so within `seconds`."""
        deadline = asyncio.get_running_loop().time() + seconds
        tail = self.ledger.tail(session_id)
        while True:
            changed = tail.changed
            session = await self.get(session_id, owner)
            if wanted.met(session):
                return session, True
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0 or self.drained:
                return session, False
            try:
                await asyncio.wait_for(changed.wait(), left)
            except TimeoutError:
                continue

    async def watch(
        self,
        session_id: str,
        owner: str,
        after_sequence: int,
        *,
        follow: bool,
        types: tuple[str, ...] = (),
        partials: bool = True,
        with_raw: bool = False,
    ) -> Watcher:
        """Begin to watch. Raises SessionNotFound, SequenceInFuture, SequenceCompacted."""
        session = await self.get(session_id, owner)
        return Watcher(self, session, after_sequence, follow=follow, types=types, partials=partials, with_raw=with_raw)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count a watcher while the block lasts."""
        self._watchers += 1
        try:
            yield
        finally:
            self._watchers -= 1

    async def list(
        self, request: pb.ListSessionsRequest, owner: str, *, after: tuple[int, str] | None, limit: int
    ) -> tuple[Sequence[pb.Session], tuple[int, str] | None]:
        """A page of sessions, as they are stored."""
        rows, cursor = await self.ledger.sessions(
            request.filter, request.order_by, owner=owner, after=after, limit=limit, max_bytes=1 << 20
        )
        return [row for row in rows if row.session_id not in self._deleting], cursor

    # ----------------------------------------------------------------------------------------------- ending and deleting

    async def cancel(
        self, session_id: str, owner: str, *, grace: float, force: bool, reason: str, wait: float | None
    ) -> Cancelled:
        """End the session's work for good. Raises SessionNotFound."""
        await self.get(session_id, owner)
        session = self._sessions.get(session_id)
        if session is None or session.journal.at_rest:
            if session is not None:
                await session.journal.flushed()
            return Cancelled(await self.get(session_id, owner), True, None)
        stop = session.cancel(grace=grace, force=force, reason=reason)
        receipt = await self._stopped(session, stop, wait)
        return Cancelled(await self.get(session_id, owner), False, receipt)

    async def _stopped(self, session: Session, stop: Stop, wait: float | None) -> pb.CancelReceipt | None:
        done, _ = await asyncio.wait([stop.over], timeout=wait)
        await session.journal.flushed()
        return stop.receipt if done else None

    async def interrupt(self, session_id: str, owner: str, turn_id: str) -> tuple[pb.Session, bool]:
        """Stop the running turn and keep the session; whether one was stopped."""
        await self.get(session_id, owner)
        session = self._sessions.get(session_id)
        running = session.running_turn if session is not None else None
        if session is None or running is None or (turn_id and running.turn_id != turn_id):
            return await self.get(session_id, owner), False
        stop = session.stop(StopCause.INTERRUPT, grace=5.0, reason="interrupted")
        await self._stopped(session, stop, None)
        return await self.get(session_id, owner), stop.stopped_turn

    def live(self, session_id: str) -> Session | None:
        """The session's object while it is at work or keeps a warm process."""
        return self._sessions.get(session_id)

    async def delete(
        self, session_id: str, owner: str, *, force: bool, keep_transcript: bool
    ) -> tuple[pb.Session, int]:
        """Delete a session; as it was, and the bytes freed. Raises SessionNotFound, SessionActive."""
        shown = await self.get(session_id, owner)
        session = self._sessions.get(session_id)
        if session is not None and not session.journal.at_rest:
            if not force:
                raise errors.SessionActive(
                    f"session {session_id} is at work; cancel it first, or set force", resource=session_id
                )
            await self.cancel(session_id, owner, grace=5.0, force=False, reason="deleted", wait=None)
            return await self.delete(session_id, owner, force=force, keep_transcript=keep_transcript)
        if session_id in self._deleting:
            raise errors.SessionNotFound(session_id)
        return shown, await self._delete(shown, session, keep_transcript=keep_transcript)

    async def _delete(self, shown: pb.Session, session: Session | None, *, keep_transcript: bool) -> int:
        gone = self._deleting[shown.session_id] = asyncio.get_running_loop().create_future()
        try:
            if session is not None:
                await session.finished()
            # Its files go first: whatever happens in between, what is left can be found, and deleted again.
            freed = await asyncio.to_thread(self._workspaces.remove, shown, keep_transcript=keep_transcript)
            freed += await self.ledger.delete(shown.session_id) or 0
            self._sessions.pop(shown.session_id, None)
            self._heads.forget(shown.session_id)
            self._deletions += 1
            return freed
        finally:
            del self._deleting[shown.session_id]
            gone.set_result(None)

    async def delete_one(self, request: pb.DeleteSessionRequest, owner: str) -> pb.Session | None:
        """Delete as the request says; None when it was missing and may be. Raises SessionNotFound, SessionActive."""
        try:
            session, _ = await self.delete(
                request.session_id, owner, force=request.force, keep_transcript=request.keep_transcript
            )
        except errors.SessionNotFound:
            if request.allow_missing:
                return None
            raise
        return session

    async def cleanup(self, request: pb.CleanupRequest, owner: str, *, older_than: float) -> pb.CleanupResponse:
        """Delete sessions that have been at rest for `older_than` seconds and meet the filter."""
        cutoff = now_us() - round(older_than * 1e6)
        response = pb.CleanupResponse()
        found = await self.ledger.at_rest_since(cutoff, request.filter, owner=owner, limit=request.limit or None)
        for session_id in found:
            if not request.dry_run and not await self._clean(session_id, owner, request.keep_transcripts, response):
                continue
            response.deleted_count += 1
            if len(response.session_ids) < MAX_LISTED:
                response.session_ids.append(session_id)
        return response

    async def _clean(self, session_id: str, owner: str, keep_transcript: bool, response: pb.CleanupResponse) -> bool:
        """Delete one; what a moment ago was at rest may be at work again, or gone, and that is no failure."""
        try:
            _, freed = await self.delete(session_id, owner, force=False, keep_transcript=keep_transcript)
        except (errors.SessionNotFound, errors.SessionActive):
            return False
        except OSError as error:
            if len(response.failures) < MAX_LISTED:
                response.failures.add(session_id=session_id, message=str(error))
            return False
        response.freed_bytes += freed
        return True

    async def expire(self, retention: float) -> int:
        """Delete what has been at rest for longer than `retention` seconds (0: for ever) or its own ttl; how many."""
        cutoff = now_us() - round(retention * 1e6) if retention else None
        deleted = 0
        for session_id, owner in await self.ledger.expired(now_us(), cutoff, limit=500):
            with suppress(errors.SessionNotFound, errors.SessionActive):
                await self.delete(session_id, owner, force=False, keep_transcript=False)
                deleted += 1
        return deleted

    # --------------------------------------------------------------------------------------------------------- steering

    async def send(self, request: pb.SendMessageRequest, owner: str) -> pb.SendMessageResponse:
        """Send a message into the running turn. Raises SessionNotFound, SessionNotActive, RequestIdReused."""
        key = RequestKey.of(request, owner)
        if key is None:
            return await self._send(request, owner, None)
        async with self._claims.claim(key) as earlier:
            if earlier is None:
                return await self._send(request, owner, key)
            response = pb.SendMessageResponse.FromString(earlier.response)
            response.session.CopyFrom(await self.get(earlier.session_id, owner))
            response.deduplicated = True
            return response

    async def _send(self, request: pb.SendMessageRequest, owner: str, key: RequestKey | None) -> pb.SendMessageResponse:
        await self.get(request.session_id, owner)
        session = self._sessions.get(request.session_id)
        if session is not None:
            await self._begun(session)
        running = session.running_turn if session is not None else None
        if session is None or running is None:
            raise errors.SessionNotActive(
                f"session {request.session_id} has no running turn; use Execute", resource=request.session_id
            )
        response = pb.SendMessageResponse(message_uuid=str(uuid4()), turn_id=running.turn_id)
        kept = key.kept(request.session_id, running.turn_id, response) if key is not None else None
        durable = await session.send(response.message_uuid, request, kept)
        await asyncio.shield(durable)
        response.session.CopyFrom(await self.get(request.session_id, owner))
        return response

    async def _begun(self, session: Session) -> None:
        """Wait until a turn that is being started has its prompt."""
        tail = self.ledger.tail(session.session_id)
        while session.starting:
            changed = tail.changed
            if session.starting:
                await changed.wait()

    async def respond(
        self, request: pb.RespondToInteractionRequest, owner: str, *, by: str, key: str
    ) -> tuple[pb.Interaction, pb.Session, bool]:
        """Answer an interaction; it, the session, and whether this answer had been given already."""
        await self.get(request.session_id, owner)
        session = self._sessions.get(request.session_id)
        kept = answer_key(request, owner, key)
        if session is None or request.interaction_id not in session.interactions:
            return await self._resolved_before(request, kept), await self.get(request.session_id, owner), True
        interaction, repeated = session.interactions.respond(request, by=by, key=kept)
        await session.journal.flushed()
        return shown(interaction), await self.get(request.session_id, owner), repeated

    async def _resolved_before(self, request: pb.RespondToInteractionRequest, key: RequestId | None) -> pb.Interaction:
        """An interaction that only the log remembers, when this is a retry of its answer.

        Raises InteractionNotFound, InteractionClosed.
        """
        closed = await self._find_resolved(request.session_id, request.interaction_id)
        if closed is None:
            raise errors.InteractionNotFound(
                f"session {request.session_id} has no interaction {request.interaction_id}",
                resource=request.interaction_id,
            )
        earlier = await self.ledger.request(key.owner, key.request_id) if key is not None else None
        if earlier is None or earlier.fingerprint != request.interaction_id:
            raise closed_error(closed)
        return closed

    async def _find_resolved(self, session_id: str, interaction_id: str) -> pb.Interaction | None:
        before: int | None = None
        while page := await self.ledger.read(
            session_id, 0, types=("interaction.resolved",), newest_first=True, before_sequence=before
        ):
            for event in page:
                interaction = pb.SessionEvent.FromString(event.body).interaction_resolved.interaction
                if interaction.interaction_id == interaction_id:
                    return interaction
            before = page[-1].sequence
        return None

    # ------------------------------------------------------------------------------------------------------------ drain

    async def drain(self, seconds: float) -> None:
        """Let running turns go on for `seconds`, then end them; the queue is left for the next start."""
        self.draining = True
        for session in list(self._sessions.values()):
            session.hold_queue()
        tasks = [task for session in self._sessions.values() if (task := session.task) is not None]
        if tasks and seconds > 0:
            await asyncio.wait(tasks, timeout=seconds)
        for session in list(self._sessions.values()):
            session.halt(grace=1.0)
        held = list(self._sessions.values())
        await asyncio.gather(*(session.finished() for session in held))
        # Watches end next, and must have seen the last word; where it cannot be written, the service is going down anyway.
        await asyncio.gather(*(session.journal.flushed() for session in held), return_exceptions=True)
        self.drained = True
        if not self._drain_over.done():
            self._drain_over.set_result(None)
        self.ledger.wake_all()

    # ------------------------------------------------------------------------------------------------------ bookkeeping

    async def _open(self, session_id: str, owner: str) -> Session | None:
        """The session's object, made from the ledger when it is at rest there; None when there is no such session.

        It is the one object of that session as long as the caller does not pause before it decides.
        """
        while True:
            before = self._deletions
            session = await self._found(session_id)
            if session_id in self._deleting:
                await asyncio.wait([self._deleting[session_id]])
            elif before == self._deletions or session is None or session_id in self._sessions:
                break  # otherwise what was read may have been deleted while it was read
        if session is not None and session.journal.record.owner != owner:
            raise errors.SessionAlreadyExists(f"session {session_id} cannot be used", resource=session_id)
        return session

    async def _found(self, session_id: str) -> Session | None:
        if session_id in self._sessions:
            return self._sessions[session_id]
        opening = self._opening.get(session_id)
        if opening is None:
            opening = self._opening[session_id] = asyncio.create_task(self._load(session_id))
            opening.add_done_callback(lambda _: self._opening.pop(session_id, None))
        loaded = await asyncio.shield(opening)
        return self._sessions.get(session_id, loaded)

    async def _load(self, session_id: str) -> Session | None:
        record = await self.ledger.session(session_id)
        if session_id in self._sessions:
            return self._sessions[session_id]
        return self._make(Journal(record, self.ledger, new=False)) if record is not None else None

    def _make(self, journal: Journal) -> Session:
        return Session(
            journal,
            pool=self._pool,
            admission=self._admission,
            limits=self._limits,
            on_rest=self._forget_if_idle,
        )

    def _adopt(self, journal: Journal) -> Session:
        self._heads.forget(journal.session_id)
        session = self._sessions[journal.session_id] = self._make(journal)
        return session

    def _forget_if_idle(self, session: Session) -> None:
        """Hold a session no longer than there is something to hold; what it was told last must be in the ledger first."""
        if session.idle and not session.journal.is_flushed:
            session.journal.when_flushed(lambda: self._forget_if_idle(session))
        elif session.idle and self._sessions.get(session.session_id) is session:
            del self._sessions[session.session_id]
            self._heads.forget(session.session_id)

    def _shown(self, session: Session) -> pb.Session:
        shown = session.journal.snapshot()
        assert shown is not None, "its first commit is durable"
        return shown

    def statistics(self) -> dict[str, int]:
        """How busy it is."""
        return {
            "running": self._admission.running,
            "queued": sum(session.waiting for session in self._sessions.values()),
            "warm": sum(session.warm for session in self._sessions.values()),
            "watchers": self._watchers,
            "pending_interactions": sum(len(session.interactions) for session in self._sessions.values()),
        }
