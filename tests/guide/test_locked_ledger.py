"""Another process locks the ledger: calls that write are refused after a while, and calls that read go on."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from agentpb import agent_pb2 as pb

from tests.ledger.logs import until
from tests.rpc import refused


async def test_calls_that_write_are_refused_while_another_process_locks_the_ledger(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent_service.ledger.sqlite.file.BUSY_TIMEOUT", 50)
    monkeypatch.setattr("agent_service.ledger.sqlite.writer.BUSY_TIMEOUT", 50)
    service = await start()
    await service.run("say: hi", session_id="before")
    with closing(sqlite3.connect(service.data_dir / "ledger.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for _ in range(2):
            refusal = await refused(service.execute("say: late", session_id="during", request_id="once"))
            assert (refusal.code.name, refusal.reason) == ("UNAVAILABLE", "STORE_UNAVAILABLE")
            assert "another process holds a lock" in refusal.text
            assert refusal.retry_after is not None
        assert (await service.status("before")).session.state == pb.SESSION_STATE_COMPLETED
        other.execute("COMMIT")
    await until(lambda: not service.running.ledger.obstruction.lasts)
    again = await service.run("say: late", session_id="during", request_id="once")
    assert (again.deduplicated, again.turn.number, again.turn.result.result) == (True, 1, "late")
    assert service.running.ledger.failure is None
