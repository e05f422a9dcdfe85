"""One stream: opening, replay, live, lag, heartbeat, and what becomes of what waits."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from clarion.errors import CloseReason
from clarion.hub import outlet
from clarion.hub.connection import REPLAY_PAGE
from clarion.hub.hub import HEARTBEAT_SECONDS, HubLimits
from clarion.hub.ring import RING_CAPACITY
from clarion.hub.shared import Phase
from clarion.model import After, Earliest, Latest, Outcome, Position, SubjectConsent
from clarion.stores.memory import open_memory
from clarion.stores.protocols import Page, Retention
from clarion.testing.hubs import HubRig, OpenStream, opened_hub, settle
from clarion.testing.sinks import FakeSink


class PausableLog:
    """A log whose reads wait while they are held."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.free = asyncio.Event()
        self.free.set()
        self.reads = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def read(self, tenant: str, after: int, **bounds: Any) -> Page:
        page = await self._inner.read(tenant, after, **bounds)
        self.reads += 1
        await self.free.wait()
        return page  # type: ignore[no-any-return]


async def lagging(rig: HubRig, stream: OpenStream, count: int) -> None:
    """Pause the stream and emit `count` events at it."""
    stream.sink.pause()
    await rig.emit_some(count)
    await rig.dispatched()


async def resumed(stream: OpenStream, room: int | None = None) -> None:
    stream.sink.resume(room)
    await settle()


# -- opening ----------------------------------------------------------------------------------------------------------


async def test_the_first_frame_is_the_opening_with_the_clients_subscriptions_and_cursor() -> None:
    async with opened_hub() as rig:
        one = await rig.subscribe("deal.*")
        await rig.subscribe("deal.*", client="other")
        await rig.emit_some(3)
        async with rig.stream() as stream:
            (opening,) = stream.frames
            assert opening.name == "subscription.open"
            assert opening.params["client_id"] == "laptop"
            assert [each["subscription_id"] for each in opening.params["subscriptions"]] == [one.id]
            assert (opening.params["cursor"], opening.params["truncated"]) == (3, False)
            assert opening.id is not None
            assert opening.id.endswith("-3")


async def test_an_event_frame_has_all_ten_params() -> None:
    async with opened_hub() as rig:
        one = await rig.subscribe()
        async with rig.stream() as stream:
            await rig.emit(
                payload={"amount": 7}, aggregate_type="deal", aggregate_id="d1", actor_id="u1", correlation_id="c1"
            )
            await rig.dispatched()
            (frame,) = stream.events
            assert frame.params == {
                "subscription_id": one.id, "event_id": 1, "topic": "deal.won", "category": "crm",
                "aggregate_type": "deal", "aggregate_id": "d1", "actor_id": "u1", "correlation_id": "c1",
                "occurred_at": "2027-01-15T08:00:00Z", "payload": {"amount": 7},
            }  # fmt: skip
            assert type(frame.params["event_id"]) is int


async def test_frames_of_one_event_leave_in_one_write_and_only_the_last_has_an_id() -> None:
    async with opened_hub() as rig:
        ids = {(await rig.subscribe(*topics)).id for topics in (["deal.*"], ["*"], ["deal.won"])}
        async with rig.stream() as stream:
            written = len(stream.sink.writes)
            await rig.emit()
            await rig.dispatched()
            assert len(stream.sink.writes) == written + 1
            assert {frame.subscription for frame in stream.events} == ids
            first, second, last = stream.events
            assert (first.id, second.id) == (None, None)
            assert last.id is not None
            assert last.id.endswith("-1")


# -- replay -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, REPLAY_PAGE - 1, REPLAY_PAGE, REPLAY_PAGE + 1, REPLAY_PAGE * 2])
async def test_replay_sends_everything_after_the_cursor_once_and_goes_live(count: int) -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        await rig.emit_some(count)
        async with rig.stream(Earliest()) as stream:
            await settle(400)
            assert stream.connection.phase is Phase.LIVE
            assert stream.seqs == list(range(1, count + 1))
            await rig.emit_some(2)
            await rig.dispatched()
            assert stream.seqs == list(range(1, count + 3))


