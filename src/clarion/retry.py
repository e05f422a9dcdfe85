"""When to try again: from the number of failures to a delay, with the randomness injected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TypeAlias

from clarion.model import MICROSECONDS

__all__ = ["MAX_RETRY_AFTER", "Backoff", "Jitter", "retry_after"]

Jitter: TypeAlias = Callable[[], float]
"""A number from 0 (inclusive) to 1 (exclusive), each time another; `random.random` outside of tests."""

MAX_RETRY_AFTER = 3600.0
"""Seconds that a `Retry-After` may ask for. Stops a wrong header from silencing a client for good."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays that double from `base` to `cap` seconds, each drawn from the upper half of its range.

    Half stays, so that nobody retries at once; half is random, so that many clients of a server that came back do
    not return in step.
    """

    base: float = 0.5
    cap: float = 30.0

    def delay(self, attempt: int, jitter: Jitter) -> float:
        """Seconds to wait after `attempt` failures in a row, counted from 1."""
        doublings = min(max(attempt - 1, 0), 62)  # beyond, a float would only overflow
        ceiling = min(self.cap, self.base * 2.0**doublings)
        return ceiling / 2 + ceiling / 2 * jitter()


def retry_after(header: str | None, now: int) -> float:
    """The seconds that a `Retry-After` header asks for at `now` (microseconds); 0 when it is missing or no such header.

    Both forms of RFC 9110 section 10.2.3: a number of seconds, or a date.
    """
    if header is None:
        return 0.0
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), MAX_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(moment.timestamp() - now / MICROSECONDS, 0.0), MAX_RETRY_AFTER)
