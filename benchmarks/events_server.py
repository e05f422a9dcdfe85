"""One MCP server to measure, on uvicorn with uvloop and httptools: `events_server.py KIND [STORE [count]]`.

It prints its port. KIND is

    layered   Clarion's library on an `MCPServer`, behind `EventsLayer`
    plain     the same without the layer
    sdk       an `MCPServer` alone: a handler that keeps its request open, and a loop over all of them that calls the
              session's `send_notification`; its `events/poll` answers a constant
    listen    an `MCPServer` alone, whose events are updates of one resource to open `subscriptions/listen` requests

STORE is where the library keeps its events: nothing for memory. Beside `/mcp` each serves `POST /emit`, whose body is
the data of an event on each line, and `GET /statements`, which tells how many statements SQLite has begun in this
process if it was told to count.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import sqlite3
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import uvicorn
from mcp.server.context import ServerRequestContext
from mcp.server.extension import Extension, MethodBinding
from mcp.server.mcpserver import MCPServer
from mcp.server.subscriptions import InMemorySubscriptionBus, ResourceUpdated
from mcp_types import Notification, RequestParams

from clarion.events import Events, EventsLayer

NAME = "deal.won"
SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"
URI = "bench://resource/".ljust(284, "n")
"""Of a length that gives a frame about 450 bytes."""

CURSOR = "cursor".ljust(27, "0")
"""As long as one of Clarion's, so that both send frames of one size."""

BACKLOG = 4096

Context = ServerRequestContext[Any, Any]
Emit = Callable[[list[dict[str, Any]]], Awaitable[object]]


class EventNotification(Notification[dict[str, Any], str]):
    """The cheapest model that the SDK sends."""


class StreamExtension(Extension):
    """`events/stream` as an author writes it with the SDK alone."""

    identifier = "io.modelcontextprotocol/events"

    def __init__(self) -> None:
        self._open: dict[object, Context] = {}

    def methods(self) -> list[MethodBinding]:
        return [
            MethodBinding("events/stream", RequestParams, self._stream),
            MethodBinding("events/poll", RequestParams, self._poll),
        ]

    async def _stream(self, ctx: Context, _params: RequestParams) -> dict[str, Any]:
        await self._send(ctx, "active", {"cursor": CURSOR, "truncated": False})
        key = object()
        self._open[key] = ctx
        try:
            await asyncio.Event().wait()
        finally:
            del self._open[key]
        return {}

    async def _poll(self, _ctx: Context, _params: RequestParams) -> dict[str, Any]:
        return {"events": [], "cursor": CURSOR, "truncated": False, "hasMore": False, "nextPollMs": 5000}

    async def emit(self, every: list[dict[str, Any]]) -> None:
        for data in every:
            await self._emit(data)

    async def _emit(self, data: dict[str, Any]) -> None:
        occurrence = {
            "eventId": secrets.token_hex(13),
            "name": NAME,
            "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "cursor": CURSOR,
            "data": data,
        }
        for ctx in list(self._open.values()):
            await self._send(ctx, "event", occurrence)

    @staticmethod
    async def _send(ctx: Context, what: str, params: dict[str, Any]) -> None:
        params = {**params, "_meta": {SUBSCRIPTION_ID: ctx.request_id}}
        notification = EventNotification(method=f"notifications/events/{what}", params=params)
        await ctx.session.send_notification(notification, related_request_id=ctx.request_id)  # type: ignore[arg-type]


def layered(store: str | None) -> tuple[Any, Emit]:
    app, emit = plain(store)
    return EventsLayer(app), emit


def plain(store: str | None) -> tuple[Any, Emit]:
    events = Events(store)
    events.event(NAME, "A deal was won.")
    app = MCPServer("bench", extensions=[events.extension()]).streamable_http_app()
    return app, lambda every: asyncio.gather(*(events.emit(NAME, data) for data in every))


def sdk(_store: str | None) -> tuple[Any, Emit]:
    extension = StreamExtension()
    return MCPServer("bench", extensions=[extension]).streamable_http_app(), extension.emit


def listen(_store: str | None) -> tuple[Any, Emit]:
    bus = InMemorySubscriptionBus()

    async def emit(every: list[dict[str, Any]]) -> None:
        for _ in every:
            await bus.publish(ResourceUpdated(URI))

    return MCPServer("bench", subscriptions=bus).streamable_http_app(), emit


class Statements(sqlite3.Connection):
    """Counts what every connection of this process is asked, savepoints and pragmas included."""

    begun = 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.set_trace_callback(Statements.count)

    @staticmethod
    def count(_statement: str) -> None:
        Statements.begun += 1


def count_statements() -> None:
    connect = sqlite3.connect

    def connect_counted(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **{"factory": Statements, **options})
        return connection

    sqlite3.connect = connect_counted  # type: ignore[assignment]


class Routes:
    """Two routes of the benchmark's own in front of the MCP application."""

    def __init__(self, app: Any, emit: Emit) -> None:
        self._app = app
        self._emit = emit

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path")
        if path == "/emit":
            body = b""
            while (message := await receive())["type"] == "http.request":
                body += message["body"]
                if not message.get("more_body"):
                    break
            await self._emit([json.loads(line) for line in body.split(b"\n")])
            await self._answer(send, b"{}")
        elif path == "/statements":
            await self._answer(send, b"%d" % Statements.begun)
        else:
            await self._app(scope, receive, send)

    @staticmethod
    async def _answer(send: Any, body: bytes) -> None:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


KINDS: dict[str, Callable[[str | None], tuple[Any, Emit]]] = {
    "layered": layered, "plain": plain, "sdk": sdk, "listen": listen,
}  # fmt: skip


class Announcing(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)


def main() -> None:
    kind, store = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
    if sys.argv[3:]:
        count_statements()
    config = uvicorn.Config(
        Routes(*KINDS[kind](store)), host="127.0.0.1", port=0, loop="uvloop", http="httptools", log_level="warning",
        access_log=False, backlog=BACKLOG, timeout_graceful_shutdown=1,
    )  # fmt: skip
    Announcing(config).run()


if __name__ == "__main__":
    main()
