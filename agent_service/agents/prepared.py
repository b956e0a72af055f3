"""Orders: which agents callers asked to have ready, how many of each profile, and until when.

An order is for sessions that are expected: each one that comes lowers it by one. warm.py starts the agents and keeps
them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from agent_service.agents.demand import Profile
from agent_service.agents.host_memory import PLENTY, Memory

AGENT_BYTES = 128 << 20
"""Memory that a connected agent is reckoned with, in bytes."""

Limit = Literal["", "memory", "max_warm", "quota", "options"]


class Prepared(NamedTuple):
    """What became of an order: agents that are connected, agents to come, and what allows no more of them."""

    ready: int
    starting: int
    limited_by: Limit


@dataclass
class _Order:
    made_with: object
    count: int
    until: float


class Orders:
    """The orders in force; at most `most` agents in all."""

    def __init__(self, most: int) -> None:
        """Begin without orders."""
        self._most = most
        self._orders: dict[Profile, _Order] = {}

    def place(
        self,
        profile: Profile,
        made_with: object,
        count: int,
        until: float,
        *,
        kept: Mapping[Profile, int],
        quota: int | None,
        memory: Memory,
    ) -> tuple[int, Limit]:
        """Order up to `count` agents until a time of the loop's clock; how many are granted, and what allows no more.

        A further order for the same profile neither lowers nor shortens the one in force. `kept` is how many agents
        there are, `quota` how many the profile's owner may have ordered.
        """
        order = self._orders.get(profile) or _Order(made_with, 0, until)
        wanted = max(count, order.count)
        others = Counter({each: other.count for each, other in self._orders.items() if each != profile})
        bounds: dict[Limit, int] = {"": wanted, "max_warm": self._most - others.total()}
        if quota is not None:
            bounds["quota"] = quota - sum(number for each, number in others.items() if each.owner == profile.owner)
        to_come = sum(max(0, number - kept.get(each, 0)) for each, number in others.items())
        bounds["memory"] = kept.get(profile, 0) + max(0, _room(memory) - to_come)
        limit = min(bounds, key=lambda name: bounds[name])
        granted = max(0, bounds[limit])
        if granted:
            self._orders[profile] = _Order(made_with, granted, max(until, order.until))
        return granted, limit if granted < count else ""

    def came(self, profile: Profile) -> None:
        """Take note of a session that may have been expected."""
        if (order := self._orders.get(profile)) is not None:
            order.count -= 1
            if order.count <= 0:
                del self._orders[profile]

    def wanted(self) -> Counter[Profile]:
        """Return how many agents of each profile are to be kept."""
        return Counter({profile: order.count for profile, order in self._orders.items()})

    def end(self, now: float, made_with: Callable[[Profile], object]) -> list[Profile]:
        """End the orders whose time is over, or whose agents would be started differently now; their profiles."""
        ended = [
            profile
            for profile, order in self._orders.items()
            if order.until <= now or order.made_with != made_with(profile)
        ]
        for profile in ended:
            del self._orders[profile]
        return ended

    def clear(self) -> list[Profile]:
        """End all orders; their profiles."""
        ended = list(self._orders)
        self._orders.clear()
        return ended


def _room(memory: Memory) -> int:
    """Return how many more agents leave the host what it needs."""
    return (memory.available - min(memory.total // 10, PLENTY)) // AGENT_BYTES