async def test_a_stream_without_a_cursor_starts_at_the_head() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        await rig.emit_some(5)
        async with rig.stream(Latest()) as stream:
            await rig.emit_some(1)
            await rig.dispatched()
            assert stream.seqs == [6]


async def test_events_that_come_while_a_page_is_read_come_once() -> None:
    memory = open_memory()
    log = PausableLog(memory.log)
    async with opened_hub(replace(memory, log=log)) as rig:
        await rig.subscribe()
        await rig.emit_some(3)
        log.free.clear()
        async with rig.stream(Earliest()) as stream:
            assert log.reads == 1
            await rig.emit_some(4)  # read by nobody yet, dispatched past the stream
            await rig.dispatched()
            assert stream.seqs == []
            log.free.set()
            await settle()
            assert stream.seqs == [1, 2, 3, 4, 5, 6, 7]
            await rig.emit_some(1)
            await rig.dispatched()
            assert stream.seqs == [1, 2, 3, 4, 5, 6, 7, 8]


async def test_replay_goes_at_the_pace_of_the_transport_and_loses_nothing() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        await rig.emit_some(1000)
        sink = FakeSink(room=2)
        async with rig.stream(Earliest(), sink=sink) as stream:
            await rig.emit_some(500)
            await rig.dispatched()
            assert stream.connection.phase is Phase.REPLAY
            assert stream.connection.waiting == 0  # nothing is held for it: the log has it
            while stream.connection.phase is Phase.REPLAY:
                await resumed(stream, room=1)
            assert stream.seqs == list(range(1, 1501))
            assert stream.of("subscription.lag") == []


async def test_a_heartbeat_during_replay_never_passes_what_is_still_to_come() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        await rig.emit_some(6 * REPLAY_PAGE)
        async with rig.stream(Earliest(), sink=FakeSink(room=2)) as stream:
            for _ in range(30):
                await resumed(stream, room=1)
                await rig.clock.advance(HEARTBEAT_SECONDS)
                assert_cursors_are_honest(stream)
            assert stream.connection.phase is Phase.LIVE
            assert stream.of("heartbeat")


def assert_cursors_are_honest(stream: OpenStream) -> None:
    """No cursor passes a later event frame, none goes back behind an earlier one."""
    last = 0
    for frame in stream.frames:
        if frame.name == "event":
            assert frame.seq > last
            last = frame.seq
        elif frame.name == "heartbeat":
            assert frame.params["cursor"] >= last
            last = frame.params["cursor"]


async def test_a_position_older_than_retention_is_told_to_be_truncated() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        await rig.emit_some(5)
        rig.clock.jump(10)
        await rig.emit_some(5)
        await rig.backend.log.trim(Retention(keep_after=rig.clock.now()))
        async with rig.stream(await rig.after(2)) as stream:
            (opening,) = stream.of("subscription.open")
            assert (opening.params["truncated"], opening.params["cursor"]) == (True, 5)
            assert stream.seqs == [6, 7, 8, 9, 10]
        async with rig.stream(await rig.after(5)) as stream:
            assert stream.of("subscription.open")[0].params["truncated"] is False
        async with rig.stream(Earliest()) as stream:
            assert stream.of("subscription.open")[0].params["truncated"] is False
            assert stream.seqs == [6, 7, 8, 9, 10]


async def test_a_position_of_another_epoch_is_told_to_be_truncated_and_gets_this_one_whole() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        await rig.emit_some(5)
        await rig.backend.log.renew_epoch()
        await rig.emit_some(2)
        async with rig.stream(After(Position("00000000", 5))) as stream:
            assert stream.of("subscription.open")[0].params["truncated"] is True
            assert stream.seqs == [6, 7]


async def test_a_position_past_the_head_is_told_to_be_truncated_and_continues_at_the_head() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        await rig.emit_some(5)
        async with rig.stream(await rig.after(10**17)) as stream:
            opening = stream.of("subscription.open")[0]
            assert (opening.params["truncated"], opening.params["cursor"]) == (True, 5)
            await rig.emit_some(1)
            await rig.dispatched()
            assert stream.seqs == [6]


