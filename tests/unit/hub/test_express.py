"""The short way to a transport: what must hold when a stream ends, falls behind or changes inside of a run, and how
much one tick takes. Each is asked of the long way too, which must not differ."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from clarion.errors import CloseReason
from clarion.hub import dispatcher, express, outlet
from clarion.hub.hub import HubLimits
from clarion.hub.protocols import Overflow, Viewer
from clarion.hub.shared import Phase
from clarion.model import Latest, Principal, Subscription
from clarion.sources.emit import Emission
from clarion.testing.hubs import HubRig, frames_in, opened_hub, settle, until
from clarion.testing.sinks import FakeSink
from clarion.wires.mcp_events.cursors import Cursors
from clarion.wires.mcp_events.errors import Dialect
from clarion.wires.mcp_events.framing import EventsFraming, as_sse
from clarion.wires.pact import PactFraming

both_ways = pytest.mark.parametrize("direct", [True, False], ids=["short way", "long way"])


class CatchUp(PactFraming):
    overflow = Overflow.CATCH_UP


class Dying(FakeSink):
    """A transport that is gone after so many writes."""

    left: int | None = None

    def write(self, data: bytes) -> None:
        super().write(data)
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                self.closing = True
                self.fail = ConnectionResetError("gone")


@both_ways
async def test_what_was_written_before_a_connection_ended_has_its_rows(
    monkeypatch: pytest.MonkeyPatch, direct: bool
) -> None:
    monkeypatch.setattr(outlet, "WRITE_CHUNK", 3_000)
    monkeypatch.setattr(express, "WRITE_CHUNK", 3_000)
    async with opened_hub() as rig:
        subscription = await rig.subscribe("deal.*")
        sink = Dying(direct=direct)
        async with rig.stream(sink=sink) as stream:
            sink.left = 2
            await rig.emit_some(30)
            await rig.dispatched()
            assert stream.connection.phase is Phase.CLOSED
            counters = await rig.backend.audit.counters("acme", [subscription.id])
            assert 0 < len(stream.seqs) < 30
            assert counters[subscription.id].delivered == len(stream.seqs)


@both_ways
async def test_a_refusal_is_counted_once_though_the_stream_falls_behind(direct: bool) -> None:
    async with opened_hub(limits=HubLimits(ring_capacity=6)) as rig:
        rig.framing = CatchUp()
        await rig.consent("bob", "withdrawn")
        subscription = await rig.subscribe("deal.*")
        async with rig.stream(sink=FakeSink(direct=direct)) as stream:
            stream.sink.pause()
            emissions = [Emission("deal.won", {}, subjects=["bob"] if number % 2 else []) for number in range(40)]
            await rig.emitter.emit_many(Principal("acme", "publisher"), emissions)
            await rig.dispatched()
            stream.sink.resume()
            await until(lambda: stream.connection.phase is Phase.LIVE)
            await settle()
            counters = (await rig.backend.audit.counters("acme", [subscription.id]))[subscription.id]
            assert (len(stream.seqs), counters.delivered, counters.refused) == (20, 20, 20)


@both_ways
async def test_a_lag_frame_names_what_was_handed_over_by_a_subscription_that_is_gone(direct: bool) -> None:
    async with opened_hub(limits=HubLimits(ring_capacity=6)) as rig:
        gone = await rig.subscribe("deal.*")
        async with rig.stream(sink=FakeSink(direct=direct)) as stream:
            await rig.emit_some(10)
            await rig.dispatched()
            await rig.subscribe("ticket.*")
            await rig.unsubscribe(gone)
            stream.sink.pause()
            for _ in range(10):
                await rig.emit("ticket.opened")
            await rig.dispatched()
            stream.sink.resume()
            await settle()
            (lag,) = stream.of("subscription.lag")
            assert lag.params["last_event_id"] == 10


@both_ways
async def test_streams_with_and_without_replay_of_one_type_differ_in_their_cursors(direct: bool) -> None:
    """As after `Events.change(name, replay=True)`, which leaves open streams as they are."""
    async with opened_hub() as rig, AsyncExitStack() as stack:
        bounds, sinks, tasks = await rig.hub.bounds("acme"), [], []
        for number, replay in enumerate((False, True)):
            framing = EventsFraming(number + 1, "deal.won", Dialect.SEP, as_sse)
            client = f"c{number}"
            own = Subscription(f"s{number}", "acme", "alice", client, ("deal.won",), {}, None, None, 0, 0)
            sink = FakeSink(direct=direct)
            viewer = Viewer(Principal("acme", "alice"), client, "key")
            stream = await stack.enter_async_context(rig.hub.connect(viewer, framing, sink, own=[own]))
            if replay:
                framing.cursors = Cursors(bounds.epoch, "acme", "deal.won")
            sinks.append(sink)
            tasks.append(asyncio.create_task(stream.run(Latest())))
            await settle()
        await rig.emit("deal.won")
        await rig.dispatched()
        has_null = [b'"cursor":null' in sink.writes[-1] for sink in sinks]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert has_null == [True, False]


async def test_a_framing_that_raises_ends_the_streams_of_its_kind_only() -> None:
    class Broken(PactFraming):
        kind = "broken"

        def halves(self, parcel: Any, position: Any) -> tuple[bytes, bytes]:
            raise ValueError("no frame")

    async with opened_hub() as rig:
        await rig.subscribe()
        await rig.subscribe(client="other")
        async with rig.stream() as well:
            rig.framing = Broken()
            async with rig.stream(client="other") as broken:
                await rig.emit()
                await rig.emit()
                await rig.dispatched()
                assert broken.connection.close_reason is CloseReason.FAILED
                assert well.seqs == [1, 2]


class Ticks:
    """How many events each tick took."""

    def __init__(self, rig: HubRig, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[int] = []
        inner = rig.hub._dispatcher._dispatch

        def counted(batch: Any) -> None:
            before = rig.hub.totals.events
            inner(batch)
            self.events.append(rig.hub.totals.events - before)

        monkeypatch.setattr(rig.hub._dispatcher, "_dispatch", counted)


@pytest.mark.parametrize("limit", ["TICK_FRAMES", "TICK_ENTRIES"])
async def test_a_tick_takes_no_more_than_its_bound_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(dispatcher, limit, 7)
    async with opened_hub() as rig, AsyncExitStack() as stack:
        rig.direct = limit == "TICK_FRAMES"
        streams = []
        for number in range(3):
            await rig.subscribe(client=f"c{number}")
            streams.append(await stack.enter_async_context(rig.stream(client=f"c{number}")))
        ticks = Ticks(rig, monkeypatch)
        await rig.emit_some(5)
        await rig.dispatched()
        assert ticks.events == [2, 2, 1]
        assert [stream.seqs for stream in streams] == [[1, 2, 3, 4, 5]] * 3


async def test_events_that_depend_on_who_asks_go_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that one of them does not send all that came with it the long way."""
    async with opened_hub() as rig:
        await rig.subscribe()
        await rig.subscribe(client="eves", subject="eve")
        async with rig.stream() as stream, rig.stream(client="eves", subject="eve") as eves:
            ticks = Ticks(rig, monkeypatch)
            audiences: tuple[list[str] | None, ...] = (None, None, ["alice"], ["eve"], None)
            emissions = [Emission("deal.won", {}, audience=audience) for audience in audiences]
            await rig.emitter.emit_many(Principal("acme", "publisher"), emissions)
            await rig.dispatched()
            assert ticks.events == [2, 2, 1]
            assert (stream.seqs, eves.seqs) == ([1, 2, 3, 5], [1, 2, 4, 5])
            assert len(frames_in(stream.sink.writes[1])) == 2
