"""Which programs of hidden places an agent is shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from agentpb import agent_pb2 as pb

from agent_service.agents.programs import needed
from agent_service.policy import Grant
from agent_service.processes.hidden import Hidden


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look anywhere")
def test_a_place_of_path_that_may_not_be_looked_into_stops_no_agent(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "chain" / "bin").mkdir(parents=True)
    closed.chmod(0)
    shown = needed(
        pb.AgentOptions(), {"PATH": f"{closed}/chain/bin:/usr/bin"}, Hidden(places=(tmp_path,)), Grant(), sealed=False
    )
    closed.chmod(0o700)
    assert shown == []


def test_a_path_that_can_be_none_stops_no_agent(tmp_path: Path) -> None:
    (tmp_path / "own" / "bin").mkdir(parents=True)
    path = f"/{'x' * 300}/bin:relative:{tmp_path}/own/bin"
    shown = needed(pb.AgentOptions(), {"PATH": path}, Hidden(places=(tmp_path,)), Grant(), sealed=False)
    assert shown == [tmp_path / "own" / "bin"]


def test_a_limited_caller_names_no_hidden_place_by_its_path_or_its_servers(tmp_path: Path) -> None:
    for name in ("keys", "operators"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    servers = {
        "own": pb.McpServer(stdio=pb.McpStdioServer(command="/bin/sh", args=[f"{tmp_path}/keys/file"])),
        "operators": pb.McpServer(stdio=pb.McpStdioServer(command="/bin/sh", args=[f"{tmp_path}/operators/file"])),
    }
    options = pb.AgentOptions(env={"PATH": f"{tmp_path}/keys"}, mcp_servers=servers)
    hidden, limited = Hidden(places=(tmp_path,)), Grant(limited=True, servers={"x": servers["operators"]})
    assert needed(options, {}, hidden, limited, sealed=False) == [tmp_path / "operators" / "file"]
    free = needed(options, {}, hidden, Grant(), sealed=False)
    assert sorted(free) == [tmp_path / "keys", tmp_path / "keys" / "file", tmp_path / "operators" / "file"]
