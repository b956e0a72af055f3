"""Limits: the bounds of a session's work in time, from the operator's configuration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of a session, in seconds; 0 means no bound."""

    execution_timeout: float
    queue_timeout: float
    stall_timeout: float
    background_timeout: float
    idle_timeout: float
