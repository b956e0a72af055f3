"""status, ls, cancel, rm, cleanup, info, export: looking at sessions and clearing them away."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from agentpb import agent_pb2 as pb
from google.protobuf.timestamp_pb2 import Timestamp
from rich.text import Text

from agent_client.asking import effect, question
from agent_client.cli.app import Exit, Json, SessionId, command, json_line, print_json, say
from agent_client.cli.connecting import connect
from agent_client.cli.streams import write_data
from agent_client.cli.values import duration, pairs
from agent_client.render import console, state_word, word
from agent_client.tool_input import tool_input
from agent_client.visible import visible, visible_line


@command("status")
async def status(
    session_id: SessionId,
    wait: Annotated[
        timedelta | None,
        typer.Option(parser=duration, metavar="DURATION", help="Wait this long for the session to come to rest."),
    ] = None,
    as_json: Json = False,
) -> Exit | None:
    """Show where a session stands."""
    async with connect() as client:
        response = await client.status(session_id, wait=wait)
    print_json(response) if as_json else _print_status(response)
    return Exit.TIMEOUT if response.wait_expired else None


@command("ls")
async def ls(
    state: Annotated[list[str] | None, typer.Option(help="Only in this state, such as running. *")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only with this label. *")] = None,
    by: Annotated[str, typer.Option(metavar="NAME", help="Only those that this principal created.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    as_json: Json = False,
) -> None:
    """List sessions, newest first. Options marked * may be given several times."""
    async with connect() as client:
        listing = client.list_sessions(
            states=state or (),
            labels=pairs(label or ()),
            created_by=by,
            limit=limit,
            page_size=min(limit, 1000),
        )
        sessions = [session async for session in listing]
    if as_json:
        for session in sessions:
            print_json(session)
    else:
        _print_listing(sessions)


@command("cancel")
async def cancel(
    session_id: SessionId,
    force: Annotated[bool, typer.Option("--force", help="Kill at once.")] = False,
    grace: Annotated[
        timedelta | None,
        typer.Option(parser=duration, metavar="DURATION", help="How long it may take to stop by itself."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, for the log.")] = "",
    as_json: Json = False,
) -> None:
    """End a session's work for good, and show the receipt."""
    async with connect() as client:
        response = await client.cancel(session_id, force=force, grace=grace, reason=reason)
    print_json(response) if as_json else console().print(receipt(response))


@command("rm")
async def rm(
    session_id: SessionId,
    force: Annotated[bool, typer.Option("--force", help="Cancel it first if it is at work.")] = False,
    as_json: Json = False,
) -> None:
    """Delete a session with its log."""
    async with connect() as client:
        response = await client.delete(session_id, force=force)
    print_json(response) if as_json else console().print(f"deleted {visible_line(session_id)}")


