"""The push side channel's frames, resume and limits, over a real socket."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from pathlib import Path

import h11
import httpx2
import pytest

from clarion.model import MICROSECONDS, isoformat
from clarion.testing.clock import FakeClock
from interaction.push import EVENT, HEARTBEAT, LAG, OPEN, Frame, parse_frame, push_stream
from interaction.requirements import requirement
from interaction.serving import (
    SMALL_BUFFER,
    Running,
    authorization,
    call,
    connect,
    operator,
    serving,
    stall,
    summary_where,
)

EVENT_KEYS = [
    "subscription_id",
    "event_id",
    "topic",
    "category",
    "aggregate_type",
    "aggregate_id",
    "actor_id",
    "correlation_id",
    "occurred_at",
    "payload",
]


async def subscribe(running: Running, *topics: str, client_id: str = "client", bearer: str | None = None) -> str:
    async with connect(running, bearer or operator()) as session:
        made = await call(session, "subscribe", topic=list(topics), client_id=client_id)
    subscription_id: str = made["subscription_id"]
    return subscription_id


@requirement("row-5", "frame-open", "frame-event", "frame-shape")
async def test_the_first_frame_opens_and_an_event_frame_has_all_ten_params(tmp_path: Path, store: str) -> None:
    async with serving(tmp_path, store) as running:
        subscription_id = await subscribe(running, "deal.*")
        await running.emit("deal.won", {"before": "the stream"})
        async with push_stream(running, operator()) as stream:
            assert stream.status == 200
            assert stream.headers["content-type"] == "text/event-stream"
            assert stream.headers["cache-control"] == "no-store, no-transform"
            opened = await stream.expect(OPEN)
            await running.emit(
                "deal.won",
                {"amount": 1, "name": "Ä"},
                aggregate_type="deal",
                aggregate_id="d1",
                actor_id="ada",
                correlation_id="c1",
                occurred_at="2026-06-12T10:00:00Z",
            )
            event = await stream.expect(EVENT)
    assert opened.data["jsonrpc"] == event.data["jsonrpc"] == "2.0"
    assert opened.data["method"] == "notifications/pact/subscription.open"
    assert event.data["method"] == "notifications/pact/event"
    assert "id" not in opened.data
    assert "id" not in event.data
    assert list(opened.params) == ["client_id", "subscriptions", "cursor", "truncated"]
    assert opened.params["client_id"] == "client"
    assert opened.params["cursor"] == 1  # with neither cursor nor Last-Event-ID a stream starts at the head
    assert opened.params["truncated"] is False
    assert [row["subscription_id"] for row in opened.params["subscriptions"]] == [subscription_id]
    assert list(event.params) == EVENT_KEYS
    assert event.params == {
        "subscription_id": subscription_id,
        "event_id": 2,
        "topic": "deal.won",
        "category": "crm",
        "aggregate_type": "deal",
        "aggregate_id": "d1",
        "actor_id": "ada",
        "correlation_id": "c1",
        "occurred_at": "2026-06-12T10:00:00Z",
        "payload": {"amount": 1, "name": "Ä"},
    }
    assert type(event.params["event_id"]) is int
    assert event.id is not None
    epoch, _, seq = event.id.partition("-")
    assert (len(epoch), seq) == (8, "2")


@requirement("row-5", "frame-heartbeat")
async def test_a_heartbeat_with_the_cursor_comes_every_15_seconds(tmp_path: Path) -> None:
    clock = FakeClock()
    async with serving(tmp_path, clock=clock) as running:
        await subscribe(running, "deal.*")
        async with push_stream(running, operator()) as stream:
            await stream.expect(OPEN)
            for beat in range(1, 4):
                await clock.advance(14.5)
                assert await running.emit("custom.unrelated", {}) == 2 * beat - 1
                assert await running.emit("deal.won", {}) == 2 * beat
                await stream.expect(EVENT)  # not a heartbeat: half a second is missing
                await clock.advance(0.5)
                heartbeat = await stream.expect(HEARTBEAT)
                assert heartbeat.data["method"] == "notifications/pact/heartbeat"
                assert heartbeat.params == {"cursor": 2 * beat}


@requirement("frame-heartbeat")
async def test_a_heartbeats_cursor_moves_past_events_of_others_and_resuming_there_misses_nothing(
    tmp_path: Path,
) -> None:
    clock = FakeClock()
    async with serving(tmp_path, clock=clock) as running:
        await subscribe(running, "deal.*")
        await subscribe(running, "custom.*", client_id="other")
        async with push_stream(running, operator(), "other") as other, push_stream(running, operator()) as stream:
            await other.expect(OPEN)
            await stream.expect(OPEN)
            await running.emit("custom.unrelated", {})
            await other.expect(EVENT)  # so it was dispatched
            await clock.advance(15)
            heartbeat = await stream.expect(HEARTBEAT)
        assert heartbeat.params == {"cursor": 1}
        await running.emit("deal.won", {})
        async with push_stream(running, operator(), last_event_id=heartbeat.id) as stream:
            await stream.expect(OPEN)
            assert (await stream.expect(EVENT)).params["event_id"] == 2


@requirement("frame-per-subscription")
async def test_one_frame_comes_for_each_matching_subscription_and_only_the_last_has_the_id(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        ids = {await subscribe(running, "deal.*"), await subscribe(running, "deal.won"), await subscribe(running, "*")}
        async with push_stream(running, operator()) as stream:
            await stream.expect(OPEN)
            await running.emit("deal.won", {})
            frames = [await stream.expect(EVENT) for _ in ids]
            await running.emit("deal.lost", {})
            await stream.expect(EVENT)
    assert {frame.params["subscription_id"] for frame in frames} == ids
    assert [frame.id is not None for frame in frames] == [False, False, True]
    assert {frame.params["event_id"] for frame in frames} == {1}


@requirement("resume")
@pytest.mark.parametrize("by", ["cursor", "position", "Last-Event-ID", "both"])
async def test_resuming_replays_what_is_later_and_goes_on_live(tmp_path: Path, store: str, by: str) -> None:
    async with serving(tmp_path, store) as running:
        await subscribe(running, "deal.*")
        async with push_stream(running, operator()) as stream:
            await stream.expect(OPEN)
            for number in range(5):
                await running.emit("deal.won", {"number": number})
            seen = [await stream.expect(EVENT) for _ in range(2)]
        last = seen[-1]
        given: dict[str, str | int | None] = {
            "cursor": {"cursor": 2},
            "position": {"cursor": last.id},
            "Last-Event-ID": {"last_event_id": last.id},
            "both": {"cursor": 0, "last_event_id": last.id},  # a reconnecting client sends its first URL again
        }[by]  # type: ignore[assignment]
        async with push_stream(running, operator(), **given) as stream:  # type: ignore[arg-type]
            opened = await stream.expect(OPEN)
            again = [await stream.expect(EVENT) for _ in range(3)]
            await running.emit("deal.won", {"number": 5})
            again.append(await stream.expect(EVENT))
    assert opened.params["cursor"] == 2
    assert opened.params["truncated"] is False
    assert [frame.params["payload"]["number"] for frame in again] == [2, 3, 4, 5]


@requirement("resume")
@pytest.mark.parametrize(
    ("cursor", "position", "truncated"),
    [("earliest", 0, False), ("latest", 3, False), ("0", 0, False), ("99", 3, True), ("00000000-2", 0, True)],
)
async def test_where_a_stream_begins_is_told(tmp_path: Path, cursor: str, position: int, truncated: bool) -> None:
    async with serving(tmp_path) as running:
        await subscribe(running, "deal.*")
        for _ in range(3):
            await running.emit("deal.won", {})
        async with push_stream(running, operator(), cursor=cursor) as stream:
            opened = await stream.expect(OPEN)
            for seq in range(position + 1, 4):
                assert (await stream.expect(EVENT)).params["event_id"] == seq
    assert (opened.params["cursor"], opened.params["truncated"]) == (position, truncated)


@requirement("log-truncated")
async def test_a_reader_behind_retention_is_told_that_it_was_truncated(tmp_path: Path, store: str) -> None:
    clock = FakeClock()
    async with serving(tmp_path, store, clock=clock, retention_days=1.0) as running:
        await subscribe(running, "deal.*")
        for _ in range(3):
            await running.emit("deal.won", {})
        await clock.advance(86_400 + 60)
        await running.emit("deal.won", {})
        await running.app.hub.trim()
        async with push_stream(running, operator(), cursor=1) as stream:
            opened = await stream.expect(OPEN)
            assert (await stream.expect(EVENT)).params["event_id"] == 4
    assert (opened.params["cursor"], opened.params["truncated"]) == (3, True)


@requirement("side-errors")
@pytest.mark.parametrize(
    ("given", "status", "code", "field"),
    [
        ({"client_id": None}, 400, "missing_parameter", "client_id"),
        ({"client_id": ""}, 400, "missing_parameter", "client_id"),
        ({"cursor": "soon"}, 422, "invalid_input", "cursor"),
        ({"last_event_id": "12-x"}, 422, "invalid_input", "Last-Event-ID"),
    ],
)
async def test_a_stream_that_cannot_be_opened_says_why(
    tmp_path: Path, given: dict[str, str], status: int, code: str, field: str
) -> None:
    async with serving(tmp_path) as running, push_stream(running, operator(), **given) as stream:  # type: ignore[arg-type]
        error = (await stream.body())["error"]
    assert (stream.status, error["code"], error["field"]) == (status, code, field)


@requirement("side-errors", "bad-key")
@pytest.mark.parametrize("bearer", [None, "nonsense", "clarion_abcdefghijkl_" + "x" * 38])
async def test_a_stream_needs_a_valid_key(tmp_path: Path, bearer: str | None) -> None:
    async with serving(tmp_path) as running, push_stream(running, bearer) as stream:
        assert stream.status == 401
        assert stream.headers["www-authenticate"] == "Bearer"
        assert (await stream.body())["error"]["code"] == "unauthenticated"


@requirement("two-connections")
async def test_two_connections_of_one_client_each_receive_everything(tmp_path: Path) -> None:
    async with serving(tmp_path) as running:
        await subscribe(running, "deal.*")
        async with push_stream(running, operator()) as one, push_stream(running, operator()) as two:
            await one.expect(OPEN)
            await two.expect(OPEN)
            for _ in range(3):
                await running.emit("deal.won", {})
            for stream in (one, two):
                assert [(await stream.expect(EVENT)).params["event_id"] for _ in range(3)] == [1, 2, 3]


@requirement("live-subscribe")
async def test_subscribing_while_the_stream_is_open_starts_pushing_on_it(tmp_path: Path) -> None:
    async with serving(tmp_path) as running, push_stream(running, operator()) as stream:
        assert (await stream.expect(OPEN)).params["subscriptions"] == []
        await running.emit("deal.won", {"when": "before"})
        await subscribe(running, "deal.*")
        await running.emit("deal.won", {"when": "after"})
        assert (await stream.expect(EVENT)).params["payload"] == {"when": "after"}


@requirement("limit-connections")
async def test_a_tenant_cannot_open_more_streams_than_its_limit(tmp_path: Path) -> None:
    async with serving(tmp_path, max_connections=1) as running:
        other = await running.key("subscriber", tenant="globex")
        async with push_stream(running, operator()) as stream:
            await stream.expect(OPEN)
            async with push_stream(running, operator()) as refused:
                error = (await refused.body())["error"]
                assert (refused.status, error["code"], error["max"]) == (429, "limit_exceeded", 1)
            async with push_stream(running, other) as elsewhere:
                assert elsewhere.status == 200
        await summary_where(running, lambda summary: summary["connected_streams"] == 0)
        async with push_stream(running, operator()) as stream:
            assert stream.status == 200


@requirement("graceful-stop")
async def test_a_stopping_server_ends_its_streams_as_complete_answers(tmp_path: Path, store: str) -> None:
    async with serving(tmp_path, store) as running:
        await subscribe(running, "deal.*")
        opening = push_stream(running, operator())
        stream = await opening.__aenter__()
        await stream.expect(OPEN)
        await running.emit("deal.won", {})
    frames = await stream.rest()  # h11 raises when the last chunk is missing
    await opening.__aexit__(None, None, None)
    assert [frame.params["event_id"] for frame in frames] == [1]
    assert stream.ended


@requirement("row-6", "frame-lag")
async def test_a_stalled_reader_loses_the_oldest_17_of_117_is_told_once_and_gets_them_back(
    tmp_path: Path, store: str
) -> None:
    async with serving(tmp_path, store, send_buffer=SMALL_BUFFER) as running, running.http(operator()) as client:
        subscription_id = await subscribe(running, "deal.*")
        async with push_stream(running, operator(), receive_buffer=SMALL_BUFFER) as stream:
            await stream.expect(OPEN)
            first = await stall(running)  # this one waits; with the next 116 it makes 117
            batch = [{"topic": "deal.won", "payload": {"number": number}} for number in range(116)]
            assert (await client.post("/v1/events", json=batch)).status_code == 200
            last = first + 116
            await summary_where(running, lambda summary: summary["events_dropped"] == 17)
            frames: list[Frame] = []
            while not frames or frames[-1].event != EVENT or frames[-1].params["event_id"] < last:
                frame = await stream.frame()
                assert frame is not None
                frames.append(frame)
            await running.emit("deal.won", {"after": "the flurry"})
            assert (await stream.expect(EVENT)).params["event_id"] == last + 1
        events = [frame.params["event_id"] for frame in frames if frame.event == EVENT]
        (lag,) = [frame for frame in frames if frame.event != EVENT]
        assert lag.event == LAG
        assert lag.data["method"] == "notifications/pact/subscription.lag"
        assert lag.id is None
        assert list(lag.params) == ["subscription_id", "dropped_count", "buffer_capacity", "last_event_id", "detail"]
        assert lag.params["subscription_id"] == subscription_id
        assert (lag.params["dropped_count"], lag.params["buffer_capacity"]) == (17, 100)
        assert lag.params["last_event_id"] == first - 1
        assert events == [*range(1, first), *range(first + 17, last + 1)]  # the newest 100 are kept
        assert frames[first - 1] is lag  # after what was delivered, before the survivors
        async with push_stream(running, operator(), cursor=lag.params["last_event_id"]) as stream:
            await stream.expect(OPEN)
            again = [(await stream.expect(EVENT)).params["event_id"] for _ in range(17)]
        assert again == list(range(first, first + 17))
        async with connect(running, operator()) as session:
            (row,) = (await call(session, "list_subscriptions", client_id="client"))["subscriptions"]
        assert row["events_dropped"] == 17


@requirement("row-7")
async def test_a_stalled_client_does_not_delay_another(tmp_path: Path, store: str) -> None:
    async with serving(tmp_path, store, send_buffer=SMALL_BUFFER) as running:
        await subscribe(running, "deal.*", client_id="stalled")
        async with push_stream(running, operator(), "stalled", receive_buffer=SMALL_BUFFER) as stalled:
            await stalled.expect(OPEN)
            before = await stall(running)
            await subscribe(running, "deal.*", client_id="prompt")
            async with push_stream(running, operator(), "prompt") as prompt:
                await prompt.expect(OPEN)
                for number in range(1, 51):
                    await running.emit("deal.won", {})
                    assert (await prompt.expect(EVENT)).params["event_id"] == before + number
            assert (await running.summary())["waiting_events"] == 51


class PromptReader(threading.Thread):
    """A reader in a thread of its own that takes everything as soon as it is there."""

    def __init__(self, running: Running, until: int) -> None:
        super().__init__(daemon=True)
        self._running = running
        self._until = f"-{until}\n".encode()
        self.opened = threading.Event()
        self.data = b""

    def run(self) -> None:
        with socket.create_connection(self._running.address) as connection:
            connection.settimeout(30)
            request = "".join(f"{name}: {value}\r\n" for name, value in authorization(operator()).items())
            line = f"GET /mcp/push/sse?client_id=client HTTP/1.1\r\nHost: 127.0.0.1\r\n{request}\r\n"
            connection.sendall(line.encode())
            received = bytearray()
            while self._until not in received[-1024:]:
                data = connection.recv(1 << 20)
                if not data:
                    break
                received += data
                self.opened.set()
        http = h11.Connection(h11.CLIENT)
        http.send(h11.Request(method="GET", target="/", headers=[("Host", "127.0.0.1")]))
        http.send(h11.EndOfMessage())
        http.receive_data(bytes(received))
        parts = []
        while (event := http.next_event()) is not h11.NEED_DATA:
            if isinstance(event, h11.Data):
                parts.append(bytes(event.data))
        self.data = b"".join(parts)


@requirement("row-6")
async def test_a_healthy_reader_of_a_burst_of_10000_loses_none(tmp_path: Path, store: str) -> None:
    count = 10_000
    async with serving(tmp_path, store) as running, running.http(operator(), timeout=30) as client:
        await subscribe(running, "deal.*")
        reader = PromptReader(running, until=count)
        reader.start()
        await asyncio.to_thread(reader.opened.wait, 10)
        lines = b"\n".join(json.dumps({"topic": "deal.won", "payload": {"n": n}}).encode() for n in range(count))
        answer = await client.post("/v1/events", content=lines, headers={"content-type": "application/x-ndjson"})
        assert answer.json()["accepted"] == count
        await asyncio.to_thread(reader.join, 30)
        dropped = (await running.summary())["events_dropped"]
    frames = [
        parse_frame(block) for block in reader.data.split(b"\n\n") if block.startswith(b"event: " + EVENT.encode())
    ]
    assert dropped == 0
    assert [frame.params["payload"]["n"] for frame in frames] == list(range(count))


@requirement("event-expiry")
async def test_an_expired_event_is_not_replayed(tmp_path: Path, store: str) -> None:
    clock = FakeClock()
    async with serving(tmp_path, store, clock=clock) as running:
        await subscribe(running, "deal.*")
        soon = clock.now() + 60 * MICROSECONDS
        await running.emit("deal.won", {}, expires_at=isoformat(soon))
        await running.emit("deal.won", {}, expires_at=isoformat(soon + 3600 * MICROSECONDS))
        async with push_stream(running, operator(), cursor=0) as stream:
            await stream.expect(OPEN)
            assert [(await stream.expect(EVENT)).params["event_id"] for _ in range(2)] == [1, 2]
        await clock.advance(61)
        async with push_stream(running, operator(), cursor=0) as stream:
            await stream.expect(OPEN)
            assert (await stream.expect(EVENT)).params["event_id"] == 2


@requirement("plain-client")
async def test_an_ordinary_http_client_reads_the_stream(tmp_path: Path) -> None:
    async with serving(tmp_path) as running, running.http(operator()) as client:
        await subscribe(running, "deal.*")
        async with client.stream("GET", "/mcp/push/sse", params={"client_id": "client"}) as answer:
            lines = answer.aiter_lines()
            assert await anext(lines) == f"event: {OPEN}"
            await running.emit("deal.won", {"a": 1})
            async for line in lines:
                if line == f"event: {EVENT}":
                    break
            assert (await anext(lines)).startswith("id: ")
            assert json.loads((await anext(lines)).removeprefix("data: "))["params"]["payload"] == {"a": 1}
            assert await anext(lines) == ""
    assert answer.status_code == httpx2.codes.OK


@requirement("core-event")
async def test_every_field_of_the_envelope_is_kept_and_can_be_filtered_on(tmp_path: Path, store: str) -> None:
    fields = {
        "aggregate_type": "deal",
        "aggregate_id": "d1",
        "actor_id": "ada",
        "correlation_id": "c1",
        "causation_id": "e0",
        "priority": "high",
        "key": "k1",
    }
    known = {**fields, "event_id": "e1", "topic": "deal.won", "category": "crm", "source": "api", "origin": "operator"}
    async with serving(tmp_path, store) as running, connect(running, operator()) as session:
        wanted: dict[str, str] = {}
        for name, value in known.items():
            made = await call(session, "subscribe", topic=["deal.*"], client_id="client", filter={name: value})
            wanted[made["subscription_id"]] = name
            await call(session, "subscribe", topic=["deal.*"], client_id="client", filter={name: value + "x"})
        await call(session, "subscribe", topic=["custom.end"], client_id="client")
        async with push_stream(running, operator()) as stream:
            await stream.expect(OPEN)
            await running.emit("deal.won", {}, event_id="e1", attributes={"a": 1}, subjects=["eve"], **fields)
            await running.emit("custom.end", {})
            frames = (await stream.until("custom.end"))[:-1]
    assert sorted(wanted[frame.params["subscription_id"]] for frame in frames) == sorted(known)
