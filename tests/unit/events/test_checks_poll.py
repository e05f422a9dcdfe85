"""Polls of an upstream: its own cursor on the wire, parts of a batch, and what a check may do wrong."""

import asyncio
import json
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from checks_rig import INTERVAL, NAME, Upstream, rigged
from hypothesis import given, settings
from hypothesis import strategies as st

from clarion.errors import Forbidden, HookFailed, InvalidInput
from clarion.events.hooks import HOOK_SECONDS, Hook, Hooks
from clarion.events.occurrence import CursorExpired, Event, EventResult
from clarion.events.upstream import CheckType, Place
from clarion.testing.hubs import settle
from clarion.wires.mcp_events.cursors import Cursors
from clarion.wires.mcp_events.protocol import Portion


def numbers(portion: Portion) -> list[int]:
    return [one.data["n"] for one in portion.occurrences]


async def test_a_poll_without_a_cursor_gives_the_present_one_and_no_events() -> None:
    upstream = Upstream()
    upstream.add(3)
    async with rigged() as rig:
        portion = await rig.source(upstream).poll(10, 0)
        assert (numbers(portion), portion.truncated, portion.more) == ([], False, False)
        assert portion.cursor == rig.at("3")
        assert portion.next_poll_ms == INTERVAL * 1000


async def test_events_that_a_bootstrap_answers_are_nobodys() -> None:
    async def check(ctx: Any, arguments: Any, cursor: Any) -> Any:
        return [{"n": 1}], "here"

    async with rigged() as rig:
        portion = await rig.source(check).poll(10, 0)
        assert (numbers(portion), rig.place(portion.cursor)) == ([], "here")


async def test_a_poll_gives_what_came_after_its_cursor() -> None:
    upstream = Upstream()
    upstream.add(3)
    async with rigged() as rig:
        portion = await rig.source(upstream, cursor=rig.at("1"), interval=None).poll(10, 0)
        assert numbers(portion) == [2, 3]
        assert portion.cursor == rig.at("3")
        assert portion.next_poll_ms is None
        assert [one.name for one in portion.occurrences] == [NAME, NAME]
        assert portion.occurrences[0].timestamp == rig.clock.now()


@pytest.mark.parametrize("own", [False, True])
async def test_a_smaller_limit_gives_a_part_and_a_cursor_to_the_rest(own: bool) -> None:
    upstream = Upstream(own=own)
    upstream.add(5)
    async with rigged() as rig:
        first = await rig.source(upstream, cursor=rig.at("0")).poll(2, 0)
        assert (numbers(first), first.more) == ([1, 2], True)
        second = await rig.source(upstream, cursor=first.cursor).poll(2, 0)
        assert (numbers(second), second.more) == ([3, 4], True)
        upstream.add(1)
        third = await rig.source(upstream, cursor=second.cursor).poll(2, 0)
        assert (numbers(third), third.more) == ([5, 6], False)
        assert third.cursor == rig.at("6")
        assert upstream.calls == (["0", "2", "4"] if own else ["0", "0", "0"])


async def test_a_rest_that_the_upstream_no_longer_has_is_passed() -> None:
    upstream = Upstream()
    upstream.add(5)
    async with rigged() as rig:
        first = await rig.source(upstream, cursor=rig.at("0")).poll(4, 0)
        del upstream.history[2:]
        second = await rig.source(upstream, cursor=first.cursor).poll(4, 0)
        assert (numbers(second), second.more, second.cursor) == ([], False, rig.at("2"))


@settings(max_examples=100, deadline=None)
@given(
    grown=st.lists(st.integers(0, 7), max_size=6),
    limits=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    page=st.integers(1, 10),
    own=st.booleans(),
    hidden=st.integers(2, 5),
)
def test_polls_with_any_limits_add_up_to_the_history_exactly_once_and_in_order(
    grown: list[int], limits: list[int], page: int, own: bool, hidden: int
) -> None:
    async def poll_all() -> None:
        upstream = Upstream(page=page, own=own)
        hooks = Hooks(match=lambda ctx, event, arguments: event.data["n"] % hidden != 0)
        async with rigged() as rig:
            cursor, found, asked = rig.at("0"), list[int](), 0
            for count in [*grown, 0]:
                upstream.add(count)
                moved = True
                while moved:
                    limit = limits[asked % len(limits)]
                    portion = await rig.source(upstream, cursor=cursor, hooks=hooks).poll(limit, 0)
                    assert len(portion.occurrences) <= limit
                    assert not portion.truncated
                    found += numbers(portion)
                    moved = portion.cursor != cursor
                    cursor, asked = portion.cursor or "", asked + 1
            assert found == [n for n in upstream.history if n % hidden != 0]

    asyncio.run(poll_all())