async def test_retention_that_overtakes_a_replay_is_told_before_what_is_left() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        await rig.emit_some(REPLAY_PAGE)
        rig.clock.jump(10)
        await rig.emit_some(10)
        rig.clock.jump(10)
        await rig.emit_some(10)
        async with rig.stream(Earliest(), sink=FakeSink(room=1)) as stream:  # the opening, and no more
            await rig.backend.log.trim(Retention(keep_after=rig.clock.now()))
            await resumed(stream)
            openings = stream.of("subscription.open")
            assert [one.params["truncated"] for one in openings] == [False, True]
            assert openings[1].params["cursor"] == REPLAY_PAGE + 10
            assert stream.seqs == list(range(REPLAY_PAGE + 11, REPLAY_PAGE + 21))
            assert [frame.name for frame in stream.frames[:2]] == ["subscription.open"] * 2


async def test_a_client_that_goes_away_during_replay_leaves_nothing_behind() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        await rig.emit_some(1000)
        async with rig.stream(Earliest(), sink=FakeSink(room=2)) as stream:
            pass
        assert stream.connection.phase is Phase.CLOSED
        assert list(rig.hub.connections()) == []
        await rig.emit_some(3)
        await rig.dispatched()
        assert len(stream.seqs) < 1000
        assert rig.hub.ring_bytes == 0


# -- lag --------------------------------------------------------------------------------------------------------------


async def test_117_events_for_a_paused_reader_are_100_survivors_and_one_lag_frame_of_17() -> None:
    async with opened_hub() as rig:
        one = await rig.subscribe()
        async with rig.stream() as stream:
            await rig.emit_some(5)
            await rig.dispatched()
            await lagging(rig, stream, 117)
            assert stream.connection.phase is Phase.LAGGING
            assert stream.connection.waiting == RING_CAPACITY == 100
            await resumed(stream)
            assert [frame.name for frame in stream.frames[6:8]] == ["subscription.lag", "event"]
            (lag,) = stream.of("subscription.lag")
            told = {name: lag.params[name] for name in ("subscription_id", "dropped_count", "buffer_capacity")}
            assert told == {"subscription_id": one.id, "dropped_count": 17, "buffer_capacity": 100}
            assert lag.params["last_event_id"] == 5
            assert lag.id is None  # a client that only knows Last-Event-ID must not skip what it lost
            assert stream.seqs == [1, 2, 3, 4, 5, *range(23, 123)]
            assert stream.connection.phase is Phase.LIVE
            assert rig.hub.ring_bytes == 0
        async with rig.stream(await rig.after(lag.params["last_event_id"])) as again:
            assert again.seqs == list(range(6, 123))


async def test_a_hundred_events_fit_and_nothing_is_said() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            await lagging(rig, stream, 100)
            await resumed(stream)
            assert stream.of("subscription.lag") == []
            assert stream.seqs == list(range(1, 101))


async def test_each_affected_subscription_gets_one_lag_frame_with_its_own_count() -> None:
    async with opened_hub() as rig:
        every, odd = await rig.subscribe("deal.*"), await rig.subscribe("deal.*", filter={"odd": True})
        quiet = await rig.subscribe("contact.*")
        async with rig.stream() as stream:
            stream.sink.pause()
            for number in range(110):
                await rig.emit(payload={"odd": number % 2 == 1})
            await rig.dispatched()
            await resumed(stream)
            lags = stream.of("subscription.lag")
            assert {lag.subscription: lag.params["dropped_count"] for lag in lags} == {every.id: 10, odd.id: 5}
            assert quiet.id not in {lag.subscription for lag in lags}


async def test_every_flurry_has_its_own_lag_frame_and_its_own_way_back() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            await lagging(rig, stream, 110)
            await resumed(stream)
            await lagging(rig, stream, 120)
            await rig.emit_some(5)
            await rig.dispatched()
            await resumed(stream)
            lags = [(lag.params["dropped_count"], lag.params["last_event_id"]) for lag in stream.of("subscription.lag")]
            assert lags == [(10, 0), (25, 110)]
            assert stream.seqs == [*range(11, 111), *range(136, 236)]


