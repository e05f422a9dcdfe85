"""The ring: what a transport has refused to take, and no more.

Rings hold events, not frames; a parcel is one event on its way to many, whose bytes all rings share and which counts
once towards the process's budget (issue 2, "The side channel").
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import NamedTuple

from clarion.model import Event, Outcome, Position, Subscription

__all__ = ["DEFAULT_RING_BUDGET", "RING_CAPACITY", "Entry", "Parcel", "Ring", "RingBudget"]

RING_CAPACITY = 100
"""Events a ring holds before it drops the oldest (SEEDS section 0: `buffer_capacity`)."""

DEFAULT_RING_BUDGET = 64 * 1024 * 1024
"""Bytes of distinct events that all rings of a process hold together. Stops stalled readers from filling memory."""

EVENT_OVERHEAD = 1024
"""Bytes counted for an event beside its payload."""

_SPARE_RANKS = 64
"""Outdated ranks of rings that are kept, beyond as many as there are rings, until all are ranked anew."""


class Parcel:
    """One event on its way: the event, the bytes that its frames share per wire, how many rings hold it, and what
    became of it in this write batch."""

    __slots__ = ("_position", "bodies", "event", "holders", "outcomes", "size")

    def __init__(self, event: Event) -> None:
        self.event = event
        self._position: Position | None = None
        self.bodies: dict[str, bytes] = {}
        self.outcomes: dict[tuple[str, Outcome], list[Sequence[str]]] = {}
        self.holders = 0
        self.size = len(event.payload_json) + EVENT_OVERHEAD

    @property
    def guarded(self) -> bool:
        """The gate has to be asked about it; else everyone may have it who subscribed."""
        event = self.event
        return event.audience is not None or event.expires_at is not None or bool(event.subjects or event.attributes)

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
    """Counts the bytes of the distinct events that rings hold, and knows which ring holds the most."""

    __slots__ = ("_numbers", "_ranked", "_rings", "limit", "parcels", "used")

    def __init__(self, limit: int = DEFAULT_RING_BUDGET) -> None:
        self.limit = limit
        self.used = 0
        self.parcels: dict[Parcel, None] = {}
        """Every event that some ring holds, once."""
        self._rings: dict[Ring, None] = {}
        self._ranked: list[tuple[int, int, Ring]] = []
        self._numbers = count()

    @property
    def exceeded(self) -> bool:
        return self.used > self.limit

    def hold(self, parcel: Parcel) -> None:
        parcel.holders += 1
        if parcel.holders == 1:
            self.used += parcel.size
            self.parcels[parcel] = None

    def release(self, parcel: Parcel) -> None:
        parcel.holders -= 1
        if parcel.holders == 0:
            self.used -= parcel.size
            del self.parcels[parcel]

    def grown(self, ring: Ring) -> None:
        """`ring` holds more than before."""
        self._rings[ring] = None
        heappush(self._ranked, (-ring.held, next(self._numbers), ring))
        if len(self._ranked) > 2 * len(self._rings) + _SPARE_RANKS:
            self._ranked = [(-each.held, next(self._numbers), each) for each in self._rings]
            heapify(self._ranked)

    def emptied(self, ring: Ring) -> None:
        """`ring` holds nothing any more."""
        self._rings.pop(ring, None)

    def largest(self) -> Ring:
        """The ring that holds the most bytes; there must be one that holds something.

        A ring's newest rank is what it held when it last grew, so never too low: one that turns out too high on the
        top is put right there.
        """
        ranked = self._ranked
        while True:
            rank, _, ring = ranked[0]
            if -rank == ring.held and ring:
                return ring
            if ring:
                heapreplace(ranked, (-ring.held, next(self._numbers), ring))
            else:
                heappop(ranked)


class Ring:
    """At most `capacity` entries, oldest first, within the process's budget.

    What has to go is told to `on_drop`, oldest first. When the budget is spent that is the oldest of the ring that
    holds the most, whoever's it is: a reader that stalls on much takes nothing from one that waits for little.
    """

    __slots__ = ("_budget", "_entries", "_on_drop", "capacity", "held")

    def __init__(self, budget: RingBudget, capacity: int = RING_CAPACITY, *, on_drop: Callable[[Entry], None]) -> None:
        self._budget = budget
        self._entries: deque[Entry] | tuple[()] = ()  # a deque while there is something in it: most hold nothing ever
        self._on_drop = on_drop
        self.capacity = capacity
        self.held = 0
        """Bytes of its events, those included that other rings hold as well."""

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def push(self, entry: Entry) -> None:
        """Take `entry`, and drop what does not fit any more: at worst the entry itself."""
        budget = self._budget
        budget.hold(entry.parcel)
        if isinstance(self._entries, tuple):
            self._entries = deque()
        self._entries.append(entry)
        self.held += entry.parcel.size
        budget.grown(self)
        if len(self._entries) > self.capacity:
            self._on_drop(self.pop())
        while budget.exceeded:
            largest = budget.largest()
            largest._on_drop(largest.pop())

    def pop(self) -> Entry:
        """The oldest entry."""
        if isinstance(self._entries, tuple):
            raise IndexError("the ring is empty")
        entry = self._entries.popleft()
        self._let_go(entry)
        return entry

    def discard(self, unwanted: list[Entry]) -> None:
        """Take out exactly these entries (by identity)."""
        if not unwanted:
            return
        gone = {id(entry) for entry in unwanted}
        self._entries = deque(entry for entry in self._entries if id(entry) not in gone)
        for entry in unwanted:
            self._let_go(entry)

    def clear(self) -> None:
        while self._entries:
            self.pop()

    def _let_go(self, entry: Entry) -> None:
        self.held -= entry.parcel.size
        self._budget.release(entry.parcel)
        if not self._entries:
            self._entries = ()
            self._budget.emptied(self)
