"""Where the frames of a stream go that the SDK serves: through its session, or straight into the response it has begun.

The SDK's own way costs a model, an encoding and three tasks' turns a frame. Where an `EventsLayer` stands in front of
the SDK's application, the first frame goes that way, which begins the response, and everything after it is written to
the server's transport by the hub itself; the SDK keeps authentication, validation, cancellation and the final result.
Most streams behind a layer are not served by the SDK at all: see `direct`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias

from clarion.encoding import decode
from clarion.hub.protocols import Sink
from clarion.wires.mcp_events.framing import Dress, as_line, as_sse
from clarion.wires.mcp_events.handover import Handover
from clarion.wires.sse import Send, make_sink

__all__ = ["HandoverSink", "NotificationSink", "Notify", "StreamSink", "cut_off"]

MAX_HELD_BYTES = 64 * 1024
"""Bytes of frames that wait for the SDK's session, which does not tell whether its transport takes more."""

Notify: TypeAlias = Callable[[str, dict[str, Any]], Awaitable[None]]
"""Sends one notification, method and params, through the SDK."""

_END = b"\r\n\r\n"  # of a frame of `as_sse`


class StreamSink(Sink, Protocol):
    """A sink with something to do beside the stream."""

    @property
    def dress(self) -> Dress:
        """What frames are to be dressed as."""
        ...

    async def run(self) -> None:
        """Carry frames as long as the stream is open. Raises what the transport raises."""
        ...

    async def flushed(self) -> None:
        """Wait until everything was handed on."""
        ...

    def cut(self) -> None:
        """Break the connection to a reader that takes nothing, where the stream has one of its own."""
        ...


def cut_off(send: Send) -> bool:
    """Break the connection behind a server's own `send`, if it can be told; says whether it was."""
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None or not hasattr(transport, "abort"):  # uvloop's transports have it without being asyncio's
        return False
    transport.abort()
    return True


class NotificationSink:
    """Frames as notifications of the SDK's session, one after the other."""

    def __init__(self, notify: Notify) -> None:
        self._notify = notify
        self._frames: deque[bytes] = deque()
        self._held = 0
        self._gone = False
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def dress(self) -> Dress:
        return as_line

    @property
    def paused(self) -> bool:
        return self._held >= MAX_HELD_BYTES

    def write(self, data: bytes) -> None:
        """Raises ConnectionResetError when the session is gone."""
        if self._gone:
            raise ConnectionResetError("the session is gone")
        self._frames.append(data)
        self._held += len(data)
        self._empty.clear()
        self._work.set()
        if self.paused:
            self._room.clear()

    async def writable(self) -> None:
        await self._room.wait()

    async def flushed(self) -> None:
        await self._empty.wait()

    def cut(self) -> None:
        """The session's transport is the SDK's."""

    async def run(self) -> None:
        try:
            while True:
                await self._work.wait()
                self._work.clear()
                while self._frames:
                    await self._send(self._frames[0])
                    self._held -= len(self._frames.popleft())
                    if not self.paused:
                        self._room.set()
                self._empty.set()
        finally:
            self._gone = True
            self._room.set()
            self._empty.set()

    async def _send(self, frames: bytes) -> None:
        for each in self._messages(frames):
            message = decode(each)
            await self._notify(message["method"], message["params"])

    @staticmethod
    def _messages(frames: bytes) -> list[bytes]:
        return frames.splitlines()


class HandoverSink:
    """The first frame through the SDK, everything after it straight to the transport."""

    def __init__(self, notify: Notify, handover: Handover) -> None:
        self._notify = notify
        self._handover = handover
        self._begun = handover.claim()
        self.settled: Sink | None = None
        """The server's own transport, once the response has begun."""
        self._first: bytes | None = None
        self._given = asyncio.Event()
        self._ready = asyncio.Event()

    @property
    def dress(self) -> Dress:
        return as_sse

    @property
    def paused(self) -> bool:
        return self._first is not None if self.settled is None else self.settled.paused

    def write(self, data: bytes) -> None:
        """Raises ConnectionResetError when the request is over."""
        if self._handover.over:
            raise ConnectionResetError("the request is over")
        if self.settled is not None:
            self.settled.write(data)
            return
        self._first = data
        self._given.set()

    async def writable(self) -> None:
        await self._ready.wait()
        if self.settled is not None:
            await self.settled.writable()

    async def flushed(self) -> None:
        if self._given.is_set():
            await self.writable()
        if isinstance(self.settled, NotificationSink):
            await self.settled.flushed()

    def cut(self) -> None:
        if self.settled is None:
            return  # so far it is all the SDK's
        cut_off(self._handover.raw)

    async def run(self) -> None:
        await self._given.wait()
        first, _, rest = (self._first or b"").partition(_END)  # what was written at once may be several frames
        message = decode(first.partition(b"data: ")[2])
        await self._notify(message["method"], message["params"])
        await self._begun.wait()
        if self._handover.encoded:
            await self._carry_all(rest)
            return
        sink = make_sink(self._handover.raw)
        if rest:
            while sink.paused:
                await sink.writable()
            sink.write(rest)
        self._settle(sink)

    async def _carry_all(self, rest: bytes) -> None:
        """Carry everything through the SDK, for a response that others write to as well."""
        sink = _FramesOfSse(self._notify)
        if rest:
            sink.write(rest)
        self._settle(sink)
        await sink.run()

    def _settle(self, sink: Sink) -> None:
        self.settled = sink
        self._first = None
        self._ready.set()


class _FramesOfSse(NotificationSink):
    """Takes frames that were dressed for a response."""

    @staticmethod
    def _messages(frames: bytes) -> list[bytes]:
        return [frame.partition(b"data: ")[2] for frame in frames.split(_END) if frame]
