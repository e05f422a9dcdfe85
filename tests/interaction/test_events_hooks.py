"""The author's hooks on the wire: alike for poll and stream, failing closed, each subscription's trouble its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from clarion.errors import Forbidden, PayloadTooLarge
from clarion.events import Context, Event, Events
from clarion.events.hooks import Hook
from clarion.events.leases import LEASE_SECONDS
from clarion.hub.hub import HubLimits
from clarion.testing.clock import FakeClock
from clarion.testing.hubs import until
from clarion.wires.mcp_events.service import MAX_POLL_MS
from interaction.events_more import ALICE, BOB, Recorded, ended, peers, recorded_logs, tick
from interaction.events_raw import INITIALIZE, HttpPeer
from interaction.events_requirements import requirement
from interaction.events_targets import FAST, HttpTarget, both_dialects, both_modes, both_paths, http_peer

NAME = "ticket.updated"
KIB = 1024


async def both(peer: HttpPeer, emit: Callable[[], Any], last: Any, **wanted: Any) -> list[list[Any]]:
    """The data of what `emit` emits up to `last`, as polls and as a stream give it to the same subscription."""
    cursor = (await peer.poll(NAME, **wanted))["cursor"]
    async with peer.stream(NAME, **wanted) as frames:
        await frames.expect("active")
        await emit()
        streamed = await frames.data(1)
        while streamed[-1] != last:
            streamed += await frames.data(1)
    polled: list[Any] = []
    while True:
        answer = await peer.poll(NAME, cursor, maxEvents=2, **wanted)
        polled += [event["data"] for event in answer["events"]]
        cursor = answer["cursor"]
        if not answer["hasMore"]:
            return [polled, streamed]


# -- match and transform ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "async"])
@requirement("sep.sdk.hooks-alike", "sep.payload.minimal")
async def test_match_and_transform_are_alike_for_poll_and_stream(kind: str) -> None:
    def match(_ctx: Context, event: Event, arguments: Any) -> bool:
        return event.data["n"] % arguments["every"] == 0

    def transform(ctx: Context, event: Event, arguments: Any) -> Event:
        data = {"n": event.data["n"], "for": ctx.principal.subject, "every": arguments["every"]}
        return event.replace(data=data, meta={"example/thin": True})

    async def match_later(*given: Any) -> bool:
        return match(*given)

    async def transform_later(*given: Any) -> Event:
        return transform(*given)

    later = kind == "async"
    events = Events()
    events.event(
        NAME,
        arguments={"every": int},
        match=match_later if later else match,
        transform=transform_later if later else transform,
    )

    async def emit() -> None:
        for number in range(1, 13):
            await events.emit(NAME, {"n": number, "secret": "x" * number})

    async with peers(events, ALICE, BOB) as (alice, bob):
        for peer, who, every in ((alice, "alice", 3), (bob, "bob", 4)):
            wanted = [{"n": n, "for": who, "every": every} for n in range(every, 13, every)]
            polled, streamed = await both(peer, emit, wanted[-1], arguments={"every": every})
            assert polled == streamed == wanted


@requirement("sep.sdk.hooks-alike")
async def test_what_transform_says_of_meta_is_meta_and_a_bare_mapping_is_data() -> None:
    events = Events()
    events.event("with.meta", transform=lambda _ctx, event, _arguments: event.replace(meta={"example/a": 2}))
    events.event("bare", transform=lambda _ctx, event, _arguments: {"only": event.data["n"]})
    async with http_peer(events) as peer:
        for name, data, meta in (("with.meta", {"n": 1}, {"example/a": 2}), ("bare", {"only": 1}, {"example/a": 1})):
            cursor = (await peer.poll(name))["cursor"]
            async with peer.stream(name) as frames:
                await frames.expect("active")
                await events.emit(name, {"n": 1}, meta={"example/a": 1}, event_id=f"{name}-1")
                streamed = await frames.expect("event")
            (polled,) = (await peer.poll(name, cursor))["events"]
            assert polled["data"] == streamed["data"] == data
            assert polled["_meta"] == {key: value for key, value in streamed["_meta"].items() if "example" in key}
            assert polled["_meta"] == meta
            assert polled["eventId"] == streamed["eventId"] == f"{name}-1"


@requirement("sep.payload.minimal")
async def test_an_event_over_the_size_limit_is_refused_on_emit() -> None:
    events = Events()
    events.event(NAME)
    async with events:
        with pytest.raises(PayloadTooLarge) as caught:
            await events.emit(NAME, {"filler": "swordfish" * 40_000})
        assert "swordfish" not in str(caught.value)
        assert (await events.emit(NAME, {"filler": "x" * 200_000})).event_id


class Fails(Exception):
    pass


def failing(hook: str) -> Callable[..., Any]:
    """A hook that fails for the argument `fail`, on the event whose `n` is 2."""

    def call(_ctx: Context, event: Event, arguments: dict[str, Any]) -> Any:
        if arguments.get("fail") == "raise" and event.data["n"] == 2:
            raise Fails("swordfish")
        if arguments.get("fail") == "answer" and event.data["n"] == 2:
            return "swordfish"
        if arguments.get("fail") == "unserialisable" and event.data["n"] == 2:
            return event.replace(data={"n": object()}) if hook == "transform" else object()
        return True if hook == "match" else event

    return call


@pytest.mark.parametrize("how", ["raise", "answer", "unserialisable"])
@pytest.mark.parametrize("hook", ["match", "transform"])
@requirement("ours.hooks.closed", "ours.hooks.told", "ours.stream.isolated")
async def test_a_hook_that_raises_keeps_back_that_event_from_that_subscription(
    hook: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    events = Events()
    events.event(NAME, **{hook: failing(hook)})
    wanted = {"fail": how}
    async with (
        http_peer(events) as peer,
        peer.stream(NAME, arguments=wanted) as broken,
        peer.stream(NAME) as whole,
    ):
        await broken.expect("active")
        await whole.expect("active")
        cursors = [(await peer.poll(NAME, arguments=arguments))["cursor"] for arguments in (wanted, {})]
        for number in (1, 2, 3):
            await events.emit(NAME, {"n": number})
        told = {"event": [], "error": []}  # an error is told as soon as it is known, which may be before what waits
        for _ in range(3):
            message = await broken.next()
            told[message["method"].rpartition("/")[2]].append(message["params"])
        assert [event["data"]["n"] for event in told["event"]] == [1, 3]
        (error,) = [params["error"] for params in told["error"]]
        assert (error["code"], error["data"]) == (-32603, {"reason": hook})
        assert await whole.data(3) == [{"n": 1}, {"n": 2}, {"n": 3}]
        polled = [await peer.poll(NAME, cursor, arguments=a) for cursor, a in zip(cursors, (wanted, {}), strict=True)]
        found = [[event["data"]["n"] for event in answer["events"]] for answer in polled]
        assert found == [[1, 3], [1, 2, 3]]
        assert events.hook_failures[NAME, Hook(hook)] == 2
    lines = list(recorded_logs(caplog.records))
    assert any("hook_failed" in line and hook in line for line in lines)
    assert not any("swordfish" in line for line in lines)


@both_modes
@requirement("ours.hooks.data")
async def test_a_transform_that_changes_its_input_harms_no_other(mode: str) -> None:
    def spoil(ctx: Context, event: Event, arguments: Any) -> Event:
        if ctx.arguments.get("spoil"):
            event.data["list"].append("spoiled")  # type: ignore[attr-defined]
            arguments["spoil"] = "spoiled"
        return event

    events = Events()
    events.event(NAME, transform=spoil)
    async with http_peer(events) as peer:
        before = (await peer.poll(NAME))["cursor"], (await peer.poll(NAME, arguments={"spoil": True}))["cursor"]
        async with peer.stream(NAME, arguments={"spoil": True}) as spoiled, peer.stream(NAME) as whole:
            await spoiled.expect("active")
            await whole.expect("active")
            for number in (1, 2):
                await events.emit(NAME, {"n": number, "list": []})
            assert await spoiled.data(2) == [{"n": number, "list": ["spoiled"]} for number in (1, 2)]
            assert await whole.data(2) == [{"n": number, "list": []} for number in (1, 2)]
        if mode == "poll":
            spoilt = await peer.poll(NAME, before[1], arguments={"spoil": True})
            whole_again = await peer.poll(NAME, before[0])
            assert [each["data"]["list"] for each in spoilt["events"]] == [["spoiled"]] * 2
            assert [each["data"]["list"] for each in whole_again["events"]] == [[]] * 2
        else:
            async with peer.stream(NAME, cursor=before[0]) as replay:
                await replay.expect("active")
                assert await replay.data(2) == [{"n": number, "list": []} for number in (1, 2)]


@both_modes
@requirement("ours.hooks.data")
async def test_a_transform_that_breaks_the_payload_schema_gives_nothing(mode: str) -> None:
    def transform(_ctx: Context, event: Event, arguments: Any) -> Event:
        return event.replace(data={"id": 7}) if arguments.get("breaks") else event

    events = Events()
    events.event(NAME, payload={"id": str}, transform=transform)
    async with http_peer(events) as peer:
        cursor = (await peer.poll(NAME, arguments={"breaks": True}))["cursor"]
        async with peer.stream(NAME, arguments={"breaks": True}) as broken, peer.stream(NAME) as whole:
            await broken.expect("active")
            await whole.expect("active")
            await events.emit(NAME, {"id": "one"})
            assert await whole.data(1) == [{"id": "one"}]
            if mode == "poll":
                answer = await peer.poll(NAME, cursor, arguments={"breaks": True})
                assert answer["events"] == []
                assert answer["cursor"] != cursor
            else:
                assert (await broken.expect("error"))["error"]["data"] == {"reason": "transform"}


# -- targeted emit, and what is kept ---------------------------------------------------------------------------------


@both_modes
@requirement("sep.sdk.targeted")
async def test_a_targeted_emit_reaches_that_subscription_alone(mode: str) -> None:
    hooks = Recorded()
    events = Events()
    ids: dict[tuple[str, Any], str] = {}

    async def begun(ctx: Context, arguments: Any, subscription_id: str) -> None:
        ids[ctx.principal.subject, arguments.get("room")] = subscription_id

    events.event(NAME, on_subscribe=begun, on_unsubscribe=hooks.on_unsubscribe)
    keys = [("alice", 1), ("alice", 2), ("bob", 1)]

    async def emit_all() -> None:
        for key in keys:
            await events.emit(NAME, {"to": list(key)}, subscription_id=ids[key])
        await events.emit(NAME, {"to": "all"})

    async with peers(events, ALICE, BOB) as (alice, bob):
        clients = [({"alice": alice, "bob": bob}[who], {"room": room}) for who, room in keys]
        cursors = [(await peer.poll(NAME, arguments=arguments))["cursor"] for peer, arguments in clients]
        if mode == "poll":
            await emit_all()
            for key, (peer, arguments), cursor in zip(keys, clients, cursors, strict=True):
                answer = await peer.poll(NAME, cursor, arguments=arguments)
                assert [event["data"]["to"] for event in answer["events"]] == [list(key), "all"]
                assert not any("_meta" in event for event in answer["events"])
            return
        streams = [peer.stream(NAME, arguments=arguments) for peer, arguments in clients]
        async with streams[0] as one, streams[1] as two, streams[2] as three:
            for frames in (one, two, three):
                await frames.expect("active")
            await emit_all()
            for key, frames in zip(keys, (one, two, three), strict=True):
                assert await frames.data(2) == [{"to": list(key)}, {"to": "all"}]


@requirement("sep.sdk.buffer")
async def test_emitted_events_are_kept_within_bounds_of_age_and_size() -> None:
    clock = FakeClock()
    events = Events(clock=clock, limits=HubLimits(retention_bytes=3 * KIB + 1, retention_seconds=3600))
    events.event(NAME)
    async with http_peer(events) as peer:
        cursor = (await peer.poll(NAME))["cursor"]
        for number in range(5):
            await events.emit(NAME, {"n": number, "filler": "x" * KIB})
        runtime = await events._running()
        await runtime.hub.trim()
        by_size = await peer.poll(NAME, cursor)
        assert by_size["truncated"] is True
        kept = [event["data"]["n"] for event in by_size["events"]]
        assert 0 < len(kept) < 5
        assert kept == list(range(5))[-len(kept) :]
        clock.jump(2 * 3600)
        await runtime.hub.trim()
        by_age = await peer.poll(NAME, cursor)
        assert (by_age["truncated"], by_age["events"]) == (True, [])


# -- on_subscribe and on_unsubscribe ---------------------------------------------------------------------------------


def followed(hooks: Recorded, clock: FakeClock | None = None, **options: Any) -> Events:
    events = Events(clock=clock)
    events.event(NAME, on_subscribe=hooks.on_subscribe, on_unsubscribe=hooks.on_unsubscribe, **options)
    return events


@both_paths
@requirement("sep.sdk.stream-hooks")
async def test_stream_hooks_run_before_active_and_after_a_stream_is_abandoned(target: HttpTarget) -> None:
    hooks = Recorded()
    async with target.serve(followed(hooks)) as peer:
        for round in (1, 2):
            async with peer.stream(NAME) as frames:
                await frames.expect("active")
                assert (len(hooks.begun), hooks.begun.total(), hooks.ended.total()) == (1, round, round - 1)
            await until(lambda round=round: hooks.ended.total() == round)


@requirement("sep.sdk.stream-hooks")
async def test_active_waits_for_on_subscribe() -> None:
    begin, asked = asyncio.Event(), asyncio.Event()

    async def slow(*_: Any) -> None:
        asked.set()
        await begin.wait()

    events = Events()
    events.event(NAME, on_subscribe=slow)
    async with http_peer(events) as peer:
        opening = asyncio.create_task(_first(peer))
        await asked.wait()
        assert await peer.call("events/list")
        assert not opening.done()
        begin.set()
        assert (await opening)["method"] == "notifications/events/active"


async def _first(peer: HttpPeer) -> dict[str, Any]:
    async with peer.stream(NAME) as frames:
        return await frames.next()


@requirement("sep.sdk.stream-hooks")
async def test_a_cancelled_stream_is_unsubscribed() -> None:
    hooks = Recorded()
    async with HttpTarget("stateful", INITIALIZE).serve(followed(hooks)) as peer, peer.stream(NAME) as frames:
        await frames.expect("active")
        await peer.notify("notifications/cancelled", requestId=frames.id)
        await until(lambda: hooks.ended.total() == 1)


@pytest.mark.parametrize("how", ["terminate", "remove", "stop"])
@requirement("sep.sdk.stream-hooks")
async def test_a_stream_that_the_server_ends_is_unsubscribed_once(how: str) -> None:
    hooks = Recorded()
    events = followed(hooks)
    async with http_peer(events) as peer, peer.stream(NAME) as frames:
        await frames.expect("active")
        if how == "terminate":
            events.terminate(NAME, Forbidden("enough"))
        elif how == "remove":
            events.remove(NAME)
        else:
            await events.aclose()
        await frames.rest()
        await until(lambda: hooks.ended.total() == 1)
        assert not hooks.live
    assert hooks.ended.total() == 1


@both_modes
@both_dialects
@requirement("sep.sdk.stream-hooks", "ours.hooks.closed")
async def test_an_on_subscribe_that_fails_opens_nothing_and_its_own_error_is_told(mode: str, declared: bool) -> None:
    hooks = Recorded()

    def begin(_ctx: Any, arguments: Any, _subscription_id: str) -> None:
        if arguments["how"] == "forbidden":
            raise Forbidden("this room is closed", details={"reason": "room"})
        raise Fails("swordfish")

    events = Events()
    events.event(NAME, on_subscribe=begin, on_unsubscribe=hooks.on_unsubscribe)
    async with http_peer(events, declared=declared) as peer:
        broken = await peer.refused(f"events/{mode}", name=NAME, arguments={"how": "raise"})
        assert (broken.code, broken.data) == (-32603, {"reason": "on_subscribe"})
        assert "swordfish" not in broken.text
        forbidden = await peer.refused(f"events/{mode}", name=NAME, arguments={"how": "forbidden"})
        assert (forbidden.code, forbidden.data) == (peer.codes["Forbidden"], {"reason": "room"})
        assert "this room is closed" in forbidden.text
        assert events._service.open_streams == 0
    assert not hooks.ended
    assert events.hook_failures[NAME, Hook.ON_SUBSCRIBE] == 1


@requirement("sep.sdk.lease", "sep.sdk.stream-hooks")
async def test_polls_and_streams_of_one_key_share_what_was_set_up() -> None:
    hooks, clock = Recorded(), FakeClock()
    async with peers(followed(hooks, clock), ALICE, BOB) as (alice, bob):
        wanted = {"arguments": {"b": 1, "a": [2]}}
        await alice.poll(NAME, **wanted)
        async with alice.stream(NAME, arguments={"a": [2], "b": 1}) as one, alice.stream(NAME, **wanted) as two:
            await one.expect("active")
            await two.expect("active")
            assert sorted(hooks.begun.values()) == [1]
            await bob.poll(NAME, **wanted)
            await alice.poll(NAME, arguments={"b": 2})
            assert sorted(hooks.begun.values()) == [1, 1, 1]
            await tick(clock, LEASE_SECONDS, lambda: hooks.ended.total() == 2)  # the one with streams lives on
            assert len(hooks.live) == 1
        await until(lambda: not hooks.live)
        assert sorted(hooks.begun.values()) == sorted(hooks.ended.values()) == [1, 1, 1]


@requirement("sep.sdk.lease", "sep.sdk.lease-window")
async def test_polls_of_one_key_share_a_lease_that_lapses() -> None:
    hooks, clock = Recorded(), FakeClock()
    assert LEASE_SECONDS * 1000 > 3 * MAX_POLL_MS
    async with http_peer(followed(hooks, clock)) as peer:
        cursor = (await peer.poll(NAME))["cursor"]
        for _ in range(4):
            await clock.advance(LEASE_SECONDS - 1)
            await peer.poll(NAME, cursor)
        assert (hooks.begun.total(), hooks.ended.total()) == (1, 0)
        await clock.advance(LEASE_SECONDS - 1)
        assert hooks.ended.total() == 0
        await tick(clock, 1, lambda: hooks.ended.total() == 1)
        await peer.poll(NAME, cursor)  # begins anew
        assert (hooks.begun.total(), hooks.ended.total()) == (2, 1)
        assert len(hooks.begun) == 1
    assert hooks.ended.total() == 2  # the server stops


@requirement("sep.sdk.lease")
async def test_removing_a_type_ends_the_leases_of_its_polls() -> None:
    hooks = Recorded()
    events = followed(hooks)
    async with http_peer(events) as peer:
        await peer.poll(NAME)
        events.remove(NAME)
        await until(lambda: hooks.ended.total() == 1)


@both_dialects
@both_paths
@requirement("sep.error.exhausted", "sep.sdk.limit-first")
async def test_a_full_quota_of_a_type_sets_up_nothing_and_is_free_again_with_a_stream(
    target: HttpTarget, declared: bool
) -> None:
    hooks = Recorded()
    events = followed(hooks, max_streams=2)
    async with target.serve(events, declared=declared) as peer:
        async with peer.stream(NAME, arguments={"n": 1}) as one:
            await one.expect("active")
            for _ in range(3):
                async with peer.stream(NAME, arguments={"n": 2}) as two:
                    await two.expect("active")
                    refusal = await peer.refused("events/stream", name=NAME, arguments={"n": 3})
                    assert refusal.code == peer.codes["ResourceExhausted"]
                    assert refusal.data == {"limit": "streams", "max": 2}
                    assert await peer.poll(NAME, arguments={"n": 1})  # counts streams alone
                await until(lambda: events._service.open_streams == 1)
        assert len(hooks.begun) == 2
    assert not hooks.live


@requirement("sep.error.exhausted")
async def test_ending_the_streams_of_a_type_frees_its_quota() -> None:
    events = Events()
    events.event(NAME, max_streams=1)
    async with http_peer(events) as peer:
        for _ in range(3):
            async with peer.stream(NAME) as frames:
                await frames.expect("active")
                events.terminate(NAME, Forbidden("enough"))
                await ended(frames)
                async with peer.stream(NAME) as next:
                    await next.expect("active")
            await until(lambda: events._service.open_streams == 0)


@requirement("sep.sdk.limit-first")
async def test_a_limit_of_connections_is_reached_before_on_subscribe() -> None:
    hooks = Recorded()
    events = Events(limits=HubLimits(connections_per_principal=1))
    events.event(NAME, on_subscribe=hooks.on_subscribe, on_unsubscribe=hooks.on_unsubscribe)
    async with FAST.serve(events) as peer, peer.stream(NAME, arguments={"n": 1}) as frames:
        await frames.expect("active")
        refusal = await peer.refused("events/stream", name=NAME, arguments={"n": 2})
        assert refusal.code == peer.codes["ResourceExhausted"]
        assert refusal.data["max"] == 1
        assert hooks.begun.total() == 1
