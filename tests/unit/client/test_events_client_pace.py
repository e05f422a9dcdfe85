"""`EventsClient` in time: polls, retries and heartbeats on a clock that a test moves, against an in-process server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcp import Client

from clarion.client.mcp_events import (
    EventOccurrence,
    EventsClient,
    Failure,
    Gap,
    Item,
    MemoryCursors,
    Subscription,
    Terminated,
)
from clarion.client.mcp_events.wire import Pulse
from clarion.errors import InvalidInput
from clarion.retry import Backoff
from clarion.testing.clock import FakeClock
from interaction.events_peer import Peer, build
from interaction.events_requirements import requirement
from interaction.events_scripts import WAIT, active, event

RUN = "run"
HALF = Backoff(base=2.0, cap=8.0)
"""With a jitter of zero: delays of 1, 2, 4 and 4 seconds."""


class Reader:
    """Reads a subscription all the time, so that a test can move the clock meanwhile."""

    def __init__(self, subscription: Subscription) -> None:
        self.items: list[Item] = []
        self.task = asyncio.create_task(self._read(subscription))

    async def _read(self, subscription: Subscription) -> None:
        async for item in subscription:
            self.items.append(item)

    @property
    def ids(self) -> list[str]:
        return [item.event_id for item in self.items if isinstance(item, EventOccurrence)]


class World:
    def __init__(self, peer: Peer, clock: FakeClock, events: EventsClient, cursors: MemoryCursors) -> None:
        self.peer = peer
        self.clock = clock
        self.events = events
        self.cursors = cursors

    @asynccontextmanager
    async def reading(self, *turns: Any, mode: Any = "poll", **options: Any) -> AsyncIterator[Reader]:
        arguments = {"run": RUN, "turns": list(turns)}
        async with self.events.subscribe("both", arguments, mode=mode, **options) as subscription:
            reader = Reader(subscription)
            await self.quiet()
            try:
                yield reader
            finally:
                reader.task.cancel()
                await asyncio.wait((reader.task,))

    async def quiet(self) -> None:
        """Everything has happened that can happen before the clock moves on."""
        for _ in range(300):
            await asyncio.sleep(0)

    async def passes(self, seconds: float) -> None:
        await self.clock.advance(seconds)
        await self.quiet()

    @property
    def asked(self) -> list[str | None]:
        """The cursor of each request so far."""
        return [request.get("cursor") for request in self.peer.heard[RUN]]


@asynccontextmanager
async def world(**options: Any) -> AsyncIterator[World]:
    mcp, peer = build("extension")
    clock, cursors = FakeClock(), MemoryCursors()
    async with (
        Client(mcp) as client,
        EventsClient(client, clock=clock, cursors=cursors, backoff=HALF, jitter=lambda: 0.0, **options) as events,
    ):
        yield World(peer, clock, events, cursors)


def page(cursor: str | None, *numbers: int, **members: Any) -> dict[str, Any]:
    return {"events": [event(number, cursor=False)["params"] for number in numbers], "cursor": cursor,
            "truncated": False, "hasMore": False, "nextPollMs": 0, **members}  # fmt: skip


@requirement("sep.poll.interval")
async def test_a_poll_waits_as_long_as_the_server_says() -> None:
    async with world() as now, now.reading(page("p1", nextPollMs=5000)):
        await now.passes(4.9)
        assert len(now.asked) == 1
        await now.passes(0.2)
        assert now.asked == [None, "p1"]


@requirement("sep.poll.floor")
@pytest.mark.parametrize("next_ms", [0, -5, 20, 1.5])
async def test_no_server_is_polled_faster_than_the_floor(next_ms: float) -> None:
    async with world(floor_ms=3000) as now, now.reading(page("p1", nextPollMs=next_ms)):
        await now.passes(2.9)
        assert len(now.asked) == 1
        await now.passes(27.2)
        assert 2 <= len(now.asked) <= 11


@pytest.mark.parametrize("next_ms", [None, "soon", True, 1e300])
async def test_a_wait_that_makes_no_sense_does_not_silence_the_subscription(next_ms: object) -> None:
    async with world() as now, now.reading(page("p1", nextPollMs=next_ms)):
        await now.passes(3600)
        assert len(now.asked) >= 2


@requirement("sep.poll.drain")
async def test_more_is_asked_for_at_once() -> None:
    turns = [page("p2", 1, 2, hasMore=True), page("p3", 3, hasMore=True), page("p3", nextPollMs=60_000)]
    async with world() as now, now.reading(*turns) as reader:
        assert reader.ids == ["e1", "e2", "e3"]
        assert now.asked == [None, "p2", "p3"]


@pytest.mark.parametrize("cursor", ["p0", None])
async def test_more_without_progress_is_no_reason_to_ask_in_a_loop(cursor: str | None) -> None:
    async with world() as now, now.reading(page(cursor, 1, hasMore=True), cursor="p0") as reader:
        await now.passes(2.5)
        assert len(now.asked) <= 3
        assert reader.ids == ["e1"]


async def test_failed_polls_are_tried_again_ever_slower_and_success_forgets_them() -> None:
    no = {"error": [-32603, "later", None]}
    async with world() as now, now.reading(no, no, no, page("p1", 1, nextPollMs=0), no, page("p1")) as reader:
        assert [item.retry_seconds for item in reader.items if isinstance(item, Failure)] == [1.0]
        await now.passes(1.1)
        await now.passes(2.1)
        await now.passes(4.1)
        assert reader.ids == ["e1"]
        await now.passes(1.1)
        assert [item.retry_seconds for item in reader.items if isinstance(item, Failure)] == [1.0, 2.0, 4.0, 1.0]


@pytest.mark.parametrize("code", [-32023, -32024, -32026, -32011, -32012, -32014, -32602])
async def test_a_refused_poll_ends_the_subscription_and_keeps_no_position_of_a_type_that_is_gone(code: int) -> None:
    async with world() as now, now.reading(page("p1"), {"error": [code, "no", {"kind": "event"}]}) as reader:
        assert list(now.cursors._cursors.values()) == ["p1"]
        await now.passes(1.1)
        assert reader.task.done()
        assert [type(item) for item in reader.items] == [Terminated]
        gone = code in (-32023, -32011)
        assert list(now.cursors._cursors.values()) == ([] if gone else ["p1"])


async def test_a_truncated_poll_is_a_gap_before_its_events() -> None:
    async with world() as now, now.reading(page("p9", 9, truncated=True), cursor="old") as reader:
        assert reader.items[0] == Gap("p9")
        assert reader.ids == ["e9"]
        assert now.asked == ["old"]


async def test_polls_without_replay_always_ask_for_now_and_keep_nothing() -> None:
    async with world() as now, now.reading(page(None, 1, truncated=True), page(None, 2)) as reader:
        await now.passes(1.1)
        assert reader.ids == ["e1", "e2"]
        assert [item for item in reader.items if isinstance(item, Gap)] == []
        assert now.asked == [None, None]
        assert now.cursors._cursors == {}


async def test_a_cursor_is_kept_only_when_the_events_before_it_were_handled() -> None:
    async with world() as now:
        arguments = {"run": RUN, "turns": [page("p2", 1, 2)]}
        async with now.events.subscribe("both", arguments, mode="poll") as subscription:
            await anext(subscription)
            await anext(subscription)
            assert now.cursors._cursors == {}
            assert subscription.cursor is None
        async with now.events.subscribe("both", arguments, mode="poll") as again:
            assert isinstance(await anext(again), EventOccurrence)
        assert now.asked == [None, None]


@requirement("sep.order.client-owned")
async def test_a_new_subscription_goes_on_where_the_last_one_stood() -> None:
    async with world() as now:
        turns = (page("p1", 1), page("p2", 2))
        async with now.reading(*turns) as first:
            assert first.ids == ["e1"]
        async with now.reading(*turns) as second:
            assert second.ids == ["e2"]
        assert now.asked == [None, "p1"]


async def test_the_last_event_of_a_page_has_the_cursor_of_the_page() -> None:
    turns = [page("p2", 1, 2, hasMore=True), page("p3", 3, 2, hasMore=True), page(None, 4)]
    async with world() as now, now.reading(*turns) as reader:
        cursors = [item.cursor for item in reader.items if isinstance(item, EventOccurrence)]
        assert cursors == [None, "p2", "p3", None]


async def test_a_polled_subscription_is_active_when_the_first_poll_was_answered() -> None:
    async with world() as now:
        arguments = {"run": RUN, "turns": [{"error": [-32603, "later", None]}, page("p1")]}
        async with now.events.subscribe("both", arguments, mode="poll") as subscription:
            reader = Reader(subscription)
            await now.quiet()
            assert not subscription.active.is_set()
            await now.passes(1.1)
            assert subscription.active.is_set()
            reader.task.cancel()
            await asyncio.wait((reader.task,))


async def test_a_valid_event_after_one_that_is_none_still_comes() -> None:
    turn = {**page("p1"), "events": [{"eventId": "x"}, 5, event(1)["params"]]}
    async with world() as now, now.reading(turn) as reader:
        assert [type(item) for item in reader.items] == [Failure, Failure, EventOccurrence]


@pytest.mark.parametrize("turn", [{}, {"events": None, "cursor": 5, "hasMore": 1, "truncated": "yes"}])
async def test_a_poll_result_that_is_none_brings_nothing_and_breaks_nothing(turn: dict[str, Any]) -> None:
    async with world() as now, now.reading(turn, page("p1", 1)) as reader:
        await now.passes(30.1)
        assert reader.ids == ["e1"]


async def test_arguments_that_are_no_json_are_refused_at_once() -> None:
    async with world() as now:
        with pytest.raises(InvalidInput, match="arguments"):
            now.events.subscribe("both", {"when": object()})


async def test_arguments_that_change_later_change_nothing() -> None:
    async with world() as now:
        arguments: dict[str, Any] = {"run": RUN, "turns": [page("p1", 1)], "keep": None}
        subscription = now.events.subscribe("both", arguments, mode="poll")
        arguments["run"] = "other"
        await anext(subscription)
        assert now.asked == [None]


async def test_a_stream_that_fell_silent_is_opened_again_after_twice_the_heartbeat() -> None:
    turns = [[active("c0"), event(1), WAIT], [active("c1"), event(2), WAIT]]
    async with world(heartbeat=30.0) as now, now.reading(*turns, mode="push") as reader:
        await now.passes(59.0)
        assert now.asked == [None]
        await now.passes(2.5)
        assert now.asked == [None, "c1"]
        assert reader.ids == ["e1", "e2"]
        assert now.peer.released[RUN] == 1


async def test_a_stream_with_heartbeats_lives_for_as_long_as_they_come() -> None:
    async with world(heartbeat=30.0) as now, now.reading([active("c0"), {"beat": 0}], mode="push") as reader:
        for _ in range(100):
            await now.passes(1.5)
        assert now.asked == [None]
        assert reader.items == []


async def test_a_stream_that_never_answers_is_given_up_for_polls_when_the_mode_is_free() -> None:
    async with world(heartbeat=5.0) as now, now.reading([WAIT], page("p1", 1), mode=None) as reader:
        assert reader.items == []
        await now.passes(10.5)
        assert reader.ids == ["e1"]


async def test_a_forced_stream_that_never_answers_is_tried_again() -> None:
    async with world(heartbeat=5.0) as now, now.reading([WAIT], [active("c0"), event(1), WAIT], mode="push") as reader:
        await now.passes(11.5)
        assert [type(item) for item in reader.items] == [Failure, EventOccurrence]


async def test_a_server_that_ends_every_stream_at_once_is_not_asked_in_a_loop() -> None:
    async with world() as now, now.reading([active("c0")], mode="push") as reader:
        await now.passes(15.0)
        assert 4 <= len(now.asked) <= 6
        assert reader.items == []


def test_patience_is_twice_the_rhythm_that_was_seen() -> None:
    pulse = Pulse(30.0)
    assert pulse.patience == 60.0
    pulse.learn(10.0)
    assert pulse.patience == 60.0  # one gap is no rhythm
    pulse.learn(9.0)
    assert pulse.patience == 20.0
    for _ in range(8):
        pulse.learn(45.0)
    assert pulse.patience == 90.0


def test_heartbeats_in_a_burst_are_no_rhythm() -> None:
    pulse = Pulse(30.0)
    for _ in range(20):
        pulse.learn(0.001)
    assert pulse.patience == 2.0
