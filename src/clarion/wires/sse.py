"""Server-sent events over ASGI, for every wire that streams over HTTP.

A stream is served by a raw ASGI callable, outside of Starlette, whose middleware would wrap `send` in coroutines and
hide the transport's water marks. The hub writes from its own tick, in which nothing may wait: to uvicorn's transport
itself, and to anybody else's `send` through a task of the stream's own.
"""

from __future__ import annotations

import asyncio
import types
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Generator, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import copy_context
from functools import cache, partial
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

BURST_BYTES = 256 * 1024
"""What a stream takes within one tick behind a `send` that is not known: a burst should not overflow its ring while its
reader is free. Bounds what such a stream holds in memory, beside its ring."""

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


def _body(data: bytes) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": True}


def _raise_of(carried: asyncio.Task[None]) -> None:
    """Raise what the `send` raised that a task has carried, as an Exception always: the hub's own task, which asks,
    must never take somebody's cancellation for its own."""
    if carried.cancelled():
        raise ConnectionAbortedError("the server's send was cancelled")
    error = carried.exception()
    if isinstance(error, Exception):
        raise error
    if error is not None:
        raise ConnectionAbortedError(f"the server's send raised {type(error).__name__}") from error


def _seen(carried: asyncio.Task[None]) -> None:
    """A stream that has ended asks no more what became of its last `send`: that is no error of the loop's."""
    if not carried.cancelled():
        carried.exception()


class AsgiSink:
    """A transport behind any ASGI server, or behind middleware that has wrapped its `send`.

    Such a `send` may do whatever a coroutine may: hold locks, set timeouts, look at its task and at context variables.
    So it is awaited as a whole by a task, in the context of the request that the sink was made in. There is one at a
    time, and one only while there is something to send, so that none outlives what it was made for.

    ASGI does not tell whether the transport is paused, so an empty body goes after each write: a server that waits for
    its transport waits with that one, while no event was handed over yet.
    """

    __slots__ = ("__weakref__", "_carried", "_context", "_held", "_room", "_send", "_size", "on_failure")

    def __init__(self, send: Send, room: int = 0) -> None:
        """Writes are taken up to `room` bytes, and one in any case, until the task takes all of them at once."""
        self._send = send
        self._context = copy_context()
        self._room = room
        self._held: list[bytes] = []
        self._size = 0
        """Of what was written since the last task began."""
        self._carried: asyncio.Task[None] | None = None
        self.on_failure: Callable[[], None] | None = None
        """Called when a `send` has failed, which nobody would be told of before the next write."""

    @property
    def paused(self) -> bool:
        """Raises what the last `send` raised, if it did."""
        carried = self._carried
        if carried is None:
            self._carry()  # nothing is known yet
            return True
        if not carried.done():
            return not self._held or self._size >= self._room
        _raise_of(carried)
        return False

    def write(self, data: bytes) -> None:
        """Raises what the last `send` raised, if it did."""
        carried = self._carried
        if carried is not None and self.paused:
            raise RuntimeError("the transport is paused; wait until it is writable")
        if carried is None or carried.done():
            self._size = 0
            self._carry()
        self._held.append(data)
        self._size += len(data)

    async def writable(self) -> None:
        """Return also when all that was written has been handed on."""
        while self._carried is not None and not self._carried.done():
            await asyncio.wait([self._carried])

    def _carry(self) -> None:
        work = _carry(self._send, self._held)  # without the sink, whose end is to end it
        self._carried = asyncio.get_running_loop().create_task(work, context=self._context)
        self._carried.add_done_callback(partial(_tell, weakref.ref(self)))

    def __del__(self) -> None:
        """The stream is over: a `send` that still waits, for a reader that has stalled, waits for nobody."""
        carried = self._carried
        if carried is not None and not carried.done():
            loop = carried.get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(carried.cancel)  # garbage is collected in whatever thread


def _tell(sink: weakref.ref[AsgiSink], carried: asyncio.Task[None]) -> None:
    known = sink()
    if (carried.cancelled() or carried.exception() is not None) and known is not None and known.on_failure is not None:
        known.on_failure()


async def _carry(send: Send, held: list[bytes]) -> None:
    """Send all that is held, and return when the transport takes more."""
    data = b"".join(held)
    held.clear()
    if data:
        await send(_body(data))
    await send(_body(b""))


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


async def _carry_on(coroutine: Coroutine[Any, Any, None], waiting_for: Any) -> None:
    await _finish(coroutine, waiting_for)


class UvicornSink:
    """uvicorn's transport, with its own word on whether it is paused, and whether it is still there.

    Its `send` is known to end without waiting as long as the transport is not paused, and to care for nothing around
    it, so it is run by hand, at once. Within a chunked response that has begun this is a line too: a chunk is written
    as uvicorn would write it, without the coroutine that it needs for that. At a thousand streams the coroutines take
    longer than the sockets.
    """

    __slots__ = ("_carried", "_chunks", "_cycle", "_send", "flow", "line", "transport")

    kind = "chunked"

    def __init__(self, send: Send, cycle: _Cycle) -> None:
        self._send = send
        self._carried: asyncio.Task[None] | None = None
        """Carries on a `send` that could not end at once."""
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
            self._step(data)

    async def writable(self) -> None:
        await self.flow.drain()
        while self._carried is not None and not self._carried.done():
            await asyncio.wait([self._carried])

    def _step(self, data: bytes) -> None:
        """Begin a `send`, which usually ends at once; else have it carried on. Raises what the last one raised."""
        carried = self._carried
        if carried is not None:
            if not carried.done():
                raise RuntimeError("the transport is paused; wait until it is writable")
            self._carried = None
            _raise_of(carried)
        try:
            coroutine = cast("Coroutine[Any, Any, None]", self._send(_body(data)))
            waiting_for = coroutine.send(None)
        except StopIteration:
            return
        except (Exception, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            raise ConnectionAbortedError(f"the server's send raised {type(error).__name__}") from error
        self._carried = asyncio.ensure_future(_carry_on(coroutine, waiting_for))
        self._carried.add_done_callback(_seen)


def make_sink(send: Send, room: int = 0) -> Sink:
    """The best sink for the server behind `send`; made within the request's own context. For `room`, see AsgiSink."""
    cycle = send.__self__ if type(send) is types.MethodType else None  # what looks like one may be a wrapper of it
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
    return AsgiSink(send, room)


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
    sink = make_sink(send, BURST_BYTES)
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
            await _end(send, sink)


async def _end(send: Send, sink: Sink) -> None:
    """End the response. A reader that has stalled would never take the end: after a while its connection is cut."""
    last = {"type": "http.response.body", "body": b"", "more_body": False}
    try:
        async with asyncio.timeout(FAREWELL_SECONDS):
            await sink.writable()  # what was written goes before
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
