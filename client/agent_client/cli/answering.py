"""send, interrupt, pending, approve, deny, answer: talking with an agent at work."""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any

import typer
from agentpb import agent_pb2 as pb

from agent_client import errors
from agent_client.asking import chosen, effect, has_rule, question
from agent_client.cli.answers import labels, matched
from agent_client.cli.app import Exit, Json, SessionId, command, print_json, read_line, say
from agent_client.cli.connecting import connect
from agent_client.cli.values import json_object
from agent_client.client import AgentClient
from agent_client.handle import SessionHandle
from agent_client.render import console
from agent_client.visible import visible_line

InteractionId = Annotated[
    str, typer.Argument(metavar="INTERACTION", help="The interaction's id; not needed when only one is open.")
]


@command("send")
async def send(
    session_id: SessionId,
    text: Annotated[str, typer.Argument(help="What to tell the agent.")],
    as_json: Json = False,
) -> None:
    """Send a message into the running turn."""
    async with connect() as client:
        response = await client.send_message(session_id, text)
    print_json(response) if as_json else console().print("sent")


@command("interrupt")
async def interrupt(session_id: SessionId, as_json: Json = False) -> None:
    """Stop the running turn; keep the session and its queue."""
    async with connect() as client:
        response = await client.interrupt(session_id)
    print_json(response) if as_json else console().print(
        "interrupted" if response.interrupted else "nothing was running"
    )


@command("pending")
async def pending(
    full: Annotated[bool, typer.Option("--full", help="Show long inputs whole.")] = False,
    as_json: Json = False,
) -> None:
    """List what agents ask, over all sessions."""
    async with connect() as client:
        async for session in client.list_sessions(phases=["awaiting_permission", "awaiting_input"]):
            for interaction in session.pending_interactions:
                whole = await client.complete(session.session_id, interaction)
                print_json(whole) if as_json else _print_pending(session, whole, fold=not full)