async def test_a_reader_that_takes_a_part_and_stalls_again_is_told_where_the_second_gap_begins() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            stream.sink.pause()
            for _ in range(100):
                await rig.emit(payload={"text": "x" * 30_000})
            await rig.dispatched()
            await resumed(stream, room=1)  # one chunk: 3 events of 30 kB
            assert stream.seqs == [1, 2, 3]
            await rig.emit_some(10)
            await rig.dispatched()
            await resumed(stream)
            (lag,) = stream.of("subscription.lag")
            assert (lag.params["dropped_count"], lag.params["last_event_id"]) == (7, 3)
            assert stream.seqs == [1, 2, 3, *range(11, 111)]


async def test_the_shared_budget_makes_a_stalled_reader_drop_before_its_ring_is_full() -> None:
    async with opened_hub(limits=HubLimits(ring_budget=10 * 2_000)) as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            stream.sink.pause()
            for _ in range(30):
                await rig.emit(payload={"text": "x" * 1_000})
            await rig.dispatched()
            waiting = stream.connection.waiting
            assert 0 < waiting < 30
            assert rig.hub.ring_bytes <= 20_000
            await resumed(stream)
            (lag,) = stream.of("subscription.lag")
            assert lag.params["dropped_count"] == 30 - waiting
            assert stream.seqs == list(range(31 - waiting, 31))
            assert rig.hub.ring_bytes == 0


async def test_an_event_that_never_fits_the_budget_is_told_as_lost_too() -> None:
    async with opened_hub(limits=HubLimits(ring_budget=500)) as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            await lagging(rig, stream, 3)
            assert stream.connection.waiting == 0
            await resumed(stream)
            (lag,) = stream.of("subscription.lag")
            assert (lag.params["dropped_count"], lag.params["last_event_id"]) == (3, 0)
            await rig.emit_some(1)
            await rig.dispatched()
            assert stream.seqs == [4]


async def test_a_stalled_reader_does_not_hold_up_another() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        async with rig.stream() as stalled, rig.stream() as healthy:
            await lagging(rig, stalled, 1000)
            assert healthy.seqs == list(range(1, 1001))
            assert healthy.of("subscription.lag") == []
            assert stalled.seqs == []


async def test_what_was_dropped_and_delivered_is_in_the_audit() -> None:
    async with opened_hub() as rig:
        one = await rig.subscribe()
        async with rig.stream() as stream:
            await lagging(rig, stream, 117)
            await resumed(stream)
        counters = (await rig.hub.deliveries.counters("acme", [one.id]))[one.id]
        assert (counters.delivered, counters.dropped, counters.refused) == (100, 17, 0)
        rows = await rig.hub.deliveries.rows("acme", limit=1000)
        assert sorted(row.seq for row in rows if row.outcome == Outcome.DROPPED) == list(range(1, 18))


# -- heartbeat --------------------------------------------------------------------------------------------------------


async def test_a_heartbeat_comes_every_15_seconds_with_the_cursor() -> None:
    async with opened_hub() as rig:
        await rig.subscribe("deal.*")
        async with rig.stream() as stream:
            await rig.clock.advance(14.9)
            assert stream.of("heartbeat") == []
            await rig.clock.advance(0.2)
            assert [beat.params["cursor"] for beat in stream.of("heartbeat")] == [0]
            await rig.emit(topic="contact.created")  # matches nothing, and is passed all the same
            await rig.dispatched()
            await rig.clock.advance(30)
            beats = stream.of("heartbeat")
            assert [beat.params["cursor"] for beat in beats] == [0, 1, 1]
            assert [beat.id for beat in beats[1:]] == [f"{(await rig.hub.bounds('acme')).epoch}-1"] * 2


async def test_streams_that_open_at_different_times_have_their_own_beat() -> None:
    async with opened_hub() as rig, rig.stream() as first:
        await rig.clock.advance(10)
        async with rig.stream() as second:
            await rig.clock.advance(5)
            assert (len(first.of("heartbeat")), len(second.of("heartbeat"))) == (1, 0)
            await rig.clock.advance(10)
            assert (len(first.of("heartbeat")), len(second.of("heartbeat"))) == (1, 1)


