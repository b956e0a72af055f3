"""The directives: how a line of a prompt becomes steps, and the help text."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .steps import (
    STRUCTURED_OUTPUT,
    Cut,
    Echo,
    Fail,
    LastResult,
    Recall,
    RequestField,
    Say,
    Silence,
    Step,
    Stop,
    Think,
    Tick,
    Tokens,
    UseTool,
)

TICKS_PER_SECOND = 10
LONGEST = 86_400  # seconds
MOST_TOKENS = 1_000_000
MOST_TURNS = 1_000


@dataclass(frozen=True, slots=True)
class Directive:
    """One directive: the form of its argument, its help, and its parser (ValueError for a bad argument)."""

    argument: str
    does: str
    read: Callable[[str], list[Step]]

    def usage(self, name: str) -> str:
        """The form of the line."""
        return f"{name}: {self.argument}" if self.argument else name


def parse(text: str) -> list[Step]:
    """Return the steps of a prompt; each run of lines without a directive becomes one echo."""
    steps: list[Step] = []
    plain: list[str] = []
    for line in text.split("\n"):
        read = _directive(line.strip())
        if read is None:
            plain.append(line)
            continue
        steps += [*_echo(plain), *read]
        plain = []
    return [*steps, *_echo(plain)]


def help_text() -> str:
    """Return the help: one directive a line."""
    usages = {name: directive.usage(name) for name, directive in DIRECTIVES.items()}
    width = max(map(len, usages.values()))
    lines = (f"  {usages[name]:<{width}}  {directive.does}" for name, directive in DIRECTIVES.items())
    return "\n".join(
        (
            "This is the offline model. It follows directives, one a line of the prompt:",
            *lines,
            "Any other text is echoed, with the number of messages in the conversation so far.",
        )
    )


def _echo(lines: Iterable[str]) -> list[Step]:
    text = "\n".join(lines).strip()
    return [Echo(text)] if text else []


def _directive(line: str) -> list[Step] | None:
    name, colon, argument = line.partition(":")
    directive = DIRECTIVES.get(name)
    if directive is None or bool(colon) is not bool(directive.argument):
        return None
    try:
        return directive.read(argument.strip())
    except (ValueError, RecursionError) as error:
        why = f" ({error})" if str(error) else ""
        return [Say(f"offline model: cannot follow {line[:200]!r}{why}; accepted is {directive.usage(name)!r}")]


def _say(argument: str) -> list[Step]:
    return [Say(_some(argument))]


def _say_json(argument: str) -> list[Step]:
    text = json.loads(argument)
    if not isinstance(text, str):
        raise ValueError("not a JSON string")
    return [Say(_some(text))]


def _think(argument: str) -> list[Step]:
    return [Think(_some(argument))]


def _bash(argument: str) -> list[Step]:
    return [UseTool("Bash", {"command": _some(argument)})]


def _background(argument: str) -> list[Step]:
    return [UseTool("Bash", {"command": _some(argument), "run_in_background": True})]


def _tool(argument: str) -> list[Step]:
    name, _, given = argument.partition(" ")
    if not re.fullmatch(r"[a-zA-Z0-9_-]{1,128}", name):
        raise ValueError("not the name of a tool")
    return [UseTool(name, _object(given.strip() or "{}"))]


def _ask(argument: str) -> list[Step]:
    question, *options = (part.strip() for part in argument.split("|"))
    if not question or not 2 <= len(options) <= 4 or not all(options) or len(set(options)) < len(options):
        raise ValueError("a question takes two to four different options")
    asked = {
        "question": question,
        "header": question[:12].strip(),
        "options": [{"label": option, "description": option} for option in options],
        "multiSelect": False,
    }
    return [UseTool("AskUserQuestion", {"questions": [asked]})]


def _json(argument: str) -> list[Step]:
    return [UseTool(STRUCTURED_OUTPUT, _object(argument))]


def _slow(argument: str) -> list[Step]:
    return [Tick(max(1, round(_seconds(argument) * TICKS_PER_SECOND)))]


def _tokens(argument: str) -> list[Step]:
    return [Tokens(_count(argument, MOST_TOKENS))]


def _wait(argument: str) -> list[Step]:
    return [Silence(_seconds(argument))]


def _turns(argument: str) -> list[Step]:
    return [UseTool("Bash", {"command": "true"})] * _count(argument, MOST_TURNS)


def _fail(argument: str, *, once: bool = False) -> list[Step]:
    status, *rest = argument.split()
    if not re.fullmatch("[45][0-9][0-9]", status) or len(rest) > 1:
        raise ValueError("not a status from 400 to 599, and how long to wait")
    return [Fail(int(status), str(_number(rest[0])) if rest else None, once)]


def _stop(argument: str) -> list[Step]:
    if not re.fullmatch("[a-z_]{1,64}", argument):
        raise ValueError("not a reason such as refusal")
    return [Stop(argument)]


def _some(text: str) -> str:
    if not text:
        raise ValueError("nothing given")
    return text


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _number(text: str) -> float | int:
    value = float(text)
    if not math.isfinite(value) or not 0 <= value <= LONGEST:
        raise ValueError(f"not from 0 to {LONGEST}")
    return int(value) if value.is_integer() else value


def _seconds(text: str) -> float:
    return float(_number(text))


def _count(text: str, most: int) -> int:
    value = int(text)
    if not 1 <= value <= most:
        raise ValueError(f"not from 1 to {most}")
    return value


DIRECTIVES: dict[str, Directive] = {
    "say": Directive("TEXT", "a block of text", _say),
    "say-json": Directive('"STRING"', "the same from a JSON string: newlines, NUL, lone surrogates", _say_json),
    "think": Directive("TEXT", "a block of thinking", _think),
    "bash": Directive("COMMAND", "run a command with the Bash tool", _bash),
    "background": Directive("COMMAND", "run it in the background", _background),
    "tool": Directive("NAME {JSON}", "use any tool, MCP tools and Agent included", _tool),
    "ask": Directive("QUESTION | OPTION | OPTION", "ask the user, with AskUserQuestion", _ask),
    "json": Directive("{OBJECT}", "give this as the structured output, again and again while it is refused", _json),
    "result": Directive("", "say the text of the last tool result", lambda _: [LastResult()]),
    "recall": Directive("", "say the first prompt of the conversation", lambda _: [Recall()]),
    "request": Directive(
        "FIELD", "say a field of the API request (model, system, tools, thinking.type)", lambda f: [RequestField(f)]
    ),
    "slow": Directive("SECONDS", "text for so long, ten pieces a second", _slow),
    "tokens": Directive("COUNT", "so many pieces of text at full speed", _tokens),
    "wait": Directive("SECONDS", "begin the answer, then silence", _wait),
    "turns": Directive("COUNT", "so many model turns, each a call of Bash `true`", _turns),
    "fail": Directive("STATUS [RETRY_AFTER]", "an API error, on every attempt", _fail),
    "fail-once": Directive("STATUS [RETRY_AFTER]", "an API error, on the first attempt", lambda a: _fail(a, once=True)),
    "stop": Directive("REASON", "end the message for a reason of the API's, such as refusal or max_tokens", _stop),
    "cut": Directive("", "drop the connection in mid-answer, on every attempt", lambda _: [Cut()]),
    "cut-once": Directive("", "the same, on the first attempt", lambda _: [Cut(once=True)]),
    "help": Directive("", "say this", lambda _: [Say(help_text())]),
}
