"""Adds up delivery records. A set of subscriptions that many records share is looked at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from clarion.model import Counters, DeliveryRecord, Outcome

__all__ = ["Counts", "Tally", "add_counters"]

Counts = list[int | None]
"""Delivered, dropped, refused, and the moment of the last delivery."""

_PLACES = {Outcome.DELIVERED: 0, Outcome.DROPPED: 1, Outcome.REFUSED: 2}


class _Set:
    """The subscriptions of some records of one tenant, and what became of each of them."""

    __slots__ = ("counts", "ids", "last", "tenant")

    def __init__(self, tenant: str, ids: Sequence[str]) -> None:
        self.tenant = tenant
        self.ids = ids
        self.counts = [0, 0, 0]
        self.last: int | None = None

    def as_counters(self, times: int = 1) -> Counters:
        delivered, dropped, refused = (times * count for count in self.counts)
        return Counters(delivered, dropped, refused, self.last)


class Tally:
    """What some records add up to."""

    __slots__ = ("_sets", "weight")

    def __init__(self) -> None:
        self._sets: dict[tuple[str, int], _Set] = {}
        self.weight = 0
        """One for each record, and one for each subscription that was not shared: what they take in memory."""

    def add(self, record: DeliveryRecord) -> None:
        ids = record.subscription_ids
        key = (record.tenant, id(ids))  # the set holds them, so that no others can take their place
        known = self._sets.get(key)
        self.weight += 1
        if known is None:
            known = self._sets[key] = _Set(record.tenant, ids)
            self.weight += len(ids)
        known.counts[_PLACES[record.outcome]] += 1
        if record.outcome is Outcome.DELIVERED and (known.last is None or record.at > known.last):
            known.last = record.at

    def merge(self, other: Tally) -> None:
        """Add what another one holds."""
        for key, more in other._sets.items():
            known = self._sets.get(key)
            self.weight += sum(more.counts)
            if known is None:
                known = self._sets[key] = _Set(more.tenant, more.ids)
                self.weight += len(more.ids)
            known.counts = [one + another for one, another in zip(known.counts, more.counts, strict=True)]
            known.last = _later(known.last, more.last)

    def counts(self) -> dict[tuple[str, str], Counts]:
        """What became of each (tenant, subscription)."""
        found: dict[tuple[str, str], Counts] = {}
        for each in self._sets.values():
            delivered, dropped, refused = each.counts
            tenant, last = each.tenant, each.last
            for one in each.ids:
                counts = found.get(key := (tenant, one))
                if counts is None:
                    found[key] = [delivered, dropped, refused, last]
                else:
                    counts[0] = (counts[0] or 0) + delivered
                    counts[1] = (counts[1] or 0) + dropped
                    counts[2] = (counts[2] or 0) + refused
                    counts[3] = _later(counts[3], last)
        return found

    def counters(self, tenant: str, wanted: Collection[str]) -> dict[str, Counters]:
        """The same for those of a tenant's subscriptions that are `wanted` and were named."""
        found: dict[str, Counters] = {}
        for each in self._sets.values():
            if each.tenant == tenant:
                for one in each.ids:
                    if one in wanted:
                        found[one] = add_counters(found.get(one, Counters()), each.as_counters())
        return found

    def total(self, tenant: str) -> Counters:
        """The sums over all of a tenant's subscriptions."""
        total = Counters()
        for each in self._sets.values():
            if each.tenant == tenant:
                total = add_counters(total, each.as_counters(len(each.ids)))
        return total


def add_counters(one: Counters, other: Counters) -> Counters:
    return Counters(
        one.delivered + other.delivered,
        one.dropped + other.dropped,
        one.refused + other.refused,
        _later(one.last_delivered_at, other.last_delivered_at),
    )


def _later(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return max(one, other)
