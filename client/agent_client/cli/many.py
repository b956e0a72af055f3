"""count, cancel-all: what concerns many sessions at once."""

from __future__ import annotations

from typing import Annotated

import typer
from agentpb import agent_pb2 as pb

from agent_client.cli.app import Exit, Json, command, print_json, say
from agent_client.cli.connecting import connect
from agent_client.cli.sessions import receipt
from agent_client.cli.values import pairs
from agent_client.render import console, word
from agent_client.visible import visible_line

States = Annotated[list[str] | None, typer.Option("--state", help="Only in this state, such as running. *")]
Labels = Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="Only with this label. *")]


@command("count")
async def count(
    by: Annotated[str, typer.Option(metavar="PROPERTY", help="state, phase or labels.KEY.")] = "state",
    state: States = None,
    label: Labels = None,
    as_json: Json = False,
) -> None:
    """Count sessions, by state unless told otherwise. Options marked * may be given several times."""
    async with connect() as client:
        response = await client.count_sessions(by, states=state or (), labels=pairs(label or ()))
    if as_json:
        print_json(response)
        return
    rows = [(_value(each.value), each.count) for each in response.counts]
    rows += [("… and others", response.total - sum(n for _, n in rows))] if response.truncated else []
    width = len(f"{response.total}")
    for value, number in [*rows, ("in all", response.total)]:
        console().print(f"{number:{width}}  {value}")


@command("cancel-all")
async def cancel_all(
    label: Labels = None,
    state: States = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell which, and cancel none.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Kill at once.")] = False,
    reason: Annotated[str, typer.Option(help="Why, for the log.")] = "",
    as_json: Json = False,
) -> Exit | None:
    """End the work of all sessions that meet the conditions, each with a receipt. Options marked * may be repeated."""
    async with connect() as client:
        responses = await client.cancel_sessions(
            reason=reason, force=force, dry_run=dry_run, states=state or (), labels=pairs(label or ())
        )
    for response in responses:
        print_json(response) if as_json else _print_outcome(response, dry_run=dry_run)
    return Exit.FAILED if any(response.HasField("failed") for response in responses) else None


def _print_outcome(response: pb.CancelSessionsResponse, *, dry_run: bool) -> None:
    if response.HasField("failed"):
        say(f"agentctl: {visible_line(response.failed.session_id)}: {visible_line(response.failed.message)}")
    elif response.HasField("summary"):
        summary = response.summary
        done = f"would cancel {summary.matched}" if dry_run else f"cancelled {summary.cancelled} of {summary.matched}"
        console().print(done + (f", {summary.failed} failed" if summary.failed else ""))
    else:
        session = response.cancelled
        how = "would be cancelled" if dry_run else receipt(pb.CancelResponse(receipt=session.receipt))
        console().print(f"{visible_line(session.session_id)}  {how}")


def _value(value: str) -> str:
    for prefix in ("SESSION_STATE_", "SESSION_PHASE_"):
        if value.startswith(prefix):
            return word(value, prefix)
    return visible_line(value)
