"""Limits by cgroups of version 2, seen as a tree of files; version 1 is what the agents of other tests are held by."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent_service.processes.cgroups import Limits, NoLimits, find_cgroups

MOUNT = "30 23 0:26 / {} rw,nosuid - cgroup2 cgroup2 rw\n"


def service_in(directory: Path, *, controllers: str) -> Path:
    """Make what a service in a cgroup of its own sees: /proc/self and the mount; its /proc/self."""
    proc, group = directory / "proc", directory / "fs" / "agent.service"
    proc.mkdir()
    group.mkdir(parents=True)
    (proc / "mountinfo").write_text(MOUNT.format(directory / "fs"))
    (proc / "cgroup").write_text("0::/agent.service\n")
    (group / "cgroup.controllers").write_text(f"{controllers}\n")
    (group / "cgroup.subtree_control").write_text("\n")
    (group / "cgroup.procs").write_text("41\n")
    return proc


def test_a_service_moves_aside_and_gives_each_agent_and_its_tools_a_cgroup(tmp_path: Path) -> None:
    cgroups = find_cgroups(service_in(tmp_path, controllers="cpu memory pids"))
    own = tmp_path / "fs" / "agent.service"
    assert (own / "service" / "cgroup.procs").read_text() == "41"
    assert (own / "cgroup.subtree_control").read_text() == "+memory +pids"
    limits = Limits(memory=1 << 30, processes=100)
    command = cgroups.enter(limits, "a:b:c")
    agent = own / "agent-a:b:c"
    assert command[-2:] == [str(agent), "--"]
    assert (agent / "memory.max").read_text() == str(1 << 30)
    assert (agent / "pids.max").read_text() == "164"
    assert (agent / "tools" / "pids.max").read_text() == "100"
    assert cgroups.tools(limits, "a:b:c") == agent / "tools" / "cgroup.procs"
    assert cgroups.tools(Limits(memory=1), "a:b:c") is None


def test_a_cgroup_without_controllers_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NoLimits, match="Delegate"):
        find_cgroups(service_in(tmp_path, controllers="cpu"))
