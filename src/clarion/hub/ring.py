"""The ring: what a transport has refused to take, and no more.

Rings hold events, not frames; a parcel is one event on its way to many, whose bytes all rings share and which counts
once towards the process's budget (issue 2, "The side channel").
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from clarion.model import Event, Outcome, Position, Subscription

__all__ = ["DEFAULT_RING_BUDGET", "RING_CAPACITY", "Entry", "Parcel", "Ring", "RingBudget"]

RING_CAPACITY = 100
"""Events a ring holds before it drops the oldest (SEEDS section 0: `buffer_capacity`)."""

DEFAULT_RING_BUDGET = 64 * 1024 * 1024
"""Bytes of distinct events that all rings of a process hold together. Stops stalled readers from filling memory."""

EVENT_OVERHEAD = 1024
"""Bytes counted for an event beside its payload."""


class Parcel:
    """One event on its way: the event, the bytes that its frames share per wire, how many rings hold it, and what
    became of it in this write batch."""

    __slots__ = ("_position", "bodies", "event", "holders", "outcomes", "size")

    def __init__(self, event: Event) -> None:
        self.event = event
        self._position: Position | None = None
        self.bodies: dict[str, bytes] = {}
        self.outcomes: dict[tuple[str, Outcome], list[str]] = {}
        self.holders = 0
        self.size = len(event.payload_json) + EVENT_OVERHEAD

    def position(self, epoch: str) -> Position:
        """Where the event stands in a log of that epoch. Shared, since every frame names it."""
        known = self._position
        if known is None or known.epoch != epoch:
            known = self._position = Position(epoch, self.event.seq)
        return known


class Entry(NamedTuple):
    """One event for one connection, with every subscription of it that the event matches."""

    parcel: Parcel
    subscriptions: list[Subscription]


class RingBudget:
    """Counts the bytes of the distinct events that rings hold."""

    __slots__ = ("limit", "used")

    def __init__(self, limit: int = DEFAULT_RING_BUDGET) -> None:
        self.limit = limit
        self.used = 0

    def hold(self, parcel: Parcel) -> None:
        parcel.holders += 1
        if parcel.holders == 1:
            self.used += parcel.size

    def release(self, parcel: Parcel) -> None:
        parcel.holders -= 1
        if parcel.holders == 0:
            self.used -= parcel.size


class Ring:
    """At most `capacity` entries, oldest first, within the process's budget."""

    __slots__ = ("_budget", "_entries", "capacity")

    def __init__(self, budget: RingBudget, capacity: int = RING_CAPACITY) -> None:
        self._budget = budget
        self._entries: deque[Entry] = deque()
        self.capacity = capacity

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def push(self, entry: Entry) -> list[Entry]:
        """Take `entry`; answers what had to go for it, oldest first: entries beyond the capacity, or, when the
        budget is spent, this ring's own oldest, at last the entry itself."""
        self._budget.hold(entry.parcel)
        self._entries.append(entry)
        dropped: list[Entry] = []
        while len(self._entries) > self.capacity or (self._entries and self._budget.used > self._budget.limit):
            dropped.append(self.pop())
        return dropped

    def pop(self) -> Entry:
        """The oldest entry."""
        entry = self._entries.popleft()
        self._budget.release(entry.parcel)
        return entry

    def discard(self, unwanted: list[Entry]) -> None:
        """Take out exactly these entries (by identity)."""
        gone = {id(entry) for entry in unwanted}
        kept = [entry for entry in self._entries if id(entry) not in gone]
        for entry in unwanted:
            self._budget.release(entry.parcel)
        self._entries = deque(kept)

    def clear(self) -> None:
        while self._entries:
            self.pop()
