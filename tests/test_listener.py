"""The gRPC server's and the client's channel arguments: gRPC ignores a name that it does not know, without a word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from grpc._cython import cygrpc

ROOT = Path(__file__).parents[1]
ARGUMENT = re.compile(r"""["'](grpc\.[a-z0-9_.]+)["']""")
CORE = Path(cygrpc.__file__).read_bytes()
NOT_ARGUMENTS = re.compile(r"grpc\.(health|reflection)\.")


def arguments() -> set[str]:
    """Every channel argument that is named anywhere in the project's Python."""
    files = [
        path for part in ("agent_service", "client", "tests", "benchmarks") for path in (ROOT / part).rglob("*.py")
    ]
    named = {name for path in files for name in ARGUMENT.findall(path.read_text())}
    return {name for name in named if not NOT_ARGUMENTS.match(name)}


def is_known(name: str) -> bool:
    """Whether gRPC's compiled core has this name, whole."""
    return re.search(rb"(?<![a-z_.])" + re.escape(name.encode()) + rb"\0", CORE) is not None


@pytest.mark.parametrize("name", sorted(arguments()))
def test_every_channel_argument_is_one_that_grpc_knows(name: str) -> None:
    assert is_known(name), f"gRPC's core has no argument {name}, so it would be ignored"


def test_the_search_finds_the_arguments_and_a_wrong_one_would_be_seen() -> None:
    assert {"grpc.keepalive_time_ms", "grpc.http2.min_ping_interval_without_data_ms"} <= arguments()
    assert not is_known(".".join(["grpc", "http2", "min_recv_ping_interval_without_data_ms"]))
