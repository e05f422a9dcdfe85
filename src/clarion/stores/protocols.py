"""The ports that every backend implements. Contract suites in `clarion.testing.contracts` say what each must do.

Every query names its tenant; the two exceptions read the store's own order (`EventLog.tail`) or look a key up by its
id, before there is a tenant (`Keys.find`). Methods raise StoreUnavailable when the store cannot be used right now:
a failed write has stored nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from clarion.errors import LimitExceeded
from clarion.model import (
    ApiKey,
    Bounds,
    ConsentEntry,
    Counters,
    DeliveryRecord,
    Draft,
    Event,
    SubjectConsent,
    Subscription,
    TopicDeclaration,
)

__all__ = [
    "MAX_DELETED_PER_CLIENT",
    "MAX_SUBSCRIPTIONS_PER_CLIENT",
    "Appended",
    "Audit",
    "Backend",
    "ConflictingEvent",
    "Consents",
    "DeliveryRow",
    "Detach",
    "EventLog",
    "Keys",
    "Page",
    "Retention",
    "Stored",
    "SubscriptionLimits",
    "Subscriptions",
    "Topics",
    "Wakeups",
]

Detach: TypeAlias = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Appended:
    """The draft's position. `duplicate`: it was there already, with the same content; `event_id` is stored."""

    epoch: str
    seq: int
    duplicate: bool


@dataclass(frozen=True, slots=True)
class ConflictingEvent:
    """The draft's (tenant, source, event_id) is taken by other content, recorded at `seq`; nothing was stored."""

    epoch: str
    seq: int


@dataclass(frozen=True, slots=True)
class Stored:
    """An event and the store's own offset of it, which never leaves store and dispatcher."""

    offset: int
    event: Event


@dataclass(frozen=True, slots=True)
class Page:
    """Events in seq order, and the log's bounds in the same snapshot. `bounds.floor > after`: some were lost."""

    events: Sequence[Event]
    bounds: Bounds


@dataclass(frozen=True, slots=True)
class Retention:
    """What to keep of the events of all tenants together: those recorded at or after `keep_after` (microseconds; None:
    any age), and of them the newest that take at most `max_bytes` (None: any size), counting payload, envelope and a
    constant for each, and nothing that is no event. The head event of a tenant may go as well: its seq is never used
    again.

    An event recorded later than `now` (None: there is none such) was written while the clock ran ahead: it counts as
    recorded when the next one was that is not, so that it keeps nothing behind it alive.
    """

    keep_after: int | None = None
    max_bytes: int | None = None
    now: int | None = None


class EventLog(Protocol):
    """The durable log. One order per tenant (`seq`, dense, never restarting) and one of the store (`offset`)."""

    async def append(self, drafts: Sequence[Draft]) -> list[Appended | ConflictingEvent]:
        """Store `drafts` in order, durably, in one transaction; answers stand in the order of the drafts.

        The same (tenant, source, event_id) with the same `digest` answers the first position, with another digest a
        ConflictingEvent; also within one call. Nothing ever appears behind a position that was read.
        """
        ...

    async def bounds(self, tenant: str) -> Bounds:
        """The tenant's bounds; floor, head and start are 0 for a tenant without events."""
        ...

    async def read(
        self, tenant: str, after: int, *, upto: int | None = None, limit: int, max_bytes: int | None = None
    ) -> Page:
        """Up to `limit` events with `after < seq <= upto`, oldest first.

        With `max_bytes` it ends before the payloads would exceed that, yet not before the first event.
        """
        ...

    async def tail(self, after_offset: int, *, limit: int, max_bytes: int | None = None) -> Sequence[Stored]:
        """Up to `limit` events of all tenants with a greater offset, in offset order; empty when there are none.

        `max_bytes` as for `read`.
        """
        ...

    async def end(self) -> int:
        """The offset of the newest event of all tenants, 0 when there has been none."""
        ...

    async def trim(self, retention: Retention) -> int:
        """Delete what `retention` does not keep, oldest first, moving floors with it; answers how many went."""
        ...

    async def renew_epoch(self) -> str:
        """Begin a new epoch at every tenant's head, as a restore must; answers its name."""
        ...


class Wakeups(Protocol):
    """Hints that something was appended. Losing one costs latency, never an event."""

    def attach(self, hint: Callable[[], None]) -> Detach:
        """Call `hint` on the event loop, soon after each append, until the answer is called."""
        ...


MAX_SUBSCRIPTIONS_PER_CLIENT = 256
"""Active subscriptions of one client. An event has a frame for each that it matches, and the frames of one event leave
a stream in one write: 256 of the largest payload are 60 MB."""

MAX_DELETED_PER_CLIENT = 1_000
"""Deleted subscriptions of one client that are kept. Stops subscribing and unsubscribing from filling the disk."""


