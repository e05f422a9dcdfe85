"""Requests byte by byte, right ones and all kinds of wrong ones, and their answers as they came."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2
from fastmcp import FastMCP

from clarion.events import Events, EventsLayer
from interaction.events_raw import ACCEPT, EXTENSION, MODERN, PATIENCE, HttpPeer
from interaction.events_targets import listening
from interaction.serving import _TLS

__all__ = [
    "NAME", "RIGHT", "Answer", "Asked", "Call", "application", "asked_of", "body_of", "exchange", "fronted",
    "of_tickets",
]  # fmt: skip

Headers = list[tuple[str, str]]

META: Mapping[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {"extensions": {EXTENSION: {}}},
    "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
}


@dataclass(frozen=True)
class Answer:
    """`headers`: but for those of the HTTP server itself; `body`: all of it, or of a stream the first chunk."""

    status: str
    headers: Headers
    body: bytes

    @property
    def is_stream(self) -> bool:
        return ("content-type", "text/event-stream") in self.headers


@dataclass(frozen=True)
class Asked:
    """One request. `direct`: it is served without the SDK where that is possible at all."""

    name: str
    body: bytes
    headers: Headers
    direct: bool = False
    verb: str = "POST"
    path: str = "/mcp"
    chunked: bool = False
    declared_size: int | None = None

    def encoded(self, host: str, authorization: str | None) -> bytes:
        headers = list(self.headers)
        if not any(name.lower() == "host" for name, _ in headers):
            headers.insert(0, ("Host", host))
        if authorization is not None:
            headers.append(("Authorization", authorization))
        if self.chunked:
            headers.append(("Transfer-Encoding", "chunked"))
            half = len(self.body) // 2
            parts = (self.body[:half], self.body[half:], b"")
            body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
        else:
            body = self.body
            headers.append(("Content-Length", str(self.declared_size or len(body))))
        lines = [f"{self.verb} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body

    def __str__(self) -> str:
        return self.name


async def exchange(url: str, asked: Asked, authorization: str | None = None) -> Answer:
    """The answer to one request on a connection of its own, which is closed then."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    try:
        async with asyncio.timeout(PATIENCE):
            writer.write(asked.encoded("127.0.0.1:80", authorization))
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status, *lines = head.strip().split("\r\n")
            headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
            kept = [each for each in headers if each[0] not in ("date", "server")]
            answer = Answer(status, kept, await _body(reader, dict(headers)))
    finally:
        writer.close()
    return answer


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", 0)))
    size = int(await reader.readuntil(b"\r\n"), 16)
    return (await reader.readexactly(size + 2))[:-2]


def body_of(name: Any, *, meta: Any = META, members: Mapping[str, Any] | None = None, **params: Any) -> bytes:
    """A request for a stream; `members` are the message's own, `...` for one that is left out."""
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": 7, "method": "events/stream"}
    message["params"] = {"name": name, **params, "_meta": meta}
    message.update(members or {})
    return json.dumps({key: value for key, value in message.items() if value is not ...}).encode()


def headers_of(*, without: str = "", plus: Headers | None = None, **changed: str) -> Headers:
    """The headers of a right request."""
    headers = {
        "content-type": "application/json",
        "accept": ACCEPT,
        "mcp-protocol-version": MODERN,
        "mcp-method": "events/stream",
    }
    headers.update({name.replace("_", "-"): value for name, value in changed.items()})
    headers.pop(without, None)
    return [*headers.items(), *(plus or [])]


def _meta(**changed: Any) -> dict[str, Any]:
    meta = {**META, **{f"io.modelcontextprotocol/{name}": value for name, value in changed.items()}}
    return {name: value for name, value in meta.items() if value is not ...}