@command("approve")
async def approve(
    session_id: SessionId,
    interaction_id: InteractionId = "",
    updated: Annotated[str, typer.Option("--input", metavar="JSON", help="Another input for the tool.")] = "",
    remember: Annotated[
        str,
        typer.Option(
            metavar="rule|all|N,N",
            help="What not to ask again in this session: see `agentctl pending` for the numbers.",
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Allow the use of a tool that the agent asks for."""
    changed = json_object(updated) if updated else None
    async with connect() as client:
        interaction = await _find(client, session_id, interaction_id, look=bool(remember))
        rules = chosen(interaction.suggestions, remember) if remember else []
        response = await client.allow(
            session_id, interaction.interaction_id, updated_input=changed, updated_permissions=rules
        )
    print_json(response) if as_json else console().print("\n".join(["allowed", *_remembered(rules)]))


@command("deny")
async def deny(
    session_id: SessionId,
    interaction_id: InteractionId = "",
    message: Annotated[str, typer.Option(help="What the agent is told.")] = "",
    stop: Annotated[bool, typer.Option("--interrupt", help="Stop the turn as well.")] = False,
    as_json: Json = False,
) -> None:
    """Refuse what the agent asks."""
    async with connect() as client:
        interaction = await _find(client, session_id, interaction_id)
        response = await client.deny(session_id, interaction.interaction_id, message=message, interrupt=stop)
    print_json(response) if as_json else console().print("denied")


@command("answer")
async def answer(
    session_id: SessionId,
    interaction_id: InteractionId = "",
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--answer", metavar="QUESTION=LABEL", help="An answer, by the question's number, header or text. *"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Answer an agent's questions, all of them.

    LABEL is the number or the text of an option, or a text of your own; where several may be chosen, with commas.
    With a single question LABEL alone will do. Options marked * may be given several times.
    """
    async with connect() as client:
        interaction = await _find(client, session_id, interaction_id, look=True)
        answers = matched(interaction, given or [])
        response = await client.allow(session_id, interaction.interaction_id, answers=answers)
    print_json(response) if as_json else console().print("answered")


class StillOpen:
    """Which interactions await an answer still: a watch replays those that were answered long ago, too."""

    def __init__(self, handle: SessionHandle) -> None:
        """Ask the service when the first one comes."""
        self._handle = handle
        self._known_until = 0
        self._open: frozenset[str] = frozenset()

    async def has(self, event: pb.SessionEvent) -> bool:
        """Return whether the interaction that an event requested is open; one call answers for all that is older."""
        if event.sequence > self._known_until:
            session = (await self._handle.status(history_limit=0)).session
            self._known_until = session.last_sequence
            self._open = frozenset(each.interaction_id for each in session.pending_interactions)
        return event.interaction_requested.interaction.interaction_id in self._open


async def ask(handle: SessionHandle, interaction: pb.Interaction) -> None:
    """Ask the person at the terminal, and pass the answer on; somebody else may have been quicker."""
    try:
        if interaction.kind == pb.INTERACTION_KIND_QUESTION:
            await handle.allow(interaction.interaction_id, answers=_ask_questions(interaction))
        else:
            await _ask_permission(handle, interaction)
    except errors.InteractionClosed as error:
        say(visible_line(error.message))


async def _ask_permission(handle: SessionHandle, interaction: pb.Interaction) -> None:
    while True:
        reply = _reply(_permission_prompt(interaction)).strip().lower()
        if reply in {"v", "view"}:
            console().print(question(interaction, fold=False))
        elif reply in {"y", "yes"}:
            await handle.allow(interaction.interaction_id)
            return
        elif reply in {"n", "no", "s", "stop"}:
            stop = reply.startswith("s")
            await handle.deny(interaction.interaction_id, message="The user said no.", interrupt=stop)
            return
        elif interaction.suggestions and re.fullmatch(r"a(lways)?( +(all|[\d, ]+))?", reply):
            try:
                rules = chosen(interaction.suggestions, reply.partition(" ")[2].strip() or "rule")
            except ValueError as error:
                say(f"  {error}")
                continue
            await handle.allow(interaction.interaction_id, updated_permissions=rules)
            say("\n".join(_remembered(rules)))
            return


def _permission_prompt(interaction: pb.Interaction) -> str:
    always = ""
    if has_rule(interaction.suggestions):
        always += "[a]lways by the rule, "
    if interaction.suggestions:
        always += "[a N] remember what has this number, "
    folded = question(interaction) != question(interaction, fold=False)
    return f"  allow? [y]es, {always}[n]o, no and [s]top{', [v]iew the whole' * folded}: "


def _remembered(rules: list[pb.PermissionUpdate]) -> list[str]:
    return [f"  remembered for this session: {effect(each)}" for each in rules]


def _ask_questions(interaction: pb.Interaction) -> dict[str, str]:
    return {asked.text: _ask_question(asked) for asked in interaction.questions}


def _ask_question(asked: pb.Question) -> str:
    several = " (several, with commas)" if asked.multi_select else ""
    while True:
        reply = _reply(f"  {visible_line(asked.header or asked.text)}{several}: ").strip()
        if reply:
            return labels(asked, [reply])


def _reply(prompt: str) -> str:
    reply = read_line(prompt)
    if reply is None:
        raise asyncio.CancelledError
    return reply


async def _find(client: AgentClient, session_id: str, interaction_id: str, *, look: bool = False) -> pb.Interaction:
    """Return the interaction meant; without need to look, no call is made for it."""
    if interaction_id and not look:
        return pb.Interaction(interaction_id=interaction_id)
    session = (await client.status(session_id, history_limit=0)).session
    pending = [each for each in session.pending_interactions if interaction_id in {"", each.interaction_id}]
    if len(pending) != 1:
        what = f"interaction {visible_line(interaction_id)} is not open"
        if not interaction_id:
            what = f"{len(pending)} interactions are open, name one" if pending else "the agent asks nothing"
        say(f"agentctl: {what}; see what is open with: agentctl pending")
        raise typer.Exit(int(Exit.USAGE if pending else Exit.NOT_FOUND))
    return await client.complete(session_id, pending[0])


def _print_pending(session: pb.Session, interaction: pb.Interaction, *, fold: bool) -> None:
    out: Any = console()
    out.print(question(interaction, fold=fold))
    where = f"{visible_line(session.session_id)} {visible_line(interaction.interaction_id)}"
    if interaction.kind == pb.INTERACTION_KIND_QUESTION:
        example = " ".join(f"--answer {number}=LABEL" for number, _ in enumerate(interaction.questions, 1))
        out.print(f"  agentctl answer {where} {example}", style="dim")
    else:
        out.print(f"  agentctl approve {where}", style="dim")
        if interaction.suggestions:
            choice = "rule   (or all, or numbers)" if has_rule(interaction.suggestions) else "1   (numbers, or all)"
            out.print(f"  agentctl approve {where} --remember {choice}", style="dim")
