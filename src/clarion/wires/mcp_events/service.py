"""The Events methods without any SDK: requests in, results out, errors as Clarion's own.

Every request stands for itself: what was polled before is not needed to answer. What is kept beside is how quiet a
subscription is, for `nextPollMs`, and which streams are open, so that they can be told and ended by event type.
"""

from __future__ import annotations

import asyncio
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from clarion.encoding import encode
from clarion.errors import InvalidInput
from clarion.hub.protocols import Sink
from clarion.model import isoformat
from clarion.wires.mcp_events.cursors import MAX_CURSOR_LENGTH
from clarion.wires.mcp_events.protocol import (
    Caller,
    EventType,
    Live,
    Mode,
    Occurrence,
    Offer,
    Offered,
    Portion,
    StreamFraming,
    Wanted,
)

__all__ = [
    "DEFAULT_POLL_EVENTS",
    "MAX_ARGUMENT_BYTES",
    "MAX_POLL_EVENTS",
    "MAX_POLL_MS",
    "MAX_WAIT_MS",
    "MIN_POLL_MS",
    "PAGE_SIZE",
    "EventsService",
]

PAGE_SIZE = 50
"""Event types on a page of `events/list`."""

DEFAULT_POLL_EVENTS = 100
"""Events in the answer to a poll that does not say how many it wants."""

MAX_POLL_EVENTS = 500
"""Events in the answer to any poll. Bounds what one answer can take."""

MAX_WAIT_MS = 30_000
"""The longest that a poll waits (`timeoutMs`): below the time-outs that clients have by default."""

MIN_POLL_MS = 1_000
"""`nextPollMs` after a poll that gave events: what clients do not go below by themselves."""

MAX_POLL_MS = 30_000
"""`nextPollMs` of a subscription that has been quiet for long; it doubles up to this."""

MAX_PACES = 10_000
"""Subscriptions whose quietness is remembered. Stops made-up arguments from filling the memory."""

MAX_ARGUMENT_BYTES = 16 * 1024
"""Bytes of a subscription's arguments as JSON. Stops arguments that fill the memory, where open ones stay."""

MAX_NAME_LENGTH = 256
"""Characters of an event name that is looked up."""


class EventsService:
    """Serves one offer. `page_size`: event types on a page of `events/list`."""

    def __init__(self, offer: Offer, *, page_size: int = PAGE_SIZE) -> None:
        self.offer = offer
        self._page_size = page_size
        self._paces: OrderedDict[str, int] = OrderedDict()
        self._live: dict[Live, tuple[str, str]] = {}
        self.ending: asyncio.Event | None = None
        """Set when the server is being stopped: what is open and no stream of the hub ends by itself. None before the
        server runs."""

    # -- events/list ------------------------------------------------------------------------------------------------

    async def list(self, caller: Caller, params: Mapping[str, Any]) -> dict[str, Any]:
        """A page of `events/list`. Raises InvalidInput for a cursor that was never given."""
        cursor = _text(params, "cursor", limit=MAX_CURSOR_LENGTH)
        types = await self.offer.listing(caller)
        begin = 0 if cursor is None else _after(cursor, types)
        page = types[begin : begin + self._page_size]
        result: dict[str, Any] = {"resultType": "complete", "events": [_descriptor(each) for each in page]}
        if begin + self._page_size < len(types):
            result["nextCursor"] = urlsafe_b64encode(page[-1].name.encode()).decode()
        return result

    # -- events/poll ------------------------------------------------------------------------------------------------

    async def poll(self, caller: Caller, params: Mapping[str, Any]) -> dict[str, Any]:
        """One poll. Raises InvalidInput, NotFound, Unsupported, Forbidden, LimitExceeded, StoreUnavailable."""
        limit = min(_count(params, "maxEvents", least=1) or DEFAULT_POLL_EVENTS, MAX_POLL_EVENTS)
        wait = min(_count(params, "timeoutMs") or 0, MAX_WAIT_MS) / 1000
        wanted = _wanted(caller, params)
        offered = await self.offer.open(wanted, Mode.POLL)
        portion = await offered.poll(limit, wait)
        return {
            "resultType": "complete",
            "events": [_occurrence(each) for each in portion.occurrences],
            "cursor": portion.cursor,
            "truncated": portion.truncated,
            "hasMore": portion.more,
            "nextPollMs": self._next_poll_ms(wanted, portion),
        }

    def _next_poll_ms(self, wanted: Wanted, portion: Portion) -> int:
        """Sooner after events, later the longer there were none."""
        if portion.next_poll_ms is not None:
            return portion.next_poll_ms
        key, paces = wanted.subscription_id, self._paces
        quiet = 0 if portion.occurrences or wanted.cursor is None else paces.get(key, 0) + 1
        paces[key] = quiet
        paces.move_to_end(key)
        if len(paces) > MAX_PACES:
            paces.popitem(last=False)
        return min(MIN_POLL_MS << min(quiet, 8), MAX_POLL_MS)

    # -- events/stream ----------------------------------------------------------------------------------------------

    async def open(self, caller: Caller, params: Mapping[str, Any]) -> tuple[Wanted, Offered]:
        """What a stream is to be opened of. Raises as `poll` does, before anything is written."""
        wanted = _wanted(caller, params)
        return wanted, await self.offer.open(wanted, Mode.PUSH)

    @asynccontextmanager
    async def streaming(
        self, wanted: Wanted, offered: Offered, framing: StreamFraming, sink: Sink
    ) -> AsyncIterator[Live]:
        """The stream, known by its type and tenant as long as it is open."""
        async with offered.stream(framing, sink) as live:
            self._live[live] = (wanted.name, wanted.caller.principal.tenant)
            try:
                yield live
            finally:
                del self._live[live]

    def streams(self, name: str, tenant: str | None = None) -> Iterator[Live]:
        """The open streams of an event type, of one tenant or of all."""
        found = [live for live, (of, its) in self._live.items() if of == name and tenant in (None, its)]
        return iter(found)

    @property
    def open_streams(self) -> int:
        return len(self._live)


