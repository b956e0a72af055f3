"""What the tests of steering share."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from agentpb import agent_pb2 as pb

from tests.conftest import Service
from tests.interactions.conftest import details, results, texts

__all__ = ["BASH", "details", "results", "send", "texts", "turns", "until_event"]

BASH = pb.AgentOptions(allowed_tools=["Bash"])


async def send(service: Service, session_id: str, text: str, **fields: Any) -> pb.SendMessageResponse:
    """Send a message into the running turn."""
    response = await service.stub.SendMessage(pb.SendMessageRequest(session_id=session_id, text=text, **fields))
    assert isinstance(response, pb.SendMessageResponse)
    return response


async def until_event(
    service: Service, session_id: str, kind: str, having: str = "", after: int = 0
) -> pb.SessionEvent:
    """Wait for an event of a type that has something in it."""

    async def first() -> pb.SessionEvent:
        request = pb.WatchSessionRequest(session_id=session_id, follow=True)
        stream = service.stub.WatchSession(request)
        async for response in stream:
            for event in response.events:
                if event.type == kind and having in str(event):
                    stream.cancel()
                    assert isinstance(event, pb.SessionEvent)
                    return event
        raise AssertionError("the watch ended")

    return await asyncio.wait_for(first(), 30)


def turns(events: Sequence[pb.SessionEvent]) -> list[pb.Turn]:
    """The turns that have ended, in the order of their ends."""
    return [event.turn_completed.turn for event in events if event.type == "turn.completed"]
