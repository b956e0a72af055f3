"""Call: one request as handlers see it: who calls, from where, until when, under which trace, and where a stream goes.

Every door (gRPC; later HTTP and peers) makes a Call of its own kind, so that handlers serve all of them alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

from google.protobuf.message import Message

from agent_service.auth import ANONYMOUS, NOTHING, Credentials

DEADLINE_MARGIN = 0.25
"""Seconds before the caller's deadline at which a wait ends with OK."""


@dataclass(frozen=True)
class Door:
    """A listener, as far as it tells who may be behind a call."""

    loopback: bool = True
    """Whether only this host can call; then the versions of the service are open to all."""
    socket: str = ""
    """The path of a Unix socket."""
    certified: bool = False
    """Whether callers have shown a client certificate, which TLS has verified."""


class Headers(NamedTuple):
    """The headers that say who calls, and the names of its certificate."""

    credentials: Credentials
    tenant: str
    """`agent-tenant`."""
    origin: str
    """`origin`, which browsers send."""


class CallerLeft(Exception):
    """The caller has gone: nobody reads the answer, and what failed on its way is no fault of the service."""


class Call(ABC):
    """One request on its way through the service; `method` is the RPC's name, such as "Execute"."""

    __slots__ = ("credentials", "method", "owner", "principal", "request", "response")

    def __init__(self, method: str) -> None:
        """Begin as a call of a stranger, about the empty tenant."""
        self.method = method
        self.credentials: Credentials = NOTHING
        """What the caller has shown; read by the link that authenticates."""
        self.principal = ANONYMOUS
        """The caller, once it is authenticated."""
        self.owner = ""
        """The tenant that this call is about: it owns the sessions that the call creates and may see."""
        self.request: Message | None = None
        """The request, once it was parsed."""
        self.response: Message | bytes | None = None
        """The answer of the handler; of a stream what its handler kept of it."""

    @property
    @abstractmethod
    def peer(self) -> str:
        """The address that the call came from, such as "ipv4:127.0.0.1:50312"."""

    @property
    @abstractmethod
    def door(self) -> Door:
        """The listener that the call came through."""

    @property
    @abstractmethod
    def has_left(self) -> bool:
        """Whether the caller has gone or its deadline is over."""

    @abstractmethod
    def metadata(self, key: str) -> str:
        """The first value of a header in lower case; "" when there is none, or when it is not text."""

    @abstractmethod
    def headers(self) -> Headers:
        """Read the headers that say who calls."""

    @abstractmethod
    def time_remaining(self) -> float | None:
        """Seconds until the caller's deadline; None without a deadline."""

    @abstractmethod
    async def write(self, response: Message | bytes) -> None:
        """Send one response of a stream; returns when the next may be sent. Raises CallerLeft."""

    @property
    def trace(self) -> str:
        """The W3C trace context of the caller (`traceparent`); "" without one."""
        return self.metadata("traceparent")

    def patience(self, wanted: float) -> float:
        """Seconds that a wait may take: as asked, but so that the answer comes before the caller's deadline."""
        limit = self.patience_left()
        return wanted if limit is None else min(wanted, limit)

    def patience_left(self) -> float | None:
        """Seconds that a wait without a bound of its own may take; None without a deadline."""
        left = self.time_remaining()
        return None if left is None else max(0.0, left - DEADLINE_MARGIN)