def asked_of(name: str, arguments: Mapping[str, Any], bad_arguments: Mapping[str, Any]) -> list[Asked]:
    """Everything that is asked of a server that has the event type `name`, of replay and push."""
    right = body_of(name)
    deep = b'{"a":' * 5_000 + b"1" + b"}" * 5_000

    def passed(what: str, body: bytes) -> Asked:
        """Nothing that the SDK would object to."""
        return Asked(what, body, headers_of(), direct=True)

    def spoilt(what: str, body: bytes) -> Asked:
        return Asked(what, body, headers_of())

    def headed(what: str, **changed: Any) -> Asked:
        return Asked(what, right, headers_of(**changed))

    return [
        # Right ones.
        Asked("right", right, headers_of(), direct=True),
        Asked("right in chunks", right, headers_of(), direct=True, chunked=True),
        Asked("right with anything accepted", right, headers_of(accept="*/*"), direct=True),
        Asked("right with a charset", right, headers_of(content_type="application/JSON; charset=utf-8"), direct=True),
        Asked("right from a page of this host", right, headers_of(origin="http://127.0.0.1:80"), direct=True),
        Asked("right with an unknown header", right, headers_of(x_other="1"), direct=True),
        Asked("right with a stranger's mcp-name", right, headers_of(mcp_name="other"), direct=True),
        Asked("right with the id of a session", right, headers_of(mcp_session_id="nobody"), direct=True),
        passed("right with a cursor that is null", body_of(name, cursor=None)),
        passed("right with arguments", body_of(name, arguments=arguments)),
        passed("right without client info", body_of(name, meta=_meta(clientInfo=...))),
        passed("right with odd client info", body_of(name, meta=_meta(clientInfo=[1]))),
        passed("right with a progress token", body_of(name, meta={**META, "progressToken": "p"})),
        passed("right with other members of meta", body_of(name, meta={**META, "example/x": [1]})),
        passed("right with a string as its id", body_of(name, members={"id": "s-1 \u00e9"})),
        passed("right with an id that is zero", body_of(name, members={"id": 0})),
        passed("right with other members", body_of(name, members={"extra": 1})),
        passed("right without the extension", body_of(name, meta=_meta(clientCapabilities={}))),
        passed("right with odd extensions", body_of(name, meta=_meta(clientCapabilities={"extensions": [1]}))),
        passed("right in UTF-16", body_of(name).decode().encode("utf-16")),
        # Refused by what serves the events.
        passed("a cursor that was never given", body_of(name, cursor="nonsense")),
        passed("a cursor that is a number", body_of(name, cursor=4)),
        passed("an event that there is not", body_of("no.such.event")),
        passed("a name that is empty", body_of("")),
        passed("a name that is no string", body_of(["a"])),
        passed("arguments that are a list", body_of(name, arguments=[1])),
        passed("arguments that do not fit", body_of(name, arguments=bad_arguments)),
        passed("arguments that are too large", body_of(name, arguments={"x": "y" * 20_000})),
        passed("an age that is a word", body_of(name, maxAgeMs="old")),
        passed("an unknown event without the extension", body_of("no.such.event", meta=_meta(clientCapabilities={}))),
        passed("half a surrogate as an id", right.replace(b": 7", b': "\\ud800"')),
        passed("an id that is too long", body_of(name, members={"id": "x" * 300})),
        # Refused by the SDK.
        headed("no mcp-method", without="mcp-method"),
        headed("another mcp-method", mcp_method="events/poll"),
        headed("mcp-method in capitals", mcp_method="EVENTS/STREAM"),
        headed("mcp-method twice", plus=[("Mcp-Method", "events/stream")]),
        headed("mcp-method twice and different", plus=[("Mcp-Method", "tools/list")]),
        headed("mcp-protocol-version twice", plus=[("MCP-Protocol-Version", MODERN)]),
        headed("mcp-name twice", plus=[("Mcp-Name", "a"), ("Mcp-Name", "a")]),
        headed("no mcp-protocol-version", without="mcp-protocol-version"),
        headed("a version of before", mcp_protocol_version="2025-11-25"),
        headed("a version that there is not", mcp_protocol_version="2099-01-01"),
        headed("an empty version", mcp_protocol_version=""),
        headed("no accept", without="accept"),
        headed("only json accepted", accept="application/json"),
        headed("only streams accepted", accept="text/event-stream"),
        headed("html accepted", accept="text/html"),
        headed("no content type", without="content-type"),
        headed("another content type", content_type="text/plain"),
        headed("another host", plus=[("Host", "evil.example")]),
        headed("another origin", origin="http://evil.example"),
        headed("a session that there is not", mcp_session_id="nobody", mcp_protocol_version="2025-11-25"),
        spoilt("a version that there is not, in both places", body_of(name, meta=_meta(protocolVersion="2099-01-01"))),
        spoilt("another version in meta", body_of(name, meta=_meta(protocolVersion="2025-11-25"))),
        spoilt("a version that is a number", body_of(name, meta=_meta(protocolVersion=2026))),
        spoilt("no version in meta", body_of(name, meta=_meta(protocolVersion=...))),
        spoilt("no capabilities", body_of(name, meta=_meta(clientCapabilities=...))),
        spoilt("an empty meta", body_of(name, meta={})),
        spoilt("meta that is null", body_of(name, meta=None)),
        spoilt("meta that is a list", body_of(name, meta=[])),
        spoilt("a progress token that is a list", body_of(name, meta={**META, "progressToken": [1]})),
        spoilt("no params", body_of(name, members={"params": ...})),
        spoilt("params that are a list", body_of(name, members={"params": [1]})),
        spoilt("params that are null", body_of(name, members={"params": None})),
        spoilt("no id", body_of(name, members={"id": ...})),
        spoilt("an id that is null", body_of(name, members={"id": None})),
        spoilt("an id that is half", body_of(name, members={"id": 1.5})),
        spoilt("an id that is true", body_of(name, members={"id": True})),
        spoilt("an id that is an object", body_of(name, members={"id": {}})),
        spoilt("jsonrpc 1.0", body_of(name, members={"jsonrpc": "1.0"})),
        spoilt("no jsonrpc", body_of(name, members={"jsonrpc": ...})),
        spoilt("another method in the body", body_of(name, members={"method": "events/list"})),
        spoilt("a method that is a number", body_of(name, members={"method": 5})),
        spoilt("a batch", b"[" + right + b"]"),
        spoilt("an answer", b'{"jsonrpc":"2.0","id":1,"result":{}}'),
        spoilt("no body", b""),
        spoilt("no JSON", b"{"),
        spoilt("a word", b'"events/stream"'),
        spoilt("bytes", b"\xff\xfe\xfd"),
        spoilt("too deep", deep),
        spoilt("a number that is too long", right.replace(b": 7", b": " + b"9" * 5_000)),
        spoilt("too large", right + b" " * (4 * 1024 * 1024)),
        Asked("too large, in its own word", right, headers_of(), declared_size=5 * 1024 * 1024),
        Asked("a GET", b"", headers_of(), verb="GET"),
        Asked("a DELETE", b"", headers_of(), verb="DELETE"),
        Asked("a PUT", right, headers_of(), verb="PUT"),
        Asked("an OPTIONS", b"", headers_of(), verb="OPTIONS"),
        Asked("another path", right, headers_of(), path="/mcp/other"),
        Asked("a slash too many", right, headers_of(), path="/mcp/"),
    ]


