"""How often a tenant may start turns."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
from agentpb import agent_pb2 as pb
from agentpb import agent_pb2_grpc

from agent_service.access import Rates
from tests.conftest import start_service
from tests.identity.conftest import Office
from tests.rpc import Carrying, refused


def test_a_minute_s_calls_may_come_at_once_and_then_at_the_rate() -> None:
    now = 0.0
    rates = Rates(lambda: now)
    assert [rates.take("red", 0.5) for _ in range(30)] == [0.0] * 30
    assert rates.take("red", 0.5) == pytest.approx(2.0)
    assert rates.take("blue", 0.5) == 0, "each tenant has its own"
    now = 1.0
    assert rates.take("red", 0.5) == pytest.approx(1.0)
    now = 2.0
    assert rates.take("red", 0.5) == 0


async def test_a_tenant_that_starts_too_much_is_told_when_to_come_back(tmp_path: Path) -> None:
    office = Office(tmp_path)
    office.write(
        f"""
            [tenant.red]
            rate = {{ execute = "2/m" }}
            [principal.ci]
            token = "{office.digest_of("ci")}"
            tenant = "red"
        """
    )
    async with start_service(tmp_path / "data", access=office.file) as service:
        stub = agent_pb2_grpc.AgentServiceStub(Carrying(service.channel, office.token_of("ci")))  # type: ignore[arg-type]
        request = pb.ExecuteRequest(prompt="say: hi", validate_only=True)
        for _ in range(2):
            await stub.Execute(request)
        refusal = await refused(stub.Execute(request))
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
        assert refusal.retry_after == pytest.approx(30, abs=5)
        assert (await stub.ListSessions(pb.ListSessionsRequest())) is not None, "nothing else is limited"
