"""What a wire gives to the hub: a way to frame typed events, and a way to hand bytes to a transport."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from clarion.hub.ring import Parcel
from clarion.model import Position, Principal, Subscription, Truncation

__all__ = ["Framing", "Opening", "Overflow", "Sink", "Viewer"]


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

    def event(self, parcel: Parcel, subscriptions: Sequence[Subscription], position: Position) -> bytes:
        """All frames of one event for one connection, to be written together."""
        ...

    def lagged(self, subscription_id: str, dropped: int, capacity: int, last: Position) -> bytes:
        """`dropped` events did not fit; resuming after `last` brings them back."""
        ...

    def heartbeat(self, position: Position) -> bytes:
        """Everything up to `position` was delivered or did not match."""
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
