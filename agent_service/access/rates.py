"""Rates: how often each tenant may call, on average over a minute."""

from __future__ import annotations

import time
from collections.abc import Callable

PERIOD = 60.0
MAX_KEPT = 10_000


class Rates:
    """A bucket of calls for each tenant, which fills at the tenant's rate up to what a minute brings."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with full buckets."""
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, tenant: str, rate: float) -> float:
        """Count a call, at `rate` calls a second; return 0, or the seconds to wait for one that is not allowed yet."""
        now, most = self._clock(), max(1.0, rate * PERIOD)
        left, since = self._buckets.get(tenant, (most, now))
        left = min(most, left + (now - since) * rate)
        if left < 1:
            return (1 - left) / rate
        if tenant not in self._buckets and len(self._buckets) >= MAX_KEPT:
            self._forget(now)
        self._buckets[tenant] = (left - 1, now)
        return 0.0

    def _forget(self, now: float) -> None:
        """Drop buckets that nobody has used for an hour, or the oldest half."""
        kept = sorted(self._buckets.items(), key=lambda each: each[1][1])[MAX_KEPT // 2 :]
        self._buckets = {tenant: bucket for tenant, bucket in kept if now - bucket[1] < 3600}
