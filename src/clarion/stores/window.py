"""A contiguous run of the newest events, found by the store's offset and by tenant and seq.

The memory backend is one without bounds; the SQLite backend keeps a bounded one of what it committed last, so that
the dispatcher and readers near the head cost no database read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from clarion.model import Event
from clarion.stores.protocols import Stored

__all__ = ["Window", "fitting"]

_EVENT_BYTES = 1024
"""What an event is reckoned to take beside its payload, in bytes: an object of two dozen fields."""


def fitting(sizes: Sequence[int], max_bytes: int) -> int:
    """How many of `sizes`, from the first on, add up to at most `max_bytes`; the first one in any case."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if total > max_bytes and count:
            return count
    return len(sizes)


class Window:
    """Events with `first <= offset <= end` and nothing missing between, the oldest of them evicted beyond the bounds.

    Offsets are dense in the store and seqs are dense per tenant, so a run without holes by offset has none by tenant.
    """

    def __init__(self, end: int = 0, *, max_events: int | None = None, max_bytes: int | None = None) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._stored: list[Stored] = []
        self._tenants: dict[str, list[Event]] = {}
        self._first = end + 1
        self.size = 0

    @property
    def first(self) -> int:
        """The offset of the oldest event held, `end + 1` when none is."""
        return self._first

    @property
    def end(self) -> int:
        """The offset of the newest event, held or evicted."""
        return self._first + len(self._stored) - 1

    @property
    def stored(self) -> Sequence[Stored]:
        """What is held, oldest first. Not a copy."""
        return self._stored

    @staticmethod
    def weigh(event: Event) -> int:
        """What `event` adds to `size`, in bytes."""
        return len(event.payload_json) + _EVENT_BYTES

    def extend(self, stored: Sequence[Stored]) -> None:
        """Take newer events, in offset order. After a hole, what was held before it is forgotten."""
        if not stored:
            return
        if stored[0].offset != self.end + 1:
            self._stored, self._tenants, self.size = [], {}, 0
            self._first = stored[0].offset
        self._stored.extend(stored)
        tenants = self._tenants
        size = 0
        for entry in stored:
            event = entry.event
            run = tenants.get(event.tenant)
            if run is None:
                tenants[event.tenant] = [event]
            else:
                run.append(event)
            size += len(event.payload_json)
        self.size += size + _EVENT_BYTES * len(stored)
        self._evict_excess()

    def evict(self, upto: int) -> None:
        """Forget the events with an offset of at most `upto`."""
        self._drop(min(upto - self._first + 1, len(self._stored)))

    def tail(self, after: int, limit: int, max_bytes: int | None = None) -> list[Stored] | None:
        """As `EventLog.tail`; None when some of these events are no longer held."""
        begin = after + 1 - self._first
        if begin < 0:
            return None
        held = self._stored[begin : begin + limit]
        if max_bytes is not None:
            del held[fitting([len(stored.event.payload_json) for stored in held], max_bytes) :]
        return held

    def read(self, tenant: str, after: int, upto: int, limit: int, max_bytes: int | None = None) -> list[Event] | None:
        """As `EventLog.read`, `upto` being a seq that the log has; None when some of these events are not held."""
        run = self._tenants.get(tenant)
        if run is None:
            return None
        begin = after + 1 - run[0].seq
        if begin < 0:
            return None
        end = min(begin + limit, upto + 1 - run[0].seq)
        if end > len(run):
            return None
        held = run[begin:end]
        if max_bytes is not None:
            del held[fitting([len(event.payload_json) for event in held], max_bytes) :]
        return held

    def _evict_excess(self) -> None:
        count = 0
        if self._max_events is not None:
            count = max(0, len(self._stored) - self._max_events)
        if self._max_bytes is not None and self.size > self._max_bytes:
            size = self.size
            for index, entry in enumerate(self._stored):
                if size <= self._max_bytes:
                    count = max(count, index)
                    break
                size -= self.weigh(entry.event)
            else:
                count = len(self._stored)
        self._drop(count)

    def _drop(self, count: int) -> None:
        if count <= 0:
            return
        oldest = [entry.event for entry in self._stored[:count]]
        gone = Counter([event.tenant for event in oldest])
        self.size -= sum([len(event.payload_json) for event in oldest]) + _EVENT_BYTES * count
        for tenant, number in gone.items():
            run = self._tenants[tenant]
            del run[:number]
            if not run:
                del self._tenants[tenant]
        del self._stored[:count]
        self._first += count
