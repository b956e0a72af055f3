"""From an API request to the steps of one assistant message. Keeps no state between requests."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

from .conversation import Conversation, InvalidRequest, read
from .steps import (
    Asked,
    Cut,
    Echo,
    Fail,
    LastResult,
    Recall,
    RequestField,
    Say,
    Shown,
    Silence,
    Step,
    Stop,
    Think,
    Tick,
    UseTool,
)

TOKEN = "tok "  # four characters, which makes it one token by the rule below
PARTIAL = "this is cut "


@dataclass(frozen=True, slots=True)
class Reply:
    """One assistant message, or its failure."""

    model: str
    steps: tuple[Shown, ...]
    input_tokens: int
    key: str  # the same for every attempt at this message
    stop: str = ""  # why the message ends, where the prompt says so

    @property
    def stop_reason(self) -> str:
        """The API's stop_reason of the message."""
        if self.stop:
            return self.stop
        return "tool_use" if any(isinstance(step, UseTool) for step in self.steps) else "end_turn"

    @property
    def output_tokens(self) -> int:
        """The tokens of the reply, four characters each."""
        return max(1, math.ceil(sum(map(_characters, self.steps)) / 4))

    @property
    def failure(self) -> Fail | None:
        """The error that refuses the request before any output; None without one."""
        return self.steps[0] if isinstance(self.steps[0], Fail) else None

    @property
    def only_first(self) -> bool:
        """Whether the first attempt fails and the next one does not."""
        return any(isinstance(step, Fail | Cut) and step.once for step in self.steps)


def next_reply(body: dict[str, Any], *, repeated: bool = False) -> Reply:
    """Return the reply to a request; `repeated` leaves out failures of the first attempt."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("model: a name is required")
    conversation = read(body)
    steps = [step for step in _message(conversation) if not (repeated and isinstance(step, Fail | Cut) and step.once)]
    stop = next((step.reason for step in steps if isinstance(step, Stop)), "")
    told = [step for step in steps if not isinstance(step, Stop)]
    shown = tuple(_shown(step, conversation, body) for step in told) or (Say("" if stop else "done"),)
    return Reply(model, shown, conversation.input_tokens, _key(body, conversation), stop)


def tick_text(number: int) -> str:
    """Return the text of the n-th tick of a slow answer."""
    return f"tick {number} "


def _message(conversation: Conversation) -> list[Step]:
    """Return the pending steps up to the next tool call, whose result comes with the next request."""
    steps: list[Step] = []
    for step in conversation.pending:
        steps.append(step)
        if isinstance(step, UseTool):
            break
    return steps


def _shown(step: Shown | Asked, conversation: Conversation, body: dict[str, Any]) -> Shown:
    match step:
        case Echo(text):
            return Say(f"echo ({conversation.messages} messages): {text}")
        case Recall():
            return Say(conversation.first_prompt)
        case LastResult():
            return Say(conversation.last_result or "(no tool result)")
        case RequestField(path):
            return Say(_field(body, path))
        case _:
            return step


def _field(body: dict[str, Any], path: str) -> str:
    """Return a field as JSON, a string as it is; only the names of the tools, since their definitions have 40 KB."""
    value: Any = body
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if path == "tools" and isinstance(value, list):
        value = [tool.get("name") for tool in value if isinstance(tool, dict)]
    return value if isinstance(value, str) and value else json.dumps(value)


def _characters(step: Shown) -> int:
    match step:
        case Say(text) | Think(text):
            return len(text)
        case UseTool(_, given):
            return len(json.dumps(given))
        case Tick(count):
            return sum(len(tick_text(number)) for number in range(1, count + 1))
        case Cut():
            return len(PARTIAL)
        case Fail() | Silence():
            return 0
        case _:
            return step.count * len(TOKEN)


def _key(body: dict[str, Any], conversation: Conversation) -> str:
    who = (body.get("metadata"), conversation.first_prompt, repr(conversation.program), conversation.messages)
    return hashlib.sha256(json.dumps(who).encode()).hexdigest()
