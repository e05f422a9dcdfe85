"""Valid nouns for the suites, each field overridable."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

from clarion.encoding import digest, encode
from clarion.model import (
    ApiKey,
    ConsentEntry,
    ConsentState,
    DeliveryRecord,
    Draft,
    Outcome,
    Role,
    Subscription,
    TopicDeclaration,
)
from clarion.stores.protocols import Backend

__all__ = ["Opening", "consent", "delivery", "draft", "drafts", "key", "subscription", "topic"]

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
