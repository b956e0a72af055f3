"""Admission: how many sessions are at work at once, and who is next.

Within a tenant it is first come, first served. Among tenants the next place goes to the one with the fewest sessions at
work, and of those with equally many to the one whose last place is longest ago: a tenant with a thousand waiting turns
does not hold up the first of another.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Callable
from itertools import count

Place = asyncio.Future[bool]


class Admission:
    """Places for sessions at work. Waiting is a future, so that leaving the queue needs no cancelled task."""

    def __init__(self, places: int, at_work: Callable[[str], int | None] = lambda owner: None) -> None:
        """Let `places` sessions work at once; `at_work` gives the most of one tenant, None for no bound of its own."""
        self.places = places
        self.running = 0
        self._at_work = at_work
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, OrderedDict[Place, None]] = {}
        self._served: dict[str, int] = {}
        self._numbers = count(1)

    def has_room(self, owner: str) -> bool:
        """Return whether a tenant would be given a place at once."""
        return owner not in self._waiting and self.room(owner) > 0

    def room(self, owner: str) -> int:
        """Return how many more sessions of a tenant could be at work now."""
        free, most = self.places - self.running, self._at_work(owner)
        return max(0, free if most is None else min(free, most - self._running[owner]))

    def enter(self, owner: str) -> Place:
        """Ask for a place: the future is True once it is given, False when it was withdrawn first."""
        place: Place = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, OrderedDict())[place] = None
        self.admit()
        return place

    def withdraw(self, place: Place, owner: str) -> None:
        """Give up waiting; a place that was given already is its holder's to leave."""
        waiting = self._waiting.get(owner)
        if waiting is not None and place in waiting:
            del waiting[place]
            self._forget(owner)
            place.set_result(False)

    def leave(self, owner: str) -> None:
        """Give a place back."""
        self.running -= 1
        self._running[owner] -= 1
        self._forget(owner)
        self.admit()

    def admit(self) -> None:
        """Give the places that are free; also to be called when a tenant's bound has changed."""
        while self.running < self.places and (owner := self._next()) is not None:
            place, _ = self._waiting[owner].popitem(last=False)
            self.running += 1
            self._running[owner] += 1
            self._served[owner] = next(self._numbers)
            self._forget(owner)
            place.set_result(True)

    def _next(self) -> str | None:
        """The tenant that gets the next place; None when nobody may have one."""
        able = [owner for owner in self._waiting if self.room(owner)]
        if len(able) < 2:
            return able[0] if able else None
        return min(able, key=lambda owner: (self._running[owner], self._served.get(owner, 0)))

    def _forget(self, owner: str) -> None:
        """Keep nothing of a tenant that neither waits nor works."""
        if not self._waiting.get(owner, True):
            del self._waiting[owner]
        if owner not in self._waiting and not self._running[owner]:
            del self._running[owner]
            self._served.pop(owner, None)