def of_another_type() -> str:
    return Cursors("", "acme", "other").wrap('"1"')


@pytest.mark.parametrize(
    "text", ["{}", "null", "[1]", '["1",-1]', '["1",true]', "true", "1.5", "nonsense", '["1",2,3]']
)
def test_a_place_reads_only_what_it_wrote(text: str) -> None:
    assert Place.read(text) is None


@pytest.mark.parametrize("place", [Place("a"), Place(7), Place("", 3), Place(-1, 1)])
def test_a_place_comes_back_as_it_was_written(place: Place) -> None:
    assert Place.read(place.write()) == place


async def test_a_cursor_that_is_none_of_this_type_is_truncated_and_fresh() -> None:
    upstream = Upstream()
    upstream.add(4)
    async with rigged() as rig:
        for bad in ("", "made-up", of_another_type(), rig.cursors.wrap("{}"), "u" + "A" * 5000):
            portion = await rig.source(upstream, cursor=bad).poll(10, 0)
            assert (numbers(portion), portion.truncated, portion.cursor) == ([], True, rig.at("4"))


async def test_a_cursor_that_the_upstream_let_go_of_is_truncated_and_fresh() -> None:
    upstream = Upstream()
    upstream.add(4)
    upstream.floor = 3
    async with rigged() as rig:
        portion = await rig.source(upstream, cursor=rig.at("1")).poll(10, 0)
        assert (numbers(portion), portion.truncated, portion.cursor) == ([], True, rig.at("4"))


async def test_max_age_leaves_out_what_is_older_and_says_so() -> None:
    async with rigged() as rig:
        now = datetime.fromtimestamp(rig.clock.now() / 1_000_000, UTC)
        events = [Event({"n": age}, timestamp=now - timedelta(seconds=age)) for age in (90, 30, 5)]

        async def check(ctx: Any, arguments: Any, cursor: Any) -> Any:
            return [*events, Event({"n": 0})], "end"

        bounded = await rig.source(check, cursor=rig.at("0"), max_age=60_000_000).poll(10, 0)
        assert (numbers(bounded), bounded.truncated) == ([30, 5, 0], True)
        unbounded = await rig.source(check, cursor=rig.at("0")).poll(10, 0)
        assert (numbers(unbounded), unbounded.truncated) == ([90, 30, 5, 0], False)
        part = await rig.source(check, cursor=rig.at("0"), max_age=60_000_000).poll(1, 0)
        rest = await rig.source(check, cursor=part.cursor, max_age=60_000_000).poll(10, 0)
        assert (numbers(part), numbers(rest), rest.truncated) == ([30], [5, 0], False)


async def test_a_long_poll_asks_again_at_the_interval_until_something_matches() -> None:
    upstream = Upstream()
    hooks = Hooks(match=lambda ctx, event, arguments: event.data["n"] > 1)
    async with rigged() as rig:
        task = asyncio.create_task(rig.source(upstream, cursor=rig.at("0"), hooks=hooks).poll(10, 60))
        await settle()
        upstream.add(1)
        await rig.clock.advance(INTERVAL)
        assert not task.done()
        upstream.add(1)
        await rig.clock.advance(INTERVAL)
        portion = await task
        assert (numbers(portion), portion.cursor) == ([2], rig.at("2"))
        assert upstream.calls == ["0", "0", "1"]


async def test_a_long_poll_ends_in_time_with_how_far_was_checked() -> None:
    upstream = Upstream()
    async with rigged() as rig:
        task = asyncio.create_task(rig.source(upstream, cursor=rig.at("0")).poll(10, 2 * INTERVAL + 1))
        await rig.clock.advance(2 * INTERVAL + 1)
        portion = await task
        assert (numbers(portion), portion.cursor) == ([], rig.at("0"))
        assert len(upstream.calls) == 4


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        ([], None),
        ([], 1.5),
        ([], True),
        ({"n": 1}, "c"),
        ("text", "c"),
        ([], "c" * 3000),
        ([], "\ud800"),
        ([], 1 << 70),
        SimpleNamespace(events=[], cursor=None),
        ([], "c", "more"),
    ],
)
async def test_an_answer_that_is_none_fails_the_poll_and_tells_nothing(answer: Any) -> None:
    async def check(ctx: Any, arguments: Any, cursor: Any) -> Any:
        return answer

    async with rigged() as rig:
        for cursor in (None, rig.at("0")):
            with pytest.raises(HookFailed) as caught:
                await rig.source(check, cursor=cursor).poll(10, 0)
            assert caught.value.details == {"reason": "check"}
        assert rig.checks.runner.failures[NAME, Hook.CHECK] == 2


