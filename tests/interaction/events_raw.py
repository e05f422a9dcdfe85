"""A client that sees the very frames: JSON-RPC over Streamable HTTP or stdio, as little of a library as will do."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeAlias

import httpx2

__all__ = [
    "CODES",
    "EXTENSION",
    "INITIALIZE",
    "MODERN",
    "PATIENCE",
    "SUBSCRIPTION_ID",
    "Frames",
    "HttpPeer",
    "Peer",
    "Refused",
    "Reply",
    "StdioPeer",
    "names_of",
]

EXTENSION = "io.modelcontextprotocol/events"
SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"

MODERN, INITIALIZE = "2026-07-28", "2025-11-25"
"""The protocol's two eras: each request by itself, and after `initialize`."""

PATIENCE = 20.0
"""Seconds until something that must come counts as not coming."""

CODES: Mapping[bool, Mapping[str, int]] = {
    True: {"NotFound": -32023, "Forbidden": -32024, "ResourceExhausted": -32025, "Unsupported": -32026},
    False: {"NotFound": -32011, "Forbidden": -32012, "ResourceExhausted": -32013, "Unsupported": -32014},
}
"""Error numbers for a client that declares the extension, and for one that does not."""

EVENTS = "notifications/events/"
ACCEPT = "application/json, text/event-stream"

Message: TypeAlias = dict[str, Any]


class Refused(Exception):
    """A request was answered with a JSON-RPC error."""

    def __init__(self, error: Message) -> None:
        self.code: int = error["code"]
        self.text: str = error["message"]
        self.data: Message = error.get("data", {})
        super().__init__(f"{self.code}: {self.text} {self.data}")


@dataclass(frozen=True)
class Reply:
    """One answer: the JSON-RPC message; on HTTP also status and content type."""

    message: Message
    status: int = 200
    content_type: str = ""

    @property
    def result(self) -> Message:
        if "error" in self.message:
            raise Refused(self.message["error"])
        result: Message = self.message["result"]
        return result

    @property
    def refusal(self) -> Refused:
        assert "error" in self.message, self.message
        return Refused(self.message["error"])


class Frames(ABC):
    """The messages that answer one request. Reads nothing until it is asked to."""

    id: str | int

    @abstractmethod
    async def read(self) -> Message | None:
        """The next message; None when the stream has ended."""

    async def next(self) -> Message:
        async with asyncio.timeout(PATIENCE):
            message = await self.read()
        assert message is not None, "the stream ended"
        return message

    async def expect(self, kind: str) -> Message:
        """The params of the next message, which must be `notifications/events/<kind>`."""
        message = await self.next()
        assert message.get("method") == EVENTS + kind, message
        params: Message = message["params"]
        return params

    async def until(self, kind: str) -> list[Message]:
        """All messages up to the first `kind`, which is the last of them."""
        messages = [await self.next()]
        while messages[-1].get("method") != EVENTS + kind:
            messages.append(await self.next())
        return messages

    async def data(self, number: int) -> list[Any]:
        """`data` of the next `number` messages, which must all be events."""
        return [(await self.expect("event"))["data"] for _ in range(number)]

    async def rest(self) -> list[Message]:
        """All messages that are left, once the stream has ended."""
        messages = []
        async with asyncio.timeout(PATIENCE):
            while (message := await self.read()) is not None:
                messages.append(message)
        return messages


