"""The Events methods on the official SDK: `MCPServer` and low-level servers, HTTP and stdio, both protocol eras.

Where SEP-3415, the earlier sketch and deployed clients differ, all are served: the capability is advertised under
`extensions` and at the top level, on `server/discover` and on `initialize`; error numbers follow what the client
declares; streams are served to `initialize` clients as to those of 2026-07-28, over the POST's own response.

What the SDK has no public place for is here, in one file: top-level capabilities, which only a middleware can add to a
result, and `eventsListChanged`, which its own listen handler drops.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol, TypeAlias

from mcp.server.context import CallNext, HandlerResult
from mcp.server.extension import Extension, MethodBinding
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    METHOD_NOT_FOUND,
    ClientCapabilities,
    RequestId,
    RequestParams,
)
from pydantic import BaseModel, ConfigDict

from clarion.errors import ClarionError, CloseReason, InvalidInput, StoreUnavailable, Unsupported
from clarion.logs import get_logger
from clarion.wires.mcp_events.carriers import Carrier, EventNotification, SdkCarrier, SdkContext, can_stream, take_leave
from clarion.wires.mcp_events.errors import Dialect, error_object
from clarion.wires.mcp_events.framing import SUBSCRIPTION_ID, EventsFraming
from clarion.wires.mcp_events.protocol import Caller
from clarion.wires.mcp_events.service import EventsService

__all__ = [
    "EXTENSION",
    "STREAM",
    "Context",
    "EventsBinding",
    "EventsExtension",
    "Identify",
    "StreamParams",
    "declared_dialect",
    "dialect_of",
]

EXTENSION = "io.modelcontextprotocol/events"
"""The extension's identifier."""

MAX_REQUEST_ID = 256
"""Characters of a stream's request id. Stops a long one from being multiplied by every frame."""

STREAM = "events/stream"
LIST_CHANGED = "notifications/events/list_changed"
LISTEN = "subscriptions/listen"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"


class Context(Protocol):
    """What is to be known of a request, whoever serves it; the SDK's own context is one."""

    @property
    def params(self) -> Mapping[str, Any] | None:
        """As they came, `_meta` included."""
        ...

    @property
    def request(self) -> Any:
        """The HTTP request; None on stdio."""
        ...


Identify: TypeAlias = Callable[[Context], Caller]
"""Tells who sent a request, within the task that serves it."""


logger = get_logger("clarion.mcp_events")


