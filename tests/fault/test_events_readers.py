"""Streams of the Events wire that do not read, or come back from far behind, and those beside them, on a real server
and real sockets."""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import httpx2
import pytest

from clarion.testing.hubs import until
from clarion.testing.server import ServerProcess, served
from fault.events_load import EVENTS, EventStream, Message, Wanted, numbers_of, open_stream, peer_of
from interaction.events_raw import INITIALIZE
from interaction.events_requirements import requirement

pytestmark = pytest.mark.fault

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

HEALTHY = 200
SAMPLES = 20
"""Events of one measurement of latencies."""

SMALL_BUFFER = 4_096
"""Bytes of receive buffer of a reader that is to stall soon."""

FILL = "x" * 100_000
FILLED = Wanted("custom.*", {"topic": "custom.fill"})

RING = 100
"""Events that wait in memory for one stream."""

FAREWELL = 1.0
"""Seconds that the end of a stream waits for its reader."""

STALE = 50
BACKLOG = 4_000


async def emit(client: httpx2.AsyncClient, *events: tuple[str, Message]) -> None:
    body = [{"topic": topic, "payload": payload} for topic, payload in events]
    answer = await client.post("/v1/events", json=body)
    assert answer.status_code == 200, answer.text


async def fill(client: httpx2.AsyncClient, first: int, count: int) -> None:
    """Emit `count` large events, numbered from `first`."""
    for number in range(first, first + count, 5):
        batch = range(number, min(number + 5, first + count))
        await emit(client, *(("custom.fill", {"n": each, "fill": FILL}) for each in batch))


async def stall(server: ServerProcess, client: httpx2.AsyncClient, readers: int) -> int:
    """Emit large events until `readers` streams, which do not read, have fallen out of their rings and wait to be read
    from the log; answers how many events that took."""
    count = 0
    while True:
        await fill(client, count, RING + 20)
        count += RING + 20
        if (await server.metrics(client))['clarion_streams{phase="replay"}'] == readers:
            return count
        assert count < 2_000, "the readers never stalled"


class Streams:
    """Opens streams, and closes them all when the block ends."""

    def __init__(self) -> None:
        self._open: list[EventStream] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        for stream in self._open:
            stream.close()

    async def open(self, client: httpx2.AsyncClient, wanted: Wanted, **options: Any) -> EventStream:
        """One that has begun."""
        stream = await open_stream(client, wanted, **options)
        self._open.append(stream)
        first = await stream.until("active")
        assert [message["params"]["truncated"] for message in first] == [False]
        return stream


async def read_numbers(stream: EventStream, last: int) -> list[int]:
    """`data.n` of all events up to the one with `last`. Fails on anything but events and heartbeats, such as a gap."""
    found: list[int] = []
    async with asyncio.timeout(60):
        while not found or found[-1] != last:
            messages = await stream.messages()
            assert messages, "the stream ended early"
            assert {message["method"] for message in messages} <= {EVENTS + "event", EVENTS + "heartbeat"}
            found += numbers_of(messages)
    return found


async def to_the_end(stream: EventStream) -> list[Message]:
    """All messages that are left of a stream that the server ends."""
    found: list[Message] = []
    async with asyncio.timeout(20):
        while messages := await stream.messages():
            found += messages
    assert stream.ended
    return found


class Crowd:
    """Readers that keep up, which note when each event reached each of them."""

    def __init__(self, streams: list[EventStream]) -> None:
        self.streams = streams
        self.latencies: dict[int, list[float]] = {}
        self.numbers: list[list[int]] = [[] for _ in streams]
        self._sent: dict[int, float] = {}

    async def read(self, reader: int) -> None:
        stream, numbers = self.streams[reader], self.numbers[reader]
        while messages := await stream.messages():
            now = time.monotonic()
            for number in numbers_of(messages):
                numbers.append(number)
                self.latencies.setdefault(number, []).append(now - self._sent[number])

    async def reach(self, client: httpx2.AsyncClient, number: int) -> float:
        """Emit one event; answers the seconds until the last of them had it."""
        self._sent[number] = time.monotonic()
        await emit(client, ("deal.won", {"n": number}))
        await until(lambda: len(self.latencies.get(number, ())) == len(self.streams))
        return max(self.latencies[number])

    async def measure(self, client: httpx2.AsyncClient, first: int) -> tuple[float, float]:
        """Emit, each event when the one before has reached all; answers the median and the worst."""
        for number in range(first, first + SAMPLES):
            await self.reach(client, number)
        taken = [one for number in range(first, first + SAMPLES) for one in self.latencies[number]]
        return statistics.median(taken), max(taken)


