"""SDK clients made for Events: as many streams as wanted, and a server that is away for a while ends nothing."""

from __future__ import annotations

import shlex
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Literal

import httpx2
from mcp import Client
from mcp.client import advertise
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import JSONRPCResponse

from clarion import __version__
from clarion.client.errors import ServerUnreachable, UnexpectedAnswer
from clarion.client.http import describe_break
from clarion.client.mcp_events.values import (
    CONNECTION_CLOSED,
    EXTENSION,
    FORBIDDEN,
    INTERNAL,
    STREAM_PREFIX,
    EventsError,
)
from clarion.encoding import decode
from clarion.errors import ClarionError, Forbidden, InvalidInput, MalformedJSON, Unauthenticated

__all__ = ["Observed", "advertised", "connect", "http_client"]

CONNECT_SECONDS = 10.0
"""How long a connection may take to be made."""

READ_SECONDS = 300.0
"""Silence, down to the last byte, after which a connection is dead; streams have a finer measure of their own."""

ANSWER_SECONDS = 60.0
"""How long any request may take, but for streams."""

MAX_FRAME_BYTES = 16 * 1024 * 1024
"""Bytes of one SSE event. Stops an endless line from filling the memory."""

_GATEWAY = (502, 503, 504)
"""What stands before the server says that the server is away: later may do."""

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class _SteadyClient(httpx2.AsyncClient):
    """Failures below JSON-RPC become JSON-RPC errors.

    Without that, the SDK's transport raises a refused connection in its own task group, and the client with every
    stream on it ends; and a 401, a 403 or a 500 is told apart from other answers by nobody. It also ends a stream whose
    reader has gone: for a client that speaks `initialize`, the SDK keeps reading it.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._streams: dict[str, httpx2.Response | None] = {}

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        stream = _stream_id(request)
        if stream is None:
            return await self._send(request, **options)
        self._streams[stream] = None
        response = await self._send(request, **options)
        if stream not in self._streams:  # ended before its answer began
            await response.aclose()
        elif not response.is_closed:
            self._streams[stream] = response
        return response

    async def end(self, stream: str) -> None:
        """Close the connection of a stream by its request's id. Idempotent."""
        response = self._streams.pop(stream, None)
        if response is not None and not response.is_closed:
            await response.aclose()

    async def _send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        try:
            response = await super().send(request, **options)
            if not await _refuses(response):
                return response
            await response.aclose()
        except httpx2.TransportError as error:
            return _told(request, 503, {"code": CONNECTION_CLOSED, "message": describe_break(error)})
        return _told(request, response.status_code, _error_of_status(response.status_code))


async def _refuses(response: httpx2.Response) -> bool:
    """The answer is an HTTP error that says nothing in JSON-RPC. A 404 is left to the SDK: it ends sessions by it."""
    status = response.status_code
    if status < 400 or status == 404:
        return False
    if status == 401 or "json" not in response.headers.get("content-type", ""):
        return True
    try:
        body = decode(await response.aread())
    except MalformedJSON:
        return True
    return not (isinstance(body, dict) and "jsonrpc" in body)


def _error_of_status(status: int) -> dict[str, Any]:
    if status in (401, 403):
        code, message = FORBIDDEN, f"the server answers with HTTP {status}"
    elif status >= 500:
        code, message = CONNECTION_CLOSED, f"the server failed (HTTP {status}); see its log"
    else:
        code, message = INTERNAL, f"HTTP {status}"
    return {"code": code, "message": message, "data": {"httpStatus": status}}


def _stream_id(request: httpx2.Request) -> str | None:
    """The id of a request for a stream; the SDK's own ids are numbers."""
    if request.method != "POST" or STREAM_PREFIX.encode() not in request.content:
        return None
    try:
        found = decode(request.content)["id"]
    except (MalformedJSON, KeyError, TypeError):
        return None
    return found if isinstance(found, str) and found.startswith(STREAM_PREFIX) else None


def _told(request: httpx2.Request, status: int, error: Mapping[str, Any]) -> httpx2.Response:
    return httpx2.Response(status, request=request, json={"jsonrpc": "2.0", "id": None, "error": error})


def http_client(
    bearer: str | None = None, *, transport: httpx2.AsyncBaseTransport | None = None, trust_env: bool = True
) -> _SteadyClient:
    """An HTTP client for `streamable_http_client(url, http_client=...)`, to be closed by the caller.

    It opens any number of connections, for a stream each, and never raises a broken connection: the request fails with
    a JSON-RPC error, as the SDK needs it. Redirects are the SDK's matter. `transport`: another way than the network.
    """
    headers = {"user-agent": f"clarion/{__version__}"}
    if bearer is not None:
        if not bearer.isascii() or not bearer.isprintable():
            raise InvalidInput("the bearer holds characters that no bearer has", field="bearer", rule="ascii")
        headers["authorization"] = f"Bearer {bearer}"
    return _SteadyClient(
        headers=headers,
        timeout=httpx2.Timeout(READ_SECONDS, connect=CONNECT_SECONDS, pool=None),
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=20),
        trust_env=trust_env,
        transport=transport,
    )


