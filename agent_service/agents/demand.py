"""Demand: how often each profile of agent was asked for, and how many to keep ready. Weights decay by halves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from agentpb import agent_pb2 as pb

HALF_LIFE = 300.0
"""Seconds in which the demand for a kind of agent loses half its weight."""

FORGOTTEN = 0.25
"""Weight below which a kind of agent is no longer known: ten minutes after it was asked for once."""

WORTH_A_PLACE = 0.55
"""Weight per agent from which one is started: one request is worth one agent for four minutes."""

MAX_PROFILES = 64


@dataclass(frozen=True)
class Profile:
    """The options fixed at an agent's start: agents of equal profiles are interchangeable."""

    owner: str
    key: str
    options: pb.AgentOptions = field(compare=False)


class Demand:
    """The weight of each profile: 1 per request, halved every five minutes."""

    def __init__(self) -> None:
        """Begin without weights."""
        self._weights: dict[Profile, tuple[float, float]] = {}

    def note(self, profile: Profile, now: float, weight: float = 1.0) -> None:
        """Count a request, or an expected one."""
        known = self._weight(profile, now)
        self._weights.pop(profile, None)  # the newest goes to the end, with the options as they were asked for last
        self._weights[profile] = (known + weight, now)
        if len(self._weights) > MAX_PROFILES:
            del self._weights[min(self._weights, key=lambda each: self._weight(each, now))]

    def weights(self, now: float) -> dict[Profile, float]:
        """Return the current weight of every known profile."""
        weights = {profile: self._weight(profile, now) for profile in self._weights}
        for profile in [profile for profile, weight in weights.items() if weight < FORGOTTEN]:
            del self._weights[profile], weights[profile]
        return weights

    def _weight(self, profile: Profile, now: float) -> float:
        weight, since = self._weights.get(profile, (0.0, now))
        return weight * math.pow(0.5, (now - since) / HALF_LIFE)


def shares(weights: Mapping[Profile, float], places: int) -> Counter[Profile]:
    """Share `places` among the profiles: one by one to the largest weight per agent, while that is at least 1."""
    given: Counter[Profile] = Counter()
    for _ in range(places):
        best = max(weights, key=lambda profile: weights[profile] / (given[profile] + 1), default=None)
        if best is None or weights[best] / (given[best] + 1) < WORTH_A_PLACE:
            break
        given[best] += 1
    return given
