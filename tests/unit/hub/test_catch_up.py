"""A wire that loses nothing: its streams leave the dispatcher when they fall behind, and go on from the log."""

import asyncio

import pytest

from clarion.errors import ClarionError, CloseReason, Forbidden, HookFailed
from clarion.hub.hub import HEARTBEAT_SECONDS, HubLimits
from clarion.hub.protocols import Overflow
from clarion.hub.shared import Phase
from clarion.model import Event, Outcome
from clarion.stores.protocols import Retention
from clarion.testing.hubs import HubRig, OpenStream, opened_hub, settle
from clarion.testing.sinks import FakeSink
from clarion.wires.pact import PactFraming


class Framing(PactFraming):
    """The side channel's frames, told of failures and ends, on a wire that catches up."""

    overflow = Overflow.CATCH_UP

    def failed(self, error: ClarionError) -> bytes:
        return b'event: notifications.pact.error\ndata: {"method":"notifications/pact/error","params":{}}\n\n'


SMALL = HubLimits(ring_capacity=3)


async def behind(rig: HubRig, stream: OpenStream, count: int) -> None:
    stream.sink.pause()
    await rig.emit_some(count)
    await rig.dispatched()


async def test_a_stalled_stream_holds_nothing_and_gets_everything_in_order() -> None:
    async with opened_hub(limits=SMALL) as rig:
        rig.framing = Framing()
        await rig.subscribe()
        async with rig.stream() as stream:
            await rig.emit_some(1)
            await rig.dispatched()
            await behind(rig, stream, 20)
            assert stream.connection.phase is Phase.REPLAY
            assert rig.hub.ring_bytes == 0
            stream.sink.resume()
            await settle(200)
            assert stream.seqs == list(range(1, 22))
            assert stream.connection.phase is Phase.LIVE
            await rig.emit_some(2)
            await rig.dispatched()
            assert stream.seqs == list(range(1, 24))
            assert stream.of("subscription.lag") == []


async def test_what_retention_takes_from_a_stream_that_is_behind_is_told_in_its_place() -> None:
    async with opened_hub(limits=SMALL) as rig:
        rig.framing = Framing()
        await rig.subscribe()
        async with rig.stream() as stream:
            await behind(rig, stream, 10)
            await rig.clock.advance(10)
            last = await rig.emit()
            await rig.dispatched()
            await rig.backend.log.trim(Retention(keep_after=rig.clock.now()))
            stream.sink.resume()
            await settle(100)
            openings = stream.of("subscription.open")
            assert [opening.params["truncated"] for opening in openings] == [False, True]
            assert openings[1].params["cursor"] == last.position.seq - 1
            assert stream.seqs == [last.position.seq]


async def test_a_spent_budget_sends_the_greediest_to_the_log_and_leaves_the_others() -> None:
    async with opened_hub(limits=HubLimits(ring_budget=6_000)) as rig:
        rig.framing = Framing()
        await rig.subscribe("deal.*", client="greedy")
        await rig.subscribe("contact.*", client="modest")
        async with rig.stream(client="greedy") as greedy, rig.stream(client="modest") as modest:
            greedy.sink.pause()
            modest.sink.pause()
            await rig.emit("contact.created")
            await rig.emit_some(10)
            await rig.dispatched()
            assert greedy.connection.phase is Phase.REPLAY
            assert modest.connection.waiting == 1
            for stream in (greedy, modest):
                stream.sink.resume()
            await settle(200)
            assert (modest.seqs, greedy.seqs) == ([1], list(range(2, 12)))


class Hooks:
    """A lens that the test holds: hides odd numbers, waits, fails, forbids."""

    def __init__(self) -> None:
        self.free = asyncio.Event()
        self.free.set()
        self.failing: set[int] = set()
        self.forbidding = False
        self.asked: list[int] = []

    async def view(self, event: Event) -> Event | None:
        self.asked.append(event.seq)
        await self.free.wait()
        if self.forbidding:
            raise Forbidden("Access revoked")
        if event.seq in self.failing:
            raise HookFailed(details={"reason": "match"})
        return event if event.seq % 2 == 0 else None


