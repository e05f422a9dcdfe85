"""Readers that stall, and those beside them, on a real server and real sockets."""

import asyncio
import resource
import statistics
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from clarion.testing.hubs import Frame, until
from clarion.testing.server import RawStream, ServerProcess, served

pytestmark = pytest.mark.fault

HEALTHY = 1_000
EVENTS = 25
SMALL_BUFFER = 4_096
"""Bytes of receive buffer of a reader that is to stall soon."""

LARGE = "x" * 100_000


async def emit(client: httpx2.AsyncClient, topic: str, payload: dict[str, Any], **fields: Any) -> int:
    answer = await client.post("/v1/events", json={"topic": topic, "payload": payload, **fields})
    assert answer.status_code == 201, answer.text
    return int(answer.json()["seq"])


async def stall(server: ServerProcess, client: httpx2.AsyncClient, topic: str, *, waiting: int, **fields: Any) -> int:
    """Emit large events on `topic` until its only reader, which does not read, is paused and `waiting` events wait in
    its ring; answers how many it took."""
    for count in range(1, 400):
        await emit(client, topic, {"n": count, "fill": LARGE}, **fields)
        metrics = await server.metrics(client)
        if metrics['clarion_streams{phase="lagging"}'] == 1 and metrics["clarion_ring_events"] >= waiting:
            return count
    raise AssertionError("the reader never stalled")


async def read_until(stream: RawStream, topic: str) -> list[Frame]:
    """All frames up to the first event of `topic`, that one included."""
    found: list[Frame] = []
    while not any(frame.name == "event" and frame.params["topic"] == topic for frame in found):
        frames = await stream.frames()
        assert frames, "the stream ended early"
        found += frames
    return found


class Crowd:
    """Healthy readers of one client's streams, which note when each event reached each of them."""

    def __init__(self, streams: list[RawStream]) -> None:
        self.streams = streams
        self.sent: dict[int, float] = {}
        self.latencies: dict[int, list[float]] = {}
        self.lags = 0
        self.orders: list[list[int]] = [[] for _ in streams]

    async def read(self, number: int) -> None:
        stream, order = self.streams[number], self.orders[number]
        while frames := await stream.frames():
            now = time.monotonic()
            for frame in frames:
                if frame.name == "event":
                    seq = frame.params["payload"]["n"]
                    order.append(seq)
                    self.latencies.setdefault(seq, []).append(now - self.sent[seq])
                self.lags += frame.name == "subscription.lag"

    async def measure(self, client: httpx2.AsyncClient, first: int) -> tuple[float, float]:
        """Emit, each event when the one before has reached all; answers the median and the 99th percentile."""
        for number in range(first, first + EVENTS):
            self.sent[number] = time.monotonic()
            await emit(client, "deal.won", {"n": number})
            await until(lambda number=number: len(self.latencies.get(number, ())) == len(self.streams))  # type: ignore[misc]
        taken = sorted(one for number in range(first, first + EVENTS) for one in self.latencies[number])
        return statistics.median(taken), taken[int(len(taken) * 0.99)]


async def test_a_stalled_reader_leaves_the_latency_of_a_thousand_others_alone(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4 * HEALTHY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4 * HEALTHY, hard), hard))
    async with served(tmp_path / "data") as server, server.http() as client, asyncio.TaskGroup() as tasks:
        await server.subscribe(client, "crowd", "deal.*")
        await server.subscribe(client, "sloth", "*")
        crowd = Crowd([await server.stream("crowd") for _ in range(HEALTHY)])
        reading = [tasks.create_task(crowd.read(number)) for number in range(HEALTHY)]
        await crowd.measure(client, 1)  # warm
        median, slowest = await crowd.measure(client, EVENTS + 1)
        sloth = await server.stream("sloth", receive_buffer=SMALL_BUFFER)
        await stall(server, client, "custom.fill", waiting=1)
        stalled_median, stalled_slowest = await crowd.measure(client, 2 * EVENTS + 1)
        assert (await server.metrics(client))['clarion_streams{phase="lagging"}'] == 1  # all the while
        print(f"median {median * 1000:.1f} -> {stalled_median * 1000:.1f} ms, "
              f"p99 {slowest * 1000:.1f} -> {stalled_slowest * 1000:.1f} ms")  # fmt: skip
        assert stalled_median < 4 * median + 0.1
        assert stalled_slowest < 4 * slowest + 0.2
        assert crowd.lags == 0
        assert all(order == list(range(1, 3 * EVENTS + 1)) for order in crowd.orders)
        for task in reading:
            task.cancel()
        for stream in [*crowd.streams, sloth]:
            stream.close()


