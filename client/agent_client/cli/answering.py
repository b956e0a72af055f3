"""send, interrupt, pending, approve, deny, answer: talking with an agent at work."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer
from agentpb import agent_pb2 as pb

from agent_client import errors
from agent_client.cli.app import Exit, Json, Server, SessionId, command, connect, print_json, read_line, say
from agent_client.cli.values import json_object
from agent_client.client import AgentClient
from agent_client.handle import SessionHandle
from agent_client.render import clean_line, console, question

InteractionId = Annotated[
    str, typer.Argument(metavar="INTERACTION", help="The interaction's id; not needed when only one is open.")
]


@command("send")
async def send(
    session_id: SessionId,
    text: Annotated[str, typer.Argument(help="What to tell the agent.")],
    server: Server = None,
    as_json: Json = False,
) -> None:
    """Send a message into the running turn."""
    async with connect(server) as client:
        response = await client.send_message(session_id, text)
    print_json(response) if as_json else console().print("sent")


@command("interrupt")
async def interrupt(session_id: SessionId, server: Server = None, as_json: Json = False) -> None:
    """Stop the running turn; keep the session and its queue."""
    async with connect(server) as client:
        response = await client.interrupt(session_id)
    print_json(response) if as_json else console().print(
        "interrupted" if response.interrupted else "nothing was running"
    )


@command("pending")
async def pending(server: Server = None, as_json: Json = False) -> None:
    """List what agents ask, over all sessions."""
    async with connect(server) as client:
        async for session in client.list_sessions(phases=["awaiting_permission", "awaiting_input"]):
            for interaction in session.pending_interactions:
                whole = await client.complete(session.session_id, interaction)
                print_json(whole) if as_json else _print_pending(session, whole)


@command("approve")
async def approve(
    session_id: SessionId,
    interaction_id: InteractionId = "",
    updated: Annotated[str, typer.Option("--input", metavar="JSON", help="Another input for the tool.")] = "",
    remember: Annotated[bool, typer.Option("--remember", help="Do not ask for the like again.")] = False,
    server: Server = None,
    as_json: Json = False,
) -> None:
    """Give leave to use a tool."""
    changed = json_object(updated) if updated else None
    async with connect(server) as client:
        interaction = await _find(client, session_id, interaction_id, look=remember)
        rules = interaction.suggestions if remember else ()
        response = await client.allow(
            session_id, interaction.interaction_id, updated_input=changed, updated_permissions=rules
        )
    print_json(response) if as_json else console().print("allowed")


@command("deny")
async def deny(
    session_id: SessionId,
    interaction_id: InteractionId = "",
    message: Annotated[str, typer.Option(help="What the agent is told.")] = "",
    stop: Annotated[bool, typer.Option("--interrupt", help="Stop the turn as well.")] = False,
    server: Server = None,
    as_json: Json = False,
) -> None:
    """Refuse what the agent asks."""
    async with connect(server) as client:
        interaction = await _find(client, session_id, interaction_id)
        response = await client.deny(session_id, interaction.interaction_id, message=message, interrupt=stop)
    print_json(response) if as_json else console().print("denied")


@command("answer")
async def answer(
    session_id: SessionId,
    interaction_id: InteractionId = "",
    given: Annotated[
        list[str] | None,
        typer.Option("--answer", metavar="QUESTION=LABEL", help="An answer; LABEL alone if there is one question. *"),
    ] = None,
    server: Server = None,
    as_json: Json = False,
) -> None:
    """Answer an agent's questions. Options marked * may be given several times."""
    async with connect(server) as client:
        interaction = await _find(client, session_id, interaction_id, look=True)
        answers = _matched(interaction, given or [])
        response = await client.allow(session_id, interaction.interaction_id, answers=answers)
    print_json(response) if as_json else console().print("answered")


async def ask(handle: SessionHandle, interaction: pb.Interaction) -> None:
    """Ask the person at the terminal, and pass the answer on; somebody else may have been quicker."""
    try:
        if interaction.kind == pb.INTERACTION_KIND_QUESTION:
            answers = {each.text: _ask_question(each) for each in interaction.questions}
            await handle.allow(interaction.interaction_id, answers=answers)
        else:
            await _ask_permission(handle, interaction)
    except errors.InteractionClosed as error:
        say(clean_line(error.message))


async def _ask_permission(handle: SessionHandle, interaction: pb.Interaction) -> None:
    reply = _reply("  allow? [y]es, [a]lways, [n]o, no and [s]top: ").strip().lower()[:1]
    if reply in {"y", "a"}:
        rules = interaction.suggestions if reply == "a" else ()
        await handle.allow(interaction.interaction_id, updated_permissions=rules)
    else:
        await handle.deny(interaction.interaction_id, message="The user said no.", interrupt=reply == "s")


def _ask_question(asked: pb.Question) -> str:
    several = " (several, with commas)" if asked.multi_select else ""
    reply = _reply(f"  {clean_line(asked.header or asked.text)}{several}: ")
    chosen = [each.strip() for each in reply.split(",")] if asked.multi_select else [reply.strip()]
    return ", ".join(_label(asked, each) for each in chosen)


def _reply(prompt: str) -> str:
    reply = read_line(prompt)
    if reply is None:
        raise asyncio.CancelledError
    return reply


def _label(asked: pb.Question, reply: str) -> str:
    if reply.isdigit() and 1 <= int(reply) <= len(asked.options):
        return asked.options[int(reply) - 1].label
    return reply


async def _find(client: AgentClient, session_id: str, interaction_id: str, *, look: bool = False) -> pb.Interaction:
    """Return the interaction meant; without need to look, no call is made for it."""
    if interaction_id and not look:
        return pb.Interaction(interaction_id=interaction_id)
    session = (await client.status(session_id, history_limit=0)).session
    pending = [each for each in session.pending_interactions if interaction_id in {"", each.interaction_id}]
    if len(pending) != 1:
        what = (
            f"interaction {interaction_id} is not open" if interaction_id else f"{len(pending)} interactions are open"
        )
        say(f"agentctl: {what}; see them with: agentctl pending")
        raise typer.Exit(int(Exit.USAGE if pending else Exit.NOT_FOUND))
    return await client.complete(session_id, pending[0])


def _matched(interaction: pb.Interaction, given: list[str]) -> dict[str, str]:
    """Match answers to questions: by text, by header or by number; the only question needs no name."""
    questions = interaction.questions
    names = {name: each for number, each in enumerate(questions, 1) for name in (str(number), each.header, each.text)}
    answers: dict[str, str] = {}
    for text in given:
        name = next((name for name in sorted(names, key=len, reverse=True) if name and text.startswith(f"{name}=")), "")
        if name:
            answers[names[name].text] = _label(names[name], text.removeprefix(f"{name}="))
        elif len(questions) == 1:
            answers[questions[0].text] = _label(questions[0], text)
        else:
            raise typer.BadParameter(f"{text!r} names no question; they are: " + "; ".join(q.text for q in questions))
    return answers


def _print_pending(session: pb.Session, interaction: pb.Interaction) -> None:
    out: Any = console()
    out.print(question(interaction))
    verb = "answer" if interaction.kind == pb.INTERACTION_KIND_QUESTION else "approve"
    out.print(
        f"  agentctl {verb} {clean_line(session.session_id)} {clean_line(interaction.interaction_id)}", style="dim"
    )
