"""Clock: the time of the record, which the host's clock cannot make jump.

Ages decide what is deleted and which retries are recognized. So the host's clock is read once, at the service's start,
and time goes on by a clock that is never set. Small corrections are followed; of a large one the log tells.

Between two starts nothing can tell a clock that jumped from a service that was stopped for long. So what is stored does
not age by the time in between until the service has run for a day: long enough to see the warning and set the clock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

STEP = 10.0
"""Seconds of a correction of the host's clock that is followed."""
DAY_US = 86_400_000_000
"""Microseconds of a stop, or what looks like one, that counts at once; and how long a longer one does not."""


def boottime() -> float:
    """Seconds since the host's start, its sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Clock:
    """Seconds since 1970, as the host's clock had them at the start."""

    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = boottime) -> None:
        """Read `wall` now, and from then on go by `steady`."""
        self._wall = wall
        self._steady = steady
        self._offset = wall() - steady()
        self._strayed = False

    def __call__(self) -> float:
        """Return the time."""
        return self._steady() + self._offset

    def follow(self) -> None:
        """Follow a small correction of the host's clock; warn of a large one, once. To be called now and then."""
        away = self._wall() - self()
        if abs(away) <= STEP:
            self._offset += away
        elif not self._strayed:
            log.warning("the host's clock has jumped by %+.0f s; the service keeps its time until its next start", away)
        self._strayed = abs(away) > STEP


CLOCK = Clock()
"""The service's clock."""


def now_us() -> int:
    """The service's clock: microseconds since 1970."""
    return round(CLOCK() * 1_000_000)


class Ages:
    """The time by which the ages of what is stored are told."""

    def __init__(self, clock: Callable[[], float], last: int) -> None:
        """Begin a run of the service; the one before was last seen at `last` (microseconds), 0 for unknown."""
        self._clock = clock
        now = self._now()
        self.away = now - last if last and now - last > DAY_US else 0
        """Microseconds since the service was last seen, if that is more than a day."""
        self._until = now + DAY_US

    def now(self) -> int:
        """Microseconds since 1970, less what does not count yet."""
        now = self._now()
        return now - self.away if now < self._until else now

    def _now(self) -> int:
        return round(self._clock() * 1_000_000)
