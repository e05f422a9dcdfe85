"""What an Events server says, checked once and then typed (SEP-3415 "Event Occurrences", "Error Handling").

Both dialects of error numbers are read: SEP-3415's (-32023 and on) and the earlier sketch's (-32011 and on).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from clarion.client.errors import ServerUnreachable
from clarion.errors import Unsupported

__all__ = [
    "CONNECTION_CLOSED",
    "EXTENSION",
    "FORBIDDEN",
    "INTERNAL",
    "STREAM_PREFIX",
    "SUBSCRIPTION_ID",
    "ConnectionLost",
    "EventDescriptor",
    "EventOccurrence",
    "EventsError",
    "Failure",
    "Gap",
    "Item",
    "Kind",
    "Mode",
    "NoCompatibleDeliveryMode",
    "Terminated",
    "parse_descriptor",
    "parse_error",
    "parse_occurrence",
]

EXTENSION = "io.modelcontextprotocol/events"

SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"
"""Where `_meta` names the stream that a notification belongs to: its request's JSON-RPC id."""

STREAM_PREFIX = "events-"
"""Begins the request ids of streams: texts that are no numbers never meet those which the SDK counts."""

CONNECTION_CLOSED = -32000
"""The SDK's number for a connection that ended, used here for every failure below the protocol."""
INTERNAL = -32603
FORBIDDEN = -32024

Mode: TypeAlias = Literal["poll", "push"]
Kind: TypeAlias = Literal[
    "InvalidRequest",
    "MethodNotFound",
    "InvalidParams",
    "NotFound",
    "Forbidden",
    "ResourceExhausted",
    "Unsupported",
    "CallbackEndpointError",
]

_KINDS: Mapping[int, Kind] = {
    -32600: "InvalidRequest",
    -32601: "MethodNotFound",
    -32602: "InvalidParams",
    -32023: "NotFound",
    -32024: "Forbidden",
    -32025: "ResourceExhausted",
    -32026: "Unsupported",
    -32027: "CallbackEndpointError",
    -32011: "NotFound",
    -32012: "Forbidden",
    -32013: "ResourceExhausted",
    -32014: "Unsupported",
    -32015: "CallbackEndpointError",
}

_PERMANENT: frozenset[Kind] = frozenset(
    ("InvalidRequest", "MethodNotFound", "InvalidParams", "NotFound", "Forbidden", "Unsupported")
)


class NoCompatibleDeliveryMode(Unsupported):
    """The server offers this event type in no delivery mode that this client can use."""


class ConnectionLost(ServerUnreachable):
    """The SDK client's connection is over for good; open another one and subscribe again with the last cursor."""


@dataclass(frozen=True, slots=True)
class EventsError:
    """A JSON-RPC error as the server sent it, or with CONNECTION_CLOSED one that this client met."""

    code: int
    message: str
    data: Any = None

    @property
    def kind(self) -> Kind | None:
        """The error's name, the same for both dialects; None for a number that Events gives no name."""
        return _KINDS.get(self.code)

    @property
    def permanent(self) -> bool:
        """Trying again does not change it."""
        return self.kind in _PERMANENT


@dataclass(frozen=True, slots=True)
class EventDescriptor:
    """One event type of `events/list`; schemas are JSON Schemas, empty when the server gives none."""

    name: str
    description: str
    delivery: tuple[str, ...]
    input_schema: Mapping[str, Any] = field(default_factory=dict, repr=False)
    payload_schema: Mapping[str, Any] = field(default_factory=dict, repr=False)
    meta: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class EventOccurrence:
    """One event. `timestamp` is ISO 8601 as sent.

    `cursor`: the position after it. A stream gives each event one, a poll the last of its page (the page's own);
    None before that one, and without replay.
    """

    event_id: str
    name: str
    timestamp: str
    data: Mapping[str, Any]
    cursor: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Gap:
    """Events may have been missed here. Delivery goes on after `cursor`; None where the type has no replay."""

    cursor: str | None


@dataclass(frozen=True, slots=True)
class Failure:
    """Something failed and the subscription goes on.

    `retry_seconds` is None when the server told of it on a stream that stays open, else the delay before this client
    tries again by itself.
    """

    error: EventsError
    retry_seconds: float | None = None

    @property
    def code(self) -> int:
        return self.error.code

    @property
    def message(self) -> str:
        return self.error.message

    @property
    def data(self) -> Any:
        return self.error.data


@dataclass(frozen=True, slots=True)
class Terminated:
    """The server ended or refused the subscription; nothing comes after it."""

    error: EventsError


Item: TypeAlias = EventOccurrence | Gap | Failure | Terminated


def parse_descriptor(body: object) -> EventDescriptor | None:
    """The entry of `events/list`; None when it is none."""
    if not isinstance(body, Mapping) or not isinstance(body.get("name"), str):
        return None
    modes, description = body.get("delivery"), body.get("description")
    return EventDescriptor(
        name=body["name"],
        description=description if isinstance(description, str) else "",
        delivery=tuple(mode for mode in modes if isinstance(mode, str)) if isinstance(modes, list) else (),
        input_schema=_object(body.get("inputSchema")),
        payload_schema=_object(body.get("payloadSchema")),
        meta=_object(body.get("_meta")),
    )


def parse_occurrence(body: object) -> EventOccurrence | None:
    """The occurrence in a poll result or a notification; None when a required member is missing or of another type."""
    if not isinstance(body, Mapping):
        return None
    event_id, name, timestamp, data = (body.get(part) for part in ("eventId", "name", "timestamp", "data"))
    if not (isinstance(event_id, str) and isinstance(name, str) and isinstance(timestamp, str)):
        return None
    if not event_id or not isinstance(data, Mapping):
        return None
    meta = {key: value for key, value in _object(body.get("_meta")).items() if key != SUBSCRIPTION_ID}
    return EventOccurrence(event_id, name, timestamp, data, _text(body.get("cursor")), meta)


def parse_error(body: object) -> EventsError:
    """The `error` of a notification; one that says so when it is not valid."""
    if isinstance(body, Mapping):
        code, message = body.get("code"), body.get("message")
        if isinstance(code, int) and not isinstance(code, bool) and isinstance(message, str):
            return EventsError(code, message, body.get("data"))
    return EventsError(INTERNAL, "the server sent an error that is not valid")


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
