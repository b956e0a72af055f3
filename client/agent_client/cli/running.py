"""run and watch: following a session on the screen."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any

import typer
from agentpb import agent_pb2 as pb

from agent_client.cli.answering import StillOpen, ask
from agent_client.cli.app import (
    Exit,
    Json,
    SessionId,
    command,
    on_terminal,
    print_json,
    read_line,
    say,
)
from agent_client.cli.connecting import connect
from agent_client.cli.streams import argument, read_data
from agent_client.cli.values import common_options, duration, json_options, pairs, shows_partials
from agent_client.handle import SessionHandle
from agent_client.render import EventPrinter, console, summary
from agent_client.results import AT_REST, RunResult
from agent_client.visible import visible_line
from agent_client.watching import SessionWatch


@command("run")
async def run(
    prompt: Annotated[str, typer.Argument(help='What the agent is to do; "-" reads it from stdin.')],
    allow: Annotated[
        list[str] | None, typer.Option(metavar="TOOL", help="A tool or rule that needs no permission. *")
    ] = None,
    deny: Annotated[list[str] | None, typer.Option(metavar="TOOL", help="A tool that is taken away. *")] = None,
    model: Annotated[str | None, typer.Option(help="The model.")] = None,
    cwd: Annotated[str | None, typer.Option(help="The directory to work in, on the service's host.")] = None,
    system: Annotated[str | None, typer.Option(help="The system prompt.")] = None,
    resume: Annotated[str, typer.Option(metavar="SESSION", help="Give this session its next turn.")] = "",
    fork: Annotated[str, typer.Option(metavar="SESSION", help="Branch from this session's conversation.")] = "",
    at_turn: Annotated[str, typer.Option(metavar="TURN", help="With --fork: end it after this turn.")] = "",
    on_busy: Annotated[
        str | None, typer.Option(metavar="reject|enqueue|interrupt", help="If the session is at work.")
    ] = None,
    permission_mode: Annotated[str | None, typer.Option(help="Such as acceptEdits, plan or dontAsk.")] = None,
    max_turns: Annotated[int | None, typer.Option(help="Model turns the run may take.")] = None,
    budget: Annotated[float | None, typer.Option(metavar="USD", help="US dollars the run may spend.")] = None,
    profile: Annotated[str, typer.Option(metavar="NAME", help="Options of the operator's to begin with.")] = "",
    title: Annotated[str, typer.Option(help="A title to find the session by.")] = "",
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="A label to find it by. *")] = None,
    env: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="A variable of its environment. *")] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=JSON", help="Any other option of the contract. *")
    ] = None,
    clear: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="With --resume or --fork: an option that returns to its default. remembered_permissions forgets "
            "what was allowed for good. *",
        ),
    ] = None,
    timeout: Annotated[
        timedelta | None, typer.Option(parser=duration, metavar="DURATION", help="How long the run may take.")
    ] = None,
    ask_me: Annotated[bool, typer.Option("--ask", help="Let the agent ask for permission, and ask questions.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Print the session's id and leave.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the agent's words only.")] = False,
    as_json: Json = False,
) -> Exit | None:
    """Run an agent and follow it. Options marked * may be given several times."""
    arguments: dict[str, Any] = {
        **common_options(allow, deny, model, cwd, system, permission_mode, env),
        "max_turns": max_turns,
        "max_budget_usd": budget,
        "interactions": True if ask_me else None,
        "include_partial_messages": shows_partials(as_json),
        "session_id": resume,
        "mode": "resume" if resume else None,
        "fork_from": fork,
        "fork_at_turn_id": at_turn,
        "on_busy": on_busy,
        "profile": profile,
        "title": title,
        "labels": pairs(label or ()),
        "execution_timeout": timeout,
        "clear_options": clear or (),
    }
    text = read_data() if prompt == "-" else argument(prompt, "the prompt")
    async with connect() as client:
        handle = await client.execute(text, **(arguments | json_options(option or ())))
        for warning in handle.started.warnings:
            say(f"warning: {visible_line(warning)}")
        if detach:
            print_json(handle.started) if as_json else console().print(visible_line(handle.session_id))
            return None
        printer = None if as_json else EventPrinter(console(), quiet=quiet)
        return await _follow(handle, handle.watch(), printer, quiet=quiet, ask_me=ask_me)


@command("watch")
async def watch(
    session_id: SessionId,
    after: Annotated[int, typer.Option(metavar="N", help="Only events past this sequence.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay for the session's next turns.")] = False,
    ask_me: Annotated[bool, typer.Option("--ask", help="Answer what the agent asks.")] = False,
    as_json: Json = False,
) -> Exit | None:
    """Show a session from its beginning, and follow it."""
    async with connect() as client:
        handle = client.session(session_id)
        printer = None if as_json else EventPrinter(console(), prompts=True)
        stream = handle.watch(after, follow=follow)
        return await _follow(handle, stream, printer, ask_me=ask_me, announce=printer is not None, follow=follow)


async def _follow(
    handle: SessionHandle,
    watch: SessionWatch,
    printer: EventPrinter | None,
    *,
    quiet: bool = False,
    ask_me: bool = False,
    announce: bool = False,
    follow: bool = False,
) -> Exit | None:
    """Show events until the end, or until Ctrl-C; the session does not mind which."""
    ask_me = ask_me and on_terminal()
    showing = asyncio.ensure_future(_show(handle, watch, printer, ask_me=ask_me, announce=announce, follow=follow))
    with _OnInterrupt(showing.cancel):
        try:
            turn = await showing
        except asyncio.CancelledError:
            if printer:
                printer.end_line()
            return await _leave(handle)
        finally:
            await watch.aclose()
    if watch.end is not None and watch.end.reason == pb.WATCH_END_REASON_DELETED:
        say("agentctl: the session was deleted")
        return Exit.NOT_FOUND
    if not turn.turn_id:
        turn = (await handle.status(history_limit=0)).turn
    session = watch.end.session if watch.end is not None else (await handle.status(history_limit=0)).session
    result = RunResult(session=session, turn=turn)
    if printer is not None and not (quiet and result.ok):
        (console(sys.stderr) if quiet else console()).print(summary(result))
    return _exit_code(result)


async def _show(
    handle: SessionHandle,
    watch: SessionWatch,
    printer: EventPrinter | None,
    *,
    ask_me: bool,
    announce: bool,
    follow: bool,
) -> pb.Turn:
    """Show events; return our turn as it ended, or the last one where none is ours."""
    ended, still_open = pb.Turn(), StillOpen(handle)
    if announce and printer is not None:
        after = watch.last_sequence
        printer.line(_announcement(await watch.started(), after, follow=follow), "dim")
    async for shown in watch:
        event = await handle.complete(shown)
        if handle.turn_id and ended.turn_id == handle.turn_id and event.HasField("turn_started"):
            break
        if printer is None:
            print_json(event)
        else:
            printer.print(event)
        if event.HasField("turn_completed") and handle.turn_id in {"", event.turn_completed.turn.turn_id}:
            ended = event.turn_completed.turn
        if ask_me and event.HasField("interaction_requested") and await still_open.has(event):
            await ask(handle, event.interaction_requested.interaction)
    return ended


def _announcement(started: pb.WatchStarted, after: int, *, follow: bool) -> str:
    count = max(0, started.last_sequence - after)
    ends = started.session.state in AT_REST and not follow
    then = "; the session is at rest" if ends else ", then live"
    return f"· replaying {count} {'event' if count == 1 else 'events'}{then}"


async def _leave(handle: SessionHandle) -> Exit:
    if on_terminal() and _wants_cancel():
        response = await handle.cancel(reason="cancelled at the terminal")
        say("already at rest" if response.already_at_rest else "cancelled")
        return Exit.CANCELLED
    name = visible_line(handle.session_id)
    say(f"session {name} goes on; return with: agentctl watch {name}")
    return Exit.INTERRUPTED


def _wants_cancel() -> bool:
    reply = read_line("\nLeave the session running, or cancel it? [L/c] ")
    return (reply or "").strip().lower().startswith("c")


def _exit_code(result: RunResult) -> Exit | None:
    if result.turn.state == pb.TURN_STATE_CANCELLED:
        return Exit.CANCELLED
    if result.turn.state == pb.TURN_STATE_ERROR:
        return Exit.TIMEOUT if result.session.phase == pb.SESSION_PHASE_TIMED_OUT else Exit.FAILED
    return None


class _OnInterrupt:  # reads as the with statement it is made for
    """Call something on Ctrl-C, once; a second one ends the program as usual."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call

    def __enter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._armed = threading.current_thread() is threading.main_thread()  # signals belong to it
        if self._armed:
            self._loop.add_signal_handler(signal.SIGINT, self._interrupted)

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _interrupted(self) -> None:
        self._restore()
        self._call()

    def _restore(self) -> None:
        if not self._armed:
            return
        self._armed = False
        self._loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.default_int_handler)
