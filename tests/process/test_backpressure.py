"""Back-pressure: who does not read costs little and delays nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.watchers import WatchersReport, idle_watchers, stalled_reader
from tests.process.live import serve

pytestmark = pytest.mark.process


async def test_a_reader_that_stops_costs_a_bounded_few_megabytes_and_delays_nobody(tmp_path: Path) -> None:
    report = WatchersReport()
    async with serve(tmp_path / "data") as live:
        await stalled_reader(live, report, seconds=6)
    assert report.failures == []
    assert report.grown < 24 << 20
    assert report.fast_lag < 1.0


async def test_thousands_of_idle_watchers_come_at_once_and_are_cheap(tmp_path: Path) -> None:
    report = WatchersReport()
    async with serve(tmp_path / "data") as live:
        await idle_watchers(live, report, count=3000)
    assert report.per_watcher < 100_000
