"""Two cancels, a resume and a delete at once on one session: whoever wins, nothing contradicts anything."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from agent_service import maintenance as upkeep
from tests.chaos.race import RaceReport, race_once
from tests.process.live import serve

pytestmark = pytest.mark.process


async def test_racing_calls_on_one_session_break_no_invariant(tmp_path: Path) -> None:
    report, chance = RaceReport(), random.Random(11)
    async with serve(tmp_path / "data", "--drain-timeout", "0s") as live:
        for _ in range(6):
            await asyncio.gather(*(race_once(live, report, chance) for _ in range(5)))
        assert await live.terminate() == 0
    assert report.failures == []
    found = upkeep.check(tmp_path / "data")
    assert (found.problems, found.notes) == ((), ())
