"""Server-sent events over ASGI, for every wire that streams over HTTP.

A stream is served by a raw ASGI callable, outside of Starlette, whose middleware would wrap `send` in coroutines and
hide the transport's water marks. The hub writes from its own tick: `AsgiSink.write` runs the server's `send` coroutine
to its end at once, which it reaches without waiting as long as the transport is not paused.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import cache
from typing import Any, Protocol, TypeAlias, cast

from clarion.errors import CloseReason, StoreUnavailable
from clarion.hub.connection import Connection
from clarion.hub.hub import Stream
from clarion.hub.protocols import Flow, Line, Sink, Transport
from clarion.logs import get_logger
from clarion.model import Bounds, Start

__all__ = ["AsgiSink", "Message", "Receive", "Scope", "Send", "UvicornSink", "frame", "make_sink", "serve"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

HEADERS = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),
]

FAREWELL_SECONDS = 1.0
"""How long the end of a stream waits for its reader. Stops a stalled one from holding up the server's own stop, or from
keeping a stream whose key was revoked."""

logger = get_logger("clarion.sse")


def frame(event: str, data: bytes, event_id: str | None = None) -> bytes:
    """One SSE frame; `data` is JSON on one line."""
    identity = f"id: {event_id}\n" if event_id is not None else ""
    return f"event: {event}\n{identity}data: ".encode() + data + b"\n\n"


class _Flow(Flow, Protocol):
    """What uvicorn keeps per connection about its transport's water marks."""

    async def drain(self) -> None: ...


class _Cycle(Protocol):
    """A request as uvicorn keeps it: its `send` says nothing of a connection that is gone. What `chunked_encoding` and
    the rest tell of the response is there with httptools only."""

    flow: _Flow
    transport: Transport
    disconnected: bool
    chunked_encoding: bool | None
    response_started: bool
    response_complete: bool


@types.coroutine
def _finish(coroutine: Coroutine[Any, Any, None], waiting_for: Any) -> Generator[Any, Any, None]:
    """Carry on a coroutine that was begun by hand and waits for `waiting_for`."""
    try:
        while True:
            try:
                answer = yield waiting_for
            except BaseException as error:  # cancellation and the like belong to the coroutine
                waiting_for = coroutine.throw(error)
            else:
                waiting_for = coroutine.send(answer)
    except StopIteration:
        return


class AsgiSink:
    """A transport behind any ASGI server.

    ASGI does not tell whether the transport is paused, so an empty body goes first: a server that waits for its
    transport waits with that one, while no event was handed over yet.
    """

    __slots__ = ("_carried", "_send", "_taken")

    def __init__(self, send: Send) -> None:
        self._send = send
        self._carried: asyncio.Task[None] | None = None
        """Carries on the `send` that could not end at once."""
        self._taken = False
        """The last `send` was waited for until it ended, so that the next need not be probed for: some servers' never
        end at once, however free the transport is."""

    @property
    def paused(self) -> bool:
        if not self._is_busy and not self._taken:
            self._step(b"")
        return self._is_busy

    @property
    def _is_busy(self) -> bool:
        return self._carried is not None and not self._carried.done()

    def write(self, data: bytes) -> None:
        if self._is_busy:
            raise RuntimeError("the transport is paused; wait until it is writable")
        self._step(data)

    async def writable(self) -> None:
        while self._carried is not None and not self._carried.done():
            await asyncio.wait([self._carried])
            self._taken = True

    def _step(self, data: bytes) -> None:
        """Begin a `send`, which usually ends at once; else have it carried on. Raises what the last one raised."""
        carried, self._carried, self._taken = self._carried, None, False
        if carried is not None:
            carried.result()
        message = {"type": "http.response.body", "body": data, "more_body": True}
        coroutine = cast("Coroutine[Any, Any, None]", self._send(message))
        try:
            waiting_for = coroutine.send(None)
        except StopIteration:
            return
        self._carried = asyncio.ensure_future(_carry_on(coroutine, waiting_for))


async def _carry_on(coroutine: Coroutine[Any, Any, None], waiting_for: Any) -> None:
    await _finish(coroutine, waiting_for)


