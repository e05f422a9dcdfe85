"""A stranger's client of the Events extension: JSON-RPC over plain HTTP, with no line of Clarion or of an SDK."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx2

MODERN, LEGACY = "2026-07-28", "2025-11-25"
EXTENSION = "io.modelcontextprotocol/events"
SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"
PREFIX = "notifications/events/"

PATIENCE = 10.0
"""Seconds until something that does not come fails the test."""

Body = dict[str, Any]


class Peer(NamedTuple):
    """A kind of client: the protocol's era, and whether it declares the extension."""

    era: str
    declares: bool

    @property
    def capabilities(self) -> Body:
        return {"extensions": {EXTENSION: {}}} if self.declares else {}

    def code(self, name: str) -> int:
        """The number of an error, which is all that the declaration may change."""
        offset = {"NotFound": 0, "Forbidden": 1, "ResourceExhausted": 2, "Unsupported": 3}[name]
        return (-32023 if self.declares else -32011) - offset

    def __str__(self) -> str:
        return f"{self.era}-{'declaring' if self.declares else 'undeclaring'}"


PEERS = [Peer(era, declares) for era in (MODERN, LEGACY) for declares in (True, False)]


class Refused(Exception):
    """A JSON-RPC error."""

    def __init__(self, error: Body) -> None:
        super().__init__(json.dumps(error))
        self.code: int = error["code"]
        self.data: Body = error.get("data") or {}
        self.message: str = error["message"]


@dataclass
class EventStream:
    """One open `events/stream`. `comments` are lines of SSE that carry no message."""

    request_id: str | int
    response: httpx2.Response
    comments: list[str] = field(default_factory=list)
    seen: list[Body] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._messages = self._read()

    async def _read(self) -> AsyncIterator[Body]:
        async for line in self.response.aiter_lines():
            if line.startswith("data: "):
                message: Body = json.loads(line.removeprefix("data: "))
                self.seen.append(message)
                yield message
            elif line and not line.startswith("event: "):
                self.comments.append(line)

    async def message(self, patience: float = PATIENCE) -> Body:
        async with asyncio.timeout(patience):
            return await anext(self._messages)

    async def next(self, kind: str, patience: float = PATIENCE) -> Body:
        """The params of the next notification of a kind; what comes before it is left out."""
        async with asyncio.timeout(patience):
            while True:
                message = await anext(self._messages)
                if message.get("method") == PREFIX + kind:
                    params: Body = message["params"]
                    return params

    async def ended(self) -> Body:
        """Read to the end, which must come soon; answers the last message."""
        async with asyncio.timeout(PATIENCE):
            async for _ in self._messages:
                pass
        return self.seen[-1]


