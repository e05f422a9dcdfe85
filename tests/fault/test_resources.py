"""A disk that is full, a database that is locked, an order to stop: refused cleanly, recovered from, nothing lost."""

import asyncio
import resource
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from clarion.testing.hubs import Frame
from clarion.testing.server import ServerProcess, served

pytestmark = [
    pytest.mark.fault,
    pytest.mark.skipif(sys.platform != "linux", reason="limits another process by prlimit"),
]

UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def limit_files(server: ServerProcess, more: int) -> None:
    """From now on no file of the server grows beyond its largest one and `more` bytes: as a disk that is full."""
    largest = max(path.stat().st_size for path in server.directory.iterdir())
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (largest + more, resource.RLIM_INFINITY))


def lift_limit(server: ServerProcess) -> None:
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, UNLIMITED)


def large_event(number: int) -> dict[str, Any]:
    return {"topic": "deal.won", "event_id": f"e{number}", "payload": {"n": number, "fill": "x" * 20_000}}


async def post_until_refused(client: httpx2.AsyncClient, stored: list[int], first: int) -> int:
    """Post one event after the other until one is refused; answers its number."""
    for number in range(first, first + 1000):
        answer = await client.post("/v1/events", json=large_event(number))
        if answer.status_code != 201:
            assert_unavailable(answer)
            return number
        stored.append(number)
    raise AssertionError("nothing was refused")


def assert_unavailable(answer: httpx2.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["code"] == "store_unavailable"


async def accepted(client: httpx2.AsyncClient, event: dict[str, Any]) -> None:
    """Post as the server advises, again and again, until it is accepted."""
    async with asyncio.timeout(20):
        while (answer := await client.post("/v1/events", json=event)).status_code == 503:
            assert_unavailable(answer)
            await asyncio.sleep(0.05)
    assert answer.status_code == 201, answer.text


async def numbers_in_log(server: ServerProcess, client: httpx2.AsyncClient) -> list[int]:
    await accepted(client, {"topic": "custom.end", "payload": {"n": -1}})
    stream = await server.stream("auditor", cursor="earliest")
    found: list[int] = []
    while -1 not in found:
        frames = await stream.frames()
        assert frames, "the stream ended early"
        found += [frame.params["payload"]["n"] for frame in frames if frame.name == "event"]
    stream.close()
    return found[:-1]


async def delivered(client: httpx2.AsyncClient, subscription: str) -> int:
    rows = (await client.get("/v1/admin/mcp/outbound/subscriptions")).json()["subscriptions"]
    (row,) = (row for row in rows if row["subscription_id"] == subscription)
    return int(row["events_delivered"])


async def test_a_full_disk_refuses_with_503_stores_nothing_half_and_is_recovered_from(tmp_path: Path) -> None:
    async with served(tmp_path / "data") as server, server.http() as client:
        await server.subscribe(client, "auditor", "*")
        stored: list[int] = []
        for number in range(3):
            await accepted(client, large_event(number))
            stored.append(number)
        limit_files(server, 200_000)
        refused = await post_until_refused(client, stored, 3)
        answers = await asyncio.gather(
            *(client.post("/v1/events", json=[large_event(1_000 * each + part) for part in range(50)])
              for each in range(1, 5))
        )  # fmt: skip
        for answer in answers:  # each is one transaction: all of it or nothing
            assert_unavailable(answer)
        assert (await client.get("/healthz")).status_code == 200
        lift_limit(server)
        await accepted(client, large_event(refused))
        stored.append(refused)
        assert await numbers_in_log(server, client) == stored
        await server.kill()
        await server.start()
        async with server.http() as fresh:
            assert await numbers_in_log(server, fresh) == [*stored, -1]


async def test_a_server_whose_disk_is_full_still_delivers_and_still_stops(tmp_path: Path) -> None:
    async with served(tmp_path / "data") as server, server.http() as client:
        await server.subscribe(client, "reader", "*")
        stored: list[int] = []
        await accepted(client, large_event(0))
        stored.append(0)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))  # the audit's file too
        await post_until_refused(client, stored, 1)
        stream = await server.stream("reader", cursor="earliest")
        seqs: list[int] = []
        while len(seqs) < len(stored):
            seqs += [frame.seq for frame in await stream.frames() if frame.name == "event"]
        began = time.monotonic()
        try:
            # 120: the log is a file under the same limit, and Python says so when it could not write the last of it.
            assert await server.terminate() in (0, 120)
            print(f"stopped in {time.monotonic() - began:.1f} s")
            assert await stream.frames() == []
        finally:
            stream.close()


async def test_a_locked_database_refuses_with_503_and_is_recovered_from(tmp_path: Path) -> None:
    async with served(tmp_path / "data", CLARION_BUSY_TIMEOUT="0.2") as server, server.http() as client:
        await server.subscribe(client, "auditor", "*")
        await accepted(client, large_event(0))
        databases = [sqlite3.connect(path, isolation_level=None) for path in server.directory.glob("*.db")]
        assert databases
        for database in databases:
            database.execute("BEGIN IMMEDIATE")
        answers = await asyncio.gather(*(client.post("/v1/events", json=large_event(one)) for one in range(1, 6)))
        for answer in answers:
            assert_unavailable(answer)
        stream = await server.stream("auditor", cursor="earliest")  # reading goes on
        frames: list[Frame] = []
        while not any(frame.name == "event" for frame in frames):
            frames += await stream.frames()
        stream.close()
        for database in databases:
            database.execute("ROLLBACK")
            database.close()
        await accepted(client, large_event(6))
        assert await numbers_in_log(server, client) == [0, 6]


async def test_sigterm_ends_streams_promptly_and_writes_every_audit_row(tmp_path: Path) -> None:
    async with served(tmp_path / "data") as server:
        async with server.http() as client:
            subscription = await server.subscribe(client, "reader", "*")
            streams = [await server.stream("reader") for _ in range(20)]
            for number in range(150):
                await accepted(client, {"topic": "custom.thing", "payload": {"n": number}})
        began = time.monotonic()
        stopping = asyncio.create_task(server.terminate())
        received = 0
        for stream in streams:
            while frames := await stream.frames():
                received += sum(frame.name == "event" for frame in frames)
            assert stream.ended
            stream.close()
        assert await stopping == 0
        assert time.monotonic() - began < 8
        await server.start()
        async with server.http() as client:
            assert received == await delivered(client, subscription)
            rows = sqlite3.connect(f"file:{server.directory / 'audit.db'}?mode=ro", uri=True)
            (count,) = rows.execute("SELECT count(*) FROM mcp_push_deliveries").fetchone()
            rows.close()
            assert count == received


async def test_a_reader_that_stalls_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    async with served(tmp_path / "data") as server, server.http() as client:
        await server.subscribe(client, "sloth", "*")
        stream = await server.stream("sloth", receive_buffer=4_096)
        number = 0
        while (await server.metrics(client))['clarion_streams{phase="lagging"}'] == 0:
            number += 1
            await accepted(client, {"topic": "custom.fill", "payload": {"n": number, "fill": "x" * 200_000}})
        began = time.monotonic()
        assert await server.terminate() == 0
        assert time.monotonic() - began < 5
        stream.close()
