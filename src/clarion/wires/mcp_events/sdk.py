"""The Events methods on the official SDK: `MCPServer` and low-level servers, HTTP and stdio, both protocol eras.

Where SEP-3415, the earlier sketch and deployed clients differ, all are served: the capability is advertised under
`extensions` and at the top level, on `server/discover` and on `initialize`; error numbers follow what the client
declares; streams are served to `initialize` clients as to those of 2026-07-28, over the POST's own response.

What the SDK has no public place for is here, in one file: top-level capabilities, which only a middleware can add to a
result, and `eventsListChanged`, which its own listen handler drops.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import anyio
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    METHOD_NOT_FOUND,
    ClientCapabilities,
    Notification,
    RequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, ConfigDict

from clarion.errors import ClarionError, CloseReason, InvalidInput, StoreUnavailable, Unsupported
from clarion.logs import get_logger, origin
from clarion.wires.mcp_events.errors import Dialect, error_object
from clarion.wires.mcp_events.framing import SUBSCRIPTION_ID, EventsFraming
from clarion.wires.mcp_events.protocol import Caller, Live
from clarion.wires.mcp_events.service import EventsService
from clarion.wires.mcp_events.sinks import SCOPE_KEY, Handover, HandoverSink, NotificationSink, StreamSink
from clarion.wires.sse import Receive

__all__ = ["EXTENSION", "Context", "EventsBinding", "Identify", "dialect_of"]

EXTENSION = "io.modelcontextprotocol/events"
"""The extension's identifier."""

MAX_REQUEST_ID = 256
"""Characters of a stream's request id. Stops a long one from being multiplied by every frame."""

FAREWELL_SECONDS = 1.0
"""How long the end of a stream waits for its reader."""

LIST_CHANGED = "notifications/events/list_changed"
LISTEN = "subscriptions/listen"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"

Context: TypeAlias = ServerRequestContext[Any, Any]
Identify: TypeAlias = Callable[[Context], Caller]
"""Tells who sent a request."""

logger = get_logger("clarion.mcp_events")


class _Notification(Notification[dict[str, Any], str]):
    """A notification of ours: the SDK's own model would drop members that it does not know."""


class _Params(RequestParams):
    """Whatever was sent: what is wrong with it is said in our own words."""

    model_config = ConfigDict(extra="allow")