class Peer(ABC):
    """One client of one server. `declared`: it says that it speaks the Events extension."""

    def __init__(self, era: str, declared: bool, *, repeats: bool = False) -> None:
        self.era = era
        self.declared = declared
        self.introduction: Message = {}
        """The result of `initialize`, in that era."""
        self._repeats = repeats
        self._ids = count(1)

    @property
    def codes(self) -> Mapping[str, int]:
        return CODES[self.declared]

    @property
    def capabilities(self) -> Message:
        return {"extensions": {EXTENSION: {}}} if self.declared else {}

    def message(self, method: str, params: Mapping[str, Any], id: str | int | None) -> Message:
        params = dict(params)
        if self.era == MODERN:
            params["_meta"] = {
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientCapabilities": self.capabilities,
                "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
                **params.get("_meta", {}),
            }
        elif self._repeats and self.declared:  # the server remembers no introduction
            params["_meta"] = {"io.modelcontextprotocol/clientCapabilities": self.capabilities}
        message: Message = {"jsonrpc": "2.0", "method": method, "params": params}
        return message if id is None else {**message, "id": id}

    async def introduce(self) -> None:
        """What an `initialize` client begins with."""
        if self.era == INITIALIZE:
            self.introduction = await self.call(
                "initialize",
                protocolVersion=INITIALIZE,
                capabilities=self.capabilities,
                clientInfo={"name": "raw", "version": "1"},
            )
            assert self.introduction["protocolVersion"] == INITIALIZE
            await self.notify("notifications/initialized")

    async def call(self, method: str, **params: Any) -> Message:
        """The result of a request. Raises Refused."""
        return (await self.ask(method, params)).result

    async def refused(self, method: str, **params: Any) -> Refused:
        """What a request that must be refused says."""
        return (await self.ask(method, params)).refusal

    async def tool(self, tool: str, **arguments: Any) -> str:
        """The text that a tool answers."""
        result = await self.call("tools/call", name=tool, arguments=arguments)
        assert not result.get("isError"), result
        text: str = result["content"][0]["text"]
        return text

    async def poll(self, name: str, cursor: str | None = None, **params: Any) -> Message:
        return await self.call("events/poll", name=name, cursor=cursor, **params)

    def stream(self, name: str, id: str | int | None = None, **params: Any) -> AbstractAsyncContextManager[Frames]:
        return self.open("events/stream", {"name": name, **params}, id)

    @abstractmethod
    async def ask(self, method: str, params: Mapping[str, Any]) -> Reply: ...

    @abstractmethod
    async def notify(self, method: str, **params: Any) -> None: ...

    @abstractmethod
    def open(
        self, method: str, params: Mapping[str, Any], id: str | int | None = None
    ) -> AbstractAsyncContextManager[Frames]:
        """A request that is answered by many messages; abandoned when the block ends."""


# -- Streamable HTTP --------------------------------------------------------------------------------------------------


class HttpFrames(Frames):
    """A response that is read block by block. `blocks` are the very bytes of its server-sent events."""

    def __init__(self, id: str | int, response: httpx2.Response) -> None:
        self.id = id
        self.status = response.status_code
        self.content_type = response.headers.get("content-type", "")
        self.blocks: list[bytes] = []
        self.comments: list[bytes] = []
        self._chunks = response.aiter_raw()
        self._buffer = b""
        self._over = False

    async def read(self) -> Message | None:
        if not self.content_type.startswith("text/event-stream"):
            return await self._whole()
        while True:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                head, end, rest = self._buffer.partition(b"\n\n")
            if end:
                self._buffer = rest
                if data := self._data(head):
                    message: Message = json.loads(data)
                    return message
            elif not await self._more():
                assert not self._buffer, self._buffer
                return None

    async def _whole(self) -> Message | None:
        while await self._more():
            pass
        body, self._buffer = self._buffer, b""
        message: Message | None = json.loads(body) if body else None
        return message

    async def _more(self) -> bool:
        if not self._over:
            try:
                self._buffer += await anext(self._chunks)
            except StopAsyncIteration:
                self._over = True
        return not self._over

    def _data(self, block: bytes) -> bytes:
        if block.startswith(b":"):
            self.comments.append(block)
            return b""
        self.blocks.append(block)
        lines = (line.partition(b":") for line in block.splitlines())
        return b"\n".join(value.strip() for name, _, value in lines if name == b"data")


