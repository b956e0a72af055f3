"""Policy: CPU time of all that an Execute is held against, with an access file and without one."""

from __future__ import annotations

import functools
import statistics
import time
import tomllib

from agentpb import agent_pb2 as pb

from agent_service.access.document import AccessFile
from agent_service.policy import Grant, Policy, grant
from benchmarks.harness import ROOT, Bench

ROUNDS = 5_000
PLATFORM = ROOT / "examples" / "access" / "platform.toml"
TENANT = "search"


async def measure(bench: Bench) -> None:
    """Hold requests against the policies of a platform team, and of nobody."""
    rounds = ROUNDS // 10 if bench.quick else ROUNDS
    document = AccessFile(**tomllib.loads(PLATFORM.read_text()))
    held = grant(TENANT, document.tenant, document.mcp)
    limited, free = Policy(lambda tenant: held), Policy(functools.cache(Grant.dev))
    small, full = pb.ExecuteRequest(prompt="x"), pb.ExecuteRequest(prompt="x")
    small.options.model = full.options.model = "claude-haiku-4-5"
    full.options.MergeFrom(
        pb.AgentOptions(cwd=f"/srv/{TENANT}/repository", tools=["Read", "Bash"], max_budget_usd=5, env={"CI": "1"})
    )
    full.options.mcp_servers["g"].configured = "github"
    for name, policy, request in (
        ("an Execute without an access file", free, small),
        ("an Execute that names a model", limited, small),
        ("an Execute with directory, tools, variables and a server", limited, full),
    ):
        parts = [_executes(policy, request, rounds // 10) for _ in range(10)]
        bench.report.add(name, statistics.median(parts), "µs", note="CPU until the answer; the aim is 50")


def _executes(policy: Policy, request: pb.ExecuteRequest, rounds: int) -> float:
    record = pb.Session(owner=TENANT)
    begun = time.process_time()
    for _ in range(rounds):
        policy.check_given(request, TENANT)
        prepared = policy.prepared(request, record, TENANT)
        policy.check_merged(prepared, prepared.options, record, TENANT)
        policy.in_force(prepared.options, TENANT)
        policy.notes(request, prepared.options, TENANT)
    return (time.process_time() - begun) / rounds * 1e6
