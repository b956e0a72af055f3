"""What a tenant may have at work, waiting and kept bounds it alone, and a refusal says what is in the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from agentpb import agent_pb2 as pb

from agent_service.auth import digest_of, new_token
from agent_service.server import retention_of
from tests.conftest import Service, start_service
from tests.rpc import refused

TOKENS = {name: new_token() for name in ("ann", "amy", "bob", "late")}
FILE = f"""
[tenant.default]
sandbox = "off"
[tenant.small]
sessions = {{ at_work = 1, queued = 2, kept = 4 }}
retention = "1h"
[tenant.large]
[principal.ann]
token = "{digest_of(TOKENS["ann"])}"
tenant = "small"
[principal.amy]
token = "{digest_of(TOKENS["amy"])}"
tenant = "small"
[principal.bob]
token = "{digest_of(TOKENS["bob"])}"
tenant = "large"
"""


class Caller:
    """A principal's way to the service."""

    def __init__(self, service: Service, name: str) -> None:
        self.stub = service.stub
        self.metadata = (("authorization", f"Bearer {TOKENS[name]}"),)

    def __getattr__(self, method: str) -> Any:
        return lambda request: getattr(self.stub, method)(request, metadata=self.metadata)

    def execute(self, prompt: str, **fields: Any) -> Any:
        """Start a turn."""
        return self.Execute(pb.ExecuteRequest(prompt=prompt, **fields))

    async def listed(self, **wanted: Any) -> set[str]:
        """Ids of the sessions that meet a filter."""
        response = await self.ListSessions(pb.ListSessionsRequest(filter=pb.SessionFilter(**wanted)))
        return {session.session_id for session in response.sessions}

    async def load(self) -> pb.ServerLoad:
        """The load of its tenant."""
        return (await self.GetServerInfo(pb.GetServerInfoRequest())).load


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A service with two tenants, of which one is small."""
    (tmp_path / "access.toml").write_text(FILE)
    async with start_service(tmp_path / "data", access=tmp_path / "access.toml", max_sessions=3) as service:
        yield service


async def test_a_tenants_quotas_bound_it_and_nobody_else(service: Service) -> None:
    ann, amy, bob = (Caller(service, name) for name in ("ann", "amy", "bob"))
    first = await ann.execute("wait: 60", session_id="one")
    queued = [await amy.execute("say: hi", session_id=name) for name in ("two", "three")]
    refusal = await refused(ann.execute("say: hi", session_id="four"))
    assert (refusal.code.name, refusal.reason) == ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")
    assert refusal.metadata == {"tenant": "small", "quota": "sessions.queued", "limit": "2"}
    assert refusal.retry_after is not None
    assert "2 turns of tenant small wait for a place, and 2 may wait" in refusal.text
    assert (await refused(ann.execute("say: hi", session_id="four", validate_only=True))).reason == "QUOTA_EXCEEDED"

    done = await bob.execute("say: hi", session_id="one", wait={"seconds": 30})
    assert done.turn.state == pb.TURN_STATE_COMPLETED, "another tenant has places, and an id of its own"
    assert (done.session.created_by, done.turn.created_by) == ("bob", "bob")
    assert ((await amy.load()).running, (await amy.load()).queued, (await bob.load()).queued) == (1, 2, 0)
    assert ((await amy.load()).sessions, (await bob.load()).sessions) == (3, 1)

    assert await ann.listed(created_by="amy") == {"two", "three"}
    assert await ann.listed(created_by="nobody") == await bob.listed(created_by="ann") == set()

    await ann.Cancel(pb.CancelRequest(session_id=first.session_id, force=True))
    for name in ("two", "three"):
        await asyncio.wait_for(rest(amy, name), 30)
    assert queued[0].turn.created_by == "amy"

    await ann.execute("say: hi", session_id="four")
    refusal = await refused(ann.execute("say: hi", session_id="five"))
    assert (refusal.reason, refusal.retry_after) == ("QUOTA_EXCEEDED", None)
    assert refusal.metadata == {"tenant": "small", "quota": "sessions.kept", "limit": "4"}
    assert "may have 4; delete some with DeleteSession or Cleanup" in refusal.text
    await ann.execute("say: more", session_id="four", on_busy=pb.ON_BUSY_ENQUEUE)
    await ann.DeleteSession(pb.DeleteSessionRequest(session_id="two"))
    await rest(ann, "four")
    await ann.execute("say: hi", session_id="five")


async def rest(caller: Caller, session_id: str) -> None:
    """Wait until a session is at rest."""
    request = pb.GetStatusRequest(session_id=session_id, wait_for=pb.WAIT_FOR_AT_REST, history_limit=0)
    request.wait.FromSeconds(30)
    assert not (await caller.GetStatus(request)).wait_expired


async def test_each_tenant_has_its_retention(service: Service) -> None:
    registry = service.running.registry
    policy = registry.execution._policy
    assert retention_of(policy, 60.0)("small") == 3600.0
    assert retention_of(policy, 60.0)("large") == 60.0
    for name in ("ann", "bob"):
        done = await Caller(service, name).execute("say: hi", session_id="old", wait={"seconds": 30})
        assert done.turn.state == pb.TURN_STATE_COMPLETED
    own = {"small": 3600.0, "large": 1e-6}
    assert await registry.deletion.expire(lambda owner: own[owner]) == 1
    assert (await Caller(service, "ann").listed(), await Caller(service, "bob").listed()) == ({"old"}, set())