class HttpPeer(Peer):
    def __init__(self, http: httpx2.AsyncClient, era: str, declared: bool, *, path: str, repeats: bool) -> None:
        super().__init__(era, declared, repeats=repeats)
        self.http = http
        self.headers: dict[str, str] = {}
        """Sent with each request beside those that the protocol asks for; they win over those."""
        self._path = path
        self._session: dict[str, str] = {}

    def request(self, message: Message) -> httpx2.Request:
        headers = {"accept": ACCEPT, "mcp-protocol-version": self.era, **self._session}
        if self.era == MODERN:
            headers["mcp-method"] = message["method"]
            if message["method"] == "tools/call":
                headers["mcp-name"] = message["params"]["name"]
        elif message["method"] == "initialize":
            del headers["mcp-protocol-version"]
        return self.http.build_request("POST", self._path, json=message, headers={**headers, **self.headers})

    @asynccontextmanager
    async def _response(self, message: Message) -> AsyncIterator[httpx2.Response]:
        response = await self.http.send(self.request(message), stream=True)
        try:
            yield response
        finally:
            await response.aclose()

    async def ask(self, method: str, params: Mapping[str, Any]) -> Reply:
        message = self.message(method, params, next(self._ids))
        async with asyncio.timeout(PATIENCE), self._response(message) as response:
            frames = HttpFrames(message["id"], response)
            answer = await frames.read()
            while answer is not None and "method" in answer:
                answer = await frames.read()
            if session := response.headers.get("mcp-session-id"):
                self._session = {"mcp-session-id": session}
        assert answer is not None, frames.status
        return Reply(answer, frames.status, frames.content_type)

    async def notify(self, method: str, **params: Any) -> None:
        async with self._response(self.message(method, params, None)) as response:
            assert response.status_code == 202

    @asynccontextmanager
    async def open(
        self, method: str, params: Mapping[str, Any], id: str | int | None = None
    ) -> AsyncIterator[HttpFrames]:
        message = self.message(method, params, next(self._ids) if id is None else id)
        async with self._response(message) as response:
            yield HttpFrames(message["id"], response)


# -- stdio ------------------------------------------------------------------------------------------------------------


class StdioFrames(Frames):
    def __init__(self, id: str | int, arrived: asyncio.Queue[Message | None]) -> None:
        self.id = id
        self._arrived = arrived
        self.over = False

    async def read(self) -> Message | None:
        if self.over:
            return None
        message = await self._arrived.get()
        self.over = message is None or "method" not in message
        return message


class StdioPeer(Peer):
    """`run` must run beside whatever is asked."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, era: str, declared: bool) -> None:
        super().__init__(era, declared)
        self.lines: list[bytes] = []
        """Everything that the server wrote, line by line."""
        self.stray: list[Message] = []
        """Messages that belong to no request which is open."""
        self._reader = reader
        self._writer = writer
        self._open: dict[str | int, asyncio.Queue[Message | None]] = {}

    async def run(self) -> None:
        """Give each message to its request, until the server is gone."""
        while line := await self._reader.readline():
            self.lines.append(line)
            message = json.loads(line)
            queue = self._open.get(_request_of(message))
            if queue is None:
                self.stray.append(message)
            else:
                queue.put_nowait(message)
        for queue in self._open.values():
            queue.put_nowait(None)

    async def _send(self, message: Message) -> None:
        self._writer.write(json.dumps(message).encode() + b"\n")
        await self._writer.drain()

    async def ask(self, method: str, params: Mapping[str, Any]) -> Reply:
        async with asyncio.timeout(PATIENCE), self.open(method, params) as frames:
            while (message := await frames.read()) is not None and "method" in message:
                pass
        assert message is not None, "the server is gone"
        return Reply(message)

    async def notify(self, method: str, **params: Any) -> None:
        await self._send(self.message(method, params, None))

    async def cancel(self, id: str | int) -> None:
        await self._send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}})

    @asynccontextmanager
    async def open(
        self, method: str, params: Mapping[str, Any], id: str | int | None = None
    ) -> AsyncIterator[StdioFrames]:
        message = self.message(method, params, next(self._ids) if id is None else id)
        queue = self._open[message["id"]] = asyncio.Queue()
        frames = StdioFrames(message["id"], queue)
        await self._send(message)
        try:
            yield frames
        finally:
            del self._open[message["id"]]
            if not frames.over and not self._writer.is_closing():
                await self.cancel(message["id"])


def _request_of(message: Message) -> Any:
    if "method" not in message:
        return message.get("id")
    return message.get("params", {}).get("_meta", {}).get(SUBSCRIPTION_ID)


def names_of(listing: Mapping[str, Any]) -> list[str]:
    """The names in a page of `events/list`."""
    return [each["name"] for each in listing["events"]]
