"""Gathers what became of events within one write batch into packed audit records, and counts it.

`note` collects on the parcel, `commit` ends the write batch: one record per event, wire and outcome, however many
connections it concerned (issue 2, "Audit").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from clarion.clock import Clock
from clarion.hub.ring import Parcel
from clarion.model import DeliveryRecord, Outcome, Subscription
from clarion.stores.protocols import Audit

__all__ = ["Recorder", "Totals"]


@dataclass(slots=True)
class Totals:
    """What this process has done since it started, for the metrics."""

    events: int = 0
    delivered: int = 0
    dropped: int = 0
    refused: int = 0


class Recorder:
    """One per hub. Whoever notes outcomes commits them in the same tick."""

    __slots__ = ("_audit", "_clock", "_joined", "_noted", "totals")

    def __init__(self, audit: Audit, clock: Clock) -> None:
        self._audit = audit
        self._clock = clock
        self._noted: dict[int, Parcel] = {}
        self._joined: dict[tuple[int, ...], tuple[list[Sequence[str]], tuple[str, ...]]] = {}
        self.totals = Totals()

    def note(self, parcel: Parcel, wire: str, outcome: Outcome, subscriptions: Iterable[Subscription]) -> None:
        """This became of the parcel's event for these subscriptions."""
        self.note_ids(parcel, wire, outcome, [subscription.id for subscription in subscriptions])

    def note_ids(self, parcel: Parcel, wire: str, outcome: Outcome, subscription_ids: Sequence[str]) -> None:
        """As `note`, by their ids."""
        outcomes = parcel.outcomes
        if not outcomes:
            self._noted[id(parcel)] = parcel
        noted = outcomes.get((wire, outcome))
        if noted is None:
            outcomes[wire, outcome] = [subscription_ids]
        else:
            noted.append(subscription_ids)

    def _together(self, noted: list[Sequence[str]]) -> tuple[str, ...]:
        """Those of one record: one tuple for all events that went to the same ones, which the audit looks at once."""
        if len(noted) == 1:
            return tuple(noted[0])
        key = tuple(map(id, noted))
        known = self._joined.get(key)
        if known is None:
            known = self._joined[key] = noted, tuple(chain.from_iterable(noted))  # held, so that the key stays theirs
        return known[1]

    def discard(self) -> None:
        """Forget what was noted since the last commit: it did not come about."""
        for parcel in self._noted.values():
            parcel.outcomes.clear()
        self._noted.clear()

    def commit(self) -> int:
        """Hand what was noted to the audit; answers how many deliveries were among it."""
        if not self._noted:
            return 0
        at, totals, delivered = self._clock.now(), self.totals, 0
        records = []
        for parcel in self._noted.values():
            event = parcel.event
            for (wire, outcome), noted in parcel.outcomes.items():
                ids = self._together(noted)
                if outcome is Outcome.DELIVERED:
                    delivered += len(ids)
                elif outcome is Outcome.DROPPED:
                    totals.dropped += len(ids)
                else:
                    totals.refused += len(ids)
                records.append(
                    DeliveryRecord(event.tenant, event.seq, event.event_id, event.topic, wire, outcome, at, ids)
                )
            parcel.outcomes.clear()
        self._noted.clear()
        if self._joined:
            self._joined = {}
        totals.delivered += delivered
        self._audit.record(records)
        return delivered
