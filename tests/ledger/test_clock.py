"""A host's clock that jumps deletes nothing early, and lets no retry take effect twice."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from agent_service.ledger import Commit, Ledger, RequestId
from agent_service.ledger.clock import Clock
from tests.ledger.logs import key, rows, session, until

HOUR, DAY, YEAR = 3600.0, 86_400.0, 365 * 86_400.0


class Host:
    """A host whose clock can be set."""

    def __init__(self) -> None:
        self.wall = 1_700_000_000.0
        self.steady = 5.0

    def clock(self) -> Clock:
        """The clock of a service that starts now."""
        return Clock(lambda: self.wall, lambda: self.steady)

    def passes(self, seconds: float) -> None:
        """Let time pass."""
        self.wall += seconds
        self.steady += seconds


@pytest.mark.parametrize("jump", [YEAR, -DAY, 11.0, -11.0])
def test_the_services_clock_does_not_jump_with_the_hosts(jump: float, caplog: pytest.LogCaptureFixture) -> None:
    host = Host()
    clock = host.clock()
    host.wall += jump
    host.passes(60)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            clock.follow()
    assert clock() == 1_700_000_060.0
    assert [record.message for record in caplog.records] == [
        f"the host's clock has jumped by {jump:+.0f} s; the service keeps its time until its next start"
    ]


def test_small_corrections_are_followed() -> None:
    host = Host()
    clock = host.clock()
    for _ in range(3):
        host.wall -= 4.0
        clock.follow()
    host.passes(100)
    assert clock() == host.wall


async def used(ledger: Ledger) -> None:
    """A session at rest, and a request id."""
    kept = RequestId("", "r", "f", "s", "", "Execute", b"")
    record = session("s", place=(3, 11), created=ledger.ages_now())
    await ledger.append(Commit(key("s"), session=record, request_id=kept))


async def is_kept(ledger: Ledger) -> bool:
    """Whether the session is within a retention of two hours, and the request id known."""
    over = await ledger.outstayed("", ledger.ages_now() - round(2 * HOUR * 1e6), 10)
    return not over and await ledger.request("", "r") is not None


@pytest.mark.parametrize("jump", [YEAR, 2 * DAY, -DAY])
async def test_a_clock_that_jumped_before_the_start_ages_nothing_for_a_day(tmp_path: Path, jump: float) -> None:
    host = Host()
    async with Ledger(tmp_path, clock=host.clock()) as ledger:
        await used(ledger)
        host.passes(HOUR)
    host.wall += jump
    async with Ledger(tmp_path, clock=host.clock()) as ledger:
        assert await is_kept(ledger)
        host.passes(0.5 * HOUR)
        assert await is_kept(ledger)
    host.wall -= jump  # the operator has seen the warning
    host.passes(60)
    async with Ledger(tmp_path, clock=host.clock()) as ledger:
        assert await is_kept(ledger)
        host.passes(HOUR)
        assert await is_kept(ledger) == (jump < 0), "a clock that was set forward again looks like a long stop"


async def test_a_service_that_was_stopped_for_days_deletes_a_day_after_its_start(tmp_path: Path) -> None:
    host = Host()
    async with Ledger(tmp_path, clock=host.clock()) as ledger:
        await used(ledger)
    host.passes(3 * DAY)
    async with Ledger(tmp_path, clock=host.clock()) as ledger:
        assert await is_kept(ledger)
        host.passes(DAY + 1)
        assert not await is_kept(ledger)
        assert rows(tmp_path, "request_ids") == 1
    host.passes(60)
    async with Ledger(tmp_path, clock=host.clock()):
        await until(lambda: rows(tmp_path, "request_ids") == 0)