@requirement("ours.stream.isolated", "ours.stream.catch-up")
async def test_streams_that_stall_delay_no_other_and_get_everything_when_they_read_on(tmp_path: Path) -> None:
    async with (
        served(tmp_path / "data") as server, server.http() as client, Streams() as streams, asyncio.TaskGroup() as tasks
    ):  # fmt: skip
        crowd = Crowd([await streams.open(client, Wanted("deal.won")) for _ in range(HEALTHY)])
        reading = [tasks.create_task(crowd.read(reader)) for reader in range(HEALTHY)]
        await crowd.measure(client, 1)  # warm
        median, worst = await crowd.measure(client, 1 + SAMPLES)
        sloths = [
            await streams.open(client, FILLED, receive_buffer=SMALL_BUFFER),
            await streams.open(client, Wanted("custom.*", {"n_gte": 0}, INITIALIZE), receive_buffer=SMALL_BUFFER),
            await streams.open(client, Wanted("custom.*", declared=False), receive_buffer=SMALL_BUFFER),
        ]
        count = await stall(server, client, len(sloths))
        stalled_median, stalled_worst = await crowd.measure(client, 1 + 2 * SAMPLES)
        print(f"median {median * 1000:.1f} -> {stalled_median * 1000:.1f} ms, "
              f"worst {worst * 1000:.1f} -> {stalled_worst * 1000:.1f} ms")  # fmt: skip
        assert (await server.metrics(client))['clarion_streams{phase="replay"}'] == len(sloths)  # all the while
        assert stalled_median < 4 * median + 0.1
        assert stalled_worst < 4 * worst + 0.25
        assert all(numbers == list(range(1, 3 * SAMPLES + 1)) for numbers in crowd.numbers)
        for sloth in sloths:
            assert await read_numbers(sloth, count - 1) == list(range(count))
        await emit(client, ("custom.fill", {"n": count}))  # and then they are live again
        for sloth in sloths:
            assert await read_numbers(sloth, count) == [count]
        for task in reading:
            task.cancel()


def resident(server: ServerProcess) -> float:
    """Megabytes of memory that the server takes."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


@linux
@requirement("ours.stream.catch-up")
async def test_what_stalled_streams_miss_waits_in_the_log_and_not_in_memory(tmp_path: Path) -> None:
    readers, budget, count = 20, 2, 2_000
    async with (
        served(tmp_path / "data", CLARION_RING_BUDGET_MB=str(budget)) as server, server.http() as client,
        Streams() as streams,
    ):  # fmt: skip
        await fill(client, 0, 400)  # whatever storing needs is there now
        sloths = [await streams.open(client, FILLED, receive_buffer=SMALL_BUFFER) for _ in range(readers)]
        before, taken = resident(server), []
        for first in range(0, count, 40):
            await fill(client, first, 40)
            metrics = await server.metrics(client)
            assert metrics["clarion_ring_bytes"] <= budget * 2**20
            taken.append(resident(server) - before)
        half, end = max(taken[: len(taken) // 2]), max(taken)
        waiting = count * len(FILL) / 2**20
        print(f"{readers} readers miss {waiting:.0f} MB: memory {before:.0f} + {half:.0f}, at the end + {end:.0f} MB")
        assert metrics['clarion_streams{phase="replay"}'] == readers
        # What each reader's transport was given, and what the allocator has not given back, which varies by 40 MB; and
        # no more, however much waits: another 95 MB did so in the second half, for each of them.
        assert end < 128
        assert end - half < 64
        for sloth in sloths[:2]:
            assert await read_numbers(sloth, count - 1) == list(range(count))
        assert resident(server) - before < 128


@requirement("ours.stream.paced")
async def test_many_long_replays_at_once_do_not_hold_up_a_live_stream(tmp_path: Path) -> None:
    async with (
        served(tmp_path / "data") as server, server.http() as client, Streams() as streams, asyncio.TaskGroup() as tasks
    ):  # fmt: skip
        cursor = (await peer_of(client).poll("custom.*"))["cursor"]
        for first in range(0, BACKLOG, 500):
            events = (("custom.old", {"n": number, "text": "y" * 200}) for number in range(first, first + 500))
            await emit(client, *events)
        crowd = Crowd([await streams.open(client, Wanted("deal.won"))])
        reading = tasks.create_task(crowd.read(0))
        await crowd.measure(client, 1)  # warm
        median, worst = await crowd.measure(client, 1 + SAMPLES)
        # In a process of their own, so that what is measured is the server's doing.
        command = [sys.executable, str(Path(__file__).with_name("events_replayers.py"))]
        replayers = await asyncio.create_subprocess_exec(
            *command, server.url, server.bearer(), cursor, str(STALE), str(BACKLOG), stdout=subprocess.PIPE
        )
        assert replayers.stdout is not None
        assert await replayers.stdout.readline() == b"begun\n"
        began, number, taken = time.monotonic(), 1 + 2 * SAMPLES, []
        ending = asyncio.create_task(replayers.communicate())
        while not ending.done():
            taken.append(await crowd.reach(client, number))
            number += 1
        seconds = time.monotonic() - began
        answer = json.loads((await ending)[0])
        assert answer == {"streams": STALE, "events": STALE * BACKLOG}  # each in order and without a gap
        replayed_median, replayed_worst = statistics.median(taken), max(taken)
        print(f"{STALE * BACKLOG / seconds:.0f} events/s replayed, {len(taken)} live events meanwhile: "
              f"median {median * 1000:.1f} -> {replayed_median * 1000:.1f} ms, "
              f"worst {worst * 1000:.1f} -> {replayed_worst * 1000:.1f} ms")  # fmt: skip
        assert len(taken) >= 10
        assert replayed_median < 0.5
        assert replayed_worst < max(0.5, seconds / 8)
        assert crowd.numbers[0] == list(range(1, number))
        reading.cancel()


def is_held(server: ServerProcess, address: tuple[str, int]) -> bool:
    """Whether the server still has its end of the connection from `address`."""
    here = f"{int(server.url.rsplit(':', 1)[1]):04X}", f"{address[1]:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if (fields[1].split(":")[1], fields[2].split(":")[1]) == here:
            return fields[9] != "0"  # the inode; one that nobody has open has none
    return False


async def new_key(client: httpx2.AsyncClient, subject: str) -> tuple[str, str]:
    """A subscriber's key, and its id."""
    answer = await client.post("/v1/keys", json={"role": "subscriber", "subject": subject})
    assert answer.status_code == 201, answer.text
    return answer.json()["key"], answer.json()["key_id"]


