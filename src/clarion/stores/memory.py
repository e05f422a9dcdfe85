"""Every port in memory: for tests, and for a library user who wants push but no durability.

All of it runs on the event loop and nothing waits, so each method is one transaction by itself. "Durable" means here
"until the process ends".
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import islice

from clarion.errors import Conflict, LimitExceeded, StoreUnavailable
from clarion.ids import Randomness, new_epoch
from clarion.model import (
    ApiKey,
    Bounds,
    ConsentEntry,
    ConsentState,
    Counters,
    DeliveryRecord,
    Draft,
    Event,
    PurposeConsent,
    SubjectConsent,
    Subscription,
    TopicDeclaration,
)
from clarion.stores.identity import identity_of
from clarion.stores.protocols import (
    Appended,
    Backend,
    ConflictingEvent,
    DeliveryRow,
    Detach,
    Page,
    Retention,
    Stored,
    SubscriptionLimits,
)
from clarion.stores.tally import Tally, add_counters
from clarion.stores.window import Window

__all__ = ["MAX_EVENTS", "open_memory"]

MAX_EVENTS = 100_000
"""Events of all tenants that are kept unless said otherwise: nobody trims a library user's memory."""

MAX_RECORDS = 100_000
"""Packed audit records that are kept, likewise; counters count on."""

MAX_TALLIED = 20_000
"""The weight (`Tally.weight`) of records after which they are added to the counters, if nobody asked before."""


def open_memory(*, max_events: int = MAX_EVENTS, randomness: Randomness = secrets.token_bytes) -> Backend:
    """An empty store that lives as long as the answer is held. `randomness` names its epoch.

    Of more than `max_events` the oldest are let go, as `trim` does, until a sixteenth of the room is free.
    """
    log = _MemoryLog(randomness, max_events)

    async def aclose() -> None:
        log.closed = True

    return Backend(
        log=log,
        wakeups=log,
        subscriptions=_MemorySubscriptions(),
        audit=_MemoryAudit(),
        keys=_MemoryKeys(),
        consents=_MemoryConsents(),
        topics=_MemoryTopics(),
        aclose=aclose,
    )


@dataclass(slots=True)
class _Marks:
    """A tenant's bounds without the epoch."""

    start: int = 0
    floor: int = 0
    head: int = 0


