"""An upstream with a cursor of its own, asked through the function that the author of an event type wrote for it.

A place in it is a cursor that the upstream gave, and how many events after it were passed already: a check answers
with as many events as it likes, and not each of them need have a cursor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from clarion.clock import Clock
from clarion.encoding import decode, encode
from clarion.errors import ClarionError, HookFailed, InvalidInput
from clarion.events.hooks import Hook, HookRunner, Misfit
from clarion.events.occurrence import Context, CursorExpired, Event, UpstreamCursor
from clarion.hub.protocols import Lens
from clarion.hub.ring import Parcel
from clarion.model import Subscription
from clarion.wires.mcp_events.cursors import MAX_UPSTREAM_CURSOR_LENGTH, Cursors

__all__ = ["DEFAULT_INTERVAL", "EVENTS_AT_ONCE", "Batch", "CheckType", "Item", "Place", "Reader", "Upstream"]

DEFAULT_INTERVAL = 10.0
"""Seconds between two checks of an upstream whose author named no interval."""

EVENTS_AT_ONCE = 64
"""Events that are prepared in one turn of the event loop. Stops a large answer from holding up everybody else."""

OFFSET_LENGTH = 32
"""Characters that are left for what stands beside an upstream's cursor in a place."""


@dataclass(frozen=True, slots=True)
class CheckType:
    """An event type whose events come from an upstream.

    `check(ctx, arguments, cursor) -> (events, cursor)`, plain or async; without a cursor it answers the present one.
    It is called every `interval` seconds while a stream is open. `shared`: every principal of a tenant sees the same
    upstream, so that one call serves them all; its `ctx` then names nobody.
    """

    name: str
    check: Callable[..., Any]
    interval: float | None = None
    shared: bool = False

    def __post_init__(self) -> None:
        if self.interval is not None and not self.interval > 0:
            raise InvalidInput("interval must be a positive number of seconds", field="interval", rule="minimum")

    @property
    def seconds(self) -> float:
        return DEFAULT_INTERVAL if self.interval is None else self.interval


@dataclass(frozen=True, slots=True)
class Place:
    """After `cursor`, and after `passed` events more."""

    cursor: UpstreamCursor
    passed: int = 0

    def write(self) -> str:
        return encode([self.cursor, self.passed] if self.passed else self.cursor).decode()

    @classmethod
    def read(cls, text: str) -> Place | None:
        """What `write` wrote; None for anything else."""
        try:
            value = decode(text)
        except ClarionError:
            return None
        cursor, passed = value if isinstance(value, list) and len(value) == 2 else (value, 0)
        return cls(cursor, passed) if _is_cursor(cursor) and _is_count(passed) else None


@dataclass(frozen=True, slots=True)
class Item:
    """One event of a batch, or why it cannot be had. `cursor` is its own, if it has one."""

    parcel: Parcel | None
    cursor: UpstreamCursor | None = None
    failure: HookFailed | None = None

    @property
    def event_id(self) -> str | None:
        return None if self.parcel is None else self.parcel.event.event_id


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """What one check answered: `items` lie between `start` and `end`. Shared by all who get it."""

    start: Place
    end: UpstreamCursor
    items: Sequence[Item] = ()
    more: bool = False
    """The upstream has more right away."""
    gap: bool = False
    """What lay between `start` and `end` is lost."""
    round: int = 0
    """The number of the check in its loop."""
    count: int = 0
    """How many items there were; fewer are left once it was `cut`."""

    def cut(self, most: int) -> Batch:
        """The first `most` items; the others are let go."""
        return replace(self, items=self.items[:most])

    def after(self, index: int) -> Place:
        """The place after one item."""
        item = self.items[index]
        if index == self.count - 1:
            return Place(self.end)
        if item.cursor is not None:
            return Place(item.cursor)
        return Place(self.start.cursor, self.start.passed + index + 1)

    def safe(self, index: int) -> UpstreamCursor | None:
        """A cursor after one item that the upstream itself gave; None when there is none yet."""
        return self.end if index == self.count - 1 else self.items[index].cursor


