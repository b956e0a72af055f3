"""Sessions of no tenant are given to one, with all that belongs to them."""

from __future__ import annotations

from pathlib import Path

import pytest
from agentpb import agent_pb2 as pb

from agent_service.ledger import Commit, Ledger, LedgerUnusable, RequestId, assign, fsck
from tests.ledger.logs import begin, events, key, session


async def test_sessions_without_a_tenant_are_given_to_one(tmp_path: Path) -> None:
    used = RequestId("", "Execute r", "f", "s", "t", "Execute", b"")
    async with Ledger(tmp_path) as ledger:
        await ledger.append(
            Commit(key("s"), events("s", 1, 2), session("s", labels={"k": "v"}, last_sequence=2), request_id=used)
        )
        await begin(ledger, session("both"))
        await begin(ledger, session("both", owner="team"))
        await begin(ledger, session("theirs", owner="other"))
        last = ledger.feed.last
        with pytest.raises(LedgerUnusable, match="in use"):
            assign(tmp_path, "team", lambda session: None)
    prepared: list[str] = []
    assert assign(tmp_path, "team", lambda session: prepared.append(session.session_id)) == (1, ["both"])
    assert prepared == ["s"]
    async with Ledger(tmp_path) as ledger:
        found = await ledger.session(key("s", "team"))
        assert found is not None
        assert (found.owner, found.change) == ("team", last + 1)
        assert await ledger.session(key("s")) is None
        wanted = pb.SessionFilter(labels={"k": "v"})
        page, _ = await ledger.sessions(wanted, pb.SESSION_ORDER_UNSPECIFIED, owner="team")
        assert [each.session_id for each in page] == ["s"]
        assert await ledger.request("team", "Execute r") is not None
        assert await ledger.owners() == ["", "other", "team"]
        assert (await ledger.count(""), await ledger.count("team"), await ledger.count()) == (1, 2, 4)
        await ledger.delete(key("both"))
        await begin(ledger, session("new", owner="team"))
        assert (await ledger.count(""), await ledger.count("team"), await ledger.count()) == (0, 3, 4)
    assert not any("differ" in problem for problem in fsck(tmp_path))