async def test_a_check_that_raises_or_hangs_fails_the_poll() -> None:
    upstream = Upstream()
    upstream.fail = ConnectionError("secret")
    async with rigged() as rig:
        with pytest.raises(HookFailed) as caught:
            await rig.source(upstream, cursor=rig.at("0")).poll(10, 0)
        assert "secret" not in str(caught.value)
        upstream.fail, upstream.held = None, asyncio.Event()
        task = asyncio.create_task(rig.source(upstream).poll(10, 0))
        await rig.clock.advance(HOOK_SECONDS)
        with pytest.raises(HookFailed):
            await task
        assert upstream.running == 0


async def test_an_upstream_that_calls_even_its_present_expired_has_failed() -> None:
    async def check(ctx: Any, arguments: Any, cursor: Any) -> Any:
        raise CursorExpired

    async with rigged() as rig:
        with pytest.raises(HookFailed):
            await rig.source(check, cursor=rig.at("0")).poll(10, 0)


async def test_events_may_be_mappings_and_the_answer_an_object() -> None:
    async def check(ctx: Any, arguments: Any, cursor: Any) -> Any:
        return EventResult(({"n": n} for n in range(3)), 7, more=True)

    async with rigged() as rig:
        portion = await rig.source(check, cursor=rig.at("0")).poll(10, 0)
        assert (numbers(portion), portion.more, rig.place(portion.cursor)) == ([0, 1, 2], True, 7)
        full = await rig.source(check, cursor=rig.at("0")).poll(2, 0)
        assert json.loads(rig.cursors.unwrap(full.cursor or "") or "") == ["0", 2]


async def test_a_plain_function_is_asked_in_a_thread_and_gets_back_the_cursor_it_gave() -> None:
    seen: list[Any] = []

    def check(ctx: Any, arguments: Any, cursor: Any) -> Any:
        seen.append((threading.current_thread() is threading.main_thread(), cursor))
        return [{"n": 1}], 12

    async with rigged() as rig:
        first = await rig.source(check).poll(10, 0)
        await rig.source(check, cursor=first.cursor).poll(10, 0)
        assert seen == [(False, None), (False, 12)]


async def test_poll_and_stream_give_the_same_event_the_same_id() -> None:
    answered = [{"n": 1}]

    async def check(ctx: Any, arguments: Any, cursor: Any) -> Any:
        return ([Event(one) for one in answered] if cursor == 0 else []), (0 if cursor is None else 1)

    async with rigged() as rig, rig.stream(rig.source(check)) as stream:
        await rig.clock.advance(INTERVAL)
        cursor = rig.cursors.wrap("0")
        portion = await rig.source(check, cursor=cursor).poll(10, 0)
        assert [one.event_id for one in portion.occurrences] == [frame["id"] for frame in stream.of("event")]


async def test_hooks_keep_back_and_change_what_a_poll_gives() -> None:
    upstream = Upstream()
    upstream.add(3)

    def transform(ctx: Any, event: Event, arguments: Any) -> Event:
        if event.data["n"] == 2:
            raise ValueError
        return event.replace(data={"n": event.data["n"] * 10})

    async with rigged() as rig:
        portion = await rig.source(upstream, cursor=rig.at("0"), hooks=Hooks(transform=transform)).poll(10, 0)
        assert numbers(portion) == [10, 30]
        assert rig.checks.runner.failures[NAME, Hook.TRANSFORM] == 1
        revoked = Hooks(authorize=lambda principal, event, arguments: False)
        with pytest.raises(Forbidden):
            await rig.source(upstream, cursor=rig.at("0"), hooks=revoked).poll(10, 0)


async def test_what_a_check_does_to_its_arguments_changes_nothing_for_others() -> None:
    seen: list[Any] = []

    async def check(ctx: Any, arguments: Any, cursor: Any) -> Any:
        seen.append(json.dumps([arguments, ctx.arguments, ctx.claims]))
        arguments["from"]["x"] = 1
        ctx.claims["scope"] = "all"
        return [], "c"

    async with rigged() as rig:
        source = rig.source(check, cursor=rig.at("0"), arguments={"from": {}})
        await source.poll(1, 0)
        await source.poll(1, 0)
        assert seen[0] == seen[1]


async def test_polled_events_leave_audit_rows() -> None:
    upstream = Upstream()
    upstream.add(3)
    async with rigged() as rig:
        await rig.source(upstream, cursor=rig.at("0")).poll(2, 0)
        assert rig.checks.recorder.totals.delivered == 2


@pytest.mark.parametrize("interval", [0, -1, float("nan")])
def test_an_interval_must_be_positive(interval: float) -> None:
    with pytest.raises(InvalidInput, match="interval"):
        CheckType(NAME, lambda: None, interval)
