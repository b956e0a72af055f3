"""SyncAgentClient: the same client for programs without an event loop; every method runs the asynchronous one."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack

from agentpb import agent_pb2 as pb

from agent_client import forks
from agent_client.arguments import ExecuteArguments
from agent_client.client import AgentClient
from agent_client.handle import SessionHandle

P = ParamSpec("P")
T = TypeVar("T")
A = TypeVar("A")
_END = object()


class _Twin(Generic[A]):
    """Something asynchronous, and its synchronous face."""

    def __init__(self, asynchronous: A) -> None:
        self._async = asynchronous


def _blocking(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[_Twin[A], P], T]:
    """Make a method that waits of one that is awaited."""

    @functools.wraps(method)
    def call(self: _Twin[A], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return _wait(method(self._async, *args, **kwargs))

    return call


def _iterating(
    method: Callable[Concatenate[A, P], AsyncIterator[T]],
) -> Callable[Concatenate[_Twin[A], P], Iterator[T]]:
    """Make a method that returns an iterator of one that returns an asynchronous one."""

    @functools.wraps(method)
    def call(self: _Twin[A], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        return _iterate(method(self._async, *args, **kwargs))

    return call


class SyncSessionHandle(_Twin[SessionHandle]):
    """SessionHandle without async: the same methods, which wait."""

    @property
    def session_id(self) -> str:
        """The session's id."""
        return self._async.session_id

    @property
    def turn_id(self) -> str:
        """The turn that was started; empty for a handle on an existing session."""
        return self._async.turn_id

    @property
    def after_sequence(self) -> int:
        """The sequence before the first event of the turn that was started."""
        return self._async.after_sequence

    @property
    def started(self) -> pb.ExecuteResponse:
        """The service's answer to Execute."""
        return self._async.started

    def execute(self, prompt: str, **arguments: Unpack[ExecuteArguments]) -> SyncSessionHandle:
        """Give the session its next turn."""
        return SyncSessionHandle(_wait(self._async.execute(prompt, **arguments)))

    watch = _iterating(SessionHandle.watch)
    events = _iterating(SessionHandle.events)
    result = _blocking(SessionHandle.result)
    status = _blocking(SessionHandle.status)
    cancel = _blocking(SessionHandle.cancel)
    interrupt = _blocking(SessionHandle.interrupt)
    send = _blocking(SessionHandle.send)
    allow = _blocking(SessionHandle.allow)
    deny = _blocking(SessionHandle.deny)
    delete = _blocking(SessionHandle.delete)
    complete = _blocking(SessionHandle.complete)


class SyncAgentClient(_Twin[AgentClient]):
    """AgentClient without async: the same arguments and methods, which wait. Safe to share between threads."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Describe the connection, with the arguments of AgentClient; it opens with the first call."""
        super().__init__(AgentClient(*args, **kwargs))

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self.close()

    def execute(self, prompt: str, **arguments: Unpack[ExecuteArguments]) -> SyncSessionHandle:
        """Start a session, or give an existing one its next turn; return once it is durable."""
        return SyncSessionHandle(_wait(self._async.execute(prompt, **arguments)))

    def session(self, session_id: str) -> SyncSessionHandle:
        """Return a handle on an existing session, without asking the service."""
        return SyncSessionHandle(self._async.session(session_id))

    run = _blocking(AgentClient.run)
    prepare_agents = _blocking(AgentClient.prepare_agents)
    watch = _iterating(AgentClient.watch)
    status = _blocking(AgentClient.status)
    list_sessions = _iterating(AgentClient.list_sessions)
    count_sessions = _blocking(AgentClient.count_sessions)
    list_events = _iterating(AgentClient.list_events)
    read_field = _blocking(AgentClient.read_field)
    complete = _blocking(AgentClient.complete)
    server_info = _blocking(AgentClient.server_info)
    cancel = _blocking(AgentClient.cancel)
    cancel_sessions = _blocking(AgentClient.cancel_sessions)
    cleanup = _blocking(AgentClient.cleanup)
    delete = _blocking(AgentClient.delete)
    send_message = _blocking(AgentClient.send_message)
    interrupt = _blocking(AgentClient.interrupt)
    respond = _blocking(AgentClient.respond)
    allow = _blocking(AgentClient.allow)
    deny = _blocking(AgentClient.deny)
    close = _blocking(AgentClient.close)


@functools.cache
def _loop_of(process_id: int) -> asyncio.AbstractEventLoop:
    """Start the event loop that all synchronous clients of a process share: grpc.aio serves one loop per process.

    A forked child inherits the loop but not its thread, so each process has an entry of its own.
    """
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="agent-client", daemon=True).start()
    return loop


def _wait(work: Coroutine[Any, Any, T]) -> T:
    future = asyncio.run_coroutine_threadsafe(work, _loop_of(os.getpid()))
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _iterate(items: AsyncIterator[T]) -> Iterator[T]:
    try:
        while (item := _wait(_next(items))) is not _END:
            yield item  # type: ignore[misc]  # not the sentinel
    finally:
        # At the interpreter's end the loop's thread stands still; in a forked child there is none: nobody would answer.
        if not sys.is_finalizing() and not forks.broken():
            _wait(_leave(items))


async def _next(items: AsyncIterator[T]) -> T | object:
    return await anext(items, _END)


async def _leave(items: Any) -> None:
    await items.aclose()
