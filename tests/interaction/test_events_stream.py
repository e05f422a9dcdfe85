"""`events/stream` (SEP-3415, "Push-Based Delivery" and "Lifecycle"), frame by frame."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from clarion.errors import Forbidden
from clarion.events import Events
from clarion.hub.hub import HubLimits
from clarion.testing.clock import FakeClock
from interaction.events_raw import INITIALIZE, MODERN, SUBSCRIPTION_ID, Frames, HttpPeer, Message, Peer
from interaction.events_requirements import requirement
from interaction.events_subject import ALARM, REPORT, TICKET, declare
from interaction.events_targets import (
    FAST_AND_PLAIN,
    HTTP_TARGETS,
    HttpTarget,
    StdioTarget,
    Target,
    both_dialects,
    both_paths,
    every_target,
    http_peer,
    http_process,
    stdio_process,
)
from interaction.serving import SMALL_BUFFER

HEARTBEAT = 30.0
"""Seconds that may at most be between two heartbeats."""

BULK = "bulk"
FILLER = "x" * 16_000

stdio_eras = pytest.mark.parametrize("era", [MODERN, INITIALIZE])


def bulky(**options: Any) -> Events:
    """A type of large events, many of which fill whatever is between server and client."""
    events = Events(**options)
    events.event(BULK)
    return events


async def emit_bulk(events: Events, number: int, *, first: int = 0) -> None:
    for n in range(first, first + number):
        await events.emit(BULK, {"n": n, "filler": FILLER})


def numbers_of(messages: list[Message]) -> list[int]:
    return [message["params"]["data"]["n"] for message in messages if "data" in message["params"]]


async def started(frames: Frames) -> str:
    """The cursor of the frame that begins a stream."""
    cursor: str = (await frames.expect("active"))["cursor"]
    return cursor


# -- opening ----------------------------------------------------------------------------------------------------------


@every_target
@pytest.mark.parametrize("id", [7_000, 'a "strange" id\n'], ids=["number", "string"])
@requirement("sep.stream.active-first", "sep.stream.subscription-id", "ours.eras", "ours.transports")
async def test_active_is_first_and_each_frame_names_the_request(target: Target, id: str | int) -> None:
    async with target.connect() as peer, peer.stream(TICKET, id=id) as frames:
        messages = [await frames.next()]
        await peer.tool("emit", name=TICKET, data={"id": "1"})
        messages.append(await frames.next())
        await peer.tool("act", what="error", name=TICKET)
        await peer.tool("act", what="gap", name=TICKET)
        await peer.tool("act", what="terminate", name=TICKET)
        messages += await frames.rest()
        kinds = [message.get("method", "result").removeprefix("notifications/events/") for message in messages]
        assert kinds == ["active", "event", "error", "active", "terminated", "result"]
        opening = messages[0]["params"]
        assert opening == {"cursor": opening["cursor"], "truncated": False, "_meta": {SUBSCRIPTION_ID: id}}
        assert isinstance(opening["cursor"], str)
        for message in messages[:-1]:
            assert message.keys() == {"jsonrpc", "method", "params"}
            named = message["params"]["_meta"][SUBSCRIPTION_ID]
            assert (named, type(named)) == (id, type(id))
        assert messages[-1]["id"] == messages[-1]["result"]["_meta"][SUBSCRIPTION_ID] == id


@every_target
@requirement("sep.stream.event-cursor", "sep.order.subscription")
async def test_an_event_cursor_resumes_after_that_event(target: Target) -> None:
    async with target.connect() as peer:
        async with peer.stream(TICKET) as frames:
            cursors = [await started(frames)]
            for number in range(4):
                await peer.tool("emit", name=TICKET, data={"id": str(number)})
                event = await frames.expect("event")
                assert event["data"] == {"id": str(number)}
                cursors.append(event["cursor"])
        for seen, cursor in enumerate(cursors):
            async with peer.stream(TICKET, cursor=cursor) as frames:
                assert await frames.expect("active") == {
                    "cursor": cursor, "truncated": False, "_meta": {SUBSCRIPTION_ID: frames.id},
                }  # fmt: skip
                assert await frames.data(4 - seen) == [{"id": str(number)} for number in range(seen, 4)]


@both_paths
@requirement("sep.stream.active-first")
async def test_active_is_first_also_where_the_upstream_fails_at_first(target: HttpTarget) -> None:
    clock, answers = FakeClock(), [OSError("down"), OSError("down"), [], [{"n": 1}]]

    async def check(_ctx: Any, _arguments: Any, cursor: Any) -> tuple[list[Any], int]:
        answer = answers.pop(0) if len(answers) > 1 or cursor else []
        if isinstance(answer, OSError):
            raise answer
        return answer, (cursor or 0) + 1

    events = Events(clock=clock)
    events.event("checked", interval=1)(check)
    async with target.serve(events) as peer, peer.stream("checked") as frames:
        opening = asyncio.create_task(frames.next())
        while not opening.done():
            await clock.advance(1)
        assert (await opening)["method"] == "notifications/events/active"
        reading = asyncio.create_task(frames.until("event"))
        while not reading.done():
            await clock.advance(1)
        assert (await reading)[-1]["params"]["data"] == {"n": 1}


@pytest.mark.parametrize("target", HTTP_TARGETS, ids=str)
@requirement("sep.stream.sse-data", "sep.beat.data-frame")
async def test_frames_are_single_sse_data_frames_without_ids(target: HttpTarget) -> None:
    clock = FakeClock()
    events = declare(clock=clock)
    async with target.serve(events) as peer, peer.open("events/stream", {"name": TICKET}) as frames:
        await started(frames)
        assert (frames.status, frames.content_type.partition(";")[0]) == (200, "text/event-stream")
        await events.emit(TICKET, {"id": "line\r\nbreaks\n\n: and\ndata: \u2028"})
        await frames.expect("event")
        await clock.advance(HEARTBEAT)
        await frames.expect("heartbeat")
        events.error(TICKET, "down")
        events.terminate(TICKET, Forbidden("enough"))
        assert "result" in (await frames.rest())[-1]
        assert len(frames.blocks) >= 6
        for block in frames.blocks:
            lines = block.splitlines()
            assert [line.partition(b":")[0] for line in lines if not line.startswith(b"event:")] == [b"data"], block
            assert [line for line in lines if line.startswith(b"event:")] in ([], [b"event: message"])


@stdio_eras
@requirement("sep.stream.stdio-lines", "sep.stream.own-frames")
async def test_streams_side_by_side_on_stdio_are_whole_lines_told_apart_by_id(era: str) -> None:
    filler = "\n\u2028" + "x" * 30_000
    async with stdio_process(era) as peer, AsyncExitStack() as stack:
        opened = {
            id: await stack.enter_async_context(peer.stream(TICKET, id=id, arguments=arguments))
            for id, arguments in ((1_001, {}), ("1001", {"status": "open"}), ("c", {"status": "closed"}))
        }
        for frames in opened.values():
            await started(frames)
        emits = [("open" if number % 2 else "closed", f"{number}{filler}") for number in range(20)]
        await asyncio.gather(
            *(peer.tool("emit", name=TICKET, data={"id": id, "status": status}) for status, id in emits)
        )
        for id, status in ((1_001, None), ("1001", "open"), ("c", "closed")):
            wanted = {text for of, text in emits if status in (None, of)}
            assert {data["id"] for data in await opened[id].data(len(wanted))} == wanted
        assert peer.stray == []
        assert all(line.endswith(b"\n") and json.loads(line)["jsonrpc"] == "2.0" for line in peer.lines)


INVALID: dict[str, Message] = {
    "unknown": {"name": "no.such"},
    "without push": {"name": REPORT},
    "arguments": {"name": TICKET, "arguments": {"status": "lost"}},
    "cursor": {"name": TICKET, "cursor": 7},
    "no name": {},
}


@every_target
@requirement("sep.stream.refused")
async def test_an_invalid_subscription_is_a_plain_error_and_opens_nothing(target: Target) -> None:
    async with target.connect() as peer:
        for params in INVALID.values():
            async with peer.open("events/stream", params) as frames:
                answer = await frames.next()
                assert answer["id"] == frames.id
                assert answer["error"]["code"] < 0
                assert await frames.rest() == []
                if isinstance(peer, HttpPeer) and peer.era == MODERN:
                    assert (await peer.ask("events/stream", params)).content_type == "application/json"
        assert await peer.tool("streams") == "0"


# -- within a stream --------------------------------------------------------------------------------------------------


@both_paths
@both_dialects
@requirement("sep.stream.error-open", "ours.dialect.frames", "sep.term.shape")
async def test_an_error_leaves_the_stream_open_and_delivery_goes_on(target: HttpTarget, declared: bool) -> None:
    events = declare()
    async with target.serve(events, declared=declared) as peer, peer.stream(TICKET) as frames:
        await started(frames)
        await events.emit(TICKET, {"id": "1"})
        assert await frames.data(1) == [{"id": "1"}]
        assert events.error(TICKET, "the upstream is down", reason="upstream") == 1
        await events.emit(TICKET, {"id": "2"})
        failure = await frames.expect("error")
        assert failure.keys() == {"error", "_meta"}
        assert failure["error"] == {
            "code": -32603, "message": "InternalError: the upstream is down", "data": {"reason": "upstream"},
        }  # fmt: skip
        assert await frames.data(1) == [{"id": "2"}]


@both_paths
@requirement("sep.stream.gap")
async def test_a_gap_is_a_new_active_on_the_same_stream(target: HttpTarget) -> None:
    events = declare()
    async with target.serve(events) as peer, peer.stream(TICKET) as frames:
        await started(frames)
        await events.emit(TICKET, {"id": "1"})
        before = await frames.expect("event")
        assert events.gap(TICKET) == 1
        await events.emit(TICKET, {"id": "2"})
        gap = await frames.expect("active")
        assert gap == {"cursor": before["cursor"], "truncated": True, "_meta": {SUBSCRIPTION_ID: frames.id}}
        assert await frames.data(1) == [{"id": "2"}]
        assert [event["data"] for event in (await peer.poll(TICKET, gap["cursor"]))["events"]] == [{"id": "2"}]


@pytest.mark.parametrize("name", ["replayed", "alarm"])
@both_paths
@requirement("sep.beat.sent", "sep.beat.period")
async def test_a_quiet_stream_has_heartbeats_at_most_30_seconds_apart(target: HttpTarget, name: str) -> None:
    clock = FakeClock()
    events = Events(clock=clock)
    events.event("replayed")
    events.event("alarm", replay=False)
    async with target.serve(events) as peer, peer.stream(name) as frames:
        await started(frames)
        for _ in range(4):
            await clock.advance(HEARTBEAT)
            await events.emit(name, {})
            *beats, _event = await frames.until("event")
            assert beats
            for beat in beats:
                assert beat["method"] == "notifications/events/heartbeat"
                assert beat["params"].keys() == {"cursor", "_meta"}
                assert (beat["params"]["cursor"] is None) is (name == "alarm")


@both_paths
@requirement("sep.beat.cursor", "sep.cursor.quiet")
async def test_a_heartbeat_passes_what_did_not_match_and_nothing_that_waits(target: HttpTarget) -> None:
    clock, asked, answer = FakeClock(), asyncio.Event(), asyncio.Event()

    async def match(_ctx: Any, event: Any, _arguments: Any) -> bool:
        if event.data["n"] == 2:
            asked.set()
            await answer.wait()
        return bool(event.data["n"])

    events = Events(clock=clock, hook_seconds=3_600)
    events.event("number", payload={"n": int}, match=match)
    async with target.serve(events) as peer, peer.stream("number") as frames:
        cursor = await started(frames)
        await events.emit("number", {"n": 0})
        await asyncio.wait_for(until_beat(clock, frames, lambda beat: beat["cursor"] != cursor), 10)
        await events.emit("number", {"n": 1})
        assert await frames.data(1) == [{"n": 1}]
        for n in (0, 2, 3):
            await events.emit("number", {"n": n})
        await asyncio.wait_for(asked.wait(), 10)
        await clock.advance(HEARTBEAT)
        beat = await frames.expect("heartbeat")
        answer.set()
        async with peer.stream("number", cursor=beat["cursor"]) as resumed:
            await started(resumed)
            assert await resumed.data(2) == [{"n": 2}, {"n": 3}]


async def until_beat(clock: FakeClock, frames: Frames, holds: Callable[[Message], bool]) -> Message:
    while True:
        await clock.advance(HEARTBEAT / 2)
        beat = await frames.expect("heartbeat")
        if holds(beat):
            return beat


# -- abandoning -------------------------------------------------------------------------------------------------------


def told(released: asyncio.Event, **options: Any) -> Events:
    """A type that tells when a stream of it was released."""

    async def on_unsubscribe(_ctx: Any, _arguments: Any, _subscription_id: str) -> None:
        released.set()

    events = Events(**options)
    events.event(TICKET, on_unsubscribe=on_unsubscribe)
    return events


@pytest.mark.parametrize(
    "target",
    [
        *FAST_AND_PLAIN,
        HttpTarget("initialize-stateless", INITIALIZE, stateless=True),
        HttpTarget("initialize-stateless-layer", INITIALIZE, stateless=True, layer=True),
        HttpTarget("initialize-layer", INITIALIZE, layer=True),  # without the layer the SDK keeps a session's requests
    ],
    ids=str,
)
@requirement("sep.cancel.http")
async def test_closing_the_connection_frees_the_stream(target: HttpTarget) -> None:
    released = asyncio.Event()
    events = told(released)
    async with target.serve(events) as peer:
        async with peer.stream(TICKET) as frames:
            await started(frames)
            assert events.error(TICKET, "told") == 1
        await asyncio.wait_for(released.wait(), 5)
        assert events.error(TICKET, "told") == 0
        await events.emit(TICKET, {"id": "1"})


@pytest.mark.parametrize("layer", [False, True], ids=["plain", "layer"])
@requirement("sep.cancel.http")
async def test_cancelled_frees_the_stream_of_a_session(layer: bool) -> None:
    released = asyncio.Event()
    events = told(released)
    async with HttpTarget("stateful", INITIALIZE, layer=layer).serve(events) as peer:
        async with peer.stream(TICKET) as frames:
            await started(frames)
            await peer.notify("notifications/cancelled", requestId=frames.id)
            await asyncio.wait_for(released.wait(), 5)
            await events.emit(TICKET, {"id": "1"})
            assert [each for each in await frames.rest() if "method" in each or "result" in each] == []
        assert events.error(TICKET, "told") == 0


async def until_streams(peer: Peer, number: int) -> None:
    async with asyncio.timeout(10):
        while int(await peer.tool("streams")) != number:
            pass  # each look is a request


@stdio_eras
@requirement("sep.cancel.stdio", "sep.cancel.silent")
async def test_cancelled_on_stdio_frees_the_stream_and_is_not_answered(era: str) -> None:
    async with StdioTarget("stdio", era).connect() as peer, peer.stream(TICKET, id="kept") as kept:
        await started(kept)
        async with peer.stream(TICKET, id="ended") as frames:
            await started(frames)
            await until_streams(peer, 2)
            await peer.cancel("ended")
            await until_streams(peer, 1)
            await peer.tool("emit", name=TICKET, data={"id": "1"})
            assert await kept.data(1) == [{"id": "1"}]
            about = [json.loads(line) for line in peer.lines if b'"ended"' in line]
            assert [message.get("method") for message in about] == ["notifications/events/active"]
            frames.over = True
        assert peer.stray == []


STREAMS = 200


@pytest.mark.parametrize("target", [StdioTarget("stdio", MODERN), *HTTP_TARGETS[1:3]], ids=str)
@requirement("sep.many.exempt")
async def test_hundreds_of_streams_leave_tool_calls_answered(target: Target) -> None:
    async with target.connect() as peer, AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(peer.stream(TICKET)) for _ in range(STREAMS)]
        for frames in opened:
            await started(frames)
        async with asyncio.timeout(5):
            assert await peer.tool("streams") == str(STREAMS)
            await peer.tool("emit", name=TICKET, data={"id": "1"})
            for frames in opened:
                assert await frames.data(1) == [{"id": "1"}]


# -- the end ----------------------------------------------------------------------------------------------------------


def check_result(message: Message, id: str | int) -> None:
    """The final result has nothing but what it must have, and what the SDK stamps on each."""
    assert message.keys() == {"jsonrpc", "id", "result"}
    assert message["id"] == id
    meta = dict(message["result"].pop("_meta"))
    meta.pop("io.modelcontextprotocol/serverInfo", None)
    assert message["result"] == {"resultType": "complete"}
    assert meta == {SUBSCRIPTION_ID: id}


@every_target
@both_dialects
@requirement("sep.term.push", "sep.term.shape", "sep.end.result", "ours.dialect.frames")
async def test_termination_says_why_then_closes_with_an_empty_result(target: Target, declared: bool) -> None:
    async with target.connect(declared=declared) as peer, peer.stream(TICKET) as frames:
        await started(frames)
        await peer.tool("emit", name=TICKET, data={"id": "1"})
        assert await frames.data(1) == [{"id": "1"}]
        assert await peer.tool("act", what="terminate", name=TICKET) == "1"
        assert await frames.expect("terminated") == {
            "error": {
                "code": peer.codes["Forbidden"],
                "message": "Forbidden: enough",
                "data": {"reason": "enough"},
            },
            "_meta": {SUBSCRIPTION_ID: frames.id},
        }
        (last,) = await frames.rest()
        check_result(last, frames.id)
        await until_streams(peer, 0)


@pytest.mark.parametrize("how", ["plain", "layer", "initialize"])
@requirement("ours.stream.stop", "sep.end.result")
async def test_stopping_the_server_ends_each_stream_with_its_result(how: str) -> None:
    era = INITIALIZE if how == "initialize" else MODERN
    async with http_process(era, layer=how == "layer") as (peer, process), AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(peer.stream(name)) for name in (TICKET, ALARM, TICKET)]
        for frames in opened:
            await started(frames)
        process.terminate()
        for frames in opened:
            (last,) = await frames.rest()
            check_result(last, frames.id)
        async with asyncio.timeout(10):
            await process.wait()


# -- slow readers -----------------------------------------------------------------------------------------------------


@both_paths
@requirement("ours.stream.catch-up")
async def test_a_slow_reader_gets_everything_within_retention(target: HttpTarget) -> None:
    events = bulky(clock=FakeClock(), limits=HubLimits(ring_capacity=5))
    async with target.serve(events, send_buffer=SMALL_BUFFER) as peer, peer.stream(BULK) as frames:
        await started(frames)
        await emit_bulk(events, 1)
        first = [await frames.next()]  # it is live now
        await emit_bulk(events, 399, first=1)
        first += [await frames.next() for _ in range(99)]
        await emit_bulk(events, 50, first=400)
        messages = first + [await frames.next() for _ in range(350)]
        assert numbers_of(messages) == list(range(450))
        await events.emit(BULK, {"n": 450})
        assert numbers_of([await frames.next()]) == [450]


@both_paths
@requirement("ours.stream.overtaken", "sep.age.ceiling")
async def test_retention_that_overtakes_a_slow_reader_is_a_gap_in_its_place(target: HttpTarget) -> None:
    clock = FakeClock()
    events = bulky(clock=clock, limits=HubLimits(ring_capacity=5, retention_bytes=20 * len(FILLER)))
    async with target.serve(events, send_buffer=SMALL_BUFFER) as peer, peer.stream(BULK) as frames:
        await started(frames)
        await emit_bulk(events, 1)
        first = await frames.next()  # it is live now
        await emit_bulk(events, 399, first=1)
        await clock.advance(120)
        await emit_bulk(events, 5, first=400)
        messages = [each for each in [first, *await frames.until("active")] if "heartbeat" not in each["method"]]
        before, gap = numbers_of(messages[:-1]), messages[-1]["params"]
        assert before == list(range(len(before)))
        assert gap["truncated"] is True
        after: list[int] = []
        while not after or after[-1] < 404:
            after += numbers_of([await frames.next()])
        assert len(before) < after[0]
        assert after == list(range(after[0], 405))
        assert len(after) >= 15
        resumed = await peer.poll(BULK, gap["cursor"])
        assert [event["data"]["n"] for event in resumed["events"]] == after


REPLAYED = 1_000


@both_paths
@requirement("ours.stream.paced")
async def test_a_long_replay_does_not_hold_up_live_streams(target: HttpTarget) -> None:
    events = Events()
    events.event("small")
    events.event("live")
    async with target.serve(events) as peer, peer.stream("live") as live, AsyncExitStack() as stack:
        await started(live)
        cursor = (await peer.poll("small"))["cursor"]
        for n in range(REPLAYED):
            await events.emit("small", {"n": n, "filler": "x" * 500})
        replays = [await stack.enter_async_context(peer.stream("small", cursor=cursor)) for _ in range(4)]
        for frames in replays:
            await started(frames)
        reading = [asyncio.create_task(frames.data(REPLAYED)) for frames in replays]
        waits = []
        while not all(task.done() for task in reading):
            begun = time.monotonic()
            await events.emit("live", {})
            await live.until("event")
            waits.append(time.monotonic() - begun)
        for task in reading:
            assert [data["n"] for data in await task] == list(range(REPLAYED))
        assert len(waits) > 3, "the replay was over before anything live came"
        assert max(waits) < 1


@both_paths
@requirement("ours.stream.isolated")
async def test_a_reader_that_stalls_delays_no_other(target: HttpTarget) -> None:
    events = bulky(clock=FakeClock(), limits=HubLimits(ring_capacity=5))
    async with (
        target.serve(events, send_buffer=SMALL_BUFFER) as peer,
        peer.stream(BULK) as stalled,
        peer.stream(BULK) as reader,
    ):
        await started(stalled)
        await started(reader)
        async with asyncio.timeout(10):
            for n in range(400):
                await events.emit(BULK, {"n": n, "filler": FILLER})
                assert (await reader.expect("event"))["data"]["n"] == n
            assert [event["data"]["n"] for event in (await peer.poll(BULK))["events"]] == []


# -- where nothing can be streamed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("era", [MODERN, INITIALIZE])
@requirement("ours.stream.json-response")
async def test_a_transport_without_streams_offers_no_push_and_says_so(era: str) -> None:
    events = declare()
    async with HttpTarget("json", era).serve(events, json_response=True) as peer:
        types = (await peer.call("events/list"))["events"]
        assert {each["name"]: each["delivery"] for each in types} == {TICKET: ["poll"], REPORT: ["poll"]}
        refusal = await peer.refused("events/stream", name=TICKET)
        assert refusal.code == peer.codes["Unsupported"]
        assert refusal.data.items() >= {"feature": "deliveryMode", "value": "push"}.items()
        assert await peer.tool("streams") == "0"
        cursor = (await peer.poll(TICKET))["cursor"]
        await events.emit(TICKET, {"id": "1"})
        assert len((await peer.poll(TICKET, cursor))["events"]) == 1


@requirement("ours.stream.json-response")
async def test_where_streams_work_push_is_offered() -> None:
    async with http_peer(declare()) as peer:
        assert [each["delivery"] for each in (await peer.call("events/list"))["events"]] == [
            ["poll", "push"], ["push"], ["poll"],
        ]  # fmt: skip