async def test_no_heartbeat_passes_what_waits_in_the_ring() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            await lagging(rig, stream, 3)
            await rig.clock.advance(60)
            assert stream.of("heartbeat") == []
            await resumed(stream)
            await rig.clock.advance(15)
            assert [frame.name for frame in stream.frames] == ["subscription.open", *["event"] * 3, "heartbeat"]
            assert stream.of("heartbeat")[0].params["cursor"] == 3


async def test_a_heartbeat_after_consent_emptied_the_ring_does_not_go_back() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            await rig.emit_some(5)
            await rig.dispatched()
            stream.sink.pause()
            await rig.emit(subjects=["ann"])
            await rig.dispatched()
            await rig.consent("ann", "withdrawn")
            assert stream.connection.waiting == 0
            stream.sink._paused = False  # takes writes again, but whoever waits for that was not woken yet
            stream.connection.heartbeat()
            assert stream.of("heartbeat")[0].params["cursor"] == 6


# -- subscribing and unsubscribing under way --------------------------------------------------------------------------


async def test_subscribing_while_connected_takes_effect_from_now() -> None:
    async with opened_hub() as rig:
        async with rig.stream() as stream:
            await rig.emit_some(3)
            one = await rig.subscribe()
            await rig.emit_some(2)
            await rig.dispatched()
            assert [(frame.seq, frame.subscription) for frame in stream.events] == [(4, one.id), (5, one.id)]
        async with rig.stream() as other:  # a new stream has it from the start
            assert [each["subscription_id"] for each in other.frames[0].params["subscriptions"]] == [one.id]


async def test_subscribing_during_replay_takes_effect_from_now() -> None:
    async with opened_hub() as rig:
        await rig.subscribe("deal.*")
        await rig.emit_some(1000)
        async with rig.stream(Earliest(), sink=FakeSink(room=2)) as stream:
            late = await rig.subscribe("*")
            await rig.emit_some(2)
            await resumed(stream)
            await rig.dispatched()
            assert [frame.seq for frame in stream.events if frame.subscription == late.id] == [1001, 1002]


async def test_unsubscribing_stops_what_waits_in_the_ring() -> None:
    async with opened_hub() as rig:
        gone, kept = await rig.subscribe("deal.*"), await rig.subscribe("*")
        async with rig.stream() as stream:
            await lagging(rig, stream, 10)
            await rig.unsubscribe(gone)
            await resumed(stream)
            assert {frame.subscription for frame in stream.events} == {kept.id}
            assert stream.seqs == list(range(1, 11))
            assert all(frame.id is not None for frame in stream.events)


async def test_unsubscribing_the_last_one_frees_the_ring_at_once() -> None:
    async with opened_hub() as rig:
        one = await rig.subscribe()
        async with rig.stream() as stream:
            await lagging(rig, stream, 117)
            await rig.unsubscribe(one)
            assert stream.connection.waiting == 0
            assert rig.hub.ring_bytes == 0
            await resumed(stream)
            assert [frame.name for frame in stream.frames] == ["subscription.open"]


async def test_subscribing_again_does_not_bring_back_what_waited_before() -> None:
    async with opened_hub() as rig:
        one = await rig.subscribe()
        async with rig.stream() as stream:
            await lagging(rig, stream, 117)
            await rig.unsubscribe(one)
            again = await rig.subscribe()
            assert again.id == one.id
            await rig.emit_some(1)
            await rig.dispatched()
            await resumed(stream)
            assert stream.seqs == [118]
            assert stream.of("subscription.lag") == []


async def test_unsubscribing_and_subscribing_again_during_replay_skips_what_was_still_to_be_replayed() -> None:
    async with opened_hub() as rig:
        one = await rig.subscribe()
        await rig.emit_some(200)
        async with rig.stream(Earliest(), sink=FakeSink(room=2)) as stream:
            sent = list(stream.seqs)
            assert 0 < len(sent) < 200
            await rig.unsubscribe(one)
            await rig.subscribe()
            await rig.emit_some(1)
            await resumed(stream)
            await rig.dispatched()
            assert stream.seqs == [*sent, 201]


