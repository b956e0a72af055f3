"""Agent: one CLI process behind the Claude Agent SDK, from its start to the proof that its process tree is dead.

The seam to the SDK. One permanent reader takes every frame and hands it to the session: the SDK's buffer of 100
messages also carries control traffic, so an interrupt is not answered while nothing reads. A task of its own, which is
never cancelled, ends the process.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from claude_agent_sdk import (
    ClaudeAgentOptions,
    ClaudeSDKClient,
    PermissionResult,
)

from agent_service.agents import sdk
from agent_service.agents.failures import AgentFailed, classify, refused_settings
from agent_service.agents.handed import remove_files
from agent_service.agents.in_force import InForce
from agent_service.agents.masks import MaskedSink, Masks
from agent_service.agents.outlets import Outlet
from agent_service.agents.permission import Answer, permission_result
from agent_service.agents.sink import PermissionContext, Sink
from agent_service.agents.transport import ProcessTransport
from agent_service.agents.walls import Wall
from agent_service.agents.workspace import Directories
from agent_service.policy import Grant
from agent_service.processes.guards import ProcessGuard
from agent_service.processes.tree import ProcessTree, Reaped

__all__ = ["Agent", "AgentFailed", "AgentSpec", "Answer", "Ended", "PermissionContext", "Sink"]

log = logging.getLogger(__name__)

STDERR_LINES = 50
CONTROL_TIMEOUT = 10.0


@dataclass(frozen=True, kw_only=True)
class AgentSpec:
    """The start parameters of an agent. One connected agent can serve all specs of equal `key`."""

    options: ClaudeAgentOptions
    environment: Mapping[str, str]
    variables: Mapping[str, str]
    """The caller's part of the environment: for the agent alone, not for what guards it."""
    directories: Directories
    wall: Wall
    grant: Grant
    """What the session's tenant may ask for: what its walls are made by."""
    key: str
    asks: bool
    marker: str
    masks: Masks | None = None
    """What hides the values of secrets in the agent's words; None when it has none."""
    outlet: Outlet | None = None
    """Its ways out of its walls; whoever does not start the agent closes it."""


@dataclass(frozen=True)
class Ended:
    """How an agent's process tree ended."""

    process_ids: tuple[int, ...]
    terminated: bool
    killed: bool