def as_caller(server: ServerProcess, key: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=server.url, headers={"Authorization": f"Bearer {key}"}, verify=False)


@linux
@requirement("sep.auth.revoked", "ours.stream.isolated")
async def test_a_revoked_key_ends_its_streams_and_cuts_the_one_that_does_not_read(tmp_path: Path) -> None:
    async with served(tmp_path / "data") as server, server.http() as client, Streams() as streams:
        key, key_id = await new_key(client, "alice")
        other, _ = await new_key(client, "bob")
        async with as_caller(server, key) as alice, as_caller(server, other) as bob:
            healthy = await streams.open(alice, Wanted("deal.won"))
            untouched = await streams.open(bob, Wanted("deal.won"))
            sloth = await streams.open(alice, FILLED, receive_buffer=SMALL_BUFFER)
        await stall(server, client, 1)
        assert is_held(server, sloth.address)
        began = time.monotonic()
        assert (await client.delete(f"/v1/keys/{key_id}")).status_code in (200, 204)
        terminated, result = await to_the_end(healthy)
        assert time.monotonic() - began < FAREWELL
        assert terminated["method"] == EVENTS + "terminated"
        assert terminated["params"]["error"]["code"] == -32024
        assert result["result"]["resultType"] == "complete"
        async with asyncio.timeout(FAREWELL + 3):
            while is_held(server, sloth.address):
                await server.metrics(client)
        print(f"cut after {time.monotonic() - began:.1f} s")
        await emit(client, ("deal.won", {"n": 1}))
        assert await read_numbers(untouched, 1) == [1]


@requirement("ours.stream.stop")
async def test_a_stream_that_stalls_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    async with served(tmp_path / "data") as server, server.http() as client, Streams() as streams:
        healthy = await streams.open(client, Wanted("deal.won"))
        await streams.open(client, FILLED, receive_buffer=SMALL_BUFFER)
        await stall(server, client, 1)
        began = time.monotonic()
        stopping = asyncio.create_task(server.terminate())
        assert "result" in (await to_the_end(healthy))[-1]
        assert await stopping == 0
        print(f"stopped in {time.monotonic() - began:.1f} s")
        assert time.monotonic() - began < 5