async def test_a_new_purpose_counts_for_what_waits() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            stream.sink.pause()
            await rig.emit(subjects=["ann"])
            await rig.dispatched()
            await rig.subscribe(purpose="marketing")  # ann granted nothing
            await resumed(stream)
            assert stream.seqs == []


async def test_thousands_of_subscriptions_on_one_connection_each_get_their_frame() -> None:
    async with opened_hub(limits=HubLimits(subscriptions_per_client=1_000)) as rig:
        for number in range(1000):
            await rig.subscribe("deal.*", filter={"n_gte": -number})
        async with rig.stream() as stream:
            written = len(stream.sink.writes)
            await rig.emit_some(1)
            await rig.dispatched()
            assert len(stream.sink.writes) == written + 1
            assert len(stream.events) == 1000
            assert sum(frame.id is not None for frame in stream.events) == 1
            await lagging(rig, stream, 101)
            await resumed(stream)
            assert len(stream.of("subscription.lag")) == 1000


async def test_writes_are_cut_by_what_the_frames_take_not_by_what_the_events_take() -> None:
    async with opened_hub() as rig:
        for number in range(100):
            await rig.subscribe("deal.*", filter={"n_gte": -number})
        async with rig.stream() as stream:
            await rig.emit_some(20)
            await rig.dispatched()
            frame = len(stream.sink.data) / len(stream.frames)
            assert max(map(len, stream.sink.writes)) < outlet.WRITE_CHUNK + 100 * frame


# -- consent while events wait ----------------------------------------------------------------------------------------


async def test_nothing_that_waits_is_sent_once_a_withdrawal_was_recorded() -> None:
    async with opened_hub() as rig:
        one = await rig.subscribe()
        async with rig.stream() as stream:
            stream.sink.pause()
            for subject in ("ann", "bob", "ann", "eve"):
                await rig.emit(subjects=[subject])
            await rig.emit(subjects=["bob", "ann"])  # all of several must pass
            await rig.emit()
            await rig.dispatched()
            await rig.consent("ann", "withdrawn")
            assert stream.connection.waiting == 3
            await resumed(stream)
            assert stream.seqs == [2, 4, 6]
        counters = (await rig.hub.deliveries.counters("acme", [one.id]))[one.id]
        assert (counters.delivered, counters.refused) == (3, 3)


async def test_a_withdrawal_during_replay_holds_back_what_was_read_already() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        await rig.emit_some(200, subjects=["ann"])
        async with rig.stream(Earliest(), sink=FakeSink(room=2)) as stream:
            sent = list(stream.seqs)
            assert 0 < len(sent) < 200
            await rig.consent("ann", "withdrawn")
            await resumed(stream)
            assert stream.seqs == sent


async def test_a_grant_that_expires_while_an_event_waits_holds_it_back() -> None:
    async with opened_hub() as rig:
        await rig.subscribe(purpose="marketing")
        await rig.consent("ann", "granted", purpose="marketing", expires_at=rig.clock.now() + 10_000_000)
        async with rig.stream() as stream:
            await rig.emit(subjects=["ann"])
            await rig.dispatched()
            stream.sink.pause()
            await rig.emit(subjects=["ann"])
            await rig.dispatched()
            await rig.clock.advance(11)
            await resumed(stream)
            assert stream.seqs == [1]
            assert rig.hub.totals.refused == 1


async def test_an_event_that_expires_while_it_waits_is_not_sent() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            stream.sink.pause()
            await rig.emit(expires_at=rig.clock.now() + 5_000_000)
            await rig.emit()
            await rig.dispatched()
            await rig.clock.advance(5)
            await resumed(stream)
            assert stream.seqs == [2]


async def test_refusals_at_the_last_moment_reach_the_audit_without_another_delivery() -> None:
    async with opened_hub() as rig:
        one = await rig.subscribe()
        async with rig.stream() as stream:
            stream.sink.pause()
            await rig.emit(expires_at=rig.clock.now() + 5_000_000)
            await rig.dispatched()
            await rig.clock.advance(5)
            await resumed(stream)
            rows = await rig.hub.deliveries.rows("acme", subscription_id=one.id, limit=10)
            assert [row.outcome for row in rows] == ["refused"]


