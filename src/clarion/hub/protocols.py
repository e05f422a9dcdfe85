"""What a wire gives to the hub: a way to frame typed events, and a way to hand bytes to a transport."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, runtime_checkable

from clarion.errors import ClarionError, CloseReason
from clarion.hub.ring import Parcel
from clarion.model import Event, Position, Principal, Subscription, Truncation

__all__ = [
    "Direct",
    "Failing",
    "Flow",
    "Framing",
    "Lens",
    "Line",
    "Opening",
    "Overflow",
    "Settling",
    "Sink",
    "Transport",
    "Viewer",
]


@dataclass(frozen=True, slots=True)
class Viewer:
    """Who a connection belongs to. `credential` names the key, so that revoking it ends the stream."""

    principal: Principal
    client_id: str
    credential: str


@dataclass(frozen=True, slots=True)
class Opening:
    """Where a stream begins: it continues after `position`, which is not what was asked for when `truncated`."""

    client_id: str
    subscriptions: Sequence[Subscription]
    position: Position
    truncated: Truncation | None


class Overflow(Enum):
    """What a wire does when its reader is so slow that the ring is full."""

    DROP_OLDEST = "drop_oldest"
    """Lose the oldest and say so; resuming brings them back."""
    CATCH_UP = "catch_up"
    """Lose nothing within retention: go on from the log, at the pace of the reader."""


class Framing(Protocol):
    """The frames of one wire. Bytes that many connections share belong into `parcel.bodies[self.name]`."""

    @property
    def name(self) -> str:
        """The wire's name in audit rows and metrics."""
        ...

    @property
    def overflow(self) -> Overflow: ...

    def opened(self, opening: Opening) -> bytes:
        """The stream begins, or goes on, after the opening's position."""
        ...

    @property
    def kind(self) -> str:
        """Framings of one kind answer the same `halves`."""
        ...

    def event(self, parcel: Parcel, subscriptions: Sequence[Subscription], position: Position) -> bytes:
        """All frames of one event for one connection, to be written together."""
        ...

    def mark(self, subscription: Subscription) -> bytes:
        """What of the frame of an event is this stream's and subscription's own."""
        ...

    def halves(self, parcel: Parcel, position: Position) -> tuple[bytes, bytes]:
        """What stands before and after the mark in the frame that `event` answers for one subscription."""
        ...

    def lagged(self, subscription_id: str, dropped: int, capacity: int, last: Position) -> bytes:
        """`dropped` events did not fit; resuming after `last` brings them back."""
        ...

    def heartbeat(self, position: Position) -> bytes:
        """Everything up to `position` was delivered or did not match."""
        ...

    def failed(self, error: ClarionError) -> bytes:
        """An event could not be shown; the stream goes on. Empty where the wire has no word for it."""
        ...

    def closed(self, reason: CloseReason, error: ClarionError | None) -> bytes:
        """The last frames of a stream that the server ends. Empty where the wire has no word for it."""
        ...


class Lens(Protocol):
    """What one subscription is shown of an event: the hooks of a server's author, which may take their time.

    It is asked apart from everybody else's, bounded in time by itself, and whatever goes wrong in it keeps the event
    from this subscription only: nothing is ever shown for want of an answer.
    """

    async def view(self, event: Event) -> Event | None:
        """The event, one with another payload in its place, or None when this subscription is not to have it.

        Raises HookFailed, and then it is not shown either; Forbidden when access is gone, which ends the stream.
        """
        ...


class Sink(Protocol):
    """One connection's transport, seen through its write water marks."""

    @property
    def paused(self) -> bool:
        """The transport takes nothing now; what is written all the same would wait in memory."""
        ...

    def write(self, data: bytes) -> None:
        """Hand `data` to the transport. Only while not paused; never blocks."""
        ...

    async def writable(self) -> None:
        """Return when the transport takes more, or is gone."""
        ...


class Flow(Protocol):
    """What a server keeps of a transport's water marks."""

    @property
    def write_paused(self) -> bool: ...


class Transport(Protocol):
    """As much of asyncio's transports as is needed to write to one."""

    def is_closing(self) -> bool: ...

    def write(self, data: bytes) -> None: ...


class Line(Protocol):
    """A transport that may be written to past its sink, as long as it is neither paused nor closing."""

    @property
    def flow(self) -> Flow: ...

    @property
    def transport(self) -> Transport: ...

    @property
    def kind(self) -> str:
        """Lines of one kind answer the same `around`."""
        ...

    def around(self, size: int) -> tuple[bytes, bytes]:
        """What goes before and after a write of `size` bytes."""
        ...


@runtime_checkable
class Failing(Protocol):
    """A sink whose transport may fail after `write` has returned."""

    on_failure: Callable[[], None] | None


@runtime_checkable
class Direct(Protocol):
    """A sink that may have a line."""

    @property
    def line(self) -> Line | None:
        """None while it must not be used."""
        ...


@runtime_checkable
class Settling(Protocol):
    """A sink that another one takes the place of, once the stream has begun."""

    @property
    def settled(self) -> Sink | None:
        """What is written to from now on; None while this one still is."""
        ...
