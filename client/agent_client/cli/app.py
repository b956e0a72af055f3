"""The application: what all commands share - connection, output, exit codes, and one line for every failure."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from enum import IntEnum
from typing import Annotated, Any

import grpc
import typer
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from agent_client import errors
from agent_client.cli import connecting
from agent_client.cli.streams import write_data
from agent_client.render import console
from agent_client.visible import visible_line

HELP = """Run agents through an agent service, watch them, answer them, end them.

Options of the connection stand before or after the command. Without a token, agentctl takes the one that a service on
this host leaves for its callers.

\b
Exit codes:
  0    ok
  1    the run failed
  2    wrong usage, or input the service does not accept
  3    no such session, turn or interaction
  4    the service cannot be reached, or cannot serve now
  5    refused: busy, not permitted, no room
  6    the run was cancelled
  124  time is over
  130  interrupted (Ctrl-C); the session goes on
"""


class Exit(IntEnum):
    """Exit codes that scripts can use."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNAVAILABLE = 4
    REFUSED = 5
    CANCELLED = 6
    TIMEOUT = 124
    INTERRUPTED = 130


_CODES = {
    grpc.StatusCode.INVALID_ARGUMENT: Exit.USAGE,
    grpc.StatusCode.OUT_OF_RANGE: Exit.USAGE,
    grpc.StatusCode.NOT_FOUND: Exit.NOT_FOUND,
    grpc.StatusCode.UNAVAILABLE: Exit.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Exit.UNAVAILABLE,
    grpc.StatusCode.INTERNAL: Exit.UNAVAILABLE,
    grpc.StatusCode.UNKNOWN: Exit.UNAVAILABLE,
}

_ADVICE = {
    "INTERACTION_CLOSED": "see what is open with: agentctl pending",
    "INTERACTION_NOT_FOUND": "see what is open with: agentctl pending",
    "SESSION_ACTIVE": "cancel it first, or pass --force",
    "SESSION_NOT_ACTIVE": "give it another turn with: agentctl run --resume SESSION PROMPT",
    "SESSION_NOT_FOUND": "see those there are with: agentctl ls",
}

Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
SessionId = Annotated[str, typer.Argument(metavar="SESSION", help="The session's id.")]

Body = Callable[..., Coroutine[Any, Any, Exit | None]]

app = typer.Typer(
    help=HELP, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True, add_completion=False
)

app.callback(help=HELP)(connecting.options)


def command(name: str) -> Callable[[Body], Callable[..., None]]:
    """Add a coroutine as a command; what it returns is the exit code, what it raises one line on stderr."""

    def add(body: Body) -> Callable[..., None]:
        def call(**arguments: Any) -> None:
            code = _run(body(**connecting.take(arguments)))
            if code:
                raise typer.Exit(int(code))

        functools.update_wrapper(call, body)
        connecting.with_options(body, call)
        app.command(name)(call)
        return call

    return add


def say(message: str) -> None:
    """Tell people something beside the output."""
    console(sys.stderr).print(message)


def print_json(message: Message) -> None:
    """Print a message as one line of JSON, under the contract's own names."""
    write_data(json_line(message))


def json_line(message: Message) -> str:
    """Return a message as one line of JSON, under the contract's own names."""
    return MessageToJson(message, preserving_proto_field_name=True, indent=None) + "\n"


def read_line(prompt: str) -> str | None:
    """Ask the person at the terminal; None when they would rather leave (Ctrl-C, Ctrl-D)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return input(prompt)
    except (EOFError, KeyboardInterrupt):
        return None
    finally:
        signal.signal(signal.SIGINT, before)


def on_terminal() -> bool:
    """Tell whether a person can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def _run(body: Coroutine[Any, Any, Exit | None]) -> Exit | None:
    try:
        return asyncio.run(body)
    except errors.AgentServiceError as error:
        say(f"agentctl: {_one_line(error)}")
        return _CODES.get(error.code, Exit.REFUSED)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python must not flush into the closed pipe at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except (TypeError, ValueError, OSError) as error:
        say(f"agentctl: {visible_line(str(error))}")
        return Exit.USAGE


def _one_line(error: errors.AgentServiceError) -> str:
    ways_out, what = [visible_line(error.advice), _ADVICE.get(error.reason, "")], visible_line(error.message)
    if error.reason == "SESSION_BUSY":
        # What follows in the message are the same ways out in the words of the contract.
        ways_out, what = [_out_of_busy(error)], what.partition(";")[0]
    elif error.reason == "QUEUE_FULL":
        ways_out.append("see what waits with: agentctl ls --state pending")
    if error.retry_after:
        ways_out.append(f"try again in {error.retry_after:.0f} s")
    return "; ".join([what, *filter(None, ways_out)])


def _out_of_busy(error: errors.AgentServiceError) -> str:
    """Say how to go on although a session is at work: by agentctl's own commands, for what it waits for."""
    session = visible_line(error.resource) or "SESSION"
    phase = error.metadata.get("phase", "")
    asks = phase in {"SESSION_PHASE_AWAITING_PERMISSION", "SESSION_PHASE_AWAITING_INPUT"}
    first = "answer what it asks, see: agentctl pending" if asks else f"wait for it with: agentctl watch {session}"
    return f"{first}, or end it with: agentctl cancel {session}, or pass --on-busy enqueue or --on-busy interrupt"
