"""Retries with backoff, for longer than a channel's own: a service needs more time than that to restart."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import grpc
import grpc.aio

from agent_client import failures

INITIAL_DELAY = 0.1
MAXIMUM_DELAY = 3.0


class Patience:
    """The seconds for which calls are retried: less for a service that has never answered."""

    def __init__(self, retry_for: float, first_contact_for: float | None = None) -> None:
        """Start out without an answer."""
        self.retry_for = retry_for
        self.first_contact_for = retry_for if first_contact_for is None else first_contact_for
        self.answered = False

    def seconds(self) -> float:
        """Return the budget that holds now."""
        return self.retry_for if self.answered else self.first_contact_for


class Backoff:
    """Delays that double with jitter, until patience has run out since the first failure in a row."""

    def __init__(
        self,
        patience: Patience,
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """Start without a failure."""
        self._patience = patience
        self._clock = clock
        self._jitter = jitter
        self.reset()

    def reset(self) -> None:
        """Forget the failures: there was progress."""
        self._failures = 0
        self._since = 0.0

    def next_delay(self, asked_for: float | None = None) -> float | None:
        """Return how long to wait after one more failure, at least what the service asked for; None: give up."""
        now = self._clock()
        if self._failures == 0:
            self._since = now
        ceiling = min(MAXIMUM_DELAY, INITIAL_DELAY * 2**self._failures)
        self._failures += 1
        delay = max(self._jitter(ceiling / 2, ceiling), asked_for or 0.0)
        return delay if now - self._since + delay <= self._patience.seconds() else None


def delay_after(error: grpc.aio.AioRpcError, backoff: Backoff) -> float | None:
    """Return how long to wait before the call is tried again; None when another try cannot help or is not wanted."""
    pushback = failures.pushback_of(error)
    if not is_transient(error) or (pushback is not None and pushback < 0):
        return None
    return backoff.next_delay(failures.retry_after(error, failures.details_of(error)))


def is_transient(error: grpc.aio.AioRpcError) -> bool:
    """Tell whether a call failed for want of a connection or a server, so that the same call may succeed later."""
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return True
    # What a dying server, or a proxy, makes of a call it cuts; an answer of the service itself carries details.
    rst = error.code() is grpc.StatusCode.INTERNAL and "RST_STREAM" in (error.details() or "")
    return (rst or error.code() is grpc.StatusCode.CANCELLED) and not failures.details_of(error)