class _MemoryLog:
    """EventLog and Wakeups."""

    def __init__(self, randomness: Randomness, max_events: int) -> None:
        self.closed = False
        self._max_events = max_events
        self._randomness = randomness
        self._epoch = new_epoch(randomness)
        self._window = Window()
        self._marks: dict[str, _Marks] = {}
        self._known: dict[tuple[str, str, str], tuple[int, bytes]] = {}
        self._hints: dict[object, Callable[[], None]] = {}

    async def append(self, drafts: Sequence[Draft]) -> list[Appended | ConflictingEvent]:
        if self.closed:
            raise StoreUnavailable("The store is closed.")
        stored: list[Stored] = []
        answers = [self._place(draft, stored) for draft in drafts]
        if stored:
            self._window.extend(stored)
            excess = len(self._window.stored) - self._max_events
            if excess > 0:  # making room costs as much for one event as for many
                self._let_go(excess + self._max_events // 16)
            for hint in list(self._hints.values()):
                hint()
        return answers

    def _place(self, draft: Draft, stored: list[Stored]) -> Appended | ConflictingEvent:
        name = (draft.tenant, draft.source, draft.event_id)
        known = self._known.get(name)
        if known is not None:
            seq, digest = known
            if digest == draft.digest:
                return Appended(self._epoch, seq, True)
            return ConflictingEvent(self._epoch, seq)
        marks = self._marks.setdefault(draft.tenant, _Marks())
        marks.head += 1
        self._known[name] = (marks.head, draft.digest)
        stored.append(Stored(self._window.end + len(stored) + 1, Event.of(draft, marks.head)))
        return Appended(self._epoch, marks.head, False)

    async def bounds(self, tenant: str) -> Bounds:
        marks = self._marks.get(tenant) or _Marks()
        return Bounds(self._epoch, marks.start, marks.floor, marks.head)

    async def read(
        self, tenant: str, after: int, *, upto: int | None = None, limit: int, max_bytes: int | None = None
    ) -> Page:
        bounds = await self.bounds(tenant)
        last = bounds.head if upto is None else min(upto, bounds.head)
        return Page(self._window.read(tenant, max(after, bounds.floor), last, limit, max_bytes) or [], bounds)

    async def tail(self, after_offset: int, *, limit: int, max_bytes: int | None = None) -> Sequence[Stored]:
        return self._window.tail(max(after_offset, self._window.first - 1), limit, max_bytes) or []

    async def end(self) -> int:
        return self._window.end

    async def trim(self, retention: Retention) -> int:
        """`max_bytes` is compared with the payloads and a constant for each event."""
        size, count, believed = self._window.size, 0, -1
        recorded_at = 0
        for index, entry in enumerate(self._window.stored):
            if index > believed:
                believed, recorded_at = self._believable(index, retention.now)
            expired = retention.keep_after is not None and recorded_at < retention.keep_after
            if not expired and (retention.max_bytes is None or size <= retention.max_bytes):
                break
            size -= Window.weigh(entry.event)
            count += 1
        self._let_go(count)
        return count

    def _believable(self, index: int, now: int | None) -> tuple[int, int]:
        """The first event from `index` on that was not recorded later than `now`, the last one if there is none, and
        when it was recorded."""
        stored = self._window.stored
        while now is not None and stored[index].event.recorded_at > now and index + 1 < len(stored):
            index += 1
        return index, stored[index].event.recorded_at

    def _let_go(self, count: int) -> None:
        """Forget the oldest `count` events, moving floors with them."""
        for entry in self._window.stored[:count]:
            event = entry.event
            self._marks[event.tenant].floor = event.seq
            del self._known[event.tenant, event.source, event.event_id]
        self._window.evict(self._window.first + count - 1)

    async def renew_epoch(self) -> str:
        self._epoch = new_epoch(self._randomness)
        for marks in self._marks.values():
            marks.start = marks.head
        return self._epoch

    def attach(self, hint: Callable[[], None]) -> Detach:
        token = object()
        self._hints[token] = hint

        def detach() -> None:
            self._hints.pop(token, None)

        return detach


class _MemorySubscriptions:
    def __init__(self) -> None:
        self._rows: dict[str, Subscription] = {}
        self._identities: dict[bytes, str] = {}

    async def put(self, wanted: Subscription, *, limits: SubscriptionLimits) -> tuple[Subscription, bool]:
        identity = identity_of(wanted)
        known = self._identities.get(identity)
        row = self._rows[known] if known is not None else None
        activated = row is None or not row.active
        if activated:
            active = [row for row in self._rows.values() if row.tenant == wanted.tenant and row.active]
            limits.check(len(active), sum(_client_of(row) == _client_of(wanted) for row in active))
        if row is None:
            row = replace(wanted, deleted_at=None)
            self._identities[identity] = row.id
        elif activated or (row.label, row.purpose) != (wanted.label, wanted.purpose):
            row = replace(
                row, label=wanted.label, purpose=wanted.purpose, updated_at=wanted.updated_at, deleted_at=None
            )
        self._rows[row.id] = row
        return row, activated

    async def get(self, tenant: str, subject: str, subscription_id: str) -> Subscription | None:
        row = self._rows.get(subscription_id)
        return row if row is not None and (row.tenant, row.subject) == (tenant, subject) else None

    async def delete(
        self, tenant: str, subject: str, subscription_id: str, at: int, *, limits: SubscriptionLimits
    ) -> Subscription | None:
        row = await self.get(tenant, subject, subscription_id)
        if row is not None and row.active:
            row = replace(row, deleted_at=at, updated_at=at)
            self._rows[row.id] = row
            self._purge(row, limits)
        return row

    def _purge(self, row: Subscription, limits: SubscriptionLimits) -> None:
        """Forget what was deleted first of the client and of the tenant of `row`, beyond `limits`."""
        deleted = [one for one in self._rows.values() if one.tenant == row.tenant and not one.active]
        deleted.sort(key=lambda one: one.deleted_at or 0)
        mine = [one for one in deleted if _client_of(one) == _client_of(row)]
        for some, limit in ((mine, limits.deleted_per_client), (deleted, limits.deleted_per_tenant)):
            for one in some[: max(0, len(some) - limit)]:
                if self._rows.pop(one.id, None) is not None:
                    del self._identities[identity_of(one)]

    async def of_client(
        self, tenant: str, subject: str, client_id: str, *, include_deleted: bool = False
    ) -> list[Subscription]:
        rows = (row for row in self._rows.values() if (row.tenant, row.subject) == (tenant, subject))
        mine = [row for row in rows if row.client_id == client_id and (include_deleted or row.active)]
        return sorted(mine, key=lambda row: row.created_at)

    async def of_tenant(
        self, tenant: str, *, include_deleted: bool = False, limit: int, after_id: str | None = None
    ) -> list[Subscription]:
        rows = (row for row in self._rows.values() if row.tenant == tenant and (include_deleted or row.active))
        page = sorted((row for row in rows if after_id is None or row.id > after_id), key=lambda row: row.id)
        return page[:limit]

    async def count(self, tenant: str) -> tuple[int, int]:
        rows = [row.active for row in self._rows.values() if row.tenant == tenant]
        return rows.count(True), rows.count(False)


def _client_of(row: Subscription) -> tuple[str, str, str]:
    return row.tenant, row.subject, row.client_id


class _MemoryAudit:
    def __init__(self) -> None:
        self._records: deque[DeliveryRecord] = deque(maxlen=MAX_RECORDS)
        self._counters: dict[tuple[str, str], Counters] = {}
        self._tally = Tally()

    def record(self, records: Sequence[DeliveryRecord]) -> None:
        self._records.extend(records)
        for record in records:
            self._tally.add(record)
        if self._tally.weight > MAX_TALLIED:
            self._settle()

    def _settle(self) -> None:
        """Add what was tallied to the counters; done late, so that what came often is added once."""
        tally, self._tally = self._tally, Tally()
        for name, (delivered, dropped, refused, last) in tally.counts().items():
            more = Counters(delivered or 0, dropped or 0, refused or 0, last)
            self._counters[name] = add_counters(self._counters.get(name, Counters()), more)

    @property
    def roomy(self) -> bool:
        return True

    async def room(self) -> None:
        """Nothing is ever unwritten."""

    async def flush(self) -> None:
        """Nothing is ever unwritten."""

    async def counters(self, tenant: str, subscription_ids: Collection[str]) -> Mapping[str, Counters]:
        self._settle()
        return {one: self._counters.get((tenant, one), Counters()) for one in subscription_ids}

    async def totals(self, tenant: str) -> Counters:
        self._settle()
        mine = (counters for (name, _), counters in self._counters.items() if name == tenant)
        return reduce(add_counters, mine, Counters())

    async def rows(self, tenant: str, *, subscription_id: str | None = None, limit: int) -> list[DeliveryRow]:
        wanted = [one for one in self._records if one.tenant == tenant]
        wanted.sort(key=lambda one: one.at)
        rows = (
            DeliveryRow(one.seq, one.event_id, one.topic, one.wire, one.outcome.value, one.at, each)
            for one in reversed(wanted)
            for each in one.subscription_ids
            if subscription_id is None or each == subscription_id
        )
        return list(islice(rows, limit))

    async def trim(self, keep_after: int) -> int:
        kept = [one for one in self._records if one.at >= keep_after]
        gone = len(self._records) - len(kept)
        self._records = deque(kept, MAX_RECORDS)
        return gone


class _MemoryKeys:
    def __init__(self) -> None:
        self._keys: dict[str, ApiKey] = {}

    async def add(self, key: ApiKey) -> None:
        if key.key_id in self._keys:
            raise Conflict("The key id is taken.")
        self._keys[key.key_id] = key

    async def find(self, key_id: str) -> ApiKey | None:
        return self._keys.get(key_id)

    async def of_tenant(self, tenant: str) -> list[ApiKey]:
        return sorted((key for key in self._keys.values() if key.tenant == tenant), key=lambda key: key.created_at)

    async def revoke(self, tenant: str, key_id: str, at: int) -> ApiKey | None:
        key = self._keys.get(key_id)
        if key is None or key.tenant != tenant:
            return None
        if key.revoked_at is None:
            key = self._keys[key_id] = replace(key, revoked_at=at)
        return key


class _MemoryConsents:
    def __init__(self) -> None:
        self._ledgers: dict[str, list[ConsentEntry]] = {}
        self._states: dict[tuple[str, str], SubjectConsent] = {}

    async def append(self, entry: ConsentEntry) -> ConsentEntry:
        ledger = self._ledgers.setdefault(entry.tenant, [])
        placed = replace(entry, seq=len(ledger) + 1)
        ledger.append(placed)
        name = (entry.tenant, entry.subject)
        self._states[name] = _after(self._states.get(name, SubjectConsent()), placed)
        return placed

    async def states(self, tenant: str, subjects: Collection[str]) -> dict[str, SubjectConsent]:
        return {subject: self._states.get((tenant, subject), SubjectConsent()) for subject in subjects}

    async def history(self, tenant: str, subject: str, *, limit: int) -> list[ConsentEntry]:
        mine = [entry for entry in reversed(self._ledgers.get(tenant, [])) if entry.subject == subject]
        return mine[:limit]


def _after(consent: SubjectConsent, entry: ConsentEntry) -> SubjectConsent:
    """What `consent` is once `entry` stands in the ledger."""
    match entry.state:
        case ConsentState.SUPPRESSED:
            return replace(consent, suppressed_by=entry.reason or "admin")
        case ConsentState.RELEASED:
            return replace(consent, suppressed_by=None)
        case _:
            line = PurposeConsent(entry.state, entry.seq, entry.expires_at)
            held = dict(consent.purposes)
            if entry.purpose is None and entry.state is ConsentState.WITHDRAWN:
                held = dict.fromkeys(held, line)
            return replace(consent, purposes={**held, entry.purpose: line})


class _MemoryTopics:
    def __init__(self) -> None:
        self._declarations: dict[str, dict[str, TopicDeclaration]] = {}

    async def put(self, tenant: str, declaration: TopicDeclaration, *, limit: int) -> None:
        mine = self._declarations.setdefault(tenant, {})
        if declaration.pattern not in mine and len(mine) >= limit:
            raise LimitExceeded(f"The tenant has declared {limit} topics, which is its limit.")
        mine[declaration.pattern] = declaration

    async def of_tenant(self, tenant: str) -> list[TopicDeclaration]:
        mine = self._declarations.get(tenant, {})
        return [mine[pattern] for pattern in sorted(mine)]
