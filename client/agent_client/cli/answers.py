"""Answers as people type them → the contract's form: by the question's text, several labels joined by ", "."""

from __future__ import annotations

from collections.abc import Sequence

import typer
from agentpb import agent_pb2 as pb


def matched(interaction: pb.Interaction, given: Sequence[str]) -> dict[str, str]:
    """Match QUESTION=LABEL texts to questions by text, header or number; the only question needs no name.

    Raises BadParameter for an answer to no question, a second one where one may be chosen, and a question without one.
    """
    questions = list(interaction.questions)
    replies: list[list[str]] = [[] for _ in questions]
    for text in given:
        at, reply = _addressed(questions, text)
        replies[at].append(reply)
    for asked, found in zip(questions, replies, strict=True):
        if not "".join(found).strip():
            raise typer.BadParameter(f"no answer to {asked.text!r}")
        if len(found) > 1 and not asked.multi_select:
            raise typer.BadParameter(f"{asked.text!r} takes one answer")
    return {asked.text: labels(asked, found) for asked, found in zip(questions, replies, strict=True)}


def labels(asked: pb.Question, replies: Sequence[str]) -> str:
    """Return the labels that replies mean: numbers of options, labels in any case, or texts of one's own."""
    known = {option.label for option in asked.options}
    parts = [
        part
        for reply in replies
        for part in ([reply] if not asked.multi_select or reply.strip() in known else reply.split(","))
    ]
    return ", ".join(_label(asked, part.strip()) for part in parts if part.strip())


def _addressed(questions: Sequence[pb.Question], text: str) -> tuple[int, str]:
    names = {each.text: at for at, each in enumerate(questions)}
    names |= {each.header: at for at, each in enumerate(questions) if each.header}
    names |= {str(at + 1): at for at in range(len(questions))}
    for name in sorted(names, key=len, reverse=True):
        if text.startswith(f"{name}="):
            return names[name], text.removeprefix(f"{name}=")
    if len(questions) == 1:
        return 0, text
    asked = "; ".join(each.text for each in questions)
    raise typer.BadParameter(f"{text!r} names no question; they are: {asked}")


def _label(asked: pb.Question, reply: str) -> str:
    exact = [option.label for option in asked.options if option.label == reply]
    alike = [option.label for option in asked.options if option.label.casefold() == reply.casefold()]
    if exact or alike:
        return (exact or alike)[0]
    if reply.isdecimal() and 1 <= int(reply) <= len(asked.options):
        return asked.options[int(reply) - 1].label
    return reply