def _wanted(caller: Caller, params: Mapping[str, Any]) -> Wanted:
    name = _text(params, "name", limit=MAX_NAME_LENGTH)
    if not name:
        raise InvalidInput("name is required: the name of an event type of events/list", field="name", rule="required")
    arguments = params.get("arguments")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise InvalidInput("arguments must be an object", field="arguments", rule="object")
    size = len(encode(arguments, field="arguments"))
    if size > MAX_ARGUMENT_BYTES:
        raise InvalidInput(
            f"arguments have {size} bytes as JSON; at most {MAX_ARGUMENT_BYTES} are allowed",
            field="arguments",
            rule="length",
        )
    max_age = _count(params, "maxAgeMs")
    cursor = params.get("cursor")
    if cursor is not None and not isinstance(cursor, str):
        raise InvalidInput("cursor must be a string or null", field="cursor", rule="string")
    return Wanted(caller, name, arguments, cursor, None if max_age is None else max_age * 1000)


def _text(params: Mapping[str, Any], field: str, *, limit: int) -> str | None:
    value = params.get(field)
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidInput(f"{field} must be a string", field=field, rule="string")
    if len(value) > limit:
        raise InvalidInput(f"{field} has {len(value)} characters; at most {limit}", field=field, rule="length")
    return value


def _count(params: Mapping[str, Any], field: str, *, least: int = 0) -> int | None:
    value = params.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**53:
        raise InvalidInput(f"{field} must be an integer of at least {least}", field=field, rule="integer")
    return value


def _after(cursor: str, types: Any) -> int:
    try:
        name = urlsafe_b64decode(cursor.encode()).decode()
        return 1 + [each.name for each in types].index(name)
    except (Base64Error, UnicodeError, ValueError):
        raise InvalidInput(
            "cursor is no page of this list; ask for the list without one", field="cursor", rule="cursor"
        ) from None


def _descriptor(event_type: EventType) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": event_type.name,
        "description": event_type.description,
        "delivery": [mode.value for mode in event_type.delivery],
        "inputSchema": dict(event_type.input_schema),
        "payloadSchema": dict(event_type.payload_schema),
    }
    if event_type.meta:
        described["_meta"] = dict(event_type.meta)
    return described


def _occurrence(occurrence: Occurrence) -> dict[str, Any]:
    event: dict[str, Any] = {
        "eventId": occurrence.event_id,
        "name": occurrence.name,
        "timestamp": isoformat(occurrence.timestamp),
        "data": dict(occurrence.data),
    }
    if occurrence.meta:
        event["_meta"] = dict(occurrence.meta)
    return event
