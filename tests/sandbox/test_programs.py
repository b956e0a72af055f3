"""Which programs of hidden places an agent is shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from agentpb import agent_pb2 as pb

from agent_service.agents.programs import needed
from agent_service.processes.hidden import Hidden


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look anywhere")
def test_a_place_of_path_that_may_not_be_looked_into_stops_no_agent(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "chain" / "bin").mkdir(parents=True)
    closed.chmod(0)
    shown = needed(
        pb.AgentOptions(), {"PATH": f"{closed}/chain/bin:/usr/bin"}, Hidden(places=(tmp_path,)), sealed=False
    )
    closed.chmod(0o700)
    assert shown == []


def test_a_path_that_can_be_none_stops_no_agent(tmp_path: Path) -> None:
    (tmp_path / "own" / "bin").mkdir(parents=True)
    path = f"/{'x' * 300}/bin:relative:{tmp_path}/own/bin"
    shown = needed(pb.AgentOptions(), {"PATH": path}, Hidden(places=(tmp_path,)), sealed=False)
    assert shown == [tmp_path / "own" / "bin"]
