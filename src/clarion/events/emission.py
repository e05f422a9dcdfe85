"""What an author emits, as the log takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from clarion.errors import InvalidEvent
from clarion.gate import TARGET
from clarion.model import parse_time
from clarion.sources.emit import Emission

__all__ = ["emission_of"]


def emission_of(
    name: str,
    data: Any,
    *,
    source: str,
    event_id: str | None,
    timestamp: datetime | None,
    audience: Sequence[str] | None,
    subjects: Sequence[str],
    subscription_id: str | None,
    meta: Mapping[str, Any] | None,
    expires_at: datetime | None,
) -> Emission:
    """See `Events.emit`. Raises InvalidEvent for data that is no object, and for times without a time zone."""
    if not isinstance(data, Mapping):
        raise InvalidEvent("data must be an object", field="data", rule="type")
    attributes: dict[str, Any] = {}
    if meta:
        attributes["meta"] = dict(meta)
    if subscription_id is not None:
        attributes[TARGET] = subscription_id
    return Emission(
        name,
        data if isinstance(data, dict) else dict(data),
        event_id=event_id,
        source=source,
        audience=audience,
        attributes=attributes,
        subjects=subjects,
        occurred_at=_moment(timestamp, "timestamp"),
        expires_at=_moment(expires_at, "expires_at"),
    )


def _moment(at: datetime | None, field: str) -> int | None:
    """Microseconds since the epoch. A time without an offset is refused: whose it is would be a guess."""
    if at is None:
        return None
    if not isinstance(at, datetime) or at.utcoffset() is None:
        raise InvalidEvent(f"{field} must be a datetime with a time zone", field=field, rule="type")
    try:
        return parse_time(at.isoformat())
    except ValueError:
        raise InvalidEvent(f"{field} lies outside of the years 1 to 9999 in UTC", field=field, rule="range") from None