@dataclass
class Session:
    """A peer that has introduced itself."""

    peer: Peer
    http: httpx2.AsyncClient
    url: str
    session_id: str | None = None
    introduction: Body = field(default_factory=dict)
    _ids: Iterator[int] = field(default_factory=lambda: iter(range(1, 1_000_000)))

    def _headers(self, method: str, params: Body) -> dict[str, str]:
        headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": self.peer.era}
        if self.peer.era == MODERN:
            headers["mcp-method"] = method
            if method == "tools/call":
                headers["mcp-name"] = params["name"]
        if self.session_id is not None:
            headers["mcp-session-id"] = self.session_id
        return headers

    def _body(self, method: str, params: Body, request_id: str | int | None) -> Body:
        if self.peer.era == MODERN:
            params["_meta"] = {
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientInfo": {"name": "stranger", "version": "1"},
                "io.modelcontextprotocol/clientCapabilities": self.peer.capabilities,
            }
        body: Body = {"jsonrpc": "2.0", "method": method, "params": params}
        return body if request_id is None else {**body, "id": request_id}

    async def post(self, method: str, request_id: str | int | None, **params: Any) -> httpx2.Response:
        headers = self._headers(method, params)
        return await self.http.post(self.url, json=self._body(method, params, request_id), headers=headers)

    async def call(self, method: str, **params: Any) -> Body:
        """The result. Raises Refused."""
        request_id = next(self._ids)
        response = await self.post(method, request_id, **params)
        body = _answer(response.headers["content-type"], response.text)
        assert body["id"] == request_id
        if method == "initialize":
            self.session_id = response.headers.get("mcp-session-id")
        if "error" in body:
            raise Refused(body["error"])
        result: Body = body["result"]
        return result

    async def tool(self, tool: str, /, **arguments: Any) -> str:
        """The text of a tool's answer; what it says of an error is raised as an AssertionError."""
        result = await self.call("tools/call", name=tool, arguments=arguments)
        text: str = result["content"][0]["text"]
        assert not result.get("isError"), text
        return text

    async def poll(self, name: str, cursor: str | None, **params: Any) -> Body:
        return await self.call("events/poll", name=name, cursor=cursor, **{"arguments": {}, **params})

    async def happened(self, name: str, cursor: str, count: int) -> list[Body]:
        """At least `count` occurrences after `cursor`, as soon as there are as many."""
        found: list[Body] = []
        while len(found) < count:
            answer = await self.poll(name, cursor, timeoutMs=5000)
            found += answer["events"]
            cursor = answer["cursor"]
        return found

    @asynccontextmanager
    async def stream(self, name: str, request_id: str | int | None = None, **params: Any) -> AsyncIterator[EventStream]:
        """An open stream; leaving closes its connection, as an abort does. Raises Refused."""
        request_id = next(self._ids) if request_id is None else request_id
        params = {"arguments": {}, "cursor": None, **params, "name": name}
        headers = self._headers("events/stream", params)
        body = self._body("events/stream", params, request_id)
        async with self.http.stream("POST", self.url, json=body, headers=headers) as response:
            kind = response.headers["content-type"]
            if not kind.startswith("text/event-stream"):
                await response.aread()
                raise Refused(_answer(kind, response.text)["error"])
            stream = EventStream(request_id, response)
            first = await stream.message()
            if "error" in first:  # an `initialize` client gets even an error as a stream of one message
                raise Refused(first["error"])
            assert first["method"] == PREFIX + "active", first
            yield stream


def _answer(kind: str, text: str) -> Body:
    """The JSON-RPC response in a body of either content type."""
    if not kind.startswith("text/event-stream"):
        body: Body = json.loads(text)
        return body
    messages = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    (response,) = [message for message in messages if "id" in message]
    found: Body = response
    return found


@asynccontextmanager
async def connected(url: str, peer: Peer, token: str | None = None) -> AsyncIterator[Session]:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    limits = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(headers=headers, limits=limits, timeout=40) as http:
        session = Session(peer, http, url)
        if peer.era == MODERN:
            session.introduction = await session.call("server/discover")
            yield session
            return
        information = {"name": "stranger", "version": "1"}
        session.introduction = await session.call(
            "initialize", protocolVersion=LEGACY, clientInfo=information, capabilities=peer.capabilities
        )
        await session.post("notifications/initialized", None)
        yield session
        with suppress(httpx2.ConnectError):  # a server that was stopped has no sessions
            await http.delete(url, headers=session._headers("", {}))


@dataclass(frozen=True)
class Fixture:
    """The fixture in a process of its own."""

    url: str
    process: subprocess.Popen[str]


@contextmanager
def fixture_server(log: Path, *arguments: str) -> Iterator[Fixture]:
    """`python -m clarion.testing.fixture` on a free port, which must have told of no error when the block ends."""
    command = [sys.executable, "-m", "clarion.testing.fixture", "--port", "0", *arguments]
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url.endswith("/mcp"), log.read_text()
        yield Fixture(url, process)
    finally:
        process.terminate()
        process.communicate(timeout=30)
    said = log.read_text()
    assert "Traceback" not in said, said
    assert "ERROR" not in said, said