@dataclass(frozen=True, slots=True)
class SubscriptionLimits:
    """How many active subscriptions a tenant may have and a client of one principal, and how many deleted ones are
    kept of a client; of a tenant, as many as it may have active ones."""

    per_tenant: int
    per_client: int = MAX_SUBSCRIPTIONS_PER_CLIENT
    deleted_per_client: int = MAX_DELETED_PER_CLIENT

    @property
    def deleted_per_tenant(self) -> int:
        return self.per_tenant

    def check(self, of_tenant: int, of_client: int) -> None:
        """May one more be activated, where so many are active? Raises LimitExceeded."""
        if of_client >= self.per_client:
            raise LimitExceeded(
                f"This client has {self.per_client} active subscriptions, its limit; unsubscribe from some, or let one "
                "name several topics.",
                details={"limit": "subscriptions_per_client", "max": self.per_client},
            )
        if of_tenant >= self.per_tenant:
            raise LimitExceeded(
                f"The tenant has {self.per_tenant} active subscriptions, which is its limit.",
                details={"limit": "subscriptions", "max": self.per_tenant},
            )


class Subscriptions(Protocol):
    async def put(self, wanted: Subscription, *, limits: SubscriptionLimits) -> tuple[Subscription, bool]:
        """The subscription with `wanted`'s identity (tenant, subject, client_id, set of topics, filter), stored,
        reactivated, or as it was, with label and purpose of `wanted`; and whether it was newly activated.

        Raises LimitExceeded when it would make more active ones than `limits` allow.
        """
        ...

    async def get(self, tenant: str, subject: str, subscription_id: str) -> Subscription | None:
        """None for an id that is unknown or another principal's, alike."""
        ...

    async def delete(
        self, tenant: str, subject: str, subscription_id: str, at: int, *, limits: SubscriptionLimits
    ) -> Subscription | None:
        """Soft-delete; answers the row, which keeps its first `deleted_at` when it was deleted already.

        Those that were deleted first go for good where more are kept than `limits` allow: they are unknown then.
        """
        ...

    async def of_client(
        self, tenant: str, subject: str, client_id: str, *, include_deleted: bool = False
    ) -> list[Subscription]:
        """Oldest first."""
        ...

    async def of_tenant(
        self, tenant: str, *, include_deleted: bool = False, limit: int, after_id: str | None = None
    ) -> list[Subscription]:
        """A page for administration, ordered by id."""
        ...

    async def count(self, tenant: str) -> tuple[int, int]:
        """How many are active, how many deleted."""
        ...


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """One delivery as the audit shows it: a packed record, unpacked."""

    seq: int
    event_id: str
    topic: str
    wire: str
    outcome: str
    at: int
    subscription_id: str


class Audit(Protocol):
    """Packed delivery records and the counters they add up to, written behind the deliveries.

    A clean `Backend.aclose` writes all that was recorded; a killed process loses at most the last batch.
    """

    def record(self, records: Sequence[DeliveryRecord]) -> None:
        """Take records, without waiting; they and their counters become durable together."""
        ...

    @property
    def roomy(self) -> bool:
        """Whether `room` returns at once."""
        ...

    async def room(self) -> None:
        """Wait while too much is unwritten, so that a stuck disk cannot fill the memory."""
        ...

    async def flush(self) -> None:
        """Wait until all that was recorded before is durable."""
        ...

    async def counters(self, tenant: str, subscription_ids: Collection[str]) -> Mapping[str, Counters]:
        """Counters per subscription, unwritten records included; an id without any has zeros."""
        ...

    async def totals(self, tenant: str) -> Counters:
        """Sums over all of the tenant's subscriptions, unwritten records included."""
        ...

    async def rows(self, tenant: str, *, subscription_id: str | None = None, limit: int) -> list[DeliveryRow]:
        """The newest rows, newest first; durable ones only (`flush` first to see all)."""
        ...

    async def trim(self, keep_after: int) -> int:
        """Delete packed rows older than `keep_after`; counters stay. Answers how many packed rows went."""
        ...


class Keys(Protocol):
    async def add(self, key: ApiKey) -> None: ...

    async def find(self, key_id: str) -> ApiKey | None: ...

    async def of_tenant(self, tenant: str) -> list[ApiKey]: ...

    async def revoke(self, tenant: str, key_id: str, at: int) -> ApiKey | None:
        """None when the tenant has no such key; the first `revoked_at` stays."""
        ...


class Consents(Protocol):
    async def append(self, entry: ConsentEntry) -> ConsentEntry:
        """Append to the ledger, durably, and with it what it says now (see SubjectConsent); answers the entry with its
        `seq`."""
        ...

    async def states(self, tenant: str, subjects: Collection[str]) -> dict[str, SubjectConsent]:
        """What the ledger says now of each of `subjects`; one that it does not know is an empty SubjectConsent."""
        ...

    async def history(self, tenant: str, subject: str, *, limit: int) -> list[ConsentEntry]:
        """The subject's newest entries, newest first."""
        ...


class Topics(Protocol):
    """Topics that tenants declared; built-in ones live in the code."""

    async def put(self, tenant: str, declaration: TopicDeclaration, *, limit: int) -> None:
        """Store or replace. Raises LimitExceeded when it would be more than `limit` for the tenant."""
        ...

    async def of_tenant(self, tenant: str) -> list[TopicDeclaration]:
        """In the order of their patterns."""
        ...


@dataclass(frozen=True, slots=True)
class Backend:
    """The ports of one opened store, and how to close it."""

    log: EventLog
    wakeups: Wakeups
    subscriptions: Subscriptions
    audit: Audit
    keys: Keys
    consents: Consents
    topics: Topics
    aclose: Callable[[], Awaitable[None]]
