"""What the benchmarks measure is what the service would have made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grpc.aio
from agentpb import agent_pb2 as pb
from agentpb import agent_pb2_grpc

from agent_service.ledger import fsck
from agent_service.server import running
from benchmarks.fill import LONG, MESSAGES, fill, session_id
from tests.conftest import make_config
from tests.rpc import Carrying, token_in


async def test_a_filled_past_is_one_that_the_service_could_have_had(tmp_path: Path) -> None:
    await fill(tmp_path, 12, 1000)
    assert fsck(tmp_path) == []
    async with (
        running(make_config(tmp_path, retention=0.0)) as service,
        grpc.aio.insecure_channel(service.address) as bare,
    ):
        channel: Any = Carrying(bare, token_in(tmp_path))
        stub: Any = agent_pb2_grpc.AgentServiceStub(channel)
        shown = await stub.GetStatus(pb.GetStatusRequest(session_id=session_id(11)))
        assert len(shown.messages) == MESSAGES
        assert shown.result.result == "done"
        assert shown.turn.state == pb.TURN_STATE_COMPLETED
        assert (await stub.GetStatus(pb.GetStatusRequest(session_id=LONG))).session.message_count == 1000
        assert len((await stub.ListSessions(pb.ListSessionsRequest())).sessions) == 13
