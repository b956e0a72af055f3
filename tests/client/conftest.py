"""A fake at the outermost seam: a gRPC server whose sessions, cuts and refusals a test writes down beforehand."""

from __future__ import annotations

import asyncio
import functools
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from agent_client import AgentClient
from agent_client.cli import app
from agentpb import agent_pb2 as pb
from agentpb import agent_pb2_grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from typer.testing import CliRunner

SESSION = "11111111-2222-3333-4444-555555555555"
TURN = "turn-1"


class FakeService(agent_pb2_grpc.AgentServiceServicer):
    """One session with a log; remembers every request, and fails where it is told to."""

    def __init__(self) -> None:
        self.requests: dict[str, list[Any]] = defaultdict(list)
        self.metadata: list[dict[str, str]] = []
        self.deadlines: dict[str, float | None] = {}
        self.failures: dict[str, deque[Callable[[Any], Awaitable[None]]]] = defaultdict(deque)
        self.answers: dict[str, Any] = {}
        self.log: list[pb.SessionEvent] = []
        self.live: list[pb.SessionEvent] = []
        self.cuts: dict[int, str] = {}
        self.at_rest = True
        self.deleted = False
        self.watchers = 0
        self.watcher_came = asyncio.Event()
        self.watcher_left = asyncio.Event()
        self.session = pb.Session(session_id=SESSION, state=pb.SESSION_STATE_COMPLETED, phase=pb.SESSION_PHASE_IDLE)
        self.turn = pb.Turn(turn_id=TURN, number=1, state=pb.TURN_STATE_COMPLETED)

    # --- what a test writes down ---

    def events(self, *payloads: pb.SessionEvent) -> None:
        """Append to the log, numbered."""
        for event in payloads:
            event.sequence = 0 if event.ephemeral else sum(not each.ephemeral for each in self.log) + 1
            event.session_id = SESSION
            self.log.append(event)

    def numbered(self, count: int) -> None:
        """Append events that carry nothing but their number."""
        self.events(*(pb.SessionEvent(type="stderr", stderr_output=pb.StderrOutput(text=str(n))) for n in range(count)))

    def end_turn(self, **result: Any) -> None:
        """Append the end of the turn, with its result."""
        self.turn.result.MergeFrom(pb.TurnResult(**result))
        self.events(pb.SessionEvent(type="turn.completed", turn_completed=pb.TurnCompleted(turn=self.turn)))

    def fail(self, method: str, *failures: Callable[[Any], Awaitable[None]]) -> None:
        """Let the next calls of a method fail."""
        self.failures[method].extend(failures)

    # --- the RPCs ---

    async def _seen(self, method: str, request: Any, context: Any) -> None:
        copy = type(request)()
        copy.CopyFrom(request)
        self.requests[method].append(copy)
        self.metadata.append(dict(context.invocation_metadata()))
        self.deadlines[method] = context.time_remaining()
        if self.failures[method]:
            await self.failures[method].popleft()(context)

    async def Execute(self, request: Any, context: Any) -> pb.ExecuteResponse:
        await self._seen("Execute", request, context)
        session_id = request.session_id or SESSION
        return pb.ExecuteResponse(session_id=session_id, turn=self.turn, watch_after_sequence=0)

    async def GetStatus(self, request: Any, context: Any) -> pb.GetStatusResponse:
        await self._seen("GetStatus", request, context)
        default = pb.GetStatusResponse(
            session_id=SESSION, state=self.session.state, session=self.session, turn=self.turn
        )
        return self.answers.get("GetStatus", default)

    async def WatchSession(self, request: Any, context: Any) -> None:
        await self._seen("WatchSession", request, context)
        self.watchers += 1
        self.watcher_came.set()
        try:
            await self._watch(request, context)
        finally:
            self.watchers -= 1
            self.watcher_left.set()

    async def _watch(self, request: Any, context: Any) -> None:
        last = sum(not event.ephemeral for event in self.log)
        started = pb.WatchStarted(session=self.session, last_sequence=last)
        await context.write(pb.WatchSessionResponse(started=started))
        for event in self.log:
            wanted = not request.event_types or event.type in request.event_types
            if (event.ephemeral or event.sequence > request.after_sequence) and wanted:
                await context.write(pb.WatchSessionResponse(events=[event]))
            how = self.cuts.pop(event.sequence, "")
            if how == "silently":
                return
            if how == "draining":
                end = pb.WatchEnd(reason=pb.WATCH_END_REASON_DRAINING)
                await context.write(pb.WatchSessionResponse(end=end))
                return
            if how:
                await {"unavailable": unavailable, "rst": rst_stream, "cancelled": cancelled}[how](context)
        if not self.at_rest or request.follow:
            await asyncio.Event().wait()
        reason = pb.WATCH_END_REASON_DELETED if self.deleted else pb.WATCH_END_REASON_AT_REST
        await context.write(pb.WatchSessionResponse(end=pb.WatchEnd(reason=reason, session=self.session)))

    async def ListSessions(self, request: Any, context: Any) -> pb.ListSessionsResponse:
        await self._seen("ListSessions", request, context)
        return self.answers["ListSessions"][int(request.page_token or 0)]

    async def ListEvents(self, request: Any, context: Any) -> pb.ListEventsResponse:
        await self._seen("ListEvents", request, context)
        first = int(request.page_token or 0)
        more = first + 2 < len(self.log)
        return pb.ListEventsResponse(events=self.log[first : first + 2], next_page_token=str(first + 2) if more else "")

    def __getattribute__(self, name: str) -> Any:
        """Answer the other RPCs with what the test wrote down, or an empty message."""
        if name in {
            "Cancel",
            "Cleanup",
            "DeleteSession",
            "SendMessage",
            "Interrupt",
            "RespondToInteraction",
            "GetServerInfo",
        }:

            async def answer(request: Any, context: Any) -> Any:
                await self._seen(name, request, context)
                return self.answers.get(name, getattr(pb, f"{name}Response")())

            return answer
        return super().__getattribute__(name)


