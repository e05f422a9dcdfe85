"""Streams over an upstream: one call for all, no gap and no duplicate at any seam, and nobody suffers for another."""

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any

import pytest
from checks_rig import INTERVAL, NAME, Upstream, rigged

from clarion.errors import ClarionError, CloseReason, Forbidden, HookFailed
from clarion.events.check_streams import QUEUE_EVENTS
from clarion.events.check_turns import CATCH_UPS_PER_PRINCIPAL
from clarion.events.checks import HEARTBEAT_SECONDS
from clarion.events.hooks import HOOK_SECONDS, Hook, Hooks
from clarion.events.occurrence import Event
from clarion.testing.hubs import settle
from clarion.testing.sinks import FakeSink


async def test_identical_streams_cost_one_upstream_call_each_interval() -> None:
    upstream = Upstream()
    upstream.add(3)
    async with rigged() as rig, AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(rig.stream(rig.source(upstream))) for _ in range(20)]
        assert upstream.calls == [None]
        upstream.add(2)
        await rig.clock.advance(INTERVAL)
        await settle()
        assert upstream.calls == [None, "3"]
        assert rig.checks.loops == 1
        for stream in streams:
            assert stream.kinds == ["active", "event", "event"]
            assert stream.numbers == [4, 5]
            assert [rig.place(frame["cursor"]) for frame in stream.frames] == ["3", "3", "5"]
    assert rig.checks.loops == 0


async def test_no_upstream_call_is_made_once_the_last_stream_is_gone() -> None:
    upstream = Upstream()
    async with rigged() as rig:
        async with rig.stream(rig.source(upstream)), rig.stream(rig.source(upstream)):
            await rig.clock.advance(INTERVAL)
        calls = len(upstream.calls)
        await rig.clock.advance(10 * INTERVAL)
        assert len(upstream.calls) == calls
        assert rig.checks.loops == 0


@pytest.mark.parametrize(("shared", "loops"), [(False, 2), (True, 1)])
async def test_principals_share_a_loop_only_where_the_type_says_so(shared: bool, loops: int) -> None:
    upstream = Upstream()
    async with rigged() as rig:
        alice = rig.source(upstream, shared=shared)
        bob = rig.source(upstream, shared=shared, subject="bob")
        async with rig.stream(alice), rig.stream(bob):
            assert rig.checks.loops == loops
            assert len(upstream.calls) == loops
            subjects = {context.principal.subject for context in upstream.contexts}
            assert subjects == ({""} if shared else {"alice", "bob"})


async def test_other_arguments_and_other_tenants_have_loops_of_their_own() -> None:
    upstream = Upstream()
    async with rigged() as rig:
        sources = [
            rig.source(upstream, shared=True, arguments={"from": "a"}),
            rig.source(upstream, shared=True, arguments={"from": "b"}),
            rig.source(upstream, shared=True, arguments={"from": "a"}, tenant="globex"),
        ]
        async with rig.stream(sources[0]), rig.stream(sources[1]), rig.stream(sources[2]):
            assert rig.checks.loops == 3


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("page", [1, 3, 1000])
async def test_a_stream_with_a_cursor_catches_up_and_joins_without_gap_or_duplicate(page: int, own: bool) -> None:
    upstream = Upstream(page=page, own=own)
    upstream.add(2)
    async with rigged() as rig, rig.stream(rig.source(upstream)) as first:
        upstream.add(10)  # the loop has not seen these yet, and will bring them again
        async with rig.stream(rig.source(upstream, cursor=rig.at("1"))) as second:
            await settle(500)
            assert second.numbers == list(range(2, 13))
            for _ in range(15):
                await rig.clock.advance(INTERVAL)
            upstream.add(3)
            for _ in range(4):
                await rig.clock.advance(INTERVAL)
            assert second.numbers == list(range(2, 16))
            assert first.numbers == list(range(3, 16))
            assert second.frames[0]["kind"] == "active"
            assert not second.frames[0]["truncated"]
            assert rig.checks.loops == 1


async def test_what_comes_between_the_catch_up_and_the_loop_is_in_no_gap() -> None:
    """The loop's check runs while the stream's own last one does, and sees more than it."""
    upstream = Upstream()
    async with rigged() as rig, rig.stream(rig.source(upstream)):
        upstream.add(1)
        await rig.clock.advance(INTERVAL)
        upstream.held = asyncio.Event()
        async with rig.stream(rig.source(upstream, cursor=rig.at("0"))) as second:
            upstream.held.set()
            upstream.held = asyncio.Event()  # the own check at "0" is answered; what follows is held
            await settle()
            upstream.add(1)
            await rig.clock.advance(INTERVAL)  # the loop asks too, and both see the second event
            upstream.held.set()
            upstream.held = None
            await settle(200)
            await rig.clock.advance(2 * INTERVAL)
            assert second.numbers == [1, 2]


