"""The streams that need nothing of the SDK but its judgement: a request that it would have no objection to is served
here, straight on the server's transport.

A `Door` stands in the SDK's session manager, below authentication and the limit of a request's size. It asks the SDK's
own checks about an `events/stream` of 2026-07-28. What passes them all is handed back to the `EventsLayer` in front,
with nothing of the application left on the stack; whatever does not goes on to the SDK, as if nobody had looked, so
that every answer about something amiss is the SDK's own.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import Context as Variables
from contextvars import copy_context
from types import TracebackType
from typing import Any, Final, TypeAlias

from mcp.server._otel import OpenTelemetryMiddleware
from mcp.server.lowlevel import Server
from mcp.server.request_state import RequestStateBoundary
from mcp.server.streamable_http import check_accept_headers
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecurityMiddleware
from mcp.shared.inbound import (
    ERROR_CODE_HTTP_STATUS,
    MCP_METHOD_HEADER,
    InboundModernRoute,
    classify_inbound_request,
    find_duplicated_routing_header,
)
from mcp.shared.jsonrpc_dispatcher import handler_exception_to_error_data
from mcp_types import (
    INTERNAL_ERROR,
    SERVER_INFO_META_KEY,
    ErrorData,
    JSONRPCError,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
)
from opentelemetry.trace import NoOpTracerProvider, ProxyTracerProvider, get_tracer_provider
from starlette.requests import Request
from starlette.responses import Response

from clarion.errors import CloseReason
from clarion.hub.protocols import Sink
from clarion.logs import get_logger, origin
from clarion.wires.mcp_events.carriers import FAREWELL_SECONDS
from clarion.wires.mcp_events.errors import Dialect
from clarion.wires.mcp_events.framing import Dress, as_sse
from clarion.wires.mcp_events.handover import handover_of
from clarion.wires.mcp_events.protocol import Live
from clarion.wires.mcp_events.sdk import STREAM, EventsBinding, StreamParams, declared_dialect
from clarion.wires.mcp_events.sinks import cut_off
from clarion.wires.sse import Message, Receive, Scope, Send, make_sink

__all__ = ["Door", "is_asked_for", "is_traced"]

HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"connection", b"keep-alive"),
    (b"x-accel-buffering", b"no"),
]
"""The SDK's own, so that its streams and these cannot be told apart."""

SILENCE_SECONDS: Final = 15.0
"""How long a response may take to begin: then a comment begins it, as the SDK does, so that no proxy gives it up while
the author's functions are asked."""

_PING: Final = b": ping\r\n\r\n"
_METHOD: Final = (MCP_METHOD_HEADER.encode(), STREAM.encode())
_TRACE: Final = "traceparent"

App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_Asked: TypeAlias = tuple[RequestId, Mapping[str, Any], Dialect]
"""The id of a request that nobody objects to, its params, and what its client speaks."""

logger = get_logger("clarion.mcp_events")


def is_asked_for(scope: Scope) -> bool:
    """Whether a POST says that it asks for a stream."""
    return _METHOD in scope["headers"]


