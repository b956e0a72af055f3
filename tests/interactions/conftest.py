"""What the tests of interactions share: a run that asks, and answers to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc.aio
from agentpb import agent_pb2 as pb
from google.rpc import error_details_pb2
from grpc_status.rpc_status import from_call

from tests.conftest import Service


def policy(**fields: Any) -> pb.AgentOptions:
    """Options of a run that may ask for anything."""
    return pb.AgentOptions(interactions=pb.InteractionPolicy(permissions=True, questions=True, **fields))


async def asked(service: Service, session_id: str) -> pb.Interaction:
    """Wait until the session asks; what it asks."""
    request = pb.GetStatusRequest(session_id=session_id, history_limit=0, wait_for=pb.WAIT_FOR_SETTLED)
    request.wait.FromSeconds(30)
    status = await service.stub.GetStatus(request)
    assert not status.wait_expired
    [interaction] = status.session.pending_interactions
    assert isinstance(interaction, pb.Interaction)
    return interaction


async def start_asking(service: Service, prompt: str, **fields: Any) -> tuple[str, pb.Interaction]:
    """Begin a run that asks; its session, and what it asks."""
    response = await service.execute(prompt, options=policy(**fields))
    return response.session_id, await asked(service, response.session_id)


async def respond(
    service: Service, session_id: str, interaction_id: str, key: str = "", **answer: Any
) -> pb.RespondToInteractionResponse:
    """Answer, with allow={...} or deny={...}."""
    request = pb.RespondToInteractionRequest(
        session_id=session_id, interaction_id=interaction_id, request_id=key, **answer
    )
    response = await service.stub.RespondToInteraction(request)
    assert isinstance(response, pb.RespondToInteractionResponse)
    return response


def details(error: grpc.aio.AioRpcError) -> tuple[str, dict[str, str]]:
    """Reason and metadata of a refusal."""
    status = from_call(error)  # type: ignore[arg-type]
    assert status is not None
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason, dict(info.metadata)
    raise AssertionError(f"no ErrorInfo in {error}")


def results(events: Sequence[pb.SessionEvent]) -> list[str]:
    """Texts of the results of tools."""
    return [
        block.tool_result.text
        for event in events
        for block in event.user_message.content
        if block.HasField("tool_result")
    ]


def texts(events: Sequence[pb.SessionEvent]) -> list[str]:
    """Texts the model said."""
    return [block.text.text for event in events for block in event.assistant_message.content if block.HasField("text")]
