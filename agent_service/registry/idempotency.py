"""Idempotency: a request id is used once. The same request again gets the first outcome; a twin in flight waits."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from agentpb import agent_pb2 as pb
from google.protobuf.message import Message

from agent_service import errors
from agent_service.ledger import Ledger, RequestId


@dataclass(frozen=True)
class RequestKey:
    """A caller's request id, and the fingerprint of what it was used for."""

    owner: str
    request_id: str
    method: str
    fingerprint: str

    @classmethod
    def of(cls, request: pb.ExecuteRequest | pb.SendMessageRequest, owner: str) -> RequestKey | None:
        """The key of a request; None without a request id. How it is asked (`wait`, `validate_only`) may differ."""
        if not request.request_id:
            return None
        content = type(request)()
        content.CopyFrom(request)  # type: ignore[arg-type]
        if isinstance(content, pb.ExecuteRequest):
            content.ClearField("wait")
            content.ClearField("validate_only")
        method = request.DESCRIPTOR.name.removesuffix("Request")
        digest = hashlib.sha256(method.encode() + content.SerializeToString(deterministic=True)).hexdigest()
        return cls(owner, request.request_id, method, digest)

    def kept(self, session_id: str, turn_id: str, response: Message) -> RequestId:
        """What the ledger keeps of it, in the same commit as what it did."""
        return RequestId(
            owner=self.owner,
            request_id=self.request_id,
            fingerprint=self.fingerprint,
            session_id=session_id,
            turn_id=turn_id,
            method=self.method,
            response=response.SerializeToString(),
        )

    def check(self, earlier: RequestId) -> None:
        """Raise RequestIdReused when the id was used for something else."""
        if earlier.fingerprint != self.fingerprint:
            raise errors.RequestIdReused(
                f"request_id {self.request_id!r} was used before, for a request with other content",
                resource=self.request_id,
            )


def answer_key(request: pb.RespondToInteractionRequest, owner: str, request_id: str) -> RequestId | None:
    """What the ledger keeps of an answer that came with an id, so that a retry of it is known."""
    if not request_id:
        return None
    return RequestId(
        owner=owner,
        request_id=f"answer {request_id}",
        fingerprint=request.interaction_id,
        session_id=request.session_id,
        turn_id="",
        method="RespondToInteraction",
        response=b"",
    )


class InFlightRequests:
    """The request ids in flight."""

    def __init__(self, ledger: Ledger) -> None:
        """Look up finished ones in `ledger`."""
        self._ledger = ledger
        self._in_flight: dict[tuple[str, str], asyncio.Future[None]] = {}

    @asynccontextmanager
    async def claim(self, key: RequestKey) -> AsyncIterator[RequestId | None]:
        """Hold a request id; yields what it did before, or None. Raises RequestIdReused."""
        place = (key.owner, key.request_id)
        while (twin := self._in_flight.get(place)) is not None:
            await asyncio.wait([twin])
        mine = self._in_flight[place] = asyncio.get_running_loop().create_future()
        try:
            earlier = await self._ledger.request(key.owner, key.request_id)
            if earlier is not None:
                key.check(earlier)
            yield earlier
        finally:
            del self._in_flight[place]
            mine.set_result(None)