async def test_a_hook_that_waits_holds_up_its_own_stream_alone_which_catches_up_later() -> None:
    hooks = Hooks()
    async with opened_hub(limits=SMALL) as rig:
        rig.framing = Framing()
        await rig.subscribe()
        async with rig.stream(lens=hooks) as slow, rig.stream() as other:
            hooks.free.clear()
            await rig.emit_some(12)
            await rig.dispatched()
            assert other.seqs == list(range(1, 13))
            assert slow.seqs == []
            await rig.clock.advance(HEARTBEAT_SECONDS)
            assert slow.of("heartbeat")[-1].params["cursor"] == 0, "nothing of it was shown yet"
            hooks.free.set()
            await settle(300)
            assert slow.seqs == [2, 4, 6, 8, 10, 12]


async def test_an_event_whose_hook_fails_is_kept_back_told_and_counted_and_the_rest_goes_on() -> None:
    hooks = Hooks()
    hooks.failing = {2}
    async with opened_hub() as rig:
        rig.framing = Framing()
        subscription = await rig.subscribe()
        async with rig.stream(lens=hooks) as stream:
            await rig.emit_some(4)
            await rig.dispatched()
            await settle(50)
            assert stream.seqs == [4]
            assert len(stream.of("error")) == 1
            rows = await rig.hub.deliveries.rows("acme", subscription_id=subscription.id, limit=10)
            assert [(row.seq, row.outcome) for row in rows if row.outcome == Outcome.DROPPED] == [(2, "dropped")]


@pytest.mark.parametrize("live", [True, False], ids=["live", "replay"])
async def test_a_lens_that_forbids_ends_the_stream_before_anything_is_shown(live: bool) -> None:
    hooks = Hooks()
    hooks.forbidding = True
    async with opened_hub() as rig:
        rig.framing = Framing()
        await rig.subscribe()
        if not live:
            await rig.emit_some(2)
        async with rig.stream(await rig.after(0), lens=hooks) as stream:
            if live:
                await rig.emit_some(2)
            await settle(50)
            assert stream.connection.close_reason is CloseReason.REVOKED
            assert isinstance(stream.connection.close_error, Forbidden)
            assert stream.seqs == []
            assert stream.task.done()


async def test_closing_does_not_wait_for_a_hook() -> None:
    hooks = Hooks()
    hooks.free.clear()
    async with opened_hub() as rig:
        rig.framing = Framing()
        await rig.subscribe()
        async with rig.stream(lens=hooks) as stream:
            await rig.emit_some(2)
            await settle(20)
            assert hooks.asked == [1]
            stream.connection.close(CloseReason.SERVER_STOPPING)
            await settle(20)
            assert stream.task.done()


async def test_what_waits_for_a_stalled_transport_is_asked_about_anew() -> None:
    """A transport may stall for hours: what the hooks allowed before need not be allowed then."""
    hooks = Hooks()
    async with opened_hub() as rig:
        rig.framing = Framing()
        await rig.subscribe()
        async with rig.stream(lens=hooks, sink=FakeSink(room=2)) as stream:
            await rig.emit_some(6)
            await rig.dispatched()
            await settle(20)
            stream.sink.pause()
            hooks.forbidding = True
            await rig.emit_some(2)
            stream.sink.resume()
            await settle(50)
            assert stream.connection.close_reason is CloseReason.REVOKED
            assert max(stream.seqs, default=0) <= 6


@pytest.mark.parametrize("paused", [False, True], ids=["open", "stalled"])
async def test_a_gap_is_told_after_what_waits_and_delivery_goes_on(paused: bool) -> None:
    async with opened_hub() as rig:
        rig.framing = Framing()
        await rig.subscribe()
        async with rig.stream() as stream:
            if paused:
                stream.sink.pause()
            await rig.emit_some(2)
            await rig.dispatched()
            stream.connection.skip()
            await settle(20)
            stream.sink.resume()
            await settle(20)
            await rig.emit_some(1)
            await rig.dispatched()
            names = [frame.name for frame in stream.frames]
            assert names == ["subscription.open", "event", "event", "subscription.open", "event"]
            assert stream.of("subscription.open")[1].params["truncated"] is True
            assert stream.of("subscription.open")[1].params["cursor"] == 2


async def test_reports_wait_for_a_stalled_transport_and_only_the_newest_are_kept() -> None:
    async with opened_hub() as rig:
        rig.framing = Framing()
        await rig.subscribe()
        async with rig.stream() as stream:
            stream.sink.pause()
            for _ in range(40):
                stream.connection.report(ClarionError("upstream"))
            stream.sink.resume()
            await settle(20)
            assert len(stream.of("error")) == 16
