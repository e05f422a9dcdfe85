"""A reader of the side channel that reads only when it is told to, so that it can stall."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import quote

import h11

from interaction.serving import Running, authorization

EVENT = "notifications.pact.event"
OPEN = "notifications.pact.subscription.open"
LAG = "notifications.pact.subscription.lag"
HEARTBEAT = "notifications.pact.heartbeat"

PATIENCE = 10.0
"""Seconds until a frame that does not come fails the test."""


class Frame(NamedTuple):
    """One SSE frame. `id` is None when it carries none."""

    event: str
    id: str | None
    data: Any

    @property
    def params(self) -> dict[str, Any]:
        params: dict[str, Any] = self.data["params"]
        return params


def parse_frame(block: bytes) -> Frame:
    fields: dict[str, str] = {}
    for line in block.decode().split("\n"):
        name, separator, value = line.partition(": ")
        assert separator, f"a line that is no SSE field: {line!r}"
        assert name not in fields, f"{name} twice in one frame"
        fields[name] = value
    return Frame(fields["event"], fields.get("id"), json.loads(fields["data"]))


class PushStream:
    """One open stream."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._http = h11.Connection(h11.CLIENT)
        self._unread = bytearray()
        self.status = 0
        self.headers: dict[str, str] = {}
        self.ended = False

    async def request(self, method: str, target: str, headers: dict[str, str]) -> None:
        request = h11.Request(method=method, target=target, headers=[("Host", "127.0.0.1"), *headers.items()])
        data = (self._http.send(request) or b"") + (self._http.send(h11.EndOfMessage()) or b"")
        await asyncio.get_running_loop().sock_sendall(self._socket, data)
        async with asyncio.timeout(PATIENCE):
            response = await self._event()
        assert isinstance(response, h11.Response)
        self.status = response.status_code
        self.headers = {name.decode(): value.decode() for name, value in response.headers}

    async def _event(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await asyncio.get_running_loop().sock_recv(self._socket, 65536))
        return event

    async def frame(self) -> Frame | None:
        """The next frame; None at the end of the stream."""
        async with asyncio.timeout(PATIENCE):
            while b"\n\n" not in self._unread:
                event = await self._event()
                if not isinstance(event, h11.Data):
                    self.ended = True
                    assert not self._unread, "the stream ended inside a frame"
                    return None
                self._unread += event.data
        block, _, rest = bytes(self._unread).partition(b"\n\n")
        self._unread = bytearray(rest)
        return parse_frame(block)

    async def expect(self, event: str) -> Frame:
        """The next frame, which must be an `event`."""
        frame = await self.frame()
        assert frame is not None, "the stream ended"
        assert frame.event == event, frame
        return frame

    async def until(self, topic: str) -> list[Frame]:
        """All frames up to and including the first event on `topic`."""
        frames: list[Frame] = []
        while True:
            frame = await self.frame()
            assert frame is not None, f"the stream ended before {topic} came"
            frames.append(frame)
            if frame.event == EVENT and frame.params["topic"] == topic:
                return frames

    async def rest(self) -> list[Frame]:
        """All frames until the stream ends."""
        frames = []
        while (frame := await self.frame()) is not None:
            frames.append(frame)
        return frames

    async def body(self) -> Any:
        """The JSON body of an answer that is no stream."""
        data = b""
        while isinstance(event := await self._event(), h11.Data):
            data += event.data
        return json.loads(data)


@asynccontextmanager
async def push_stream(
    running: Running,
    bearer: str | None,
    client_id: str | None = "client",
    *,
    cursor: str | int | None = None,
    last_event_id: str | None = None,
    receive_buffer: int | None = None,
) -> AsyncIterator[PushStream]:
    """An open side channel, closed with the block."""
    connection = socket.socket()
    connection.setblocking(False)
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    query = [] if client_id is None else [f"client_id={quote(client_id, safe='')}"]
    if cursor is not None:
        query.append(f"cursor={cursor}")
    headers = authorization(bearer)
    if last_event_id is not None:
        headers["Last-Event-ID"] = last_event_id
    with connection:
        await asyncio.get_running_loop().sock_connect(connection, running.address)
        stream = PushStream(connection)
        await stream.request("GET", "/mcp/push/sse?" + "&".join(query), headers)
        yield stream
