"""The machine's limit for pushing and posting: uvloop transports, and the least HTTP that the load generator reads.

A GET opens a stream. A POST of n lines (or one JSON value) writes n frames of the size of Clarion's to every stream,
joined into writes of at most 64 KiB as Clarion's are, and is then answered. Nothing is stored, checked or matched.
"""

from __future__ import annotations

import asyncio
from typing import cast

import uvloop

from clarion.encoding import encode
from clarion.hub.ring import Parcel
from clarion.model import Event, Position, Subscription
from clarion.wires.pact import PactFraming

CHUNK = 64 * 1024
OPEN = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    b"25\r\nevent: x.subscription.open\ndata: {}\n\n\r\n"
)
ANSWER = b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
MARKER = b'"sent_ns":"'
STREAMS: set[asyncio.WriteTransport] = set()


def frame_around(payload: bytes) -> tuple[bytes, bytes]:
    """What Clarion writes before and after the payload, for any one subscription."""
    event = Event("bench", 100_000, "0" * 26, "api", "deal.won", "crm", payload, 0, 1_750_000_000_123_456)
    row = Subscription("0" * 36, "bench", "agent", "c0", ("deal.*",), {}, None, None, 0, 0)
    before, _, after = PactFraming().event(Parcel(event), [row], Position("0" * 8, 100_000)).partition(payload)
    return before, after


BEFORE, AFTER = frame_around(encode({"sent_ns": "0" * 19}))


class Peer(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.WriteTransport", transport)  # uvloop does not derive its own from it
        self.received = b""

    def connection_lost(self, _error: Exception | None) -> None:
        STREAMS.discard(self.transport)

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, blank, body = self.received.partition(b"\r\n\r\n")
        if not blank:
            return
        if head.startswith(b"GET"):
            self.received = b""
            STREAMS.add(self.transport)
            self.transport.write(OPEN)
            return
        length = int(head.lower().partition(b"\r\ncontent-length:")[2].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        self.received = b""
        if STREAMS:
            push(body)
        self.transport.write(ANSWER)


def push(body: bytes) -> None:
    writes: list[bytes] = []
    frames = [BEFORE + line.partition(b'"payload":')[2][:-1] + AFTER for line in body.split(b"\n") if line]
    while frames:
        some: list[bytes] = []
        size = 0
        while frames and size < CHUNK:
            some.append(frames.pop(0))
            size += len(some[-1])
        writes.append(b"%x\r\n%b\r\n" % (size, b"".join(some)))
    for stream in STREAMS:
        for one in writes:
            stream.write(one)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Peer, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