class SlowConsents:
    """A ledger whose reads give way to everything else, as a database's do."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def states(self, tenant: str, subjects: Sequence[str]) -> dict[str, SubjectConsent]:
        await settle(3)
        states: dict[str, SubjectConsent] = await self._inner.states(tenant, subjects)
        await settle(3)
        return states


async def test_consent_changes_of_several_subjects_at_once_lose_nothing_that_is_still_allowed() -> None:
    memory = open_memory()
    async with opened_hub(replace(memory, consents=SlowConsents(memory.consents))) as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            stream.sink.pause()
            for subject in ("ann", "bob", "eve") * 5:
                await rig.emit(subjects=[subject])
            await rig.dispatched()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(rig.consent("ann", "withdrawn"))
                await settle(2)
                tasks.create_task(rig.consent("bob", "granted"))
                await settle(4)
                tasks.create_task(rig.consent("eve", "pending"))
            await resumed(stream)
            await settle()
            assert stream.seqs == [seq for seq in range(1, 16) if seq % 3 != 1]


# -- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [Latest(), Earliest()], ids=["live", "replay"])
async def test_closing_ends_a_stream_whose_reader_stalls(start: Latest | Earliest) -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        await rig.emit_some(300)
        sink = FakeSink(room=2 if isinstance(start, Earliest) else None)
        async with rig.stream(start, sink=sink) as stream:
            await lagging(rig, stream, 10)
            assert not stream.task.done()
            stream.connection.close(CloseReason.REVOKED)
            await settle()
            assert stream.task.done()
            assert stream.connection.close_reason is CloseReason.REVOKED
            assert rig.hub.ring_bytes == 0


async def test_the_first_reason_to_close_stays() -> None:
    async with opened_hub() as rig, rig.stream() as stream:
        stream.connection.close(CloseReason.REVOKED)
        stream.connection.close(CloseReason.CLIENT_GONE)
        assert stream.connection.close_reason is CloseReason.REVOKED


async def test_nothing_is_written_after_the_close() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            await lagging(rig, stream, 120)
            stream.connection.close(CloseReason.SERVER_STOPPING)
            await resumed(stream)
            await rig.emit_some(3)
            await rig.dispatched()
            await rig.clock.advance(60)
            assert [frame.name for frame in stream.frames] == ["subscription.open"]


async def test_what_waits_goes_first_when_the_transport_is_free_before_the_stream_has_heard_of_it() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            await lagging(rig, stream, 3)
            stream.sink._paused = False  # takes writes, but whoever waits for that was not woken yet
            await rig.emit_some(2)
            await rig.dispatched()
            await resumed(stream)
            assert stream.seqs == [1, 2, 3, 4, 5]


async def test_a_lag_frame_leaves_with_the_first_survivors_so_that_one_flurry_is_told_once() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            await lagging(rig, stream, 117)
            written = len(stream.sink.writes)
            await resumed(stream, room=1)
            assert len(stream.sink.writes) == written + 1
            assert len(stream.of("subscription.lag")) == 1
            assert len(stream.events) > 0


async def test_a_stream_whose_transport_is_paused_from_the_start_opens_when_it_is_free() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        sink = FakeSink()
        sink.pause()
        async with rig.stream(sink=sink) as stream:
            assert stream.frames == []
            await rig.emit_some(2)
            await resumed(stream)
            assert [frame.name for frame in stream.frames] == ["subscription.open", "event", "event"]


async def test_who_unsubscribed_gets_nothing_where_others_with_the_same_wish_still_do() -> None:
    """They share a place in the index, which remembers who is there."""
    async with opened_hub() as rig:
        mine = await rig.subscribe("deal.*")
        await rig.subscribe("ticket.*")
        await rig.subscribe("deal.*", client="other")
        async with rig.stream() as stream, rig.stream(client="other") as other:
            await rig.emit("deal.won")
            await rig.dispatched()
            await rig.unsubscribe(mine)
            await rig.emit("deal.won")
            await rig.emit("ticket.opened")
            await rig.dispatched()
            assert (stream.seqs, other.seqs) == ([1, 3], [1, 2])
