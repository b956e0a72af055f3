"""What the ledger refuses to record does not go on in memory: no agent works on it, and the session stays as stored."""

from __future__ import annotations

from agent_service.ledger import SessionKey
from tests.conftest import Service
from tests.ledger.logs import until
from tests.rpc import refused


async def test_a_turn_that_cannot_be_recorded_does_not_run(service: Service) -> None:
    registry, ledger = service.running.registry, service.running.ledger
    await service.run("say: hi", session_id="mine")
    for name, turns in (("mine", 1), ("new", None)):
        tail = ledger.tail(SessionKey("", name))
        tail.broken = ValueError("the log has another end")
        assert (await refused(service.execute("wait: 60", session_id=name))).reason == "INTERNAL"
        await until(lambda name=name: registry.live(name) is None)
        assert registry.statistics("")["running"] == 0
        del tail
        if turns is None:
            assert (await refused(service.status(name))).reason == "SESSION_NOT_FOUND"
        else:
            assert (await service.status(name)).session.turn_count == turns
    assert (await service.run("say: again", session_id="mine")).turn.number == 2
    assert (await service.run("say: hi", session_id="new")).turn.number == 1
