"""Whatever comes between: every stream gets the upstream's history from where it began, once and in order."""

import asyncio
from contextlib import AsyncExitStack
from unittest.mock import patch

from checks_rig import INTERVAL, OpenCheck, Rig, Upstream, rigged
from hypothesis import given, settings
from hypothesis import strategies as st

from clarion.events import check_streams
from clarion.events.occurrence import Context, Event
from clarion.testing.hubs import settle
from clarion.testing.sinks import FakeSink

QUEUE = 4


class StagedUpstream(Upstream):
    """Each check is answered when the test says so, with what there was when it began, or is then if `late`."""

    def __init__(self, *, late: bool = False) -> None:
        super().__init__()
        self.late = late
        self.gates: list[asyncio.Event] = []

    def gate(self, number: int) -> asyncio.Event:
        while len(self.gates) <= number:
            self.gates.append(asyncio.Event())
        return self.gates[number]

    async def release(self, *numbers: int) -> None:
        for number in numbers:
            self.gate(number).set()
            await settle()

    async def check(self, ctx: Context, arguments: object, cursor: str | None) -> tuple[list[Event], str]:
        number = len(self.calls)
        if not self.late:
            answer = await super().check(ctx, {}, cursor)
            await self.gate(number).wait()
            return answer
        self.calls.append(cursor)
        await self.gate(number).wait()
        answer = await super().check(ctx, {}, cursor)
        self.calls.pop()
        return answer


async def test_a_loop_that_saw_more_than_the_last_own_check_leaves_no_gap() -> None:
    upstream = StagedUpstream()
    await upstream.release(0)
    async with (
        rigged() as rig,
        rig.stream(rig.source(upstream)) as first,
        rig.stream(rig.source(upstream, cursor=rig.at("0"))) as second,
    ):
        assert upstream.calls == [None, "0"]
        upstream.add(1)
        await rig.clock.advance(INTERVAL)
        await upstream.release(2)  # the loop has the event; the own check began before there was one
        assert first.numbers == [1]
        await upstream.release(1, 3, 4, 5)
        assert second.numbers == [1]


async def test_a_loop_whose_check_began_before_the_catch_up_ended_brings_nothing_twice() -> None:
    upstream = StagedUpstream()
    await upstream.release(0)
    async with rigged() as rig, rig.stream(rig.source(upstream)) as first:
        await rig.clock.advance(INTERVAL)  # the loop asks, and there is nothing
        upstream.add(1)
        await upstream.release(2, 3, 4, 5, 6)
        async with rig.stream(rig.source(upstream, cursor=rig.at("0"))) as second:
            assert second.numbers == [1]
            assert upstream.calls == [None, "0", "0", "1", "0", "1", "1"]
            await upstream.release(1, 7, 8, 9, 10)
            await rig.clock.advance(INTERVAL)
            assert first.numbers == [1]
            assert second.numbers == [1]
            upstream.add(1)
            await rig.clock.advance(INTERVAL)
            assert first.numbers == second.numbers == [1, 2]


async def test_a_loop_that_has_not_begun_leaves_no_gap() -> None:
    upstream = StagedUpstream(late=True)
    async with (
        rigged() as rig,
        rig.stream(rig.source(upstream)),
        rig.stream(rig.source(upstream, cursor=rig.at("0"))) as second,
    ):
        await upstream.release(1, 2, 3)  # its own checks find nothing, and the loop has no place yet
        upstream.add(1)
        await upstream.release(0, 4, 5, 6, 7)
        await rig.clock.advance(2 * INTERVAL)
        assert second.numbers == [1]


async def test_a_stream_alone_begins_its_loop_where_it_is() -> None:
    upstream = Upstream()
    async with rigged() as rig, rig.stream(rig.source(upstream, cursor=rig.at("0"))) as stream:
        upstream.add(1)
        await rig.clock.advance(INTERVAL)
        assert stream.numbers == [1]
        assert upstream.calls == ["0", "0"]


