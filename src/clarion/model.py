"""The nouns of Clarion, frozen: principals, positions, events, subscriptions, consent, keys.

Times are integers, microseconds since the Unix epoch in UTC, named `*_at`; `isoformat` writes one for people.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeAlias

from clarion.encoding import decode
from clarion.errors import InvalidInput

__all__ = [
    "MICROSECONDS",
    "MODULES",
    "After",
    "ApiKey",
    "At",
    "Bounds",
    "ConsentEntry",
    "ConsentState",
    "Counters",
    "DeliveryRecord",
    "Draft",
    "Earliest",
    "Event",
    "Latest",
    "Outcome",
    "Position",
    "Principal",
    "PurposeConsent",
    "Role",
    "Start",
    "SubjectConsent",
    "Subscription",
    "TopicDeclaration",
    "Truncation",
    "isoformat",
    "normal_subject",
    "parse_time",
    "record",
]

if TYPE_CHECKING:
    from dataclasses import dataclass as record
else:

    def record(*, frozen: bool, slots: bool, eq: bool = True):
        """`dataclass` for what is made for every event: frozen to the type checker and by agreement. At run time a
        frozen one sets each field by a function call, which takes six times as long: 1.5 us for an event."""
        return dataclass(slots=slots, eq=eq, unsafe_hash=eq)


MICROSECONDS = 1_000_000
"""Microseconds in a second: the unit of every `*_at` field."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def isoformat(at: int) -> str:
    """`at` (microseconds, UTC) as ISO 8601 with a `Z`, without a fraction when it is zero."""
    return (_EPOCH + timedelta(microseconds=at)).isoformat().replace("+00:00", "Z")


def parse_time(text: str) -> int:
    """ISO 8601 to microseconds; a time without an offset is UTC.

    Raises ValueError for anything else, also for a moment that its offset puts outside of the years 1 to 9999 in UTC,
    which `isoformat` could not write.
    """
    moment = datetime.fromisoformat(text)
    try:
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text!r} lies outside of the years 1 to 9999 in UTC") from None
    return (moment - _EPOCH) // timedelta(microseconds=1)


def normal_subject(subject: str, field: str = "subject") -> str:
    """How a data subject is written wherever one is kept: in the ledger and in events, which compare it exactly.

    The text itself in Unicode's form NFC, so that an accent is one thing however it was typed. Raises InvalidInput
    for blanks at its ends, which nobody sees and which would make it another person.
    """
    if subject != subject.strip():
        raise InvalidInput(f"{field} must not begin or end with blanks", field=field, rule="blanks")
    return unicodedata.normalize("NFC", subject)


MODULES = ("admin",)
"""Parts of the API that a key names beside its role."""


class Role(StrEnum):
    """What a key may do: publishers emit, subscribers subscribe and read, admins both and administration."""

    PUBLISHER = "publisher"
    SUBSCRIBER = "subscriber"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who: a subject within a tenant. Two keys of one subject are one principal."""

    tenant: str
    subject: str


@record(frozen=True, slots=True)
class Position:
    """A place in one tenant's log: everything up to and including `seq` has been passed. Opaque outside."""

    epoch: str
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"


@dataclass(frozen=True, slots=True)
class Earliest:
    """Start before the oldest event that is retained."""


@dataclass(frozen=True, slots=True)
class Latest:
    """Start after the newest event: only what comes from now on."""


@dataclass(frozen=True, slots=True)
class After:
    """Start after `position`."""

    position: Position


class Truncation(StrEnum):
    """Why a position is not one to go on from as if nothing had been missed."""

    RETENTION = "retention"
    """Events after it are no longer kept."""
    EPOCH = "epoch"
    """It belongs to another life of the log."""
    AHEAD = "ahead"
    """It lies past the newest event."""
    UPSTREAM = "upstream"
    """Its source lost events before they were emitted."""
    AGE = "age"
    """Events after it are older than the reader wants to have them."""


@dataclass(frozen=True, slots=True)
class At:
    """Start after `seq`, which was resolved already; `truncated` says why that is not what was asked for."""

    seq: int
    truncated: Truncation | None = None


Start: TypeAlias = Earliest | Latest | After | At


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a tenant's log holds: events with `floor < seq <= head`; this epoch began after `start`."""

    epoch: str
    start: int
    floor: int
    head: int

    def at(self, seq: int) -> Position:
        """The position after `seq`."""
        return Position(self.epoch, seq)

    def resolve(self, start: Start) -> tuple[int, Truncation | None]:
        """The seq to read after, and why events between `start` and there cannot be had, if they cannot.

        A position below the floor continues at the oldest retained event; one of another epoch at this epoch's
        beginning; one past the head, which nobody was ever given, at the head (HOUSE invariant 2).
        """
        match start:
            case Latest():
                return self.head, None
            case Earliest():
                return self.floor, None
            case At(seq, truncated):
                return seq, truncated
            case After(position):
                if position.epoch != self.epoch:
                    return max(self.start, self.floor), Truncation.EPOCH
                if position.seq > self.head:
                    return self.head, Truncation.AHEAD
                behind = position.seq < self.floor
                return max(position.seq, self.floor), Truncation.RETENTION if behind else None


