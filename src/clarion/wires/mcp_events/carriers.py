"""How the frames of a stream reach its client: what a stream asks of whoever carries them, and how the SDK does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, TypeAlias

import anyio
from mcp.server.context import ServerRequestContext
from mcp_types import Notification
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from clarion.errors import CloseReason, Unsupported
from clarion.hub.protocols import Sink
from clarion.logs import get_logger, origin
from clarion.wires.mcp_events.framing import Dress, EventsFraming
from clarion.wires.mcp_events.handover import Handover, handover_of
from clarion.wires.mcp_events.protocol import Live
from clarion.wires.mcp_events.sinks import HandoverSink, NotificationSink, StreamSink
from clarion.wires.sse import Receive

__all__ = ["FAREWELL_SECONDS", "Carrier", "EventNotification", "SdkCarrier", "SdkContext", "can_stream", "take_leave"]

FAREWELL_SECONDS = 1.0
"""How long the end of a stream waits for its reader."""

SdkContext: TypeAlias = ServerRequestContext[Any, Any]

logger = get_logger("clarion.mcp_events")


class Carrier(Protocol):
    """How one stream's frames reach its client."""

    @property
    def dress(self) -> Dress:
        """What they are to be dressed as."""
        ...

    def sink(self) -> Sink:
        """Where they are to be written, within `carrying`. Raises Unsupported when there is no way to stream."""
        ...

    def carrying(self, live: Live) -> AbstractAsyncContextManager[None]:
        """Carry them while the block runs; a client that is gone ends the stream."""
        ...

    async def begin(self) -> None:
        """See to it that there is a response to write to: a stream may be ended before it has begun."""
        ...

    async def flushed(self) -> None:
        """Wait until everything was handed on."""
        ...

    def cut(self) -> None:
        """Break the connection to a reader that takes nothing, where the stream has one of its own."""
        ...


class EventNotification(Notification[dict[str, Any], str]):
    """A notification of ours: the SDK's own model would drop members that it does not know."""


class SdkCarrier:
    """Through the SDK, as far as it takes to begin the response, or all the way."""

    def __init__(self, ctx: SdkContext) -> None:
        self._ctx = ctx
        scope = getattr(ctx.request, "scope", None)
        handover = self._handover = handover_of(scope) if isinstance(scope, Mapping) else None
        self._sink: StreamSink
        self._sink = NotificationSink(self._notify) if handover is None else HandoverSink(self._notify, handover)

    @property
    def dress(self) -> Dress:
        return self._sink.dress

    def sink(self) -> StreamSink:
        if not can_stream(self._ctx):
            raise Unsupported(
                "this server answers in JSON only, so it cannot stream; use poll",
                details={"feature": "deliveryMode", "value": "push", "reason": "json_response"},
            )
        return self._sink

    def carrying(self, live: Live) -> AbstractAsyncContextManager[None]:
        receive = None if self._handover is not None else _receive_of(self._ctx)
        return _carrying(self._sink, live, self._handover, receive)

    async def begin(self) -> None:
        """The first frame does it."""

    async def flushed(self) -> None:
        await self._sink.flushed()

    def cut(self) -> None:
        self._sink.cut()

    async def _notify(self, method: str, params: dict[str, Any]) -> None:
        await self._ctx.session.send_notification(
            EventNotification(method=method, params=params),  # type: ignore[arg-type]
            related_request_id=self._ctx.request_id,
        )


def can_stream(ctx: SdkContext) -> bool:
    """Whether notifications reach this request's client. With `json_response=True` the SDK drops them without a word,
    and nothing public tells: its dispatch context has no sink then, or says that it can send no request."""
    outbound = getattr(ctx.session, "_request_outbound", None)
    if ctx.request is None or outbound is None:
        return True
    if hasattr(outbound, "sink"):
        return outbound.sink is not None
    return getattr(getattr(outbound, "message_metadata", None), "can_send_request", True) is not False


def _receive_of(ctx: SdkContext) -> Receive | None:
    """Where the hanging up of a session's client can be seen; the requests of 2026-07-28 are watched by the SDK."""
    if ctx.request is None or ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
        return None
    return getattr(ctx.request, "receive", None)


@asynccontextmanager
async def _carrying(
    sink: StreamSink, live: Live, handover: Handover | None, receive: Receive | None
) -> AsyncIterator[None]:
    """Carry the sink's frames while the block runs; a client that is gone ends the stream."""

    def gone() -> None:
        live.close(CloseReason.CLIENT_GONE)

    async def carry() -> None:
        try:
            await sink.run()
        except (ConnectionError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            logger.info("stream_lost", error=type(error).__name__)
            gone()
        except Exception as error:
            logger.error("stream_failed", error=type(error).__name__, at=origin(error))
            live.close(CloseReason.FAILED)

    if handover is not None:
        handover.on_over = gone
    async with asyncio.TaskGroup() as tasks:
        carrying = [tasks.create_task(carry())]
        if receive is not None:
            carrying.append(tasks.create_task(_watch(receive, gone)))
        try:
            yield
        finally:
            for task in carrying:
                task.cancel()


async def _watch(receive: Receive, gone: Callable[[], None]) -> None:
    """Call `gone` when the client hangs up. The SDK ends the handlers of a session with its requests only when they
    are cancelled by a message, and tells nobody of a connection that was closed."""
    while (await receive())["type"] != "http.disconnect":
        pass
    gone()


async def take_leave(carrier: Carrier, sink: Sink, framing: EventsFraming, live: Live) -> None:
    """The last frames of a stream that the server ends, as far as its reader takes them in time."""
    reason = live.close_reason
    if reason is None or reason is CloseReason.CLIENT_GONE:
        return
    last = framing.closed(reason, live.close_error)
    try:
        async with asyncio.timeout(FAREWELL_SECONDS):
            if last:
                await carrier.begin()
                while sink.paused:
                    await sink.writable()
                sink.write(last)
            await carrier.flushed()
    except OSError:  # TimeoutError is one
        logger.info("farewell_lost", reason=reason.label)
        carrier.cut()  # the response would wait for this reader to take its end