async def test_a_loop_that_is_behind_brings_a_stream_nothing_that_it_had_passed() -> None:
    upstream = Upstream(page=2)
    async with rigged() as rig, rig.stream(rig.source(upstream)) as first:
        upstream.add(9)
        sink = FakeSink()
        async with rig.stream(rig.source(upstream, cursor=rig.at("8")), sink) as ahead:
            assert ahead.numbers == [9]
            await rig.clock.advance(INTERVAL)  # the loop is at 2 now
            assert first.numbers == [1, 2]
            assert ahead.kinds == ["active", "event"]
            await rig.clock.advance(HEARTBEAT_SECONDS)
            assert rig.place(ahead.of("heartbeat")[-1]["cursor"]) == "9"
            upstream.add(1)
            await rig.clock.advance(HEARTBEAT_SECONDS)
            assert ahead.numbers == [9, 10]
            assert first.numbers == list(range(1, 11))


async def test_every_cursor_that_was_shown_leads_to_all_that_came_after_it() -> None:
    upstream = Upstream(page=4)
    async with rigged() as rig, rig.stream(rig.source(upstream, cursor=rig.at("0"))) as stream:
        for _ in range(5):
            upstream.add(7)
            await rig.clock.advance(INTERVAL)
            await rig.clock.advance(INTERVAL)
        seen = 0
        for frame in stream.frames:
            seen = frame["data"]["n"] if frame["kind"] == "event" else seen
            assert int(rig.place(frame["cursor"])) <= seen
        assert stream.numbers == list(range(1, 36))


async def test_heartbeats_carry_how_far_was_checked() -> None:
    upstream = Upstream()
    hidden = Hooks(match=lambda ctx, event, arguments: False)
    async with rigged() as rig, rig.stream(rig.source(upstream, hooks=hidden)) as stream:
        upstream.add(4)
        await rig.clock.advance(HEARTBEAT_SECONDS)
        assert stream.kinds == ["active", "heartbeat"]
        assert rig.place(stream.frames[-1]["cursor"]) == "4"


