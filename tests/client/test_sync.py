"""The synchronous client has every method of the asynchronous one, and is that one."""

from __future__ import annotations

import asyncio

import pytest
from agent_client import AgentClient, SessionHandle, SyncAgentClient, SyncSessionHandle, errors
from agentpb import agent_pb2 as pb


@pytest.mark.parametrize(("one", "twin"), [(AgentClient, SyncAgentClient), (SessionHandle, SyncSessionHandle)])
def test_the_twins_have_the_same_methods(one, twin):
    assert _public(one) - _public(twin) == set()


async def test_it_runs_watches_lists_and_fails_the_same(service, script):
    service.numbered(2)
    service.end_turn(result="42")
    service.cuts = {1: "unavailable"}
    service.answers["ListSessions"] = [pb.ListSessionsResponse(sessions=[{"session_id": "a"}])]
    service.fail("Interrupt", script.refusal(script.refusal and errors.SessionNotFound.code, "SESSION_NOT_FOUND"))
    await asyncio.to_thread(_use, service.address, script.SESSION)
    await asyncio.wait_for(service.watcher_left.wait(), 5)
    assert service.watchers == 0


def _use(address: str, session_id: str) -> None:
    with SyncAgentClient(address, retry_for=5) as client:
        assert client.run("x", model="m").text == "42"
        handle = client.execute("x")
        assert [event.sequence for event in handle.watch()] == [1, 2, 3]
        for _ in handle.watch():
            break
        assert handle.result().text == "42"
        assert [each.session_id for each in client.list_sessions()] == ["a"]
        assert [event.sequence for event in client.session(session_id).events()] == [1, 2, 3]
        with pytest.raises(errors.SessionNotFound):
            handle.interrupt()


def _public(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")}
