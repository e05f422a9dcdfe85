"""Event types over an upstream with a cursor of its own: polled directly, streamed from one shared loop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

import pytest

from clarion.errors import InvalidInput
from clarion.events import Context, CursorExpired, Event, EventResult, Events
from clarion.events.hooks import Hook
from clarion.events.upstream import DEFAULT_INTERVAL
from clarion.testing.clock import FakeClock
from clarion.testing.hubs import settle, until
from interaction.events_more import ALICE, BOB, EVE, peers, recorded_logs, tenant_of, tick
from interaction.events_raw import Frames, Message
from interaction.events_requirements import requirement
from interaction.events_targets import HttpTarget, both_dialects, both_modes, both_paths, http_peer

NAME = "mail.received"
INTERVAL = 5.0


class Mailbox:
    """An upstream that outlives servers; its cursor is how many letters there were."""

    def __init__(self) -> None:
        self.letters: list[dict[str, Any]] = []
        self.calls: list[int | None] = []
        self.contexts: list[Context] = []
        self.fail: Exception | None = None
        self.floor = 0

    def add(self, *letters: int) -> None:
        self.letters += ({"n": n} for n in letters)

    async def check(self, ctx: Context, arguments: Mapping[str, Any], cursor: int | None) -> Any:
        self.calls.append(cursor)
        self.contexts.append(ctx)
        if self.fail is not None:
            raise self.fail
        end = len(self.letters)
        if cursor is None:
            return [], end
        if cursor < self.floor:
            raise CursorExpired
        return [Event(self.letters[n], event_id=f"letter-{n}") for n in range(cursor, end)], end

    def events(self, clock: FakeClock | None = None, **options: Any) -> Events:
        of_library = {"tenant": options.pop("tenant")} if "tenant" in options else {}
        events = Events(clock=clock, **of_library)
        events.event(NAME, **{"interval": INTERVAL, **options})(self.check)
        return events


def numbers(answer: Message) -> list[int]:
    return [event["data"]["n"] for event in answer["events"]]


async def streamed(frames: Frames, count: int) -> list[int]:
    """`n` of the next `count` events, whatever heartbeats come between."""
    found: list[int] = []
    while len(found) < count:
        message = (await frames.until("event"))[-1]
        found.append(message["params"]["data"]["n"])
    return found


# -- poll ------------------------------------------------------------------------------------------------------------


@both_paths
@requirement("ours.check.poll", "sep.sdk.upstream-cursor", "sep.event.upstream-id")
async def test_a_check_answers_polls_with_its_upstreams_cursor_and_outlives_a_restart(target: HttpTarget) -> None:
    mailbox = Mailbox()
    mailbox.add(1, 2)
    async with http_peer(mailbox.events()) as peer:
        first = await peer.poll(NAME)
        assert (numbers(first), first["truncated"], first["hasMore"]) == ([], False, False)
        assert first["nextPollMs"] == INTERVAL * 1000
        mailbox.add(3, 4)
        second = await peer.poll(NAME, first["cursor"])
        assert numbers(second) == [3, 4]
        assert [event["eventId"] for event in second["events"]] == ["letter-2", "letter-3"]
        assert not any("cursor" in event for event in second["events"])
        assert numbers(await peer.poll(NAME, second["cursor"])) == []
    mailbox.add(5)
    async with target.serve(mailbox.events()) as peer:  # another process, whose log is empty
        third = await peer.poll(NAME, second["cursor"])
        assert (numbers(third), third["truncated"]) == ([5], False)
        assert mailbox.calls == [None, 2, 4, 4]
        async with peer.stream(NAME, cursor=first["cursor"]) as frames:
            assert (await frames.expect("active"))["truncated"] is False
            assert await frames.data(3) == [{"n": 3}, {"n": 4}, {"n": 5}]


@requirement("ours.check.poll", "sep.poll.max-events")
async def test_a_poll_of_a_check_gives_as_many_as_are_wanted_and_leads_on() -> None:
    mailbox = Mailbox()
    async with http_peer(mailbox.events()) as peer:
        cursor = (await peer.poll(NAME))["cursor"]
        mailbox.add(*range(7))
        found, more = [], True
        while more:
            answer = await peer.poll(NAME, cursor, maxEvents=3)
            found.append(numbers(answer))
            cursor, more = answer["cursor"], answer["hasMore"]
        assert found == [[0, 1, 2], [3, 4, 5], [6]]


@both_modes
@requirement("ours.check.poll", "ours.bad.cursor")
async def test_a_cursor_that_the_upstream_forgot_or_that_nobody_gave_is_truncated(mode: str) -> None:
    mailbox = Mailbox()
    async with http_peer(mailbox.events()) as peer:
        old = (await peer.poll(NAME))["cursor"]
        mailbox.add(1, 2, 3)
        mailbox.floor = 2
        for cursor in (old, "made up", "uNw.0123456789abcdef"):
            if mode == "poll":
                answer = await peer.poll(NAME, cursor)
                assert (answer["events"], answer["truncated"]) == ([], True)
                fresh = answer["cursor"]
            else:
                async with peer.stream(NAME, cursor=cursor) as frames:
                    active = await frames.expect("active")
                    assert active["truncated"] is True
                    fresh = active["cursor"]
            again = await peer.poll(NAME, fresh)
            assert (again["events"], again["truncated"]) == ([], False)


@requirement("ours.check.poll")
async def test_a_check_may_be_plain_and_answer_a_result_or_mappings() -> None:
    events = Events()
    history = [{"n": 1}, {"n": 2}]

    @events.event("plain")
    def plain(ctx: Context, arguments: Mapping[str, Any], cursor: str | None) -> Any:
        """Letters from a plain function."""
        return (history if cursor == "begin" else []), "begin" if cursor is None else "end"

    @events.event("result")
    async def result(ctx: Context, arguments: Mapping[str, Any], cursor: str | None) -> EventResult:
        return EventResult(events=history if cursor == "begin" else (), cursor="begin" if cursor is None else "end")

    async with http_peer(events) as peer:
        for name in ("plain", "result"):
            cursor = (await peer.poll(name))["cursor"]
            assert numbers(await peer.poll(name, cursor)) == [1, 2]
        listed = {each["name"]: each["description"] for each in (await peer.call("events/list"))["events"]}
        assert listed["plain"] == "Letters from a plain function."


@both_modes
@requirement("ours.check.poll", "sep.sdk.hooks-alike", "ours.hooks.data")
async def test_hooks_and_the_payload_schema_hold_for_what_a_check_gives(mode: str) -> None:
    mailbox, clock = Mailbox(), FakeClock()

    def even(_ctx: Context, event: Event, _arguments: Any) -> bool:
        return bool(event.data["n"] % 2 == 0)

    def tenfold(_ctx: Context, event: Event, _arguments: Any) -> Event:
        return event.replace(data={"n": event.data["n"] * 10})

    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 99}}}
    async with http_peer(mailbox.events(clock, match=even, transform=tenfold, payload=schema)) as peer:
        cursor = (await peer.poll(NAME))["cursor"]
        mailbox.add(1, 2, 3, 14, 6)
        if mode == "poll":
            assert numbers(await peer.poll(NAME, cursor)) == [20, 60]
        else:
            async with peer.stream(NAME, cursor=cursor) as frames:
                await frames.expect("active")
                messages = [await frames.next() for _ in range(3)]
            kinds = {kind: [each for each in messages if each["method"].endswith(kind)] for kind in ("event", "error")}
            assert [each["params"]["data"]["n"] for each in kinds["event"]] == [20, 60]
            assert kinds["error"][0]["params"]["error"]["data"] == {"reason": "transform"}


@requirement("sep.event.schema")
async def test_what_a_check_gives_against_its_own_schema_is_kept_back() -> None:
    mailbox = Mailbox()
    events = mailbox.events(payload={"n": int})
    async with http_peer(events) as peer:
        cursor = (await peer.poll(NAME))["cursor"]
        mailbox.letters += [{"n": 1}, {"n": "swordfish"}, {"n": 3}]
        assert numbers(await peer.poll(NAME, cursor)) == [1, 3]
        assert events.hook_failures[NAME, Hook.CHECK] == 1


# -- stream ----------------------------------------------------------------------------------------------------------


@both_paths
@requirement("ours.check.shared")
async def test_identical_subscriptions_share_one_upstream_call(target: HttpTarget) -> None:
    mailbox, clock = Mailbox(), FakeClock()
    wanted = [{"box": "in", "n": 1}, {"n": 1, "box": "in"}]
    async with target.serve(mailbox.events(clock)) as peer, AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(peer.stream(NAME, arguments=wanted[number % 2])) for number in range(10)
        ]
        for frames in streams:
            await frames.expect("active")
        assert len(mailbox.calls) == 1
        for number in range(3):
            mailbox.add(number)
            await tick(clock, INTERVAL, lambda calls=number + 2: len(mailbox.calls) >= calls)
            for frames in streams:
                assert await streamed(frames, 1) == [number]
        assert mailbox.calls == [None, 0, 1, 2]


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@requirement("ours.check.shared", "ours.lib.tenants")
async def test_a_shared_check_is_called_once_for_a_tenant_and_names_nobody(shared: bool) -> None:
    mailbox, clock = Mailbox(), FakeClock()
    events = mailbox.events(clock, shared=shared, tenant=tenant_of)
    async with (
        peers(events, ALICE, BOB, EVE) as (alice, bob, eve),
        alice.stream(NAME) as one,
        bob.stream(NAME) as two,
        eve.stream(NAME) as three,
    ):
        for frames in (one, two, three):
            await frames.expect("active")
        mailbox.add(1)
        mailbox.calls.clear()
        mailbox.contexts.clear()
        calls = 2 if shared else 3
        await tick(clock, INTERVAL, lambda: len(mailbox.calls) >= calls)
        for frames in (one, two, three):
            assert await streamed(frames, 1) == [1]
        assert len(mailbox.calls) == calls
        whose = {(ctx.principal.tenant, ctx.principal.subject) for ctx in mailbox.contexts}
        nobody = {("acme", ""), ("globex", "")}
        assert whose == (nobody if shared else {("acme", "alice"), ("acme", "bob"), ("globex", "eve")})


@requirement("ours.check.shared")
async def test_other_arguments_are_another_upstream_call() -> None:
    mailbox, clock = Mailbox(), FakeClock()
    async with (
        http_peer(mailbox.events(clock)) as peer,
        peer.stream(NAME, arguments={"box": "in"}) as one,
        peer.stream(NAME, arguments={"box": "out"}) as two,
    ):
        await one.expect("active")
        await two.expect("active")
        mailbox.calls.clear()
        await tick(clock, INTERVAL, lambda: len(mailbox.calls) == 2)


@both_modes
@both_dialects
@requirement("ours.check.fails", "ours.hooks.told")
async def test_a_check_that_raises_is_told_and_tried_again(
    mode: str, declared: bool, caplog: pytest.LogCaptureFixture
) -> None:
    mailbox, clock = Mailbox(), FakeClock()
    events = mailbox.events(clock)
    async with http_peer(events, declared=declared) as peer:
        cursor = (await peer.poll(NAME))["cursor"]
        if mode == "poll":
            mailbox.fail = RuntimeError("swordfish")
            refusal = await peer.refused("events/poll", name=NAME, cursor=cursor)
            assert (refusal.code, refusal.data) == (-32603, {"reason": "check"})
            assert "swordfish" not in refusal.text
            mailbox.fail = None
            mailbox.add(1)
            assert numbers(await peer.poll(NAME, cursor)) == [1]
        else:
            async with peer.stream(NAME) as frames:
                await frames.expect("active")
                mailbox.fail = RuntimeError("swordfish")
                mailbox.add(1)
                await tick(clock, INTERVAL, lambda: events.hook_failures)
                error = (await frames.until("error"))[-1]["params"]["error"]
                assert (error["code"], error["data"]) == (-32603, {"reason": "check"})
                assert "swordfish" not in error["message"]
                calls = len(mailbox.calls)
                mailbox.fail = None
                while len(mailbox.calls) == calls:
                    await clock.advance(1)
                assert await streamed(frames, 1) == [1]
    assert events.hook_failures[NAME, Hook.CHECK] == 1
    assert not any("swordfish" in line for line in recorded_logs(caplog.records))


@pytest.mark.parametrize(
    "answer",
    [None, [], ([], None), ([], 1.5), ([], True), ([{"n": 1}], "x" * 5000), ("text", "c"), ({"n": 1}, "c")],
    ids=["none", "list", "no cursor", "float", "bool", "vast cursor", "text", "a single event"],
)
@requirement("ours.check.fails")
async def test_a_check_that_answers_what_it_must_not_is_a_check_that_failed(answer: Any) -> None:
    events = Events()
    events.event(NAME)(lambda ctx, arguments, cursor: answer)
    async with http_peer(events) as peer:
        refusal = await peer.refused("events/poll", name=NAME)
        assert (refusal.code, refusal.data) == (-32603, {"reason": "check"})


@both_paths
@requirement("ours.check.stops")
async def test_the_loop_of_a_check_ends_with_its_last_subscription(target: HttpTarget) -> None:
    mailbox, clock = Mailbox(), FakeClock()
    events = mailbox.events(clock)
    async with target.serve(events) as peer:
        async with peer.stream(NAME) as one:
            await one.expect("active")
            async with peer.stream(NAME) as two:
                await two.expect("active")
            await until(lambda: events._service.open_streams == 1)
            calls = len(mailbox.calls)
            await tick(clock, INTERVAL, lambda: len(mailbox.calls) > calls)  # one of them goes on
        await until(lambda: events._service.open_streams == 0)
        calls = len(mailbox.calls)
        await clock.advance(10 * INTERVAL)
        await settle()
        assert len(mailbox.calls) == calls


@requirement("ours.check.stops", "sep.removed.ends")
async def test_removing_a_type_ends_its_loop() -> None:
    mailbox, clock = Mailbox(), FakeClock()
    events = mailbox.events(clock)
    async with http_peer(events) as peer, peer.stream(NAME) as frames:
        await frames.expect("active")
        events.remove(NAME)
        await frames.expect("terminated")
        await frames.rest()
        calls = len(mailbox.calls)
        await clock.advance(10 * INTERVAL)
        await settle()
        assert len(mailbox.calls) == calls


@both_paths
@requirement("ours.check.shared")
async def test_a_late_stream_joins_at_the_present_and_one_with_a_cursor_catches_up_first(target: HttpTarget) -> None:
    mailbox, clock = Mailbox(), FakeClock()
    async with target.serve(mailbox.events(clock)) as peer:
        cursor = (await peer.poll(NAME))["cursor"]
        mailbox.add(1, 2)
        async with peer.stream(NAME) as now, peer.stream(NAME, cursor=cursor) as late:
            await now.expect("active")
            await late.expect("active")
            assert await streamed(late, 2) == [1, 2]
            mailbox.add(3)
            calls = len(mailbox.calls)
            await tick(clock, INTERVAL, lambda: len(mailbox.calls) > calls)
            assert await streamed(now, 1) == await streamed(late, 1) == [3]
            assert len(mailbox.calls) == calls + 1


@requirement("ours.check.poll")
async def test_a_long_poll_of_a_check_asks_again_until_something_comes() -> None:
    mailbox, clock = Mailbox(), FakeClock()
    async with http_peer(mailbox.events(clock)) as peer:
        cursor = (await peer.poll(NAME))["cursor"]
        polling = asyncio.create_task(peer.poll(NAME, cursor, timeoutMs=20_000))
        await until(lambda: len(mailbox.calls) == 2)
        mailbox.add(1)
        await tick(clock, INTERVAL, polling.done)
        assert numbers(await polling) == [1]


@requirement("ours.check.poll")
async def test_only_a_check_gives_the_events_of_its_type() -> None:
    events = Mailbox().events()
    with pytest.raises(InvalidInput, match="check function"):
        await events.emit(NAME, {"n": 1})


@pytest.mark.parametrize("interval", [0, -1, float("nan")])
@requirement("ours.check.poll")
async def test_an_interval_that_is_none_is_refused_when_it_is_declared(interval: float) -> None:
    with pytest.raises(InvalidInput, match="interval"):
        Mailbox().events(interval=interval)


@requirement("ours.check.shared")
async def test_without_an_interval_the_default_holds() -> None:
    mailbox, clock = Mailbox(), FakeClock()
    async with http_peer(mailbox.events(clock, interval=None)) as peer, peer.stream(NAME) as frames:
        await frames.expect("active")
        await clock.advance(DEFAULT_INTERVAL - 1)
        assert len(mailbox.calls) == 1
        await tick(clock, 1, lambda: len(mailbox.calls) == 2)