@pytest.mark.parametrize("own", [False, True])
async def test_a_reader_that_stalls_loses_nothing_and_holds_nothing(own: bool) -> None:
    upstream = Upstream(own=own)
    async with rigged() as rig, rig.stream(rig.source(upstream)) as fast:
        sink = FakeSink()
        async with rig.stream(rig.source(upstream), sink) as slow:
            sink.pause()
            for _ in range(4):
                upstream.add(QUEUE_EVENTS // 2)
                await rig.clock.advance(INTERVAL)
                await settle(400)
            assert fast.numbers == list(range(1, 2 * QUEUE_EVENTS + 1))
            assert slow.numbers == []
            assert not slow.live._queue  # type: ignore[attr-defined]
            calls = len(upstream.calls)
            for _ in range(200):
                sink.resume(room=7)
                await settle(60)
            sink.resume()
            await settle(2000)
            assert slow.numbers == fast.numbers
            assert len(upstream.calls) - calls < 20
            upstream.add(1)
            await rig.clock.advance(INTERVAL)
            assert slow.numbers[-1] == fast.numbers[-1] == 2 * QUEUE_EVENTS + 1


async def test_a_bad_cursor_goes_on_at_the_present_and_says_so() -> None:
    upstream = Upstream()
    upstream.add(3)
    async with rigged() as rig, rig.stream(rig.source(upstream, cursor="made-up")) as stream:
        assert stream.frames == [{"kind": "active", "cursor": rig.at("3"), "truncated": True}]
        upstream.add(1)
        await rig.clock.advance(INTERVAL)
        assert stream.numbers == [4]


async def test_a_cursor_that_the_upstream_let_go_of_is_a_gap_and_delivery_goes_on() -> None:
    upstream = Upstream()
    upstream.add(5)
    upstream.floor = 4
    async with rigged() as rig, rig.stream(rig.source(upstream, cursor=rig.at("1"))) as stream:
        assert stream.frames == [{"kind": "active", "cursor": rig.at("5"), "truncated": True}]
        upstream.add(3)
        upstream.floor = 7  # what the loop has passed is gone as well
        await rig.clock.advance(INTERVAL)
        assert stream.of("active")[1:] == [{"kind": "active", "cursor": rig.at("8"), "truncated": True}]
        upstream.add(1)
        await rig.clock.advance(INTERVAL)
        assert stream.numbers == [9]


async def test_max_age_bounds_what_is_caught_up_and_not_what_comes_live() -> None:
    async with rigged() as rig:
        times = [rig.clock.now() - age * 1_000_000 for age in (100, 50, 10)]

        def check(ctx: Any, arguments: Any, cursor: str | None) -> Any:
            begin = len(times) if cursor is None else int(cursor)
            found = [
                Event({"n": n}, event_id=f"e{n}", timestamp=datetime.fromtimestamp(at / 1_000_000, UTC))
                for n, at in list(enumerate(times))[begin:]
            ]
            return found, str(len(times))

        async def asynchronous(ctx: Any, arguments: Any, cursor: str | None) -> Any:
            return check(ctx, arguments, cursor)

        wanted = {"cursor": rig.at("0"), "max_age": 20_000_000}
        async with rig.stream(rig.source(asynchronous, **wanted)) as stream:
            await settle(200)
            assert stream.frames[0]["truncated"]
            assert stream.numbers == [2]
            times.append(times[0])
            await rig.clock.advance(INTERVAL)
            assert stream.numbers == [2, 3]
            assert len(stream.of("active")) == 1


async def test_a_failing_upstream_is_told_once_to_every_stream_and_tried_again() -> None:
    upstream = Upstream()
    async with rigged() as rig, rig.stream(rig.source(upstream)) as one, rig.stream(rig.source(upstream)) as two:
        upstream.fail = ConnectionError("the secret is swordfish")
        for _ in range(6):
            await rig.clock.advance(60)
        assert len(upstream.calls) > 4
        for stream in (one, two):
            (error,) = stream.of("error")
            assert error["details"] == {"reason": "check"}
            assert b"swordfish" not in stream.sink.data
        upstream.fail = None
        upstream.add(2)
        await rig.clock.advance(60)
        assert one.numbers == two.numbers == [1, 2]
        upstream.fail = ConnectionError()
        await rig.clock.advance(60)
        assert len(one.of("error")) == len(two.of("error")) == 2
        assert one.live.close_reason is None


@pytest.mark.parametrize("cursor", [None, "0"])
async def test_a_stream_that_begins_while_the_upstream_fails_is_open_and_gets_what_comes(cursor: str | None) -> None:
    upstream = Upstream()
    upstream.fail = ConnectionError()
    async with rigged() as rig:
        wire = None if cursor is None else rig.at(cursor)
        async with rig.stream(rig.source(upstream, cursor=wire)) as stream:
            assert stream.kinds == ["active", "error"]
            upstream.fail = None
            await rig.clock.advance(3)
            upstream.add(2)
            await rig.clock.advance(2 * INTERVAL)
            assert stream.numbers == [1, 2]
            assert rig.place(stream.frames[-1]["cursor"]) == "2"


async def test_a_check_that_hangs_holds_up_no_other_subscription() -> None:
    upstream, other = Upstream(), Upstream()
    async with rigged() as rig, rig.stream(rig.source(upstream)) as hung:
        upstream.held = asyncio.Event()
        async with rig.stream(rig.source(other, arguments={"other": True})) as well:
            other.add(1)
            await rig.clock.advance(INTERVAL)
            assert well.numbers == [1]
            await rig.clock.advance(HOOK_SECONDS)
            assert sorted(hung.kinds) == ["active", "error", "heartbeat"]
            assert well.kinds == ["active", "event", "heartbeat"]


async def test_a_hook_that_hangs_for_one_stream_holds_up_no_other_of_the_loop() -> None:
    upstream = Upstream()
    never = asyncio.Event()

    async def hang(ctx: Any, event: Any, arguments: Any) -> bool:
        await never.wait()
        return True

    async with (
        rigged() as rig,
        rig.stream(rig.source(upstream)) as well,
        rig.stream(rig.source(upstream, hooks=Hooks(match=hang))) as hung,
    ):
        upstream.add(1)
        await rig.clock.advance(INTERVAL)
        assert well.numbers == [1]
        assert hung.kinds == ["active"]
        await rig.clock.advance(HOOK_SECONDS)
        assert hung.of("error")[0]["details"] == {"reason": "match"}
        assert hung.numbers == []
        assert rig.checks.runner.failures[NAME, Hook.MATCH] == 1


async def test_a_hook_that_fails_keeps_back_that_event_alone() -> None:
    upstream = Upstream()

    def match(ctx: Any, event: Event, arguments: Any) -> bool:
        if event.data["n"] == 2:
            raise ValueError(event.data)
        return True

    async with rigged() as rig, rig.stream(rig.source(upstream, hooks=Hooks(match=match))) as stream:
        upstream.add(3)
        await rig.clock.advance(INTERVAL)
        assert stream.kinds == ["active", "event", "error", "event"]
        assert stream.numbers == [1, 3]


async def test_access_that_is_gone_ends_the_stream_with_the_error() -> None:
    upstream = Upstream()
    allowed = True

    async def authorize(principal: Any, event: Any, arguments: Any) -> bool:
        return allowed

    hooks = Hooks(authorize=authorize)
    async with rigged() as rig, rig.stream(rig.source(upstream, hooks=hooks)) as stream:
        upstream.add(1)
        await rig.clock.advance(INTERVAL)
        assert stream.numbers == [1]
        allowed = False
        upstream.add(1)
        await rig.clock.advance(INTERVAL)
        await stream.task
        assert stream.numbers == [1]
        assert stream.live.close_reason is CloseReason.REVOKED
        assert isinstance(stream.live.close_error, Forbidden)
        assert rig.checks.loops == 0


async def test_reports_and_gaps_are_said_between_events_and_delivery_goes_on() -> None:
    upstream = Upstream()
    sink = FakeSink()
    async with rigged() as rig, rig.stream(rig.source(upstream), sink) as stream:
        stream.live.report(HookFailed())
        stream.live.skip()
        assert stream.kinds == ["active", "error", "active"]
        assert stream.frames[-1] == {"kind": "active", "cursor": rig.at("0"), "truncated": True}
        sink.pause()
        stream.live.report(HookFailed())
        stream.live.skip()
        upstream.add(1)
        await rig.clock.advance(INTERVAL)
        sink.resume()
        await settle()
        assert sorted(stream.kinds[3:]) == ["active", "error", "event"]


async def test_poison_from_the_upstream_is_kept_back_and_what_follows_comes() -> None:
    answers: list[Any] = [[Event({"n": 1}), Event({"n": object()}), {"n": 3}]]

    async def check(ctx: Any, arguments: Any, cursor: int | None) -> Any:
        return (answers.pop() if answers and cursor is not None else []), 7

    async with rigged() as rig, rig.stream(rig.source(check)) as stream:
        await rig.clock.advance(INTERVAL)
        assert stream.kinds == ["active", "event", "error", "event"]
        assert rig.place(stream.frames[-1]["cursor"]) == 7


async def test_streams_that_come_back_at_once_ask_the_upstream_a_few_at_a_time() -> None:
    upstream = Upstream()
    upstream.add(5)
    upstream.held = asyncio.Event()
    async with rigged() as rig, AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(
                rig.stream(rig.source(upstream, cursor=rig.at("0"), arguments={"n": number}))
            )
            for number in range(4 * CATCH_UPS_PER_PRINCIPAL)
        ]
        assert upstream.running == CATCH_UPS_PER_PRINCIPAL
        upstream.held.set()
        await settle(1000)
        assert upstream.most == CATCH_UPS_PER_PRINCIPAL
        assert all(stream.numbers == [1, 2, 3, 4, 5] for stream in streams)