# -- a server of tickets ----------------------------------------------------------------------------------------------

NAME = "ticket.updated"
RIGHT = asked_of(NAME, {}, {})[0]


def of_tickets(**options: Any) -> Events:
    events = Events()
    events.event(NAME, "A ticket changed.", **options)
    return events


def application(server: Any, **options: Any) -> Any:
    return server.http_app(**options) if isinstance(server, FastMCP) else server.streamable_http_app(**options)


@asynccontextmanager
async def fronted(
    app: Any, *, bearer: str | None = None, outside: Any = None, send_buffer: int | None = None
) -> AsyncIterator[tuple[EventsLayer, HttpPeer]]:
    """`app` behind a layer, its lifespan run, and a client."""
    layer = EventsLayer(outside or app)
    async with (
        listening(layer, send_buffer=send_buffer) as url,
        httpx2.AsyncClient(base_url=url, timeout=None, verify=_TLS) as http,
        app.router.lifespan_context(app),
    ):
        peer = HttpPeer(http, MODERN, True, path="/mcp", repeats=False)
        peer.headers = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
        yield layer, peer


class Call:
    """The right request to an ASGI application by a server of which nothing is known: its `receive` tells nothing but
    what it is told to, and raises what it is told to raise. `tells`: when the response has ended, too."""

    def __init__(self, layer: EventsLayer, *then: Any, tells: bool = False) -> None:
        self.sent: asyncio.Queue[Any] = asyncio.Queue()
        self.incoming: asyncio.Queue[Any] = asyncio.Queue()
        self.incoming.put_nowait({"type": "http.request", "body": RIGHT.body, "more_body": False})
        headers = [(name.encode(), value.encode()) for name, value in [*RIGHT.headers, ("host", "127.0.0.1:80")]]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": "/mcp",
            "raw_path": b"/mcp", "query_string": b"", "root_path": "", "scheme": "http", "headers": headers,
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
        }  # fmt: skip
        for each in then:
            self.incoming.put_nowait(each)
        self.broken = False
        self._tells = tells
        self.task = asyncio.create_task(layer(scope, self._receive, self._send))

    async def _receive(self) -> Any:
        message = await self.incoming.get()
        if isinstance(message, Exception):
            raise message
        return message

    async def _send(self, message: Any) -> None:
        if self.broken:
            raise BrokenPipeError
        await self.sent.put(message)
        if self._tells and message["type"] == "http.response.body" and not message.get("more_body", False):
            self.incoming.put_nowait({"type": "http.disconnect"})

    async def until_active(self) -> None:
        assert (await self.sent.get())["status"] == 200
        while b"events/active" not in (await self.sent.get())["body"]:
            pass