async def test_nothing_of_a_subject_is_handed_over_after_its_withdrawal_was_acknowledged(tmp_path: Path) -> None:
    async with served(tmp_path / "data") as server, server.http() as client:
        subscription = await server.subscribe(client, "sloth", "*")
        stream = await server.stream("sloth", receive_buffer=SMALL_BUFFER)
        emitted = await stall(server, client, "custom.fill", waiting=20, subjects=["ann"])
        about_bob = await emit(client, "custom.fill", {"n": 0}, subjects=["bob"])
        answer = await client.post("/v1/consent", json={"subject": "ann", "state": "withdrawn"})
        assert answer.status_code == 201
        assert (await server.metrics(client))["clarion_ring_events"] == 1  # bob's
        before = (await client.get(
            "/v1/admin/mcp/outbound/deliveries", params={"subscription_id": subscription, "limit": "200"}
        )).json()["deliveries"]  # fmt: skip
        handed = sorted(row["event_id"] for row in before if row["outcome"] == "delivered")
        refused = sorted(row["event_id"] for row in before if row["outcome"] == "refused")
        assert len(refused) >= 20
        assert [*handed, *refused] == list(range(1, emitted + 1))
        await emit(client, "custom.fill", {"n": 0}, subjects=["ann"])
        await emit(client, "custom.end", {})
        frames = await read_until(stream, "custom.end")
        seqs = [frame.seq for frame in frames if frame.name == "event"]
        assert seqs == [*handed, about_bob, about_bob + 2]
        assert [frame.name for frame in frames if frame.name == "subscription.lag"] == []
        stream.close()
        again = await server.stream("sloth", cursor="earliest")  # nor on replay
        assert [frame.seq for frame in await read_until(again, "custom.end") if frame.name == "event"] == [
            about_bob, about_bob + 2,
        ]  # fmt: skip
        again.close()


async def test_a_healthy_reader_of_ten_thousand_events_in_one_burst_loses_none(tmp_path: Path) -> None:
    burst = 10_000
    lines = "\n".join(
        f'{{"topic":"deal.won","payload":{{"n":{number},"text":"{"y" * 200}"}}}}' for number in range(burst)
    )
    async with served(tmp_path / "data") as server, server.http() as client:
        await server.subscribe(client, "reader", "deal.*")
        stream = await server.stream("reader")
        posting = asyncio.create_task(
            client.post("/v1/events", content=lines, headers={"content-type": "application/x-ndjson"})
        )
        frames: list[Frame] = []
        async with asyncio.timeout(60):
            while sum(frame.name == "event" for frame in frames) < burst:
                frames += await stream.frames()
        assert (await posting).status_code == 200
        assert {frame.name for frame in frames} <= {"subscription.open", "event", "heartbeat"}
        assert [frame.params["payload"]["n"] for frame in frames if frame.name == "event"] == list(range(burst))
        stream.close()


async def test_a_stalled_reader_that_reads_on_gets_the_lag_frame_then_the_newest_and_the_rest_by_resuming(
    tmp_path: Path,
) -> None:
    async with served(tmp_path / "data") as server, server.http() as client:
        await server.subscribe(client, "sloth", "*")
        stream = await server.stream("sloth", receive_buffer=SMALL_BUFFER)
        await stall(server, client, "custom.fill", waiting=100)
        body = [{"topic": "custom.more", "payload": {"n": number}} for number in range(117)]
        assert (await client.post("/v1/events", json=body)).status_code == 200
        end = (await client.post("/v1/events", json={"topic": "custom.end", "payload": {}})).json()["seq"]
        # The end is in the ring once it was dispatched: nothing may be read before.
        await server.until(client, lambda metrics: metrics["clarion_events_dispatched_total"] >= end)
        frames = await read_until(stream, "custom.end")
        names = [frame.name for frame in frames]
        (lag,) = [frame for frame in frames if frame.name == "subscription.lag"]
        seqs = [frame.seq for frame in frames if frame.name == "event"]
        before = seqs[: names.index("subscription.lag") - 1]
        assert seqs[-100:] == list(range(end - 99, end + 1))
        assert lag.params["last_event_id"] == before[-1]
        assert lag.params["dropped_count"] == end - 100 - before[-1]
        assert seqs == [*range(1, before[-1] + 1), *range(end - 99, end + 1)]
        stream.close()
        again = await server.stream("sloth", cursor=str(lag.params["last_event_id"]))
        seqs = [frame.seq for frame in await read_until(again, "custom.end") if frame.name == "event"]
        assert seqs == list(range(before[-1] + 1, end + 1))
        again.close()