class UvicornSink(AsgiSink):
    """As above, with uvicorn's own word on whether the transport is paused, and whether it is still there.

    Within a chunked response that has begun it is a line too: a chunk is written as uvicorn would write it, without the
    coroutine that it needs for that. At a thousand streams the coroutines take longer than the sockets.
    """

    __slots__ = ("_chunks", "_cycle", "flow", "line", "transport")

    kind = "chunked"

    def __init__(self, send: Send, cycle: _Cycle) -> None:
        super().__init__(send)
        self._cycle = cycle
        self.flow: _Flow = cycle.flow
        self.transport = cycle.transport
        self._chunks = all(hasattr(cycle, name) for name in ("chunked_encoding", "response_started"))
        self.line: Line | None = None
        """Itself, once a chunked response is known to have begun."""

    def around(self, size: int) -> tuple[bytes, bytes]:
        """The chunk's length and its end (RFC 9112, section 7.1)."""
        return b"%x\r\n" % size, b"\r\n"

    @property
    def paused(self) -> bool:
        return self.flow.write_paused or (self._carried is not None and not self._carried.done())

    def write(self, data: bytes) -> None:
        """Raises ConnectionResetError when the connection is gone: uvicorn would take `data` and drop it."""
        cycle, transport = self._cycle, self.transport
        if cycle.disconnected or cycle.response_complete or transport.is_closing():
            raise ConnectionResetError("the connection is gone")
        if self.line is None and self._carried is None and self._chunks and cycle.response_started:
            self.line = self if cycle.chunked_encoding else None
        if self.line is not None and data:  # an empty chunk would end the response
            transport.write(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            AsgiSink.write(self, data)

    async def writable(self) -> None:
        await self.flow.drain()
        await AsgiSink.writable(self)


def make_sink(send: Send) -> Sink:
    """The best sink for the server behind `send`."""
    cycle = getattr(send, "__self__", None)
    flow, transport = getattr(cycle, "flow", None), getattr(cycle, "transport", None)
    if (
        isinstance(getattr(flow, "write_paused", None), bool)
        and hasattr(flow, "drain")
        and isinstance(getattr(cycle, "disconnected", None), bool)
        and isinstance(getattr(cycle, "response_complete", None), bool)
        and hasattr(transport, "is_closing")
    ):
        return UvicornSink(send, cast("_Cycle", cycle))
    _tell_of_probing(type(cycle).__qualname__ if cycle is not None else getattr(send, "__qualname__", "unknown"))
    return AsgiSink(send)


@cache
def _tell_of_probing(server: str) -> None:
    """Once for each kind of server: a middleware that wraps `send`, or a new version of uvicorn, ends up here too."""
    logger.warning("transport_unknown", send=server, reason="slow readers are found by probing, which costs more")


async def serve(
    receive: Receive,
    send: Send,
    connect: Callable[[Sink], AbstractAsyncContextManager[Stream]],
    start: Callable[[Bounds], Start],
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    """Serve one stream until the client goes, the hub ends it or the store fails.

    Errors of `connect` and `start` come before the response has begun, so that they can still be answered.
    """
    sink = make_sink(send)
    async with connect(sink) as stream:
        begin = start(stream.bounds)
        await send({"type": "http.response.start", "status": 200, "headers": [*HEADERS, *headers]})
        async with asyncio.TaskGroup() as tasks:
            watcher = tasks.create_task(_watch(receive, stream.connection))
            try:
                await stream.run(begin)
            except StoreUnavailable as error:
                logger.warning("stream_ended", reason=error.message)
                stream.connection.close(CloseReason.STORE_UNAVAILABLE)
            finally:
                watcher.cancel()
        if stream.connection.close_reason is not CloseReason.CLIENT_GONE:
            await _end(send)


async def _end(send: Send) -> None:
    """End the response. A reader that has stalled would never take the end: after a while its connection is cut."""
    last = {"type": "http.response.body", "body": b"", "more_body": False}
    try:
        async with asyncio.timeout(FAREWELL_SECONDS):
            await send(last)
    except TimeoutError:
        transport = getattr(getattr(send, "__self__", None), "transport", None)
        if transport is not None and hasattr(transport, "abort"):  # uvloop's transports have it without being asyncio's
            transport.abort()
            await send(last)  # takes nothing more, and returns once the server knows that the connection is gone


async def _watch(receive: Receive, connection: Connection) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    connection.close(CloseReason.CLIENT_GONE)
