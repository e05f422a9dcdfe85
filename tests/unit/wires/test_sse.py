"""Sinks: what a server's `send` tells of its transport, and what it does not."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from clarion.wires import sse
from clarion.wires.sse import AsgiSink, UvicornSink, make_sink


class Transport:
    closing = False

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        self.written.append(data)


class Flow:
    write_paused = False

    async def drain(self) -> None:
        return


class Cycle:
    """A request as uvicorn keeps it."""

    def __init__(self) -> None:
        self.flow, self.transport, self.disconnected = Flow(), Transport(), False
        self.response_started, self.response_complete = True, False
        self.chunked_encoding: bool | None = False
        self.bodies: list[bytes] = []

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if self.disconnected:
            return
        self.bodies.append(message["body"])


async def test_a_write_reaches_the_transport_at_once() -> None:
    cycle = Cycle()
    sink = make_sink(cycle.send)
    assert isinstance(sink, UvicornSink)
    sink.write(b"frame")
    assert cycle.bodies == [b"frame"]
    assert not sink.paused
    cycle.flow.write_paused = True
    assert sink.paused


async def test_a_chunk_is_written_as_the_server_would_and_an_empty_one_never_is() -> None:
    """An empty chunk would end the response."""
    cycle = Cycle()
    cycle.chunked_encoding = True
    sink = make_sink(cycle.send)
    sink.write(b"frame" * 4)
    sink.write(b"")
    assert cycle.transport.written == [b"14\r\nframeframeframeframe\r\n"]
    assert cycle.bodies == [b""]


async def test_before_the_response_has_begun_the_server_writes_by_itself() -> None:
    cycle = Cycle()
    cycle.chunked_encoding, cycle.response_started = True, False
    make_sink(cycle.send).write(b"frame")
    assert (cycle.transport.written, cycle.bodies) == ([], [b"frame"])


@pytest.mark.parametrize("how", ["disconnected", "closing", "complete"])
async def test_a_write_to_a_connection_that_is_gone_raises(how: str) -> None:
    cycle = Cycle()
    sink = make_sink(cycle.send)
    if how == "closing":
        cycle.transport.closing = True
    elif how == "complete":
        cycle.response_complete = True
    else:
        cycle.disconnected = True
    with pytest.raises(ConnectionResetError):
        sink.write(b"frame")
    assert cycle.bodies == []


@pytest.mark.parametrize("waits", [False, True])
async def test_what_the_servers_own_send_raises_is_an_exception_always(waits: bool) -> None:
    """A cancellation would be taken for the dispatcher's."""

    class Cancelling(Cycle):
        async def send(self, message: MutableMapping[str, Any]) -> None:
            if waits:
                await asyncio.sleep(0)
            raise asyncio.CancelledError

    sink = make_sink(Cancelling().send)
    assert isinstance(sink, UvicornSink)
    with pytest.raises(ConnectionAbortedError):  # noqa: PT012 - one of both raises it
        sink.write(b"frame")
        await sink.writable()
        sink.write(b"frame")


async def test_a_wrapper_that_passes_for_the_servers_send_is_not_gone_past() -> None:
    cycle = Cycle()

    class Wrapper:
        __self__ = cycle

        async def __call__(self, message: MutableMapping[str, Any]) -> None: ...

    assert type(make_sink(Wrapper())) is AsgiSink


async def test_an_unknown_server_is_probed_and_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(sse.logger, "warning", lambda event, **fields: told.append({"event": event, **fields}))
    sse._tell_of_probing.cache_clear()
    free = asyncio.Event()
    bodies: list[bytes] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        await free.wait()
        bodies.append(message["body"])

    for _ in range(3):
        assert type(make_sink(send)) is AsgiSink
    assert [line["event"] for line in told] == ["transport_unknown"]
    sink = make_sink(send)
    assert sink.paused
    free.set()
    await sink.writable()
    assert not sink.paused
    sink.write(b"frame")
    assert sink.paused
    await sink.writable()
    assert [body for body in bodies if body] == [b"frame"]