async def test_deliveries_leave_audit_rows_under_the_subscription() -> None:
    upstream = Upstream()
    async with rigged() as rig, rig.stream(rig.source(upstream)):
        upstream.add(2)
        await rig.clock.advance(INTERVAL)
        subscription = rig.subscription(rig.wanted())
        counters = await rig.backend.audit.counters("acme", [subscription.id])
        assert counters[subscription.id].delivered == 2
        assert rig.checks.recorder.totals.delivered == 2


async def test_a_transport_that_breaks_ends_its_stream_alone() -> None:
    upstream = Upstream()
    sink = FakeSink()
    async with (
        rigged() as rig,
        rig.stream(rig.source(upstream)) as well,
        rig.stream(rig.source(upstream), sink) as broken,
    ):
        sink.fail = ConnectionResetError()
        upstream.add(1)
        await rig.clock.advance(INTERVAL)
        await broken.task
        assert broken.live.close_reason is CloseReason.CLIENT_GONE
        assert well.numbers == [1]


async def test_close_ends_a_stream_that_waits_for_its_transport() -> None:
    sink = FakeSink()
    sink.pause()
    async with rigged() as rig, rig.stream(rig.source(Upstream()), sink) as stream:
        stream.live.close(CloseReason.TERMINATED, ClarionError("gone"))
        stream.live.close(CloseReason.CLIENT_GONE)
        await stream.task
        assert stream.live.close_reason is CloseReason.TERMINATED
        assert stream.frames == []


async def test_streams_end_with_the_library_and_none_begins_after_it() -> None:
    async with AsyncExitStack() as stack:
        async with rigged() as rig:
            source = rig.source(Upstream())
            stream = await stack.enter_async_context(rig.stream(source))
        await stream.task
        assert stream.live.close_reason is CloseReason.SERVER_STOPPING
        with pytest.raises(ClarionError, match="stopping"):
            async with rig.stream(source):
                pass
