"""Admission: how many sessions are at work at once, and who is next. First come, first served."""

from __future__ import annotations

import asyncio
from collections import OrderedDict


class Admission:
    """Places for sessions at work. Waiting is a future, so that leaving the queue needs no cancelled task."""

    def __init__(self, places: int) -> None:
        """Let `places` sessions work at once."""
        self.places = places
        self._waiting: OrderedDict[asyncio.Future[bool], None] = OrderedDict()
        self.running = 0

    @property
    def has_room(self) -> bool:
        """Whether a place would be given at once."""
        return self.running < self.places and not self._waiting

    def enter(self) -> asyncio.Future[bool]:
        """Ask for a place: the future is True once it is given, False when it was withdrawn first."""
        place: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[place] = None
        self._admit()
        return place

    def withdraw(self, place: asyncio.Future[bool]) -> None:
        """Give up waiting; a place that was given already is the owner's to leave."""
        if place in self._waiting:
            del self._waiting[place]
            place.set_result(False)

    def leave(self) -> None:
        """Give a place back."""
        self.running -= 1
        self._admit()

    def _admit(self) -> None:
        while self.running < self.places and self._waiting:
            place, _ = self._waiting.popitem(last=False)
            self.running += 1
            place.set_result(True)
