"""Valid nouns for the suites, each field overridable."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, TypeAlias

from clarion.encoding import digest, encode
from clarion.model import (
    ApiKey,
    ConsentEntry,
    ConsentState,
    DeliveryRecord,
    Draft,
    Event,
    Outcome,
    Role,
    Subscription,
    TopicDeclaration,
)
from clarion.stores.protocols import Backend, SubscriptionLimits

__all__ = [
    "FULL",
    "Opening",
    "at_most",
    "consent",
    "delivery",
    "draft",
    "drafts",
    "fields_of",
    "key",
    "sized",
    "subscription",
    "topic",
]

Opening: TypeAlias = AbstractAsyncContextManager[Backend]


def draft(event_id: str, *, payload: dict[str, Any] | None = None, **changes: Any) -> Draft:
    """A draft of tenant `acme`; its digest follows the payload unless given."""
    content = {"n": 1} if payload is None else payload
    fields: dict[str, Any] = {
        "tenant": "acme",
        "source": "api",
        "event_id": event_id,
        "topic": "deal.won",
        "category": "crm",
        "payload_json": encode(content),
        "digest": digest(content),
        "recorded_at": 1_000_000,
        "occurred_at": 900_000,
    }
    return Draft(**(fields | changes))


def sized(size: int) -> bytes:
    """A payload of so many bytes."""
    return b'{"x":"' + b"x" * (size - 8) + b'"}'


FULL = draft(
    "full",
    payload={"name": "Zoë", "deep": {"list": [1, 2.5, None, True]}, "big": 2**63, "quote": '\\"\n\0'},
    topic="deal.stage_changed",
    source="github",
    occurred_at=-5,
    recorded_at=2**53,
    origin="alice",
    aggregate_type="deal",
    aggregate_id='d"1\\',
    actor_id="u-1",
    correlation_id="c-1",
    causation_id="c-0",
    audience=("alice", "bob"),
    priority="urgent",
    key="k",
    attributes={"region": "eu", "n": 1, "nested": {"a": [1, 0.1]}},
    subjects=("person:1", "person:2"),
    expires_at=99,
)
"""A draft with every field set, some of them to what is awkward to store."""


def fields_of(event: Event) -> dict[str, Any]:
    """The event's fields, for events themselves are compared by identity."""
    return {name: getattr(event, name) for name in Event.__slots__ if name != "_payload"}


def drafts(count: int, *, first: int = 1, **changes: Any) -> list[Draft]:
    """`count` drafts with the ids e<first>, e<first+1>, ..."""
    return [draft(f"e{number}", payload={"n": number}, **changes) for number in range(first, first + count)]


def subscription(name: str, **changes: Any) -> Subscription:
    """An active subscription of alice at acme with the id `name`."""
    fields: dict[str, Any] = {
        "id": name,
        "tenant": "acme",
        "subject": "alice",
        "client_id": "laptop",
        "topics": ("deal.*",),
        "filter": {},
        "label": None,
        "purpose": None,
        "created_at": 10,
        "updated_at": 10,
    }
    return Subscription(**(fields | changes))


def at_most(per_tenant: int, **changes: int) -> SubscriptionLimits:
    """Limits of which only that of the tenant is in the way."""
    return replace(SubscriptionLimits(per_tenant), **changes)


def delivery(seq: int, *subscription_ids: str, **changes: Any) -> DeliveryRecord:
    """A packed record of acme's event `seq`, delivered."""
    fields: dict[str, Any] = {
        "tenant": "acme",
        "seq": seq,
        "event_id": f"e{seq}",
        "topic": "deal.won",
        "wire": "sse",
        "outcome": Outcome.DELIVERED,
        "at": seq,
        "subscription_ids": subscription_ids,
    }
    return DeliveryRecord(**(fields | changes))


def key(key_id: str, **changes: Any) -> ApiKey:
    """A subscriber's key of alice at acme."""
    fields: dict[str, Any] = {
        "key_id": key_id,
        "tenant": "acme",
        "subject": "alice",
        "role": Role.SUBSCRIBER,
        "modules": (),
        "sha256": b"\x01" * 32,
        "created_at": 5,
    }
    return ApiKey(**(fields | changes))


def consent(subject: str, state: ConsentState, **changes: Any) -> ConsentEntry:
    """A line of acme's ledger."""
    fields: dict[str, Any] = {"tenant": "acme", "subject": subject, "state": state, "recorded_at": 7}
    return ConsentEntry(**(fields | changes))


def topic(pattern: str, **changes: Any) -> TopicDeclaration:
    """A declaration in category custom."""
    fields: dict[str, Any] = {"pattern": pattern, "category": "custom", "description": f"About {pattern}."}
    return TopicDeclaration(**(fields | changes))
