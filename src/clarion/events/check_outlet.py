"""The writing end of a stream over an upstream: what is said now, what waits for the transport, and `active` first."""

from __future__ import annotations

from collections import deque

from clarion.errors import ClarionError
from clarion.events.upstream import Place, Reader
from clarion.hub.outlet import TransportFailed
from clarion.hub.protocols import Sink
from clarion.hub.ring import Parcel
from clarion.wires.mcp_events.protocol import StreamFraming

__all__ = ["NOTICES", "CheckOutlet", "Closed"]

NOTICES = 16
"""Errors that wait for one stream. Stops a stalled reader from collecting what went wrong meanwhile."""


class Closed(Exception):
    """The stream was closed: whatever it was doing ends here."""


class CheckOutlet:
    """Where one stream's bytes go. Raises TransportFailed when the transport is gone."""

    __slots__ = ("_framing", "_notices", "_reader", "_sink", "active_due", "closed", "gap", "wire")

    def __init__(self, reader: Reader, framing: StreamFraming, sink: Sink) -> None:
        self._reader = reader
        self._framing = framing
        self._sink = sink
        self._notices: deque[ClarionError] = deque(maxlen=NOTICES)
        self.closed = False
        self.wire: Place | None = None
        """How far the client is told that it is; None while nobody knows."""
        self.active_due = True
        """Nothing is said before `active` was, at the beginning and after a gap."""
        self.gap = False
        """The `active` that is due tells of one."""

    @property
    def paused(self) -> bool:
        try:
            return self._sink.paused
        except Exception as error:
            raise TransportFailed(type(error).__name__) from error

    def lost(self) -> None:
        """Events before the place that is told next are lost."""
        self.active_due = self.gap = True

    # -- at once, or not: answers whether it was said ---------------------------------------------------------------

    def report(self, error: ClarionError) -> bool:
        """Tell of an error; it is kept when that cannot be done now."""
        said = self._say_now() and self._hand(self._framing.failed(error))
        if not said:
            self._notices.append(error)
        return said

    def skip(self) -> bool:
        """Tell of a gap; it is due when that cannot be done now."""
        if self._say_now():
            return self._hand(self._framing.active(self._reader.write(self.wire), truncated=True))
        self.lost()
        return False

    def beat(self) -> bool:
        return self._say_now() and self._hand(self._framing.beat(self._reader.write(self.wire)))

    def _say_now(self) -> bool:
        return not (self.closed or self.active_due or self.paused)

    # -- once the transport takes it; all of these raise Closed ------------------------------------------------------

    async def activate(self) -> None:
        """Say `active` if it is due."""
        if self.active_due:
            await self._write(b"")

    async def event(self, parcel: Parcel, place: Place | None) -> None:
        await self._write(self._framing.occurrence(parcel, self._reader.write(place)))

    async def failed(self, error: ClarionError) -> None:
        await self._write(self._framing.failed(error))

    async def notices(self) -> None:
        """Say what could not be said when it came up."""
        while self._notices:
            await self.failed(self._notices.popleft())

    async def writable(self) -> None:
        while not self.closed and self.paused:
            await self._sink.writable()
        if self.closed:
            raise Closed

    async def _write(self, frame: bytes) -> None:
        await self.writable()
        if self.active_due:
            frame = self._framing.active(self._reader.write(self.wire), truncated=self.gap) + frame
            self.active_due = self.gap = False
        self._hand(frame)

    def _hand(self, data: bytes) -> bool:
        try:
            self._sink.write(data)
        except Exception as error:
            raise TransportFailed(type(error).__name__) from error
        return True