FakeService.__abstractmethods__ = frozenset()


def refusal(
    code: grpc.StatusCode, reason: str, message: str = "no", *details: Any, pushback: str = "", **metadata: str
) -> Callable[[Any], Awaitable[None]]:
    """Make a failure as the service makes them: with google.rpc details."""
    info = error_details_pb2.ErrorInfo(domain="agentservice.v1", reason=reason, metadata=metadata)

    async def abort(context: Any) -> None:
        status = status_pb2.Status(code=code.value[0], message=message)
        for detail in (info, *details):
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        trailers = [("grpc-status-details-bin", status.SerializeToString())]
        if pushback:
            trailers.append(("grpc-retry-pushback-ms", pushback))
        await context.abort(code, message, tuple(trailers))

    return abort


async def unavailable(context: Any) -> None:
    await context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")


async def rst_stream(context: Any) -> None:
    await context.abort(grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2")


async def cancelled(context: Any) -> None:
    await context.abort(grpc.StatusCode.CANCELLED, "")


def text(words: str) -> pb.SessionEvent:
    block = pb.ContentBlock(text=pb.TextBlock(text=words))
    return pb.SessionEvent(type="message.assistant", assistant_message=pb.AssistantMessage(content=[block]))


def partial(words: str, index: int = 0) -> pb.SessionEvent:
    part = pb.PartialMessage(event_type="content_block_delta", index=index, text=words)
    return pb.SessionEvent(type="message.partial", ephemeral=True, partial_message=part)


def tool_call(name: str, input_json: str) -> pb.SessionEvent:
    block = pb.ContentBlock(tool_use=pb.ToolUseBlock(id="t1", name=name, input_json=input_json))
    return pb.SessionEvent(type="message.assistant", assistant_message=pb.AssistantMessage(content=[block]))


def tool_result(output: str) -> pb.SessionEvent:
    block = pb.ContentBlock(tool_result=pb.ToolResultBlock(tool_use_id="t1", text=output))
    return pb.SessionEvent(type="message.user", user_message=pb.UserMessage(content=[block]))


class Script:
    """What test modules need from here; they cannot import a conftest."""

    SESSION, TURN = SESSION, TURN
    refusal, unavailable, rst_stream = staticmethod(refusal), staticmethod(unavailable), staticmethod(rst_stream)
    text, partial = staticmethod(text), staticmethod(partial)
    tool_call, tool_result = staticmethod(tool_call), staticmethod(tool_result)


@pytest.fixture
def script() -> type[Script]:
    return Script


@pytest.fixture
async def service() -> AsyncIterator[FakeService]:
    """A fake service at `service.address`."""
    fake = FakeService()
    server = grpc.aio.server()
    agent_pb2_grpc.add_AgentServiceServicer_to_server(fake, server)
    fake.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield fake
    await server.stop(None)


# No test waits it out, so that none depends on how busy the machine is; what hangs is ended by pytest's own limit.
PLENTY = 3600.0


@pytest.fixture
async def client(service: FakeService) -> AsyncIterator[AgentClient]:
    async with AgentClient(service.address, timeout=PLENTY, retry_for=PLENTY) as client:
        yield client


class Asked(dict[str, float | None], grpc.aio.UnaryUnaryClientInterceptor):
    """The deadline that gRPC was asked for, by method.

    What the server sees is not to be compared: gRPC rounds it up to whole milliseconds, then to three digits (10 s may
    arrive as 10.1 s), and what is left of it depends on how long the call was on its way.
    """

    async def intercept_unary_unary(self, continuation: Any, details: grpc.aio.ClientCallDetails, request: Any) -> Any:
        method = details.method if isinstance(details.method, str) else details.method.decode()
        self[method.rpartition("/")[2]] = details.timeout
        return await continuation(details, request)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Deadlines of the calls of clients that connect from here on."""
    asked = Asked()
    monkeypatch.setattr(
        grpc.aio, "insecure_channel", functools.partial(grpc.aio.insecure_channel, interceptors=[asked])
    )
    return asked


class Finished:
    """What a program left behind."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"exit {self.code}\n{self.out}\n{self.err}"


@pytest.fixture
def agentctl(service: FakeService) -> Callable[..., Awaitable[Finished]]:
    """Run agentctl in a thread, which is quicker than a process; what differs there has its own tests."""

    async def run(*arguments: str, stdin: str = "") -> Finished:
        env = {"AGENT_SERVER": service.address}
        done = await asyncio.to_thread(CliRunner().invoke, app, list(arguments), input=stdin, env=env)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return Finished(done.exit_code, done.stdout, done.stderr)

    return run