@asynccontextmanager
async def connect(
    server: str | StdioServerParameters, bearer: str | None = None, *, mode: str = "auto"
) -> AsyncGenerator[Client, None]:
    """An open SDK client that declares the extension: of a URL, or of a command over stdio.

    `mode` as the SDK's: `auto`, `legacy` (initialize), or a protocol version. Errors in the block come out as they were
    raised, not in the groups that the SDK's tasks make of them.
    Raises when it cannot be opened, and does not try again: InvalidInput for what is no URL; ServerUnreachable where
    nothing answers, or a gateway does (502 to 504), or the command does not start; Unauthenticated for a 401; Forbidden
    for a 403; UnexpectedAnswer for anything else that is no MCP server's answer. All are ClarionErrors.
    """
    raised: BaseException | None = None
    opened = False
    try:
        async with (
            _transport(server, bearer) as transport,
            Client(
                transport, mode=mode, cache=None, read_timeout_seconds=ANSWER_SECONDS, extensions=[advertise(EXTENSION)]
            ) as client,
        ):
            opened = True
            try:
                yield client
            except BaseException as error:
                raised = error
                raise
    except Exception as error:
        if raised is not None:
            raise raised from None
        if opened:
            raise
        raise _unopened(server, error) from None


@asynccontextmanager
async def _transport(server: str | StdioServerParameters, bearer: str | None) -> AsyncIterator[Observed]:
    if isinstance(server, StdioServerParameters):
        yield Observed(stdio_client(server))
        return
    try:
        url = httpx2.URL(server)
    except httpx2.InvalidURL as error:
        raise InvalidInput(f"{server!r} is no URL: {error}", field="url", rule="url") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise InvalidInput(f"{server!r} is no URL of an MCP server; write it like https://example.com/mcp", field="url",
                           rule="url")  # fmt: skip
    async with http_client(bearer, trust_env=url.host not in _LOOPBACK) as http:
        transport = streamable_http_client(server, http_client=http, max_sse_event_size=MAX_FRAME_BYTES)
        yield Observed(transport, http.end)


class Observed:
    """A transport that remembers the capabilities which the SDK's types do not hold: the top-level `events`."""

    def __init__(
        self, inner: AbstractAsyncContextManager[Any], end: Callable[[str], Awaitable[None]] | None = None
    ) -> None:
        """`end`: closes the connection of one stream, where it has one of its own."""
        self._inner = inner
        self.end = end
        self.capabilities: Mapping[str, Any] | None = None

    async def __aenter__(self) -> tuple[Any, Any]:
        read, write = await self._inner.__aenter__()
        return _ObservedReads(read, self), write

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return await self._inner.__aexit__(kind, error, trace)

    def see(self, item: Any) -> None:
        message = getattr(item, "message", None)
        if isinstance(message, JSONRPCResponse):
            found = message.result.get("capabilities")
            if isinstance(found, Mapping):
                self.capabilities = found


class _ObservedReads:
    """The SDK's read stream, seen before the SDK sees it until the capabilities came."""

    def __init__(self, inner: Any, observer: Observed) -> None:
        self._inner = inner
        self._observer = observer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def receive(self) -> Any:
        item = await self._inner.receive()
        if self._observer.capabilities is None:
            self._observer.see(item)
        return item

    def __aiter__(self) -> _ObservedReads:
        return self

    async def __anext__(self) -> Any:
        item = await anext(self._inner)
        if self._observer.capabilities is None:
            self._observer.see(item)
        return item

    async def __aenter__(self) -> _ObservedReads:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *arguments: Any) -> Any:
        return await self._inner.__aexit__(*arguments)


def advertised(client: Client) -> Mapping[str, Any] | Literal[False] | None:
    """The server's settings of Events, from either place; False when it has none; None when it cannot be known.

    The SDK keeps only `capabilities.extensions`, which `initialize` results do not carry: the top-level place is seen
    with a client of `connect` alone.
    """
    found: Any = (client.server_capabilities.extensions or {}).get(EXTENSION)
    transport = client.server
    if found is None and isinstance(transport, Observed):
        seen = transport.capabilities or {}
        extensions = seen.get("extensions")
        found = extensions.get(EXTENSION) if isinstance(extensions, Mapping) else None
        if found is None:
            found = seen.get("events", False)
    return found if found is False or isinstance(found, Mapping) else None


def _unopened(server: str | StdioServerParameters, error: BaseException) -> Exception:
    """Why the connection could not be opened."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    where = server if isinstance(server, str) else shlex.join((server.command, *server.args))
    if isinstance(error, ClarionError):
        return error
    if isinstance(error, OSError):
        return ServerUnreachable(f"cannot start {where}: {error.strerror or error}")
    if isinstance(error, MCPError):
        return _refused(where, EventsError(error.error.code, error.error.message, error.error.data))
    return UnexpectedAnswer(f"{where} does not answer like an MCP server: {error}; check the URL")


def _refused(where: str, error: EventsError) -> ClarionError:
    details = dict(error.data) if isinstance(error.data, Mapping) else {}
    status = details.get("httpStatus")
    if status == 401:
        return Unauthenticated(details=details)
    if status == 403:
        return Forbidden("the server refuses this bearer (HTTP 403)", details=details)
    if isinstance(status, int) and status >= 500:
        kind = ServerUnreachable if status in _GATEWAY else UnexpectedAnswer
        return kind(error.message, details=details)
    if error.code == CONNECTION_CLOSED:
        return ServerUnreachable(f"no MCP server answers at {where}: {error.message}")
    if error.code == INTERNAL and status is None:
        return UnexpectedAnswer(f"the server answered with an error: {error.message}", details=details)
    return UnexpectedAnswer(f"{where} does not answer like an MCP server: {error.message}; check the URL")
