"""Warm agents are started as the tenant's table says, and given to nobody once it says otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from agentpb import agent_pb2 as pb

from tests.conftest import Service
from tests.guide.test_preparing import prepare, ready, until_gone
from tests.policy.rules import Rules
from tests.rpc import refused

DENIES = '[tenant.default]\ntools = ["Read", "Bash"]\ntools_deny = ["Bash(touch *)"]\nmax_turns = {turns}'


async def warmed(service: Service) -> None:
    """Wait until an agent is connected that no session has yet."""
    async with asyncio.timeout(60):
        while not service.running.pool.waiting(pb.AgentOptions()):  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.01)


async def began_warm(service: Service) -> bool:
    done = await service.run("say: hi")
    [began] = await service.events(done.session_id, event_types=["turn.started"])
    return began.turn_started.warm


async def test_a_changed_table_gives_no_agent_of_the_table_before(rules: Rules, start: Callable[..., Any]) -> None:
    rules.set(DENIES.format(turns=20))
    service: Service = await start(warm_agents=1)
    await warmed(service)
    assert await began_warm(service), "it was started with what the table fills in"
    await warmed(service)
    rules.set(DENIES.format(turns=20).replace("touch", "rm"))
    assert not await began_warm(service)


async def test_a_tenant_prepares_what_it_may_run_and_no_more_of_it_than_at_once(
    rules: Rules, start: Callable[..., Any]
) -> None:
    rules.set('[tenant.default]\ntools = ["Read"]\nsessions = { at_work = 2 }')
    service: Service = await start()
    beyond = pb.AgentOptions(tools=["Bash"])
    refusal = await refused(service.stub.PrepareAgents(pb.PrepareAgentsRequest(count=1, options=beyond)))
    assert refusal.reason == "OPTION_NOT_ALLOWED"
    assert (await prepare(service, 3))[1:] == (2, "quota")
    await ready(service, 2)
    rules.set('[tenant.default]\ntools = ["Read", "Bash"]\nsessions = { at_work = 2 }')
    await until_gone(service)
    assert service.running.pool.statistics().retired == 2, "agents of the earlier rules serve nobody"