class Upstream:
    """One upstream as one `Context` sees it."""

    __slots__ = ("_clock", "_context", "_runner", "type")

    def __init__(self, type: CheckType, context: Context, runner: HookRunner, clock: Clock) -> None:
        self.type = type
        self._context = context.anonymous() if type.shared else context
        self._runner = runner
        self._clock = clock

    async def present(self) -> UpstreamCursor:
        """Where the upstream stands now. Raises HookFailed."""
        try:
            events, cursor, _ = await self._check(None)
        except CursorExpired:
            raise self._failed(Misfit("check raised CursorExpired without a cursor")) from None
        del events  # what was before is nobody's
        return cursor

    async def ask(self, place: Place, round: int = 0) -> Batch:
        """What lies after `place`. Raises HookFailed; CursorExpired when the upstream no longer knows.

        When it has fewer events than were passed, some are gone from it: what is left was passed too.
        """
        events, end, more = await self._check(place.cursor)
        items = []
        for number, event in enumerate(events[place.passed :], 1):
            items.append(self._item(event))
            if number % EVENTS_AT_ONCE == 0:
                await asyncio.sleep(0)
        moved = bool(events) and end != place.cursor  # else asking again at once would never end
        return Batch(place, end, items, more and moved, round=round, count=len(items))

    async def _check(self, cursor: UpstreamCursor | None) -> tuple[list[Any], UpstreamCursor, bool]:
        context = self._context.copy()
        answer = await self._runner.call(
            self.type.name, Hook.CHECK, self.type.check, context, context.arguments, cursor, passes=CursorExpired
        )
        try:
            return _parts(answer)
        except Exception as error:
            raise self._failed(error) from None

    def _item(self, event: Any) -> Item:
        """Poison is kept back by itself: what comes after it is nobody's fault."""
        try:
            event = event if isinstance(event, Event) else Event(event)
            cursor = None if event.cursor is None else _usable(event.cursor)
            tenant = self._context.principal.tenant
            return Item(Parcel(event.checked(tenant, self.type.name, self._clock.now())), cursor)
        except Exception as error:
            return Item(None, failure=self._failed(_misfit(error), kept_back=True))

    def _failed(self, error: BaseException, *, kept_back: bool = False) -> HookFailed:
        return self._runner.failed(self.type.name, Hook.CHECK, self.type.check, error, kept_back=kept_back)


@dataclass(frozen=True, slots=True)
class Reader:
    """One subscription to an upstream: who reads, from where, and what of it may be seen."""

    upstream: Upstream
    subscription: Subscription
    cursors: Cursors
    lens: Lens | None = None
    cursor: str | None = None
    max_age: int | None = None

    def start(self) -> tuple[Place | None, bool]:
        """The place to read after, None for the present one; and whether that is not what was asked for."""
        if self.cursor is None:
            return None, False
        text = self.cursors.unwrap(self.cursor)
        place = None if text is None else Place.read(text)
        return place, place is None

    def floor(self, now: int) -> int | None:
        """The moment before which nothing is to be replayed; `now` in microseconds."""
        return None if self.max_age is None or self.cursor is None else now - self.max_age

    def write(self, place: Place | None) -> str | None:
        return None if place is None else self.cursors.wrap(place.write())

    async def view(self, parcel: Parcel) -> Parcel | None:
        """What this subscription is shown of an event. Raises as `Lens.view` does."""
        if self.lens is None:
            return parcel
        event = await self.lens.view(parcel.event)
        if event is parcel.event:
            return parcel
        return None if event is None else Parcel(event)


def _parts(answer: Any) -> tuple[list[Any], UpstreamCursor, bool]:
    if isinstance(answer, tuple) and len(answer) == 2:
        events, cursor = answer
        more = False
    elif isinstance(answer, tuple) or not (hasattr(answer, "events") and hasattr(answer, "cursor")):
        what = f"a tuple of {len(answer)}" if isinstance(answer, tuple) else type(answer).__name__
        raise Misfit(f"check answers (events, cursor), not {what}")
    else:
        events, cursor, more = answer.events, answer.cursor, bool(getattr(answer, "more", False))
    if isinstance(events, str | bytes | Mapping | Event) or not isinstance(events, Iterable):
        raise Misfit(f"check answers (events, cursor), and its events were {type(events).__name__}, no list")
    return list(events), _usable(cursor), more


def _usable(cursor: Any) -> UpstreamCursor:
    if not _is_cursor(cursor):
        raise Misfit(f"a cursor is text or a whole number, not {type(cursor).__name__}")
    try:
        length = len(Place(cursor).write())
    except InvalidInput:
        raise Misfit("the upstream's cursor cannot be written as JSON") from None
    if length > MAX_UPSTREAM_CURSOR_LENGTH - OFFSET_LENGTH:
        raise Misfit("the upstream's cursor is too long to carry")
    usable: UpstreamCursor = cursor
    return usable


def _misfit(error: Exception) -> Exception:
    """What is wrong with an event, in our own words, which hold nothing of it."""
    if isinstance(error, InvalidInput):
        return Misfit(f"an event that check gave cannot be used: {error.message}")
    return error


def _is_cursor(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53
