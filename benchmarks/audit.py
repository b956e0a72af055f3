"""The audit log: CPU time of a record, and of the whole link around a call that changes something."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from agentpb import agent_pb2 as pb
from google.protobuf.message import Message

from agent_service.api.audited import Audited
from agent_service.api.call import Call, Door, Headers
from agent_service.audit import AuditLog, verify
from agent_service.auth import Credentials, Principal
from benchmarks.harness import Bench

ROUNDS = 20_000
RECORD = {
    "principal": "ci-payments",
    "tenant": "payments",
    "via": "token",
    "credential": "5f8e12",
    "peer": "ipv4:127.0.0.1:50312",
    "method": "Execute",
    "decision": "done",
    "policy": "0123456789ab",
    "session": "11111111-2222-3333-4444-555555555555",
    "turn": "66666666-7777-8888-9999-000000000000",
    "request_id": "build-4711",
}


class _Direct(Call):
    """A call without a door."""

    __slots__ = ()
    peer = RECORD["peer"]
    has_left = False
    door = Door()

    def headers(self) -> Headers:
        return Headers(Credentials(), "", "")

    def metadata(self, key: str) -> str:
        return ""

    def time_remaining(self) -> float | None:
        return None

    async def write(self, response: Message | bytes) -> None:
        raise AssertionError("no stream passes the link here")


async def measure(bench: Bench) -> None:
    """Append records, and pass calls through the link."""
    rounds = ROUNDS // 10 if bench.quick else ROUNDS
    file = Path(bench.directory) / "audit.log"
    async with AuditLog(file) as log:
        parts = [_appends(log, rounds // 10) for _ in range(10)]
        bench.report.add("a record", statistics.median(parts), "µs", note="CPU; the aim is 10")
        parts = [await _calls(log, rounds // 10) for _ in range(10)]
        bench.report.add("the link around Execute", statistics.median(parts), "µs", note="CPU, the record included")
    begun = time.process_time()
    found = verify([file])
    seconds = time.process_time() - begun
    bench.report.add("verifying", found.records / seconds / 1000, "thousand records/s", note=f"{found.problems}")


def _appends(log: AuditLog, rounds: int) -> float:
    begun = time.process_time()
    for _ in range(rounds):
        log.append(RECORD)
    return (time.process_time() - begun) / rounds * 1e6


async def _calls(log: AuditLog, rounds: int) -> float:
    link = Audited(log, policy=lambda: RECORD["policy"], strict=True, reads=False)
    call = _Direct("Execute")
    call.principal = Principal(
        name=RECORD["principal"], tenant=RECORD["tenant"], via=RECORD["via"], credential=RECORD["credential"]
    )
    call.owner = RECORD["tenant"]
    call.request = pb.ExecuteRequest(request_id=RECORD["request_id"])
    call.response = pb.ExecuteResponse(session_id=RECORD["session"], turn=pb.Turn(turn_id=RECORD["turn"]))
    begun = time.process_time()
    for _ in range(rounds):
        async with link(call):
            pass
    return (time.process_time() - begun) / rounds * 1e6
