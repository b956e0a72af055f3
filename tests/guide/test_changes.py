"""The service explained by tests: changes. Every session shows the number of its last change, wherever it is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from agentpb import agent_pb2 as pb

from agent_service.agents import trees
from agent_service.ledger import Commit, key_of
from tests.conftest import Service
from tests.guide.test_keeping import HOUR, listed, record


async def started(service: Service, session_id: str) -> pb.Session:
    """The session with which a stream begins."""
    stream = service.stub.WatchSession(pb.WatchSessionRequest(session_id=session_id))
    first = await stream.read()
    stream.cancel()
    return first.started.session


async def test_every_view_of_a_session_shows_the_number_of_its_last_change(service: Service) -> None:
    accepted = await service.execute("wait: 60", session_id="s", title="one")
    assert accepted.session.change > 0
    await service.until("s", pb.SESSION_PHASE_WORKING)
    for _ in range(2):  # the second answer comes from what was encoded for the first
        status = await service.status("s")
        page = await service.stub.ListSessions(pb.ListSessionsRequest())
        assert status.session.change == page.sessions[0].change == (await started(service, "s")).change
        assert status.session.change > accepted.session.change
    await service.stub.Cancel(pb.CancelRequest(session_id="s", force=True))
    rested = await service.rest("s")
    assert rested.session.change > status.session.change
    again = await service.run("say: again", session_id="s")
    assert again.session.change > rested.session.change
    ledger = service.running.registry.ledger
    assert [each.change for each in await ledger.feed.changes(again.session.change - 1)] == [ledger.feed.last]


async def test_another_session_has_greater_numbers_and_its_directory_keeps_its_name(service: Service) -> None:
    first = await service.run("say: one", session_id="first")
    second = await service.run("say: two", session_id="second")
    assert second.session.change > first.session.change
    assert first.session.workspace_id == first.session.agent_session_id
    resumed = await service.run("say: three", session_id="first")
    assert resumed.session.workspace_id == first.session.workspace_id


async def test_sessions_that_cannot_be_removed_do_not_keep_others_from_being_removed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = [record(number, age=(9 - number) * HOUR) for number in range(6)]
    for session in old:
        session.workspace_id = session.agent_session_id
        await service.running.registry.ledger.append(Commit(key_of(session), session=session))
    stuck = {session.workspace_id for session in old[:3]}
    tries: list[str] = []

    def stay(path: Path, target: Path) -> None:
        raise PermissionError(f"{path} cannot be moved")

    def remove(path: Path, *, patience: float) -> int:
        if path.name in stuck:
            tries.append(path.name)
            raise PermissionError(f"{path} is kept by the host")
        return 0

    monkeypatch.setattr(trees, "move", stay)
    monkeypatch.setattr(trees, "remove", remove)
    monkeypatch.setattr("agent_service.registry.deletion.EXPIRED_AT_ONCE", 2)
    expire: Any = service.running.registry.deletion.expire
    assert await expire(lambda _: 1800.0) == 3
    assert sorted(tries) == sorted(stuck)
    assert await expire(lambda _: 1800.0) == 0
    assert len(tries) == 3, "they are left alone for a while"
    assert len(await listed(service)) == 3
    stuck.clear()
    assert await expire(lambda _: 1800.0) == 0
    monkeypatch.setattr(service.running.registry.deletion, "_put_off", {})
    assert await expire(lambda _: 1800.0) == 3
