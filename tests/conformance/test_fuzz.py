"""A small slice of the fuzzer; the whole of it is `make chaos ARGS=fuzz`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from agentpb import agent_pb2 as pb

from tests.chaos.fuzz import FLAGS, Fuzzer
from tests.chaos.grammar import Grammar, Known
from tests.process.live import serve
from tests.rpc import ALL


async def test_two_thousand_calls_by_chance_break_nothing(tmp_path: Path) -> None:
    async with serve(tmp_path / "data", *FLAGS) as service:
        report = await Fuzzer(service, seed=1).run(2000)
        assert report.failures == []
        assert report.calls == 2000
        assert {name.split(" ")[0] for name in report.answers} == ALL.keys()
        assert (await service.stub.GetServerInfo(pb.GetServerInfoRequest())).api_version


@pytest.mark.parametrize("method", ALL)
def test_the_same_seed_makes_the_same_requests(method: str) -> None:
    def made() -> list[bytes]:
        grammar = Grammar(random.Random(5), Known())
        return [grammar.request(ALL[method]).SerializeToString(deterministic=True) for _ in range(20)]

    assert made() == made()
    assert method == "GetServerInfo" or len(set(made())) > 10
