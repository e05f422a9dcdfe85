"""What the author of a server reads and writes: events, who asks for them, and what a check of an upstream gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, TypeAlias

from clarion import model
from clarion.encoding import canonical, decode, encode
from clarion.errors import ClarionError, InvalidInput
from clarion.model import Principal
from clarion.wires.mcp_events.protocol import Wanted

__all__ = ["MAX_EVENT_ID_LENGTH", "Context", "CursorExpired", "Event", "EventResult", "UpstreamCursor"]

UpstreamCursor: TypeAlias = str | int
"""A place in an upstream, in its own words; it comes back as what it was, text or number."""

MAX_EVENT_ID_LENGTH = 256
"""Characters of an event id. Stops an upstream from filling the ids that are remembered to find what came twice."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class CursorExpired(ClarionError):
    """The upstream no longer has what came after this cursor; delivery goes on from its present position."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event, as hooks see it and as a check function gives it.

    `data` is a JSON object. `name` is the event type's and may be left out. `event_id`: the upstream's own, if it has
    one; without it one is derived from name, data, timestamp and cursor, so two events that agree in all of them are
    one. `timestamp`: when it happened; without an offset it is UTC, None is "just now". `meta` is `_meta` on the wire.
    `cursor`: the upstream's position after this event, if it has one for each.
    """

    data: Mapping[str, Any]
    name: str | None = None
    event_id: str | None = None
    timestamp: datetime | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    cursor: UpstreamCursor | None = None

    def replace(self, **changes: Any) -> Event:
        """The same event with other fields, as a `transform` hook answers it."""
        return dataclasses.replace(self, **changes)

    @classmethod
    def of(cls, event: model.Event) -> Event:
        """What is in the log, or came from an upstream. Nobody else's copy: it may be changed."""
        return cls(
            data=decode(event.payload_json),
            name=event.topic,
            event_id=event.event_id,
            timestamp=_EPOCH + timedelta(microseconds=event.occurred_at),
            meta=deepcopy(dict(event.attributes.get("meta", {}))),
        )

    def checked(self, tenant: str, name: str, now: int) -> model.Event:
        """What a check gave, as the wires carry it: outside of any log, so at no position; `now` in microseconds.

        Raises InvalidInput naming the field that cannot be used.
        """
        if self.name is not None and self.name != name:
            raise InvalidInput("the event names another event type than the one that was checked", field="name")
        payload = _object(self.data, "data")
        meta = _object(self.meta, "meta")
        occurred_at = now if self.timestamp is None else _microseconds(self.timestamp)
        return model.Event(
            tenant=tenant,
            seq=0,
            event_id=self._derived_id(name, payload) if self.event_id is None else _usable_id(self.event_id),
            source="check",
            topic=name,
            category="custom",
            payload_json=payload,
            recorded_at=now,
            occurred_at=occurred_at,
            attributes={"meta": decode(meta)} if self.meta else {},
        )

    def _derived_id(self, name: str, payload: bytes) -> str:
        at = None if self.timestamp is None else _microseconds(self.timestamp)
        return f"evt_{sha256(canonical([name, decode(payload), at, self.cursor])).hexdigest()[:24]}"


@dataclass(frozen=True, slots=True)
class EventResult:
    """What a check function answers, for those who prefer names to a pair. Events are in the upstream's order.

    `more`: the upstream has further events already, so that the next check need not wait.
    """

    events: Iterable[Event | Mapping[str, Any]]
    cursor: UpstreamCursor
    more: bool = False


@dataclass(frozen=True, slots=True)
class Context:
    """Who asks, and for what: the `ctx` of every hook. `claims` are the access token's. It is the hook's own copy."""

    principal: Principal
    subscription_id: str
    name: str
    claims: Mapping[str, Any]
    client_id: str
    arguments: Mapping[str, Any]

    @classmethod
    def of(cls, wanted: Wanted) -> Context:
        caller = wanted.caller
        return cls(
            principal=caller.principal,
            subscription_id=wanted.subscription_id,
            name=wanted.name,
            claims=deepcopy(dict(caller.claims)),
            client_id=caller.client_id,
            arguments=deepcopy(dict(wanted.arguments)),
        )

    def copy(self) -> Context:
        """One that a hook may change without anybody else noticing."""
        return dataclasses.replace(self, claims=deepcopy(dict(self.claims)), arguments=deepcopy(dict(self.arguments)))

    def anonymous(self) -> Context:
        """The tenant's, and nobody's in it: for upstreams that everybody in a tenant sees alike."""
        return dataclasses.replace(
            self, principal=Principal(self.principal.tenant, ""), subscription_id="", claims={}, client_id=""
        )


def _object(value: Any, field: str) -> bytes:
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{field} must be a JSON object", field=field, rule="type")
    return encode(dict(value), field=field)


def _microseconds(moment: datetime) -> int:
    if not isinstance(moment, datetime):
        raise InvalidInput("timestamp must be a datetime", field="timestamp", rule="type")
    try:
        return model.parse_time(moment.isoformat())
    except ValueError:
        raise InvalidInput("timestamp lies outside of the years 1 to 9999 in UTC", field="timestamp") from None


def _usable_id(event_id: str) -> str:
    if not isinstance(event_id, str) or not 0 < len(event_id) <= MAX_EVENT_ID_LENGTH:
        raise InvalidInput(f"event_id must be text of 1 to {MAX_EVENT_ID_LENGTH} characters", field="event_id")
    try:
        event_id.encode()
    except UnicodeEncodeError:
        raise InvalidInput("event_id holds a lone surrogate", field="event_id") from None
    return event_id