class Door:
    """Stands before the handler of a session manager of the SDK."""

    def __init__(self, app: App, manager: StreamableHTTPSessionManager) -> None:
        self._app = app
        self.manager = manager
        self._security = TransportSecurityMiddleware(manager.security_settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        handover = handover_of(scope)
        if handover is None or handover.door is not self:
            await self._app(scope, receive, send)
            return
        server = self.manager.app
        binding = None if self.manager.json_response or not _is_running(self.manager) else binding_of(server)
        if binding is None:
            await self._app(scope, receive, send)
            return
        message = await receive()
        asked = await self._passed(binding, Request(scope), message)
        if asked is None:
            await self._app(scope, _again(message, receive), send)
            return
        handover.taken = _Direct(binding, server, *asked, handover.headers).serve

    async def _passed(self, binding: EventsBinding, request: Request, message: Message) -> _Asked | None:
        """What is asked for, unless the SDK would object to it, or the author's functions could miss something."""
        if message["type"] != "http.request" or message.get("more_body", False):
            return None
        if request.method != "POST" or await self._security.validate_request(request, is_post=True) is not None:
            return None
        if check_accept_headers(request) != (True, True):
            return None
        try:
            decoded = json.loads(message.get("body", b""))
            envelope = JSONRPCRequest.model_validate(decoded)
            StreamParams.model_validate(envelope.params or {}, by_name=False)
        except (ValueError, RecursionError):  # pydantic's ValidationError is a ValueError
            return None
        headers = request.headers
        if envelope.method != STREAM or find_duplicated_routing_header(headers.items()) is not None:
            return None
        if not isinstance(classify_inbound_request(decoded, headers=dict(headers)), InboundModernRoute):
            return None
        params = envelope.params or {}
        dialect = declared_dialect(params)
        if dialect is None or _TRACE in params["_meta"] or binding.needs_context(params.get("name")):
            return None
        return envelope.id, params, dialect


def _is_running(manager: StreamableHTTPSessionManager) -> bool:
    """Whether its lifespan has begun; before that, the SDK refuses everything."""
    return getattr(manager, "_task_group", None) is not None


def _again(message: Message, receive: Receive) -> Receive:
    """`receive`, from before `message` on."""
    waiting = [message]

    async def receive_again() -> Message:
        return waiting.pop() if waiting else await receive()

    return receive_again


def binding_of(server: Server[Any]) -> EventsBinding | None:
    """Whose streams `server` serves; None where somebody would miss what the SDK does around them: a middleware that
    wants to see the request, or a handler that is not ours."""
    found: EventsBinding | None = None
    others = []
    for middleware in server.middleware:
        owner = getattr(middleware, "__self__", None)
        if isinstance(owner, EventsBinding):
            if found is not None or middleware != owner.middleware:
                return None
            found = owner
        elif type(middleware) is OpenTelemetryMiddleware:
            if is_traced():
                return None
        elif type(middleware) is not RequestStateBoundary:  # which acts on three methods of the protocol's own
            others.append(middleware)
    entry = server.get_request_handler(STREAM)
    if found is None or entry is None or entry.handler != found.handler or STREAM in server.cache_hints:
        return None
    return found if all(found.is_idle(each) for each in others) else None


def is_traced() -> bool:
    """Whether anybody would get the SDK's spans."""
    return type(get_tracer_provider()) not in (ProxyTracerProvider, NoOpTracerProvider)


def _described(error: Exception) -> ErrorData:
    """What the client is told, as the SDK would; of what nobody expected, nothing, and the log has its kind alone."""
    known = handler_exception_to_error_data(error)
    if known is not None:
        return known
    if isinstance(error, ConnectionError):
        logger.info("stream_lost", error=type(error).__name__)
    else:
        logger.error("stream_failed", error=type(error).__name__, at=origin(error))
    return ErrorData(code=INTERNAL_ERROR, message="Internal server error")


class _Direct:
    """One such stream: its request, a `Context`; the `Carrier` of its frames; the response's beginning and end.

    What it holds is multiplied by the number of idle streams."""

    __slots__ = ("_begun", "_binding", "_dialect", "_gone", "_headers", "_id", "_live", "_pings", "_send", "_server",
                 "_silence", "_sink", "_task", "_variables", "_watching", "params")  # fmt: skip

    request = True
    """It came by HTTP."""

    dress: Dress = staticmethod(as_sse)

    def __init__(
        self,
        binding: EventsBinding,
        server: Server[Any],
        id: RequestId,
        params: Mapping[str, Any],
        dialect: Dialect,
        headers: Sequence[tuple[bytes, bytes]],
    ) -> None:
        self._binding = binding
        self._server = server
        self._id = id
        self._dialect = dialect
        self._headers = headers
        self.params: Mapping[str, Any] | None = params
        self._variables: Variables | None = copy_context()
        self._live: Live | None = None
        self._sink: Sink | None = None
        self._pings: asyncio.Task[None] | None = None
        self._watching: asyncio.Timeout | None = None
        self._begun = self._gone = False

    async def serve(self, receive: Receive, send: Send) -> None:
        """Serve it in a task that sees what authentication and the like have left for it, while this one watches for
        the client's hanging up. Raises what `receive` and `send` raise, when the stream is over."""
        self._send = send
        task = self._task = asyncio.get_running_loop().create_task(self._respond(), context=self._variables)
        self._variables = None
        trouble: Exception | None = None
        try:
            try:
                # Not every server's `receive` tells that the response has ended.
                async with asyncio.timeout(None) as self._watching:
                    task.add_done_callback(self._wake)
                    try:
                        while not task.done() and (await receive())["type"] != "http.disconnect":
                            pass
                    finally:
                        self._watching = None  # the callback may be on its way, if `receive` has told as well
                        task.remove_done_callback(self._wake)
            except Exception as error:
                trouble = None if task.done() else error  # of `receive`, which tells nothing of the client any more
            if not task.done():
                self._hang_up()
                await asyncio.wait([task])
        except asyncio.CancelledError:
            task.cancel()
            await asyncio.wait([task])
            raise
        if trouble is not None:
            raise trouble
        if not task.cancelled():
            task.result()

    def _wake(self, _task: object) -> None:
        if self._watching is not None:
            self._watching.reschedule(0)  # which is over

    def _hang_up(self) -> None:
        self._gone = True
        if self._live is None:
            self._task.cancel()  # it is still being opened
        else:
            self._live.close(CloseReason.CLIENT_GONE)

    async def _respond(self) -> None:
        answer: JSONRPCResponse | JSONRPCError
        # Here, where it is sure to be called off: a task that is cancelled before its first step never comes here.
        self._silence = asyncio.get_running_loop().call_later(SILENCE_SECONDS, self._break_silence)
        try:
            result = await self._binding.stream(self, self._id, self._dialect, self)
        except Exception as error:
            answer = JSONRPCError(jsonrpc="2.0", id=self._id, error=_described(error))
        else:
            result["_meta"][SERVER_INFO_META_KEY] = self._server.server_info_stamp
            answer = JSONRPCResponse(jsonrpc="2.0", id=self._id, result=result)
        finally:
            await self._end_silence()
        if not self._gone:
            await self._answer(answer)

    # -- the response -----------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        if self._begun:
            return
        self._begun = True
        # A list of its own: middleware adds to it in place, and the next response must not have that.
        await self._send({"type": "http.response.start", "status": 200, "headers": [*HEADERS, *self._headers]})

    def _break_silence(self) -> None:
        self._pings = asyncio.get_running_loop().create_task(self._ping())

    async def _ping(self) -> None:
        await self.begin()
        while True:
            await self._send({"type": "http.response.body", "body": _PING, "more_body": True})
            await asyncio.sleep(SILENCE_SECONDS)

    async def _end_silence(self) -> None:
        """From here on, nobody else writes."""
        self._silence.cancel()
        pings, self._pings = self._pings, None
        if pings is not None:
            pings.cancel()
            await asyncio.gather(pings, return_exceptions=True)

    async def _answer(self, answer: JSONRPCResponse | JSONRPCError) -> None:
        """The end of the response: all of it, where no stream has begun, with the status that the SDK would give."""
        message = answer.model_dump(mode="json", by_alias=True, exclude_none=True)
        body = json.dumps(message, separators=(",", ":"))
        if not self._begun:
            code = answer.error.code if isinstance(answer, JSONRPCError) else None
            status = 200 if code is None else ERROR_CODE_HTTP_STATUS.get(code, 200)
            response = Response(body, status, media_type="application/json")
            headers = [*response.raw_headers, *self._headers]
            await self._send({"type": "http.response.start", "status": status, "headers": headers})
            await self._send({"type": "http.response.body", "body": response.body})
            return
        last = {"type": "http.response.body", "body": as_sse(body.encode()), "more_body": False}
        try:
            async with asyncio.timeout(FAREWELL_SECONDS):
                await self.flushed()
                await self._send(last)
        except OSError:  # TimeoutError is one
            if cut_off(self._send):
                await self._send(last)  # takes nothing more, and lets the server know that this was the end

    # -- what a `Carrier` does --------------------------------------------------------------------------------------

    def sink(self) -> Sink:
        sink = self._sink = make_sink(self._send)
        return sink

    def carrying(self, live: Live) -> _Direct:
        self._live = live
        return self

    async def __aenter__(self) -> None:
        """Begin the response; what is written from now on needs nobody to carry it."""
        self.params = None  # nobody asks any more
        await self._end_silence()
        if self._live is not None and self._live.close_reason is None:
            await self.begin()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

    async def flushed(self) -> None:
        sink = self._sink
        if sink is None or not self._begun:
            return  # nothing was written; and to be asked, a sink may write
        await sink.writable()
        while sink.paused:
            await sink.writable()

    def cut(self) -> None:
        cut_off(self._send)
