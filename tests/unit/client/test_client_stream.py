"""`clarion.client.stream`: against servers that break in every way, on a clock that only counts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing

import httpx2
import pytest

from clarion.client import EventFrame, Frame, HeartbeatFrame, OpenFrame, PushStream, Reconnecting, UnexpectedAnswer
from clarion.errors import ClarionError, Forbidden, InvalidInput, Unauthenticated
from clarion.retry import Backoff


class CountingClock:
    """Sleeps take no time and are remembered."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def now(self) -> int:
        return 0

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


def sse(name: str, identity: str | None, **params: object) -> bytes:
    body = json.dumps({"jsonrpc": "2.0", "method": f"notifications/pact/{name}", "params": params})
    line = f"id: {identity}\n" if identity else ""
    return f"event: notifications.pact.{name}\n{line}data: {body}\n\n".encode()


def opened(seq: int) -> bytes:
    return sse("subscription.open", f"e-{seq}", client_id="c", subscriptions=[], cursor=seq, truncated=False)


def event(seq: int, identity: bool = True) -> bytes:
    return sse("event", f"e-{seq}" if identity else None, subscription_id="s", event_id=seq, topic="a.b",
               occurred_at="2026-01-01T00:00:00Z", payload={})  # fmt: skip


Answer = Callable[[httpx2.Request], httpx2.Response]


def stream_of(*chunks: bytes, end: Exception | None = None) -> Answer:
    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk
        if end is not None:
            raise end

    return lambda _request: httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=body())


def refusal(status: int, code: str = "", headers: dict[str, str] | None = None) -> Answer:
    body = {"error": {"code": code, "message": f"no: {code}"}}
    return lambda _request: httpx2.Response(status, headers=headers, json=body)


class Server:
    """Answers the requests one after the other, and keeps them."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return self._answers.pop(0)(request)


async def receive(
    server: Server, count: int, *, cursor: str | None = None, clock: CountingClock | None = None
) -> Sequence[Frame | Reconnecting]:
    received: list[Frame | Reconnecting] = []
    async with httpx2.AsyncClient(base_url="http://test", transport=httpx2.MockTransport(server)) as http:
        stream = PushStream(http, "c 1", backoff=Backoff(1.0, 8.0), jitter=lambda: 0.5, clock=clock or CountingClock())
        async with aclosing(stream.frames(cursor)) as frames:
            async for item in frames:
                received.append(item)
                if len(received) == count:
                    break
    return received


async def test_frames_come_typed_whatever_the_chunks():
    whole = opened(1) + event(2) + event(3)
    for size in (1, 7, 64, len(whole)):
        chunks = [whole[start : start + size] for start in range(0, len(whole), size)]

        frames = await receive(Server(stream_of(*chunks)), 3)

        assert [type(frame) for frame in frames] == [OpenFrame, EventFrame, EventFrame]
        assert [frame.id for frame in frames if isinstance(frame, Frame)] == ["e-1", "e-2", "e-3"]


async def test_the_first_request_names_client_and_cursor():
    server = Server(stream_of(opened(5)))

    await receive(server, 1, cursor="5")

    assert server.requests[0].url.path == "/mcp/push/sse"
    assert dict(server.requests[0].url.params) == {"client_id": "c 1", "cursor": "5"}
    assert "last-event-id" not in server.requests[0].headers


async def test_a_broken_stream_resumes_after_the_last_frame():
    server = Server(stream_of(opened(1), event(2), end=httpx2.ReadError("gone")), stream_of(opened(2), event(3)))

    items = await receive(server, 5, cursor="1")

    assert [type(item) for item in items] == [OpenFrame, EventFrame, Reconnecting, OpenFrame, EventFrame]
    assert server.requests[1].headers["last-event-id"] == "e-2"
    assert "cursor" not in server.requests[1].url.params


async def test_a_frame_without_id_moves_the_cursor_nowhere():
    """Of one event's frames only the last has an id: resuming between them must bring the event again."""
    server = Server(stream_of(opened(1), event(2, identity=False)), stream_of(opened(1)))

    items = await receive(server, 4)

    assert server.requests[1].headers["last-event-id"] == "e-1"
    assert isinstance(items[1], EventFrame)
    assert items[1].id == "e-1"


async def test_the_cursor_outlives_a_connection_that_brought_no_frame():
    server = Server(stream_of(opened(4)), stream_of(), stream_of(opened(4)))

    await receive(server, 4)

    assert server.requests[2].headers["last-event-id"] == "e-4"


async def test_failures_in_a_row_wait_longer_and_an_opening_starts_anew():
    clock = CountingClock()
    down = refusal(503, "store_unavailable")
    server = Server(down, down, down, down, down, stream_of(opened(1)), stream_of(opened(1)))

    await receive(server, 8, clock=clock)

    assert clock.slept == [0.75, 1.5, 3.0, 6.0, 6.0, 0.75]


async def test_retry_after_is_honoured():
    clock = CountingClock()
    server = Server(refusal(429, "limit_exceeded", {"retry-after": "20"}), stream_of(opened(1)))

    items = await receive(server, 2, clock=clock)

    assert clock.slept == [20.0]
    assert isinstance(items[0], Reconnecting)
    assert items[0].reason == "no: limit_exceeded"


async def test_a_server_that_cannot_be_reached_is_tried_again():
    def unreachable(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("refused", request=request)

    items = await receive(Server(unreachable, stream_of(opened(1))), 2)

    assert isinstance(items[0], Reconnecting)
    assert items[0].cursor is None
    assert isinstance(items[1], OpenFrame)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "unauthenticated", Unauthenticated),
        (403, "forbidden", Forbidden),
        (422, "invalid_input", InvalidInput),
        (401, "", Unauthenticated),
        (404, "", ClarionError),
    ],
)
async def test_an_answer_that_stays_the_same_ends_the_stream(status: int, code: str, kind: type[ClarionError]):
    with pytest.raises(kind):
        await receive(Server(refusal(status, code)), 1)


async def test_a_revoked_key_ends_a_stream_that_was_open():
    with pytest.raises(Unauthenticated):
        await receive(Server(stream_of(opened(1)), refusal(401, "unauthenticated")), 3)


async def test_a_page_instead_of_a_stream_is_told():
    with pytest.raises(UnexpectedAnswer, match="content type"):
        await receive(Server(lambda _request: httpx2.Response(200, text="<html>welcome</html>")), 1)


async def test_silence_of_twice_the_heartbeat_is_a_broken_connection():
    """A real socket, since the silence is the transport's to notice."""
    asked = 0
    gone = asyncio.Semaphore(0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + opened(asked))
        await writer.drain()
        await reader.read()  # silent until the client goes
        writer.close()
        await writer.wait_closed()
        gone.release()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            stream = PushStream(http, "c", heartbeat=0.05, jitter=lambda: 0.5, clock=CountingClock())
            async with aclosing(stream.frames()) as frames:
                items = [await anext(frames) for _ in range(3)]
        for _ in range(asked):
            await gone.acquire()

    assert [type(item) for item in items] == [OpenFrame, Reconnecting, OpenFrame]
    assert isinstance(items[1], Reconnecting)
    assert items[1].reason == "the server fell silent"


async def test_heartbeats_move_the_cursor():
    server = Server(stream_of(opened(1), sse("heartbeat", "e-9", cursor=9)), stream_of(opened(9)))

    items = await receive(server, 4)

    assert isinstance(items[1], HeartbeatFrame)
    assert server.requests[1].headers["last-event-id"] == "e-9"
