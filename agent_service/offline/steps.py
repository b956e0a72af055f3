"""The steps that directives become."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

STRUCTURED_OUTPUT = "StructuredOutput"  # the tool the CLI adds when a run has an output schema


@dataclass(frozen=True, slots=True)
class Say:
    """A block of text."""

    text: str


@dataclass(frozen=True, slots=True)
class Think:
    """A block of thinking."""

    text: str


@dataclass(frozen=True, slots=True)
class UseTool:
    """A call of a tool, which ends the message."""

    name: str
    input: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tick:
    """Text for a while, ten pieces a second."""

    count: int


@dataclass(frozen=True, slots=True)
class Tokens:
    """A number of pieces of text at full speed."""

    count: int


@dataclass(frozen=True, slots=True)
class Silence:
    """Silence for some seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Fail:
    """An API error; only on the first attempt if `once`."""

    status: int
    retry_after: str | None = None
    once: bool = False


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection breaks in mid-answer; only on the first attempt if `once`."""

    once: bool = False


@dataclass(frozen=True, slots=True)
class Stop:
    """The message ends for this reason, in the API's words."""

    reason: str


@dataclass(frozen=True, slots=True)
class Echo:
    """Say the prompt's text and the length of the conversation."""

    text: str


@dataclass(frozen=True, slots=True)
class Recall:
    """Say the first prompt of the conversation."""


@dataclass(frozen=True, slots=True)
class LastResult:
    """Say the text of the last tool result."""


@dataclass(frozen=True, slots=True)
class RequestField:
    """Say a field of the API request, as JSON."""

    path: str


Shown: TypeAlias = Say | Think | UseTool | Tick | Tokens | Silence | Fail | Cut
Asked: TypeAlias = Echo | Recall | LastResult | RequestField
Step: TypeAlias = Shown | Asked | Stop
