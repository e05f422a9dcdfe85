"""Drafts to rows, and rows to events."""

from __future__ import annotations

from typing import Any

from clarion.encoding import decode, encode
from clarion.model import Draft, Event
from clarion.stores.protocols import Stored

__all__ = ["EVENT_COLUMNS", "event_row", "stored_events"]

EVENT_COLUMNS = 23
"""Columns of `events`."""


def event_row(draft: Draft, offset: int, tenant: int, seq: int) -> tuple[Any, ...]:
    """The row of `events` for `draft`. What is empty is NULL."""
    return (
        offset,
        tenant,
        seq,
        draft.source,
        draft.event_id,
        draft.topic,
        draft.category,
        draft.recorded_at,
        draft.occurred_at,
        draft.digest,
        draft.origin,
        draft.aggregate_type,
        draft.aggregate_id,
        draft.actor_id,
        draft.correlation_id,
        draft.causation_id,
        None if draft.audience is None else encode(draft.audience).decode(),
        draft.priority,
        draft.key,
        encode(dict(draft.attributes), field="attributes").decode() if draft.attributes else None,
        encode(draft.subjects).decode() if draft.subjects else None,
        draft.expires_at,
        draft.payload_json,
    )


def stored_events(packed: str) -> list[Stored]:
    """What the queries `tail` and `read` answer, a JSON array of rows, in the order of their offsets."""
    rows = sorted(decode(packed), key=_offset_of)
    return [Stored(row[-1], _event(row)) for row in rows]


def _offset_of(row: list[Any]) -> int:
    offset: int = row[-1]
    return offset


def _event(row: list[Any]) -> Event:
    """Columns 0 to 20 in the order of Event's fields; lists and the payload as JSON holds them."""
    row[6] = row[6].encode()
    if row[15] is not None:
        row[15] = tuple(row[15])
    if row[18] is None:
        row[18] = {}
    row[19] = tuple(row[19]) if row[19] is not None else ()
    return Event(*row[:21])