class StreamParams(RequestParams):
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
        self.handler: Callable[..., Any] = self._stream
        """What the server calls for `events/stream`, which some wrap."""
        self.is_idle: Callable[[object], bool] = lambda _middleware: False
        """Whether a middleware of the server, none of the SDK's, would do nothing with an `events/stream`."""
        self.needs_context: Callable[[object], bool] = lambda _name: False
        """Whether the author's functions for an event type may look for the SDK's context of the request."""

    def settings(self) -> dict[str, Any]:
        """What is advertised of the extension."""
        return {"listChanged": True} if self.list_changed else {}

    def methods(self) -> list[MethodBinding]:
        return [
            MethodBinding("events/list", StreamParams, self._list),
            MethodBinding("events/poll", StreamParams, self._poll),
            MethodBinding(STREAM, StreamParams, self._stream),
        ]

    # -- methods ----------------------------------------------------------------------------------------------------

    async def _list(self, ctx: SdkContext, _params: StreamParams) -> dict[str, Any]:
        with _translated(ctx):
            service = await self._service()
            result = await service.list(self._identify(ctx), ctx.params or {})
        if not can_stream(ctx):
            for described in result["events"]:
                described["delivery"] = [mode for mode in described["delivery"] if mode != "push"]
            result["events"] = [described for described in result["events"] if described["delivery"]]
        return result

    async def _poll(self, ctx: SdkContext, _params: StreamParams) -> dict[str, Any]:
        with _translated(ctx):
            service = await self._service()
            return await service.poll(self._identify(ctx), ctx.params or {})

    async def _stream(self, ctx: SdkContext, _params: StreamParams) -> dict[str, Any]:
        if ctx.request_id is None:
            raise MCPError(METHOD_NOT_FOUND, "events/stream is a request and needs an id")
        return await self.stream(ctx, ctx.request_id, dialect_of(ctx), SdkCarrier(ctx))

    async def stream(self, asked: Context, request_id: RequestId, dialect: Dialect, carrier: Carrier) -> dict[str, Any]:
        """Serve one stream until it ends, however its frames are carried; answers its result. Raises MCPError."""
        try:
            _check_id(request_id)
            service = await self._service()
            sink = carrier.sink()
            wanted, offered = await service.open(self._identify(asked), asked.params or {})
            framing = EventsFraming(request_id, wanted.name, dialect, carrier.dress)
            async with service.streaming(wanted, offered, framing, sink) as live, carrier.carrying(live):
                try:
                    await live.run()
                except StoreUnavailable as error:
                    logger.warning("stream_ended", reason=error.message)
                    live.close(CloseReason.STORE_UNAVAILABLE, error)
                await take_leave(carrier, sink, framing, live)
        except ClarionError as error:
            raise _as_mcp_error(error, dialect) from None
        return _ended(request_id)

    # -- middleware -------------------------------------------------------------------------------------------------

    async def middleware(self, ctx: SdkContext, call_next: CallNext) -> HandlerResult:
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
            settings = self.settings() if ctx.method != "initialize" or can_stream(ctx) else {}
            capabilities["events"] = settings
            capabilities["extensions"] = {**(capabilities.get("extensions") or {}), EXTENSION: settings}
            return {**result, "capabilities": capabilities}
        return result

    async def _listen(self, ctx: SdkContext, call_next: CallNext) -> HandlerResult:
        """The SDK's own listen stream, which ends when the server is stopped, and with one kind of notification more
        where it is asked for; ours alone where the server has none."""
        if not can_stream(ctx):
            with _translated(ctx):
                raise Unsupported("this server answers in JSON only, so it cannot stream", details={"feature": LISTEN})
        if not (self.list_changed and _wants_changes(ctx.params)):  # none of our business, but for its end
            return await _until(self._ending(), call_next(ctx)) or _ended(ctx.request_id)
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
            return await _until(self._ending(), listen()) or _ended(ctx.request_id)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            detach()

    @staticmethod
    async def _acknowledge(ctx: SdkContext, session: _ListenSession) -> None:
        """Where the server has no listen stream of its own, this is the only kind of notification on it."""
        params = {"notifications": {}, "_meta": {SUBSCRIPTION_ID: ctx.request_id}}
        await session.send_notification(
            EventNotification(method=ACKNOWLEDGED, params=params), related_request_id=ctx.request_id
        )

    @staticmethod
    async def _forward(ctx: SdkContext, session: _ListenSession, changed: asyncio.Event) -> None:
        await session.acknowledged.wait()
        params = {"_meta": {SUBSCRIPTION_ID: ctx.request_id}}
        while True:
            await changed.wait()
            changed.clear()
            await ctx.session.send_notification(
                EventNotification(method=LIST_CHANGED, params=params),  # type: ignore[arg-type]
                related_request_id=ctx.request_id,
            )


def _check_id(request_id: RequestId) -> None:
    if isinstance(request_id, str) and len(request_id) > MAX_REQUEST_ID:
        raise InvalidInput(
            f"the request's id has {len(request_id)} characters, and every frame names it; at most "
            f"{MAX_REQUEST_ID} are allowed",
            field="id",
            rule="length",
        )


def _ended(request_id: RequestId | None) -> dict[str, Any]:
    """The result of a stream that the server ends."""
    return {"resultType": "complete", "_meta": {SUBSCRIPTION_ID: request_id}}


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
            EventNotification(method=ACKNOWLEDGED, params=body["params"]), related_request_id
        )
        self.acknowledged.set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def dialect_of(ctx: SdkContext) -> Dialect:
    """SEP-3415's for a client that declares the extension, with this request or when it introduced itself."""
    declared = declared_dialect(ctx.params)
    if declared is not None:
        return declared
    known = ctx.session.check_client_capability(ClientCapabilities(extensions={EXTENSION: {}}))
    return Dialect.SEP if known else Dialect.SKETCH


def declared_dialect(params: Mapping[str, Any] | None) -> Dialect | None:
    """What a request says by itself; None for one without capabilities."""
    meta = (params or {}).get("_meta", {})
    declared = meta.get(CLIENT_CAPABILITIES_META_KEY) if isinstance(meta, Mapping) else None
    if not isinstance(declared, Mapping):
        return None
    extensions = declared.get("extensions")
    return Dialect.SEP if isinstance(extensions, Mapping) and EXTENSION in extensions else Dialect.SKETCH


@contextmanager
def _translated(ctx: SdkContext) -> Iterator[None]:
    """Clarion's errors as JSON-RPC's, numbered for this client."""
    try:
        yield
    except ClarionError as error:
        raise _as_mcp_error(error, dialect_of(ctx)) from None


def _as_mcp_error(error: ClarionError, dialect: Dialect) -> MCPError:
    body = error_object(error, dialect)
    return MCPError(body["code"], body["message"], body.get("data"))


def _wants_changes(params: Mapping[str, Any] | None) -> bool:
    wanted = (params or {}).get("notifications")
    return isinstance(wanted, Mapping) and wanted.get("eventsListChanged") is True