class Agent:
    """One connected or connecting CLI. It serves one session in its life."""

    def __init__(
        self,
        spec: AgentSpec,
        *,
        guard: ProcessGuard,
        start_slots: asyncio.Semaphore,
        start_timeout: float,
        discard: Callable[[Path], None],
    ) -> None:
        """Prepare an agent; `connect` starts it. Its temporary files are removed by `discard`."""
        self.spec = spec
        self._discard = discard
        self.in_force = InForce.at_start(
            model=spec.options.model,
            permission_mode=spec.options.permission_mode,
            effort=spec.options.effort,
        )
        self._start_slots = start_slots
        self._start_timeout = start_timeout
        self._stderr: deque[str] = deque(maxlen=STDERR_LINES)
        self._sink: Sink | None = None
        self._stopped = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._started: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._settings: dict[str, Any] = {}
        self._end: asyncio.Task[Ended] | None = None
        self._failure: AgentFailed | None = None
        options = replace(spec.options, can_use_tool=self._on_permission if spec.asks else None)
        argv = sdk.build_argv(options)
        self._program = argv[0]
        self._transport = ProcessTransport(
            spec.outlet.command(argv) if spec.outlet is not None else argv,
            environment=spec.environment,
            variables=spec.variables,
            cwd=spec.directories.cwd,
            guard=guard,
            wall=spec.wall,
            marker=spec.marker,
            on_stderr=self._on_stderr,
        )
        # The client warns of rules that shadow the callback; the service says so in its own answer (options.warnings).
        # The rules themselves are in argv: the client reads neither field with a transport of our own.
        self._client = ClaudeSDKClient(
            replace(options, allowed_tools=[], permission_mode=None), transport=self._transport
        )

    @property
    def alive(self) -> bool:
        """Whether the agent is connected and its end has not begun."""
        return self._reader is not None and not self._reader.done() and self._end is None

    @property
    def tree(self) -> ProcessTree | None:
        """Its process tree; None before the start."""
        return self._transport.tree

    @property
    def spawned(self) -> bool:
        """Whether a process was started for it."""
        return self._transport.tree is not None

    def process_ids(self) -> set[int]:
        """The living processes of its tree, by the host's ids."""
        tree = self._transport.tree
        return {process.pid for process in tree.processes()} if tree is not None else set()

    @property
    def stderr_tail(self) -> str:
        """The last lines its process wrote to stderr."""
        text = "\n".join(self._stderr)
        return self.spec.masks.text(text) if self.spec.masks else text

    def attach(self, sink: Sink) -> None:
        """Report to `sink` from now on. An agent that has ended already reports that at once."""
        self._sink = sink = MaskedSink(sink, self.spec.masks) if self.spec.masks else sink
        if self._failure is not None:
            sink.on_exit(self._failure)

    def detach(self) -> None:
        """Stop reporting."""
        self._sink = None

    async def connect(self) -> None:
        """Start the process and shake hands. Raises AgentFailed; at most `start_limit` agents do this at once."""
        async with self._start_slots:
            if self._stopped.is_set():
                raise AgentFailed("STOPPED", "the agent was stopped before its process started")
            self._started = asyncio.create_task(self._start(), name=f"start {self.spec.marker}")
            try:
                await asyncio.shield(self._started)
            except AgentFailed:
                raise
            except Exception as error:
                raise self._start_failure(error) from error
        self._reader = asyncio.create_task(self._read(), name=f"agent {self.spec.marker}")
        # As a rule not waited for: the agent answers before it takes up a prompt.
        self._asking = asyncio.create_task(self.ask_settings(), name=f"settings {self.spec.marker}")
        if (file := self.spec.options.settings or "").startswith("/"):  # a caller's; the service's own are tested
            await self._asking
            if (failure := refused_settings(self._settings, file)) is not None:
                raise failure

    async def _start(self) -> None:
        try:
            if self.spec.outlet is not None:
                await self.spec.outlet.open(lambda: self._transport.tree, self._program)
            await self._handshake()
        finally:
            await asyncio.to_thread(remove_files, self.spec.directories.scratch)

    async def _handshake(self) -> None:
        connecting = asyncio.create_task(self._client.connect(), name=f"connect {self.spec.marker}")
        stopped = asyncio.create_task(self._stopped.wait())
        done, _ = await asyncio.wait(
            {connecting, stopped}, timeout=self._start_timeout, return_when=asyncio.FIRST_COMPLETED
        )
        stopped.cancel()
        if connecting in done:
            return connecting.result()
        connecting.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await connecting
        if self._stopped.is_set():
            raise AgentFailed("STOPPED", "the agent was stopped while it started")
        raise AgentFailed(
            "START_TIMEOUT",
            f"the agent was not ready within {self._start_timeout:g} s",
            retryable=True,
            stderr_tail=self.stderr_tail,
        )

    def _start_failure(self, error: Exception) -> AgentFailed:
        return self._masked(classify(error, stderr_tail=self.stderr_tail))

    def _masked(self, failure: AgentFailed) -> AgentFailed:
        return self.spec.masks.failure(failure) if self.spec.masks else failure

    async def _read(self) -> None:
        """Hand every frame to the sink until the output ends; then report the end."""
        try:
            async for frame in sdk.frames(self._client):
                self.in_force.observe(frame)
                if self._sink is not None:
                    await self._sink.on_frame(frame)
            failure = AgentFailed("AGENT_EXITED", "the agent's output ended", retryable=True)
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - every way the stream can break ends the turn with its text
            failure = self._start_failure(error)
        failure.stderr_tail = self.stderr_tail
        self._failure = failure
        if self._sink is not None:
            self._sink.on_exit(failure)

    def _on_stderr(self, line: str) -> None:
        if line.startswith("[claude-code:unrecognized_model]") and '"offline"' in line:
            return  # the offline model is none the CLI knows, and that is as it should be
        self._stderr.append(line[:4096])
        if self._sink is not None:
            self._sink.on_stderr(line)

    async def _on_permission(
        self, tool: str, tool_input: dict[str, Any], context: PermissionContext
    ) -> PermissionResult:
        if self._sink is None:
            raise RuntimeError("nobody is there to be asked")
        return permission_result(await self._sink.on_permission(tool, tool_input, context))

    async def prompt(self, uuid: str, content: str | list[dict[str, Any]]) -> None:
        """Send a user message under `uuid`. Raises AgentFailed when the process no longer reads."""
        message = {
            "type": "user",
            "uuid": uuid,
            "message": {"role": "user", "content": content},
            "parent_tool_use_id": None,
        }

        async def one() -> Any:
            yield message

        try:
            await self._client.query(one())
        except Exception as error:
            raise self._failure or self._start_failure(error) from error

    async def interrupt(self, *, cancel_queued: bool) -> frozenset[str]:
        """Ask the agent to stop its turn. Returns the uuids of queued prompts that it dropped.

        Never raises: an agent that does not answer is killed later.
        """
        answer = await self._answer({"subtype": "interrupt", "cancel_queued": cancel_queued})
        return frozenset((answer or {}).get("cancelled") or ())

    async def set_model(self, model: str) -> bool:
        """Use another model from the next turn on; whether it acknowledged."""
        acknowledged = await self._control({"subtype": "set_model", "model": model})
        if acknowledged:
            self.in_force.model.tell(model)
        return acknowledged

    async def set_permission_mode(self, mode: str) -> bool:
        """Use another permission mode; whether it acknowledged."""
        acknowledged = await self._control({"subtype": "set_permission_mode", "mode": mode})
        if acknowledged:
            self.in_force.permission_mode.tell(mode)
        return acknowledged

    async def set_effort(self, effort: str) -> bool:
        """Use another effort; whether it acknowledged."""
        acknowledged = await self.apply_settings({"effortLevel": effort})
        if acknowledged:
            self.in_force.effort.tell(effort)
        return acknowledged

    async def apply_settings(self, settings: dict[str, Any]) -> bool:
        """Replace these top-level keys of the settings it was started with; whether it acknowledged."""
        return await self._control({"subtype": "apply_flag_settings", "settings": settings})

    async def apply_permissions(self, permissions: dict[str, list[str]]) -> bool:
        """Use these rules beside those that it was started with, in place of earlier ones; whether it acknowledged."""
        return await self.apply_settings({"permissions": permissions})

    async def ask_settings(self) -> None:
        """Ask for the model and effort in force: no frame has the effort, and none comes after the command /model."""
        self._settings = await self._answer({"subtype": "get_settings"}) or {}
        self.in_force.observe_settings(self._settings)

    async def rehearse(self) -> None:
        """Assemble the context in advance by `get_context_usage`: the first prompt then takes 116 ms, not 167."""
        await self._control({"subtype": "get_context_usage"})

    async def answers(self) -> bool:
        """Return whether the agent still answers; takes 1 to 2 ms."""
        return await self._control({"subtype": "mcp_status"})

    async def usage(self, *, patience: float) -> dict[str, Any] | None:
        """Return what its process has used so far, as a result frame says it; None when it does not answer in time."""
        return await sdk.usage(self._client, patience=patience) if self.alive else None

    async def _control(self, request: dict[str, Any]) -> bool:
        return await self._answer(request) is not None

    async def _answer(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Return the answer to a control request; None when it was not acknowledged."""
        return await sdk.control(self._client, request, patience=CONTROL_TIMEOUT) if self.alive else None

    def end(self, *, patience: float, term_grace: float) -> asyncio.Task[Ended]:
        """End the process tree, and return the proof that it is dead.

        Close stdin, wait `patience` seconds, SIGTERM, wait `term_grace` seconds, SIGKILL. The end runs in a task of its
        own, so that a cancelled caller leaves no process behind. A later call with less patience kills at once; one
        after an end that failed begins another.
        """
        self._stopped.set()
        if self._end is None or (self._end.done() and (self._end.cancelled() or self._end.exception() is not None)):
            self._end = asyncio.create_task(self._run_end(patience, term_grace), name=f"end {self.spec.marker}")
        elif patience == 0 and not self._end.done() and self._transport.tree is not None:
            self._transport.tree.kill_now()
        return self._end

    async def _run_end(self, patience: float, term_grace: float) -> Ended:
        try:
            return await self._end_tree(patience, term_grace)
        finally:
            if self.spec.outlet is not None:
                await self.spec.outlet.close()
            try:
                await asyncio.to_thread(self._clear)
            except Exception:  # such as no thread to be had: the proof that the processes are dead holds nevertheless
                log.exception("the files of agent %s are left for the next start", self.spec.marker)

    def _clear(self) -> None:
        self.spec.wall.fall()
        self._discard(self.spec.directories.tmp)
        if self._started is None:  # else the start has done it; another agent of the session may have files there
            remove_files(self.spec.directories.scratch)

    async def _end_tree(self, patience: float, term_grace: float) -> Ended:
        await self._start_over()
        tree = self._transport.tree
        if tree is None:
            await self._disconnect()
            return Ended((), terminated=False, killed=False)
        before = self.process_ids()
        if patience > 0:
            await self._transport.end_input()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._transport.wait(), patience)
        reaped: Reaped = await (tree.terminate(term_grace) if term_grace > 0 else tree.kill())
        await self._disconnect()
        return Ended(
            tuple(sorted(before | set(reaped.process_ids))), terminated=reaped.terminated, killed=reaped.killed
        )

    async def _start_over(self) -> None:
        """Wait until a running start has been given up, so that its process is known."""
        if self._started is not None:
            await asyncio.wait([self._started])
        await self._transport.settled()

    async def _disconnect(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
        with suppress(Exception):
            await self._client.disconnect()
        await self._transport.close()
        if self._reader is not None:
            with suppress(asyncio.CancelledError, Exception):
                await self._reader