@record(frozen=True, slots=True)
class Draft:
    """An event that was validated and encoded and waits for its position. Built by `sources.emit` only.

    `digest` covers what the caller gave, so that a retry is recognised and other content is a conflict. `recorded_at`
    is the emitter's clock, which may jump: `seq` alone is the order, and retention says what it makes of such moments.
    """

    tenant: str
    source: str
    event_id: str
    topic: str
    category: str
    payload_json: bytes
    digest: bytes
    recorded_at: int
    occurred_at: int
    origin: str | None = None
    aggregate_type: str | None = None
    aggregate_id: str | None = None
    actor_id: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    audience: tuple[str, ...] | None = None
    priority: str = "normal"
    key: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    subjects: tuple[str, ...] = ()
    expires_at: int | None = None


@record(frozen=True, slots=True, eq=False)
class Event:
    """One entry of the log. `payload_json` is the payload as stored: the very bytes that are sent.

    `seq` is dense per tenant; `audience` is the subjects that may see it (None: all of the tenant);
    `subjects` are the people whose data it holds, whom the consent gate asks about.
    """

    tenant: str
    seq: int
    event_id: str
    source: str
    topic: str
    category: str
    payload_json: bytes
    recorded_at: int
    occurred_at: int
    origin: str | None = None
    aggregate_type: str | None = None
    aggregate_id: str | None = None
    actor_id: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    audience: tuple[str, ...] | None = None
    priority: str = "normal"
    key: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    subjects: tuple[str, ...] = ()
    expires_at: int | None = None
    _payload: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def payload(self) -> Mapping[str, Any]:
        """The payload, decoded when first asked for. Shared: do not change it."""
        payload = self._payload
        if payload is None:
            payload = decode(self.payload_json)
            object.__setattr__(self, "_payload", payload)
        return payload

    def forget(self) -> None:
        """Let go of the decoded payload, which takes up to twenty times the memory of `payload_json`: logs and rings
        hold events for long, and count these bytes. It is decoded again when asked for."""
        if self._payload is not None:
            object.__setattr__(self, "_payload", None)

    @classmethod
    def of(cls, draft: Draft, seq: int) -> Event:
        """The event that `draft` became at `seq`."""
        return cls(
            draft.tenant,
            seq,
            draft.event_id,
            draft.source,
            draft.topic,
            draft.category,
            draft.payload_json,
            draft.recorded_at,
            draft.occurred_at,
            draft.origin,
            draft.aggregate_type,
            draft.aggregate_id,
            draft.actor_id,
            draft.correlation_id,
            draft.causation_id,
            draft.audience,
            draft.priority,
            draft.key,
            draft.attributes,
            draft.subjects,
            draft.expires_at,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Subscription:
    """A standing interest of (tenant, principal, client). Identity: client, topics (as a set) and filter."""

    id: str
    tenant: str
    subject: str
    client_id: str
    topics: tuple[str, ...]
    filter: Mapping[str, Any]
    label: str | None
    purpose: str | None
    created_at: int
    updated_at: int
    deleted_at: int | None = None

    @property
    def active(self) -> bool:
        return self.deleted_at is None


class ConsentState(StrEnum):
    """States of the ledger. `suppressed` and `released` move the suppression; the others one purpose or all."""

    GRANTED = "granted"
    WITHDRAWN = "withdrawn"
    PENDING = "pending"
    SUPPRESSED = "suppressed"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class ConsentEntry:
    """One line of the append-only ledger. `purpose` None speaks of every purpose; `seq` orders a tenant's lines."""

    tenant: str
    subject: str
    state: ConsentState
    recorded_at: int
    purpose: str | None = None
    reason: str | None = None
    actor: str | None = None
    proof: str | None = None
    expires_at: int | None = None
    seq: int = 0


@dataclass(frozen=True, slots=True)
class PurposeConsent:
    """The newest line that speaks of one purpose (or of none); `seq` is its place in the ledger."""

    state: ConsentState
    seq: int
    expires_at: int | None = None


@dataclass(frozen=True, slots=True)
class SubjectConsent:
    """What the ledger says of one subject now. `purposes[None]` is the newest line without a purpose.

    A withdrawal without a purpose speaks of every purpose that was named before it: it stands under each of them, and
    what is said later without a purpose does not bring them back.
    """

    suppressed_by: str | None = None
    purposes: Mapping[str | None, PurposeConsent] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key as stored: never the key itself, only `sha256` of it."""

    key_id: str
    tenant: str
    subject: str
    role: Role
    modules: tuple[str, ...]
    sha256: bytes
    created_at: int
    revoked_at: int | None = None

    @property
    def principal(self) -> Principal:
        return Principal(self.tenant, self.subject)


@dataclass(frozen=True, slots=True)
class TopicDeclaration:
    """A topic, or a family of topics (`pattern` ends in `.*`), with what a subscriber needs to know of it."""

    pattern: str
    category: str
    description: str
    schema: Mapping[str, Any] = field(default_factory=dict)
    filter_examples: tuple[Mapping[str, Any], ...] = ()


class Outcome(StrEnum):
    """What became of an event for a set of subscriptions."""

    __hash__ = str.__hash__  # equal to Enum's in effect; that one is Python code, and this is a key per frame

    DELIVERED = "delivered"
    DROPPED = "dropped"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """A packed audit row: one event, one wire, one write batch, one outcome, all subscriptions it concerned."""

    tenant: str
    seq: int
    event_id: str
    topic: str
    wire: str
    outcome: Outcome
    at: int
    subscription_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Counters:
    """Rolling counters of one subscription, or summed over a tenant."""

    delivered: int = 0
    dropped: int = 0
    refused: int = 0
    last_delivered_at: int | None = None