class EventsBinding:
    """One service on one SDK server. `service` gives it when it is first needed; `ending` an event that is set when the
    server is being stopped, if there is one; `list_changed` says whether `notifications/events/list_changed` can be
    had, which takes the middleware."""

    def __init__(
        self,
        service: Callable[[], Awaitable[EventsService]],
        identify: Identify,
        *,
        ending: Callable[[], asyncio.Event | None] = lambda: None,
        list_changed: bool = True,
    ) -> None:
        self._service = service
        self._identify = identify
        self._ending = ending
        self.list_changed = list_changed

    def settings(self) -> dict[str, Any]:
        """What is advertised of the extension."""
        return {"listChanged": True} if self.list_changed else {}

    def methods(self) -> list[MethodBinding]:
        return [
            MethodBinding("events/list", _Params, self._list),
            MethodBinding("events/poll", _Params, self._poll),
            MethodBinding("events/stream", _Params, self._stream),
        ]

    # -- methods ----------------------------------------------------------------------------------------------------

    async def _list(self, ctx: Context, _params: _Params) -> dict[str, Any]:
        with _translated(ctx):
            service = await self._service()
            result = await service.list(self._identify(ctx), ctx.params or {})
        if not _can_stream(ctx):
            for described in result["events"]:
                described["delivery"] = [mode for mode in described["delivery"] if mode != "push"]
            result["events"] = [described for described in result["events"] if described["delivery"]]
        return result

    async def _poll(self, ctx: Context, _params: _Params) -> dict[str, Any]:
        with _translated(ctx):
            service = await self._service()
            return await service.poll(self._identify(ctx), ctx.params or {})

    async def _stream(self, ctx: Context, _params: _Params) -> dict[str, Any]:
        request_id = ctx.request_id
        if request_id is None:
            raise MCPError(METHOD_NOT_FOUND, "events/stream is a request and needs an id")
        with _translated(ctx):
            if isinstance(request_id, str) and len(request_id) > MAX_REQUEST_ID:
                raise InvalidInput(
                    f"the request's id has {len(request_id)} characters, and every frame names it; at most "
                    f"{MAX_REQUEST_ID} are allowed",
                    field="id",
                    rule="length",
                )
            service = await self._service()
            if not _can_stream(ctx):
                raise Unsupported(
                    "this server answers in JSON only, so it cannot stream; use poll",
                    details={"feature": "deliveryMode", "value": "push", "reason": "json_response"},
                )
            wanted, offered = await service.open(self._identify(ctx), ctx.params or {})
            sink, handover = _sink_of(ctx)
            framing = EventsFraming(request_id, wanted.name, dialect_of(ctx), sink.dress)
            async with (
                service.streaming(wanted, offered, framing, sink) as live,
                _carrying(sink, live, handover, None if handover is not None else _receive_of(ctx)),
            ):
                try:
                    await live.run()
                except StoreUnavailable as error:
                    logger.warning("stream_ended", reason=error.message)
                    live.close(CloseReason.STORE_UNAVAILABLE, error)
                await _take_leave(sink, framing, live)
        return _ended(ctx)

    # -- middleware -------------------------------------------------------------------------------------------------

    async def middleware(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        """Adds the capability to `server/discover` and `initialize`, and `eventsListChanged` to listen streams."""
        if ctx.method == LISTEN and ctx.request_id is not None:
            return await self._listen(ctx, call_next)
        result = await call_next(ctx)
        if ctx.method in ("initialize", "server/discover"):
            if isinstance(result, BaseModel):  # where another middleware made one of it
                result = result.model_dump(by_alias=True, mode="json", exclude_none=True)
            result = result or {}
            capabilities = dict(result.get("capabilities") or {})
            # A session that answers in JSON has no listen streams; a single request for one is streamed all the same.
            settings = self.settings() if ctx.method != "initialize" or _can_stream(ctx) else {}
            capabilities["events"] = settings
            capabilities["extensions"] = {**(capabilities.get("extensions") or {}), EXTENSION: settings}
            return {**result, "capabilities": capabilities}
        return result

    async def _listen(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        """The SDK's own listen stream, which ends when the server is stopped, and with one kind of notification more
        where it is asked for; ours alone where the server has none."""
        if not _can_stream(ctx):
            with _translated(ctx):
                raise Unsupported("this server answers in JSON only, so it cannot stream", details={"feature": LISTEN})
        if not (self.list_changed and _wants_changes(ctx.params)):  # none of our business, but for its end
            return await _until(self._ending(), call_next(ctx)) or _ended(ctx)
        with _translated(ctx):
            service = await self._service()
            caller = self._identify(ctx)
        session, changed = _ListenSession(ctx.session), asyncio.Event()
        detach = service.offer.watch(caller, changed.set)

        async def listen() -> HandlerResult:
            async with asyncio.TaskGroup() as tasks:
                forwarding = tasks.create_task(self._forward(ctx, session, changed))
                try:
                    return await call_next(replace(ctx, session=session))  # type: ignore[arg-type]
                except MCPError as error:
                    if error.error.code != METHOD_NOT_FOUND:
                        raise
                    await self._acknowledge(ctx, session)
                    await asyncio.shield(forwarding)
                    return None
                finally:
                    forwarding.cancel()

        try:
            return await _until(self._ending(), listen()) or _ended(ctx)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            detach()

    @staticmethod
    async def _acknowledge(ctx: Context, session: _ListenSession) -> None:
        """Where the server has no listen stream of its own, this is the only kind of notification on it."""
        params = {"notifications": {}, "_meta": {SUBSCRIPTION_ID: ctx.request_id}}
        await session.send_notification(
            _Notification(method=ACKNOWLEDGED, params=params), related_request_id=ctx.request_id
        )

    @staticmethod
    async def _forward(ctx: Context, session: _ListenSession, changed: asyncio.Event) -> None:
        await session.acknowledged.wait()
        params = {"_meta": {SUBSCRIPTION_ID: ctx.request_id}}
        while True:
            await changed.wait()
            changed.clear()
            await ctx.session.send_notification(
                _Notification(method=LIST_CHANGED, params=params),  # type: ignore[arg-type]
                related_request_id=ctx.request_id,
            )


def _ended(ctx: Context) -> dict[str, Any]:
    """The result of a stream that the server ends."""
    return {"resultType": "complete", "_meta": {SUBSCRIPTION_ID: ctx.request_id}}


async def _until(ending: asyncio.Event | None, work: Awaitable[HandlerResult]) -> HandlerResult:
    """What `work` answers; None when `ending` is set before, and then it is cancelled."""
    if ending is None:
        return await work
    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(ending.wait())
    try:
        await asyncio.wait([working, waiting], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        waiting.result()
        return None
    finally:
        for task in (working, waiting):
            task.cancel()
        await asyncio.wait([working, waiting])


class EventsExtension(Extension):
    """The extension as `MCPServer(extensions=[...])` takes it; its middleware has to be added beside it."""

    identifier = EXTENSION

    def __init__(self, binding: EventsBinding) -> None:
        self.binding = binding

    def settings(self) -> dict[str, Any]:
        return self.binding.settings()

    def methods(self) -> list[MethodBinding]:
        return self.binding.methods()


class _ListenSession:
    """A session whose acknowledgement of a listen stream names `eventsListChanged` too."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.acknowledged = asyncio.Event()

    async def send_notification(self, notification: Any, related_request_id: Any = None) -> None:
        if notification.method != ACKNOWLEDGED:
            await self._session.send_notification(notification, related_request_id)
            return
        body = notification.model_dump(by_alias=True, mode="json", exclude_none=True)
        body["params"]["notifications"]["eventsListChanged"] = True
        await self._session.send_notification(
            _Notification(method=ACKNOWLEDGED, params=body["params"]), related_request_id
        )
        self.acknowledged.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def dialect_of(ctx: Context) -> Dialect:
    """SEP-3415's for a client that declares the extension, with this request or when it introduced itself."""
    capabilities = (ctx.params or {}).get("_meta", {})
    declared = capabilities.get(CLIENT_CAPABILITIES_META_KEY) if isinstance(capabilities, Mapping) else None
    if isinstance(declared, Mapping):
        extensions = declared.get("extensions")
        return Dialect.SEP if isinstance(extensions, Mapping) and EXTENSION in extensions else Dialect.SKETCH
    known = ctx.session.check_client_capability(ClientCapabilities(extensions={EXTENSION: {}}))
    return Dialect.SEP if known else Dialect.SKETCH


@contextmanager
def _translated(ctx: Context) -> Iterator[None]:
    """Clarion's errors as JSON-RPC's, numbered for this client."""
    try:
        yield
    except ClarionError as error:
        body = error_object(error, dialect_of(ctx))
        raise MCPError(body["code"], body["message"], body.get("data")) from None


def _wants_changes(params: Mapping[str, Any] | None) -> bool:
    wanted = (params or {}).get("notifications")
    return isinstance(wanted, Mapping) and wanted.get("eventsListChanged") is True


def _can_stream(ctx: Context) -> bool:
    """Whether notifications reach this request's client. With `json_response=True` the SDK drops them without a word,
    and nothing public tells: its dispatch context has no sink then, or says that it can send no request."""
    outbound = getattr(ctx.session, "_request_outbound", None)
    if ctx.request is None or outbound is None:
        return True
    if hasattr(outbound, "sink"):
        return outbound.sink is not None
    return getattr(getattr(outbound, "message_metadata", None), "can_send_request", True) is not False


def _receive_of(ctx: Context) -> Receive | None:
    """Where the hanging up of a session's client can be seen; the requests of 2026-07-28 are watched by the SDK."""
    if ctx.request is None or ctx.protocol_version in MODERN_PROTOCOL_VERSIONS:
        return None
    return getattr(ctx.request, "receive", None)


def _sink_of(ctx: Context) -> tuple[StreamSink, Handover | None]:
    async def notify(method: str, params: dict[str, Any]) -> None:
        await ctx.session.send_notification(
            _Notification(method=method, params=params),  # type: ignore[arg-type]
            related_request_id=ctx.request_id,
        )

    scope = getattr(ctx.request, "scope", None)
    handover = scope.get(SCOPE_KEY) if isinstance(scope, Mapping) else None
    if isinstance(handover, Handover):
        return HandoverSink(notify, handover), handover
    return NotificationSink(notify), None


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


async def _take_leave(sink: StreamSink, framing: EventsFraming, live: Live) -> None:
    """The last frames of a stream that the server ends, as far as its reader takes them in time."""
    reason = live.close_reason
    if reason is None or reason is CloseReason.CLIENT_GONE:
        return
    last = framing.closed(reason, live.close_error)
    try:
        async with asyncio.timeout(FAREWELL_SECONDS):
            if last:
                while sink.paused:
                    await sink.writable()
                sink.write(last)
            await sink.flushed()
    except (TimeoutError, ConnectionResetError):
        logger.info("farewell_lost", reason=reason.label)
        sink.cut()  # the SDK would wait for this reader to take the result
