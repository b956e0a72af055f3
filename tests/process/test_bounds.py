"""What a caller or an agent may take of the service is bounded, and given back."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from agentpb import agent_pb2 as pb

from agent_service import host_share
from agent_service.api.listener import SERVER_ARGUMENTS
from tests.chaos.floods import FLOODS, idle
from tests.process.live import Live, serve, until

pytestmark = pytest.mark.process

MUCH = 200e6
"""Bytes that the service may have more than before, a while after a flood."""


def resident(live: Live) -> float:
    """Resident memory of the service's process."""
    return int(Path(f"/proc/{live.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()


def cpu(live: Live) -> float:
    """Seconds of CPU that the service's process has used."""
    fields = Path(f"/proc/{live.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


async def test_memory_is_given_back_after_floods_and_others_are_answered(tmp_path: Path) -> None:
    async with serve(tmp_path / "data") as live:
        await live.stub.GetServerInfo(pb.GetServerInfoRequest())
        before = resident(live)
        for flood in FLOODS.values():
            if flood is not idle:
                await flood(live.address, 0.01)
        await idle(live.address, 0, count=500)
        await live.stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=30)
        await until(lambda: resident(live) < before + MUCH, 30, "the memory is not given back")


async def test_without_descriptors_nothing_spins_and_with_them_callers_are_answered(tmp_path: Path) -> None:
    shell = ("/bin/sh", "-c", 'ulimit -n 120; exec "$@"', "sh")
    async with serve(tmp_path / "data", through=shell) as live:
        await live.stub.GetServerInfo(pb.GetServerInfoRequest())
        begun = cpu(live)
        await idle(live.address, 1.5, count=200)
        assert cpu(live) - begun < 1.5
        log = live.log.read_text()
        assert log.count("\n") < 200, log[-2000:]
        assert (await live.run("say: hello")).turn.state == pb.TURN_STATE_COMPLETED


async def test_the_limit_of_open_files_is_raised_to_what_the_host_allows(tmp_path: Path) -> None:
    shell = ("/bin/sh", "-c", 'ulimit -S -n 256; exec "$@"', "sh")
    async with serve(tmp_path / "data", through=shell) as live:
        limits = Path(f"/proc/{live.process.pid}/limits").read_text()
        soft, hard = next(line.split()[3:5] for line in limits.splitlines() if line.startswith("Max open files"))
        assert soft == hard


def test_memory_is_given_back_once_the_process_grows_no_more() -> None:
    size, now = [100 << 20], [0.0]
    keeper = host_share.Keeper(lambda: size[0], lambda: now[0])

    def due(megabytes: int) -> bool:
        now[0] += 10
        size[0] = megabytes << 20
        return keeper.is_due()

    assert [due(each) for each in (100, 150, 300, 500, 500)] == [False, False, False, False, True]
    keeper.given_back()  # nothing is free yet
    assert [due(500) for _ in range(9)] == [True] * 9, "it is tried again"
    for _ in range(9):
        keeper.given_back()
    assert not due(500), "after pauses that grow"
    assert [due(each) for each in (600, 600)] == [False, True]
    size[0] = 120 << 20
    keeper.given_back()
    assert [due(each) for each in (120, 140, 130, 160)] == [False] * 4
    assert [due(each) for each in (200, 300, 400)] == [False, False, True], "at the latest after 30 s"


def test_metadata_has_one_limit_and_a_long_token_fits() -> None:
    arguments = dict(SERVER_ARGUMENTS)
    assert arguments["grpc.max_metadata_size"] == arguments["grpc.absolute_max_metadata_size"] > 8192 + 1024
