"""A `send` that is nobody's in particular: whatever it does concerns its own stream only."""

import asyncio
import gc
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from clarion.errors import CloseReason
from clarion.hub.protocols import Viewer
from clarion.model import Latest, Principal
from clarion.sources.emit import Emission
from clarion.testing.hubs import HubRig, opened_hub, settle, until
from clarion.wires.pact import PactFraming
from clarion.wires.sse import AsgiSink, Message, Send, serve

WHO: ContextVar[str] = ContextVar("WHO", default="nobody")
ALICE = Viewer(Principal("acme", "alice"), "laptop", "foreign")


class Server:
    """What arrives at the end of a `send`; it takes nothing while it is stalled."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.free = asyncio.Event()
        self.free.set()
        self.cancelled = 0

    async def send(self, message: Message) -> None:
        try:
            await self.free.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.messages.append(message)

    @property
    def data(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)


def plain(server: Server) -> Send:
    async def send(message: Message) -> None:
        await server.send(message)

    return send


def timed(server: Server) -> Send:
    async def send(message: Message) -> None:
        async with asyncio.timeout(0):  # at the next turn of the loop
            await server.send(message)

    return send


def cancelling(server: Server) -> Send:
    async def send(message: Message) -> None:
        await server.send(message)
        raise asyncio.CancelledError

    return send


def raising(server: Server) -> Send:
    class Odd(BaseException):
        pass

    async def send(message: Message) -> None:
        raise Odd

    return send


def taking_turns(server: Server) -> Send:
    lock = anyio.Lock()

    async def send(message: Message) -> None:
        with anyio.move_on_after(100):
            async with lock:
                await asyncio.sleep(0)
                await server.send(message)

    return send


async def test_a_write_arrives_whole_and_the_next_is_taken_once_the_transport_has_room() -> None:
    server = Server()
    sink = AsgiSink(plain(server))
    sink.write(b"one")
    assert sink.paused
    with pytest.raises(RuntimeError):
        sink.write(b"two")
    await sink.writable()
    assert not sink.paused
    server.free.clear()
    sink.write(b"two")
    await settle()
    assert (sink.paused, server.data) == (True, b"one")
    server.free.set()
    await sink.writable()
    assert (sink.paused, server.data) == (False, b"onetwo")


async def test_writes_of_one_tick_are_taken_up_to_the_room_there_is() -> None:
    server = Server()
    sink = AsgiSink(plain(server), room=10)
    for _ in range(2):
        sink.write(b"12345")
    assert sink.paused
    with pytest.raises(RuntimeError):
        sink.write(b"6")
    await sink.writable()
    sink.write(b"7")
    assert not sink.paused
    server.free.clear()
    await settle()
    assert sink.paused  # it was handed on, and nobody knows whether it was taken
    server.free.set()
    await sink.writable()
    assert server.data == b"12345123457"


@pytest.mark.parametrize(
    ("wrapped", "error"),
    [(timed, TimeoutError), (cancelling, ConnectionAbortedError), (raising, ConnectionAbortedError)],
)
async def test_what_it_raises_is_raised_by_the_next_write_as_an_exception(
    wrapped: Callable[[Server], Send], error: type[Exception]
) -> None:
    server = Server()
    if wrapped is timed:
        server.free.clear()
    sink = AsgiSink(wrapped(server))
    sink.write(b"frame")
    await sink.writable()
    for _ in range(2):
        with pytest.raises(error):
            _ = sink.paused
        with pytest.raises(error):
            sink.write(b"frame")
    task = asyncio.current_task()
    assert task is not None
    await settle()
    assert not task.cancelling()


async def test_it_sees_the_context_of_the_request_that_it_belongs_to() -> None:
    seen = []

    async def send(_message: Message) -> None:
        seen.append(WHO.get())

    async def request(name: str) -> AsgiSink:
        WHO.set(name)
        return AsgiSink(send)

    sinks = [await asyncio.create_task(request(name)) for name in ("alice", "bob")]
    for sink in sinks:
        sink.write(b"frame")
        await sink.writable()
    assert seen == ["alice", "alice", "bob", "bob"]


async def test_one_that_stalls_for_good_ends_with_its_stream() -> None:
    server = Server()
    server.free.clear()
    before = asyncio.all_tasks()
    sink = AsgiSink(plain(server))
    sink.write(b"frame")
    await settle()
    assert len(asyncio.all_tasks() - before) == 1
    del sink
    gc.collect()
    await settle()
    assert (server.cancelled, asyncio.all_tasks() - before) == (1, set())


async def served(rig: HubRig, send: Send) -> None:
    """One stream, as a wire serves it, until the server ends it."""

    async def receive() -> Any:
        await asyncio.Event().wait()

    await serve(receive, send, lambda sink: rig.hub.connect(ALICE, PactFraming(), sink), lambda _bounds: Latest())


@pytest.mark.parametrize("wrapped", [timed, cancelling, raising, taking_turns, plain])
async def test_the_dispatcher_and_everybody_elses_streams_go_on(wrapped: Callable[[Server], Send]) -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        server = Server()
        bad = False

        async def send(message: Message) -> None:
            await (broken if bad else whole)(message)

        broken, whole = wrapped(server), plain(server)
        async with rig.stream() as healthy:
            task = asyncio.create_task(served(rig, send))
            await settle()
            (connection,) = (one for one in rig.hub.connections() if one.viewer is ALICE)
            (dispatcher,) = (one for one in asyncio.all_tasks() if one.get_name() == "clarion-dispatcher")
            bad = True
            if wrapped is timed:
                server.free.clear()
            for _ in range(4):
                await rig.emit_some(1)
                await rig.dispatched()
            assert healthy.seqs == [1, 2, 3, 4]
            assert not dispatcher.done()
            assert not dispatcher.cancelling()
            assert (rig.hub.faults, rig.hub.failing) == ({}, None)
            ended = wrapped in (timed, cancelling, raising)
            assert connection.close_reason is (CloseReason.CLIENT_GONE if ended else None)
            bad = False
            server.free.set()
            rig.hub.end("foreign")
            await task
            assert ended or server.data.count(b'"payload":{"n":') == 4


@pytest.mark.parametrize("wrapped", [timed, cancelling, raising])
async def test_a_stream_whose_send_failed_ends_without_another_write(wrapped: Callable[[Server], Send]) -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        server = Server()
        sink = AsgiSink(plain(server))
        async with rig.hub.connect(ALICE, PactFraming(), sink) as stream:
            task = asyncio.create_task(stream.run(Latest()))
            await settle()
            sink._send = wrapped(server)
            if wrapped is timed:
                server.free.clear()
            await rig.emit_some(1)
            await task
            assert stream.connection.close_reason is CloseReason.CLIENT_GONE
        assert sink.on_failure is None


async def test_what_was_written_goes_before_the_end_however_long_it_takes() -> None:
    server, gate = Server(), asyncio.Event()
    gate.set()

    async def send(message: Message) -> None:
        if message.get("more_body"):
            await gate.wait()
        await server.send(message)

    async with opened_hub() as rig:
        await rig.subscribe()
        task = asyncio.create_task(served(rig, send))
        await settle()
        gate.clear()
        await rig.emit_some(1)
        await rig.dispatched()
        rig.hub.end("foreign")
        await settle()
        assert b'"payload":{"n":' not in server.data
        gate.set()
        await task
        assert b'"payload":{"n":' in server.data
        assert [message.get("more_body") for message in server.messages][-2:] == [True, False]


async def test_a_burst_reaches_a_reader_that_is_free_and_the_end_comes_after_it() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        server = Server()
        task = asyncio.create_task(served(rig, plain(server)))
        await settle()
        emissions = [Emission("deal.won", {"text": "x" * 200}) for _ in range(400)]
        await rig.emitter.emit_many(Principal("acme", "publisher"), emissions)
        await until(lambda: rig.hub.totals.events == 400)
        rig.hub.end("foreign")  # what was handed over is not all sent yet
        await task
        assert server.data.count(b"x" * 200) == 400
        assert rig.hub.totals.dropped == 0
        assert [message.get("more_body") for message in server.messages][-2:] == [True, False]
