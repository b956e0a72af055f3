"""Masks: take the values of secrets out of what an agent says, before anything of it is recorded or shown."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

from agent_service.agents.failures import AgentFailed
from agent_service.agents.permission import Answer
from agent_service.agents.sink import PermissionContext, Sink
from agent_service.agents.transport import LargeFrame

MASK = "***"
SHORTEST = 8
"""Characters of a value that is masked: a shorter one would be found in texts that have nothing to do with it."""

PIECES = ("text", "thinking", "partial_json")
"""What a piece of a message is called, by its kind."""

MAX_BEGUN = 100
"""Blocks of messages whose last piece may end with the beginning of a value."""


class Masks:
    """The values of one agent's secrets, in every form in which they are looked for."""

    def __init__(self, values: Iterable[str]) -> None:
        """Mask these values, each line of those with several, and both as JSON and base64 write them."""
        forms = {form for value in values for part in _parts(value) for form in _forms(part)}
        self._forms = sorted(forms, key=lambda form: (-len(form), form))
        self._begun: dict[object, str] = {}

    def __bool__(self) -> bool:
        return bool(self._forms)

    def __repr__(self) -> str:
        return f"<{len(self._forms)} masks>"

    def text(self, text: str) -> str:
        """The text without the values."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, MASK)
        return text

    def frame(self, frame: dict[str, Any]) -> None:
        """Mask every text in a frame of the agent's, in place and however deep: it is the agent's to nest."""
        if frame.get("type") == "stream_event":
            self._join(frame)
        waiting: list[Any] = [frame]
        while waiting:
            node = waiting.pop()
            if isinstance(node, dict):
                for key in [key for key in node if self.text(key) != key]:
                    node[self.text(key)] = node.pop(key)
            for key, value in node.items() if isinstance(node, dict) else enumerate(node):
                if isinstance(value, str):
                    node[key] = self.text(value)
                elif isinstance(value, dict | list):
                    waiting.append(value)

    def _join(self, frame: dict[str, Any]) -> None:
        """Hold back the end of a piece of a message that may be the beginning of a value, until the next piece.

        What is held back when a block ends is never shown: the message that follows has the whole.
        """
        event = frame.get("event")
        delta = event.get("delta") if isinstance(event, dict) else None
        if not isinstance(event, dict) or not isinstance(delta, dict):
            return
        for name in PIECES:
            if isinstance(piece := delta.get(name), str):
                place = (frame.get("parent_tool_use_id"), event.get("index"), name)
                text = self.text(self._begun.pop(place, "") + piece)
                if begun := self._beginning(text):
                    self._begun[place] = text[-begun:]
                    text = text[:-begun]
                delta[name] = text
                if len(self._begun) > MAX_BEGUN:
                    self._begun.pop(next(iter(self._begun)))

    def _beginning(self, text: str) -> int:
        """How many characters at the text's end a value begins with."""
        return max((_overlap(text, form) for form in self._forms), default=0)

    def failure(self, failure: AgentFailed) -> AgentFailed:
        """The failure without the values; it may quote what the agent's process said."""
        failure.message = self.text(failure.message)
        failure.args = (failure.message,)
        failure.stderr_tail = self.text(failure.stderr_tail)
        return failure

    def copy(self, value: Any) -> Any:
        """A masked copy of a value: texts, lists, dictionaries and dataclasses, such as the agent's questions."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.copy(key): self.copy(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.copy(each) for each in value]
        if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **{field.name: self.copy(getattr(value, field.name)) for field in fields(value)})
        return value


def _overlap(text: str, form: str) -> int:
    """Return the length of the longest end of `text` with which `form` begins."""
    at = text.find(form[0], max(0, len(text) - len(form) + 1))
    while at >= 0:
        if form.startswith(text[at:]):
            return len(text) - at
        at = text.find(form[0], at + 1)
    return 0


class MaskedSink:
    """Hands an agent's reports to a sink, masked. Answers go back as they are: they decide what is run."""

    def __init__(self, sink: Sink, masks: Masks) -> None:
        self._sink = sink
        self._masks = masks

    async def on_frame(self, frame: dict[str, Any]) -> None:
        """Pass on a frame."""
        if isinstance(frame, LargeFrame):
            await asyncio.to_thread(self._masks.frame, frame)
        else:
            self._masks.frame(frame)
        await self._sink.on_frame(frame)

    def on_stderr(self, line: str) -> None:
        """Pass on a line of stderr."""
        self._sink.on_stderr(self._masks.text(line))

    def on_exit(self, failure: AgentFailed) -> None:
        """Pass on the agent's end."""
        self._sink.on_exit(self._masks.failure(failure))

    async def on_permission(self, tool: str, tool_input: dict[str, Any], context: PermissionContext) -> Answer:
        """Pass on a question; an answer that changes nothing leaves the tool its own input."""
        return await self._sink.on_permission(tool, self._masks.copy(tool_input), self._masks.copy(context))


def _parts(value: str) -> Iterator[str]:
    """The value, and its lines when it has several: tools print them one by one."""
    for part in {value, *(line.strip() for line in value.splitlines())}:
        if len(part) >= SHORTEST:
            yield part


def _forms(value: str) -> Iterator[str]:
    yield value
    for ascii_only in (False, True):
        once = json.dumps(value, ensure_ascii=ascii_only)[1:-1]
        yield once
        yield json.dumps(once, ensure_ascii=ascii_only)[1:-1]
    yield from _base64_forms(value.encode("utf-8", "surrogatepass"))


def _base64_forms(value: bytes) -> Iterator[str]:
    """What base64 makes of the value at each of the three places within a longer text, less what the text shares."""
    for before in range(3):
        first, last = -(-8 * before // 6), 8 * (before + len(value)) // 6
        for encode in (base64.standard_b64encode, base64.urlsafe_b64encode):
            yield encode(b"\0" * before + value)[first:last].decode("ascii")
