"""Reads from an API request where a conversation stands; knows what the CLI adds to a prompt."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

from .directives import parse
from .steps import STRUCTURED_OUTPUT, Cut, Fail, Say, Step, UseTool

REMINDER = re.compile(r"\s*<system-reminder>.*?</system-reminder>\s*", re.DOTALL)
ORDER_IN_REMINDER = re.compile(r"\s*<system-reminder>\s*(.*?)\s*</system-reminder>\s*", re.DOTALL)
STEERED = re.compile(
    r"The user sent a new message while you were working:\n(.*?)\n\nThis is how Claude Code surfaces", re.DOTALL
)
NOTIFICATION = re.compile(r"<task-notification>.*?<summary>(.*?)</summary>.*?</task-notification>", re.DOTALL)
COMPACTION = "CRITICAL: Respond with TEXT ONLY. Do NOT call any tools."
ENFORCEMENT = "[structured-output-enforce]"
INTERRUPTION = "[Request interrupted by user"
INVISIBLE = "[Your previous response had no visible output."
CUT_OFF = "Your response above was cut off mid-stream."
ORDERS = (COMPACTION, ENFORCEMENT, INTERRUPTION, INVISIBLE, CUT_OFF)  # user texts of the CLI that ask for something
ADDED = (  # and those that ask for nothing
    "This session is being continued from a previous conversation",
    "<local-command-caveat>",
    "<local-command-stdout>",
    "<local-command-stderr>",
    "<command-name>",
    "[Image: source: ",  # where it keeps a copy of an image that came with the prompt
)


class InvalidRequest(Exception):
    """The body is not a request of the Messages API; the text says why."""


@dataclass(slots=True)
class Conversation:
    """The steps asked for in the current turn, and how many of them have been answered."""

    program: list[Step] = field(default_factory=list)
    position: int = 0
    first_prompt: str = ""
    last_result: str | None = None
    messages: int = 0  # of the user and the assistant
    characters: int = 0  # of what these said, without what the CLI added
    _tools: dict[str, str] = field(default_factory=dict)
    _begun: int = 0  # the position before the last answer

    @property
    def pending(self) -> list[Step]:
        """The steps that are not answered yet."""
        return self.program[self.position :]

    @property
    def input_tokens(self) -> int:
        """The tokens of the conversation so far, four characters each."""
        return max(1, math.ceil(self.characters / 4))

    def hear(self, role: str, blocks: list[dict[str, Any]]) -> None:
        """Read the next message."""
        if role == "system":
            for block in blocks:
                self._aside(_text(block))
            return
        self.messages += 1
        if role == "assistant":
            self._assistant(blocks)
        else:
            self._user(blocks)

    def _assistant(self, blocks: list[dict[str, Any]]) -> None:
        """Move past what was answered: a message without a tool ends the turn, one with tools ends a step for each."""
        self._begun = self.position
        used = [block for block in blocks if block.get("type") == "tool_use"]
        self.characters += sum(len(_text(block)) for block in blocks)
        for block in used:
            self._tools[str(block.get("id"))] = str(block.get("name"))
            self._pass_tool_step()
        if not used:
            self.position = len(self.program)

    def _user(self, blocks: list[dict[str, Any]]) -> None:
        prompt: list[str] = []
        for block in blocks:
            if block.get("type") == "tool_result":
                self._tool_result(block)
                continue
            text = _unwrapped(_text(block))
            said = REMINDER.sub("", text)
            if said.startswith(ORDERS):
                self._prompt(prompt)
                self._order(said)
                prompt = []
            elif said.strip() and not said.startswith(ADDED):
                prompt = [*_unfinished(prompt), said]
            elif not said.strip():
                if NOTIFICATION.search(text) and prompt and not _unfinished(prompt):
                    self._prompt(prompt)
                    self._turn([])
                    prompt = []
                self._aside(text)
        self._prompt(prompt)

    def _prompt(self, parts: list[str]) -> None:
        if parts:
            text = "\n".join(parts).strip()
            self.first_prompt = self.first_prompt or text
            self.characters += len(text)
            self._turn(parse(text))

    def _turn(self, program: list[Step]) -> None:
        self.program, self.position, self._begun = program, 0, 0

    def _order(self, said: str) -> None:
        if said.startswith(COMPACTION):
            self._turn([Say(f"<summary>The conversation began with: {self.first_prompt}</summary>")])
        elif said.startswith(ENFORCEMENT):
            self._turn([step for step in self.program if _is_output(step)][-1:])
        elif said.startswith(CUT_OFF):
            self._resume()
        else:
            self._turn([])

    def _resume(self) -> None:
        """Go on after an answer that broke off: at the step that broke it, or behind it if it breaks only once."""
        for index, step in enumerate(self.program[self._begun :], self._begun):
            if isinstance(step, Fail | Cut):
                self.position = index + step.once
                return

    def _aside(self, text: str) -> None:
        """Read a text beside the conversation: the user steers the turn, or a background task has ended."""
        for steer in STEERED.findall(text):
            self.characters += len(steer)
            self.program = [*self.program, *parse(steer)]
        for summary in NOTIFICATION.findall(text):
            if not self.pending:
                self._turn([Say(f"noted: {summary}")])

    def _tool_result(self, block: dict[str, Any]) -> None:
        text = _result_text(block)
        self.last_result = REMINDER.sub("", text)
        self.characters += len(self.last_result)
        before = self.program[self.position - 1 : self.position]
        refused = block.get("is_error") is True and self._tools.get(str(block.get("tool_use_id"))) == STRUCTURED_OUTPUT
        if refused and before and _is_output(before[0]):
            self.position -= 1
        for reminder in REMINDER.findall(text):
            self._aside(reminder)

    def _pass_tool_step(self) -> None:
        for index in range(self.position, len(self.program)):
            if isinstance(self.program[index], UseTool):
                self.position = index + 1
                return
        self.position = len(self.program)


def read(body: object) -> Conversation:
    """Read the messages of a request in order; adjacent assistant messages count as one."""
    conversation = Conversation()
    for role, messages in groupby(_messages(body), key=itemgetter(0)):
        said = [blocks for _, blocks in messages]
        if role == "assistant":
            said = [list(chain.from_iterable(said))]
        for blocks in said:
            conversation.hear(role, blocks)
    return conversation


def _messages(body: object) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    messages = body.get("messages") if isinstance(body, dict) else None
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("messages: at least one message is required")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ("user", "assistant", "system"):
            raise InvalidRequest(f"messages.{index}: a message needs a role of user or assistant")
        yield message["role"], _blocks(message.get("content"), f"messages.{index}.content")


def _blocks(content: object, where: str) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list) or not all(isinstance(block, dict) for block in content):
        raise InvalidRequest(f"{where}: neither text nor a list of blocks")
    return content


def _unfinished(prompt: list[str]) -> list[str]:
    """Drop the prompts of failed turns: the CLI joins them with the next one, each as a text that ends in a newline."""
    return [part for part in prompt if not part.endswith("\n")]


def _unwrapped(text: str) -> str:
    """Take an order of the CLI out of its reminder: since 2.1.331 it wraps some of them."""
    wrapped = ORDER_IN_REMINDER.fullmatch(text)
    return wrapped[1] if wrapped and wrapped[1].startswith(ORDERS) else text


def _text(block: dict[str, Any]) -> str:
    text = block.get("text") if block.get("type") == "text" else None
    return text if isinstance(text, str) else ""


def _result_text(block: dict[str, Any]) -> str:
    content = block.get("content") or ""
    return "\n".join(_text(part) or f"[{part.get('type')}]" for part in _blocks(content, "tool_result"))


def _is_output(step: Step) -> bool:
    return isinstance(step, UseTool) and step.name == STRUCTURED_OUTPUT
