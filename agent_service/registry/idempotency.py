"""Idempotency: a request with a request id takes effect once. The same request again gets the first outcome.

Ids are of one owner and one RPC, and are known for 24 hours, through restarts. A request that is refused leaves its id
unused. An RPC whose effect and whose answer are not one commit (Cancel, Interrupt, Cleanup) stores a note first that it
has begun: a retry after a crash in between then knows what the first attempt was about.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from google.protobuf.message import Message

from agent_service import errors
from agent_service.ledger import Ledger, RequestId

T = TypeVar("T")

NOT_CONTENT = ("wait", "validate_only")
"""Fields that say how a request is made and not what it asks for; a retry may have others."""
_BEGUN = " begun"


@dataclass(frozen=True)
class RequestKey:
    """A caller's request id, and the fingerprint of what it is used for."""

    owner: str
    request_id: str
    method: str
    fingerprint: str

    @classmethod
    def of(cls, request: Any, owner: str) -> RequestKey | None:
        """The key of a request of any RPC that has a request_id; None when it is unset."""
        if not request.request_id:
            return None
        content = type(request)()
        content.CopyFrom(request)
        for field in NOT_CONTENT:
            if field in content.DESCRIPTOR.fields_by_name:
                content.ClearField(field)
        method = request.DESCRIPTOR.name.removesuffix("Request")
        digest = hashlib.sha256(method.encode() + content.SerializeToString(deterministic=True)).hexdigest()
        return cls(owner, request.request_id, method, digest)

    @property
    def stored(self) -> str:
        """The id as the ledger has it: one and the same id in two RPCs is two."""
        return f"{self.method} {self.request_id}"

    def kept(self, session_id: str, turn_id: str, response: Message | None = None) -> RequestId:
        """The row of a request that is answered; it belongs into the commit with the request's effect."""
        return RequestId(
            owner=self.owner,
            request_id=self.stored,
            fingerprint=self.fingerprint,
            session_id=session_id,
            turn_id=turn_id,
            method=self.method,
            response=response.SerializeToString() if response is not None else b"",
        )

    def begun(self, session_id: str, turn_id: str, response: Message | None = None) -> RequestId:
        """The row of a request whose effect begins now; the row of the answer takes its place."""
        return replace(self.kept(session_id, turn_id, response), method=self.method + _BEGUN)

    def check(self, earlier: RequestId) -> None:
        """Raise RequestIdReused when the id was used for something else."""
        if earlier.fingerprint != self.fingerprint:
            raise errors.RequestIdReused(
                f"request_id {self.request_id!r} was used before, for a request with other content",
                resource=self.request_id,
            )


def is_answered(earlier: RequestId) -> bool:
    """Return whether the first attempt came to its answer; otherwise the service died before."""
    return not earlier.method.endswith(_BEGUN)


def looked_at(work: asyncio.Future[Any]) -> None:
    """Retrieve the error of work whose caller may have left: a refusal that nobody waits for is no fault to log."""
    if not work.cancelled():
        work.exception()


class InFlightRequests:
    """The request ids in flight, and the way to those that were used before."""

    def __init__(self, ledger: Ledger) -> None:
        """Look up finished ones in `ledger`."""
        self._ledger = ledger
        self._in_flight: dict[tuple[str, str], asyncio.Future[None]] = {}

    async def once(
        self,
        key: RequestKey | None,
        first: Callable[[RequestKey | None], Awaitable[T]],
        again: Callable[[RequestId], Awaitable[T]],
    ) -> T:
        """`first(key)` for a request that is new or has no id, `again(row)` for a retry. Raises RequestIdReused.

        A caller who leaves does not end it: the id stays claimed until what the request did is durable.
        """
        if key is None:
            return await first(None)
        work = asyncio.create_task(self._claimed(key, first, again), name=f"{key.method} {key.request_id}")
        work.add_done_callback(looked_at)
        return await asyncio.shield(work)

    async def _claimed(
        self,
        key: RequestKey,
        first: Callable[[RequestKey | None], Awaitable[T]],
        again: Callable[[RequestId], Awaitable[T]],
    ) -> T:
        async with self.claim(key) as earlier:
            return await (first(key) if earlier is None else again(earlier))

    @asynccontextmanager
    async def claim(self, key: RequestKey) -> AsyncIterator[RequestId | None]:
        """Hold a request id; yields what it did before, or None. Raises RequestIdReused."""
        place = (key.owner, key.stored)
        while (twin := self._in_flight.get(place)) is not None:
            await asyncio.wait([twin])
        mine = self._in_flight[place] = asyncio.get_running_loop().create_future()
        try:
            earlier = await self._ledger.request(key.owner, key.stored)
            if earlier is not None:
                key.check(earlier)
            yield earlier
        finally:
            del self._in_flight[place]
            mine.set_result(None)