@command("cleanup")
async def cleanup(
    older_than: Annotated[
        timedelta | None,
        typer.Option(parser=duration, metavar="DURATION", help="Those at rest this long; default: the operator's."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell, and delete nothing.")] = False,
    as_json: Json = False,
) -> Exit | None:
    """Delete sessions that have been at rest for some time."""
    async with connect() as client:
        response = await client.cleanup(older_than=older_than, dry_run=dry_run)
    if as_json:
        print_json(response)
        return None
    verb = "would delete" if dry_run else "deleted"
    plural = "session" if response.deleted_count == 1 else "sessions"
    console().print(f"{verb} {response.deleted_count} {plural}, {response.freed_bytes} bytes")
    for failure in response.failures:
        say(f"agentctl: {visible_line(failure.session_id)}: {visible_line(failure.message)}")
    return Exit.FAILED if response.failures else None


@command("info")
async def info(as_json: Json = False) -> None:
    """Show what runs there: versions, limits, load, model backend."""
    async with connect() as client:
        response = await client.server_info()
    if as_json:
        print_json(response)
        return
    load, limits = response.load, response.limits
    facts = {
        "server": f"{response.server_version} ({response.api_version})" + (", draining" if response.draining else ""),
        "agent": f"SDK {response.sdk_version}, CLI {response.cli_version}",
        "model backend": response.model_backend,
        "process guard": response.process_guard,
        "running": f"{load.running} of {limits.max_sessions}",
        "queued": f"{load.queued} of {limits.max_queued}",
        "warm agents": str(load.warm),
        "watchers": str(load.watchers),
        "sessions": str(load.sessions),
        "pending": str(load.pending_interactions),
        "features": ", ".join(response.features),
        "sandbox": response.sandbox,
        "policy": response.policy_version,
        "caller": response.caller.principal,
        "tenant": response.caller.tenant,
        **_ceilings(response.caller.ceilings_json),
    }
    for name, value in facts.items():
        if value or name in _ALWAYS_SHOWN:
            console().print(f"{name:21}{visible_line(value)}")


_ALWAYS_SHOWN = frozenset({"model backend", "process guard", "features"})


def _ceilings(ceilings_json: str) -> dict[str, str]:
    """What the tenant may ask for, a line for each key of its table; a line that means "any" is left out."""
    try:
        table = json.loads(ceilings_json or "{}")
    except ValueError:
        return {"may": ceilings_json}
    if not isinstance(table, dict):
        return {"may": ceilings_json}
    return {f"  {key}": _ceiling(value) for key, value in table.items() if _ceiling(value) != "any"}


def _ceiling(value: object) -> str:
    """A value of the table as people read it."""
    match value:
        case []:
            return "none"
        case list():
            return ", ".join(map(str, value))
        case dict():
            return ", ".join(f"{key} {each}" for key, each in value.items() if each != "any") or "any"
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value)


class ExportFormat(StrEnum):
    """Formats of an exported session."""

    MARKDOWN = "markdown"
    JSONL = "jsonl"


@command("export")
async def export(
    session_id: SessionId,
    as_format: Annotated[ExportFormat, typer.Option("--format", help="What to write.")] = ExportFormat.MARKDOWN,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The file to write; default: stdout.")] = None,
) -> None:
    """Write a session's conversation: Markdown or JSON lines."""
    markdown = as_format is ExportFormat.MARKDOWN
    async with connect() as client:
        session = (await client.status(session_id, history_limit=0)).session
        with output.open("w", encoding="utf-8", newline="") if output else nullcontext() as file:
            write = file.write if file else write_data
            if markdown:
                write(_heading(session))
            async for event in client.list_events(session_id, page_size=1000, include_raw=not markdown):
                whole = await client.complete(session_id, event)
                write(_markdown(whole) if markdown else json_line(whole))


def receipt(response: pb.CancelResponse) -> str:
    """Say how a cancel ended."""
    if response.already_at_rest:
        return f"nothing to cancel: {state_word(response.session)}"
    if not response.HasField("receipt"):
        return "cancelling; its processes are not dead yet"
    proof = response.receipt
    processes = ", ".join(map(str, proof.process_ids))
    facts = [
        "cancelled",
        word(pb.CancelOutcome.Name(proof.outcome), "CANCEL_OUTCOME_"),
        f"processes {processes} dead" if processes else "no process was left",
        f"{proof.duration.ToTimedelta().total_seconds():.1f} s",
    ]
    return " · ".join(facts)


def _print_status(response: pb.GetStatusResponse) -> None:
    session, out = response.session, console()
    facts = {
        "session": session.session_id,
        "title": session.title,
        "state": state_word(session),
        "error": response.error.message,
        "model": session.model,
        "profile": session.profile,
        "mode": _mode(session),
        "effort": session.effort,
        "cwd": session.cwd,
        "labels": ", ".join(f"{key}={value}" for key, value in sorted(session.labels.items())),
        "turns": f"{session.turn_count}" + (f", {session.queued_turn_count} queued" * bool(session.queued_turn_count)),
        "cost": f"${session.total_cost_usd:.4f}",
        "created": _time(session.create_time),
        "by": session.created_by,
        "updated": _time(session.update_time),
        "events": str(session.last_sequence),
    }
    for name, value in facts.items():
        if value:
            out.print(f"{name:9}{visible_line(value)}")
    if session.remembered_permissions:
        out.print("remembered permissions")
        for number, update in enumerate(session.remembered_permissions, 1):
            out.print(f"  {number}. {effect(update)}")
        forget = f"agentctl run --resume {visible_line(session.session_id)} --clear remembered_permissions PROMPT"
        out.print(f"  forget them with: {forget}", style="dim")
    for interaction in session.pending_interactions:
        out.print(question(interaction))
    if response.result.result:
        out.print(f"\n{visible(response.result.result)}")


def _mode(session: pb.Session) -> str:
    """Return the permission mode in force, unless it is the default one."""
    mode = session.permission_mode
    if mode in {pb.PERMISSION_MODE_UNSPECIFIED, pb.PERMISSION_MODE_DEFAULT}:
        return ""
    return word(pb.PermissionMode.Name(mode), "PERMISSION_MODE_") if mode in pb.PermissionMode.values() else str(mode)


def _print_listing(sessions: list[pb.Session]) -> None:
    out = console()
    if not out.is_terminal:
        for session in sessions:
            facts = [state_word(session), str(session.turn_count), f"${session.total_cost_usd:.4f}"]
            columns = [session.session_id, *facts, _time(session.update_time), session.title, session.created_by]
            out.file.write("\t".join(map(visible_line, columns)) + "\n")
    elif sessions:
        for row in _rows(sessions):
            row.truncate(out.width, overflow="ellipsis")
            out.print(row)
    else:
        out.print("no sessions; start one with: agentctl run PROMPT")


def _rows(sessions: list[pb.Session]) -> list[Text]:
    """Lay out a listing so that only titles are ever cut: ids are there to be copied.

    Who created a session is shown where there is more to it than the local token.
    """
    words = [_phase_word(session) for session in sessions]
    width = max(map(len, words))
    creators = [visible_line(session.created_by) for session in sessions]
    by = max(map(len, creators)) + 2 if set(creators) - {"", "local"} else 0
    rows = [Text(f"{'session':36}  {'state':{width}}  {'cost':>8}  {'age':>4}  {'by'[:by]:{by}}title", style="bold")]
    for session, where, creator in zip(sessions, words, creators, strict=True):
        cost, age = f"${session.total_cost_usd:.4f}", _age(session.update_time)
        rest = f"{creator[:by]:{by}}{visible_line(session.title)}"
        rows.append(Text(f"{visible_line(session.session_id):36}  {where:{width}}  {cost:>8}  {age:>4}  {rest}"))
    return rows


def _phase_word(session: pb.Session) -> str:
    state, _, phase = state_word(session).partition(" (")
    return phase.rstrip(")") or state


def _age(stamp: Timestamp) -> str:
    seconds = max(0, int((datetime.now(UTC) - stamp.ToDatetime(UTC)).total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _time(stamp: Timestamp) -> str:
    return f"{stamp.ToDatetime():%Y-%m-%d %H:%M:%S}Z"


def _heading(session: pb.Session) -> str:
    title = visible_line(session.title) or f"Session {visible_line(session.session_id)}"
    facts = [session.session_id, session.model, _time(session.create_time), f"${session.total_cost_usd:.4f}"]
    return f"# {title}\n\n{' · '.join(visible_line(fact) for fact in facts if fact)}\n"


def _markdown(event: pb.SessionEvent) -> str:
    parts = []
    if event.HasField("user_message"):
        parts = [_block(block, "User") for block in event.user_message.content]
    elif event.HasField("assistant_message"):
        parts = [_block(block, "Agent") for block in event.assistant_message.content]
    elif event.HasField("turn_completed") and event.turn_completed.turn.HasField("error"):
        parts = [f"**Failed:** {visible_line(event.turn_completed.turn.error.message)}"]
    return "".join(f"\n{part}\n" for part in parts if part)


def _block(block: pb.ContentBlock, who: str) -> str:
    match block.WhichOneof("block"):
        case "text":
            return f"## {who}\n\n{visible(block.text.text)}"
        case "thinking":
            return "\n".join(f"> {line}" for line in visible(block.thinking.thinking).splitlines())
        case "tool_use":
            name = visible_line(block.tool_use.name)
            return f"**{name}**\n\n{_fenced(tool_input(block.tool_use.name, block.tool_use.input_json, fold=False))}"
        case "tool_result":
            return _fenced(visible(block.tool_result.text or block.tool_result.content_json))
        case _:
            return ""


def _fenced(text: str) -> str:
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}\n{text}\n{fence}"