class SlowUpstream(Upstream):
    """Takes its time before it looks, and after; `delays` are used up in turn."""

    def __init__(self, delays: list[tuple[float, float]], rig: Rig, *, page: int, own: bool) -> None:
        super().__init__(page=page, own=own)
        self.delays = delays
        self.rig = rig

    async def check(self, ctx: Context, arguments: object, cursor: str | None) -> tuple[list[Event], str]:
        before, after = self.delays[len(self.calls) % len(self.delays)]
        self.calls.append(cursor)
        await self.rig.clock.sleep(before)
        answer = await super().check(ctx, {}, cursor)
        self.calls.pop()
        await self.rig.clock.sleep(after)
        return answer


class Opened:
    """A stream, and where it began."""

    def __init__(self, stream: OpenCheck, begin: int | None) -> None:
        self.stream = stream
        self.begin = begin


STEPS = st.one_of(
    st.tuples(st.just("add"), st.integers(1, 9)),
    st.tuples(st.just("pass"), st.sampled_from([0.5, 1.0, 2.5, 5.0, 12.0])),
    st.tuples(st.just("open"), st.none() | st.integers(0, 9)),
    st.tuples(st.just("pause"), st.integers(0, 5)),
    st.tuples(st.just("room"), st.integers(0, 5)),
    st.tuples(st.just("resume"), st.integers(0, 5)),
)
DELAYS = st.lists(st.tuples(st.sampled_from([0.0, 0.5, 3.0]), st.sampled_from([0.0, 0.5, 3.0])), min_size=1, max_size=5)


async def play(
    steps: list[tuple[str, int | float | None]], delays: list[tuple[float, float]], page: int, own: bool
) -> None:
    async with rigged() as rig, AsyncExitStack() as stack:
        upstream = SlowUpstream(delays, rig, page=page, own=own)
        opened: list[Opened] = []
        for kind, value in steps:
            if kind == "open":
                begin = None if value is None else max(len(upstream.history) - int(value), 0)
                source = rig.source(upstream, cursor=None if begin is None else rig.at(str(begin)))
                opened.append(Opened(await stack.enter_async_context(rig.stream(source, FakeSink())), begin))
            elif kind == "add":
                upstream.add(int(value or 0))
            elif kind == "pass":
                await rig.clock.advance(float(value or 0))
            elif opened:
                sink = opened[int(value or 0) % len(opened)].stream.sink
                if kind == "pause":
                    sink.pause()
                else:
                    sink.resume(room=3 if kind == "room" else None)
        for one in opened:
            one.stream.sink.resume()
        for _ in range(400):  # until nothing moves for a while
            before = [len(one.stream.numbers) for one in opened]
            for _ in range(5):
                await rig.clock.advance(12)
                await settle()
            if before == [len(one.stream.numbers) for one in opened] and page > 1:
                break
            if all(one.stream.numbers[-1:] == upstream.history[-1:] for one in opened):
                break
        for one in opened:
            numbers = one.stream.numbers
            begin = one.begin if one.begin is not None else (numbers[0] - 1 if numbers else len(upstream.history))
            assert numbers == upstream.history[begin:]
            seen = begin
            for frame in one.stream.frames:
                seen = frame["data"]["n"] if frame["kind"] == "event" else seen
                assert frame["cursor"] is not None
                assert int(rig.place(frame["cursor"])) <= seen


@settings(max_examples=120, deadline=None)
@given(steps=st.lists(STEPS, max_size=25), delays=DELAYS, page=st.sampled_from([2, 5, 1000]), own=st.booleans())
def test_streams_have_no_gap_and_no_duplicate_whatever_their_readers_and_the_upstream_do(
    steps: list[tuple[str, int | float | None]], delays: list[tuple[float, float]], page: int, own: bool
) -> None:
    with patch.object(check_streams, "QUEUE_EVENTS", QUEUE):
        asyncio.run(play(steps, delays, page, own))
