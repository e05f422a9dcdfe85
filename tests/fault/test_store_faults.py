"""The SQLite store when processes are killed, disks are full, and databases are locked."""

import asyncio
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from clarion.errors import StoreUnavailable
from clarion.model import ConsentState
from clarion.stores.protocols import Appended, Backend, Retention
from clarion.stores.sqlite import open_sqlite
from clarion.testing.contracts.examples import at_most, consent, delivery, draft, drafts, key, subscription, topic

pytestmark = pytest.mark.fault

ROUNDS = int(os.environ.get("ROUNDS", "5"))

EMITTER = """
import asyncio, sys
from pathlib import Path
from clarion.stores.sqlite import open_sqlite
from clarion.testing.contracts.examples import draft

async def emit(backend, generation, writer):
    number = 0
    while True:
        size = 1 + (writer * number) % 5
        some = [draft(f"{generation}-{writer}-{number}-{place}") for place in range(size)]
        for one, answer in zip(some, await backend.log.append(some)):
            sys.stdout.write(f"{one.event_id} {answer.seq}\\n")
        sys.stdout.flush()
        number += 1

async def main():
    backend = await open_sqlite(Path(sys.argv[1]))
    await asyncio.gather(*(emit(backend, sys.argv[2], writer) for writer in range(8)))

asyncio.run(main())
"""


@asynccontextmanager
async def opened(directory: Path, **options: Any) -> AsyncIterator[Backend]:
    backend = await open_sqlite(directory, **options)
    try:
        yield backend
    finally:
        await backend.aclose()


def emit_until_killed(directory: Path, generation: int, seconds: float) -> dict[str, int]:
    """What a process acknowledged before it was killed: seq by event id."""
    command = [sys.executable, "-c", EMITTER, str(directory), str(generation)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
        lines = (first + child.stdout.read()).splitlines(keepends=True)
    # The last line may have been cut off by the kill.
    return {name: int(seq) for name, seq in (line.split() for line in lines if line.endswith("\n"))}


async def test_every_acknowledged_event_survives_a_kill_once_and_in_its_place(tmp_path: Path) -> None:
    acknowledged: dict[str, int] = {}
    chance = random.Random(7)
    for generation in range(ROUNDS):
        acknowledged |= await asyncio.to_thread(emit_until_killed, tmp_path, generation, chance.uniform(0.0, 0.3))
    assert len(acknowledged) >= ROUNDS
    async with opened(tmp_path) as backend:
        head = (await backend.log.bounds("acme")).head
        placed: dict[str, int] = {}
        seqs: list[int] = []
        while len(seqs) < head:
            page = await backend.log.read("acme", seqs[-1] if seqs else 0, limit=1000)
            seqs.extend(event.seq for event in page.events)
            placed |= {event.event_id: event.seq for event in page.events}
        assert seqs == list(range(1, head + 1))
        assert len(placed) == head
        assert {name: placed.get(name) for name in acknowledged} == acknowledged


@contextmanager
def locked(path: Path) -> Iterator[None]:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


async def test_a_locked_database_refuses_within_the_timeout_and_recovers(tmp_path: Path) -> None:
    async with opened(tmp_path, busy_timeout=0.2) as backend:
        await backend.log.append(drafts(2))
        with locked(tmp_path / "clarion.db"):
            begun = time.monotonic()
            with pytest.raises(StoreUnavailable, match="locked"):
                await backend.log.append(drafts(2, first=3))
            assert 0.1 < time.monotonic() - begun < 2
            with pytest.raises(StoreUnavailable):
                await backend.subscriptions.put(subscription("s1"), limits=at_most(9))
            assert [event.seq for event in (await backend.log.read("acme", 0, limit=9)).events] == [1, 2]
        answers = await backend.log.append(drafts(3, first=2))
        assert [(one.seq, one.duplicate) for one in answers if isinstance(one, Appended)] == [
            (2, True),
            (3, False),
            (4, False),
        ]
        assert [one.event.seq for one in await backend.log.tail(0, limit=9)] == [1, 2, 3, 4]
        assert await backend.subscriptions.count("acme") == (0, 0)


async def test_a_locked_audit_keeps_its_records_and_writes_them_later(tmp_path: Path) -> None:
    async with opened(tmp_path, busy_timeout=0.05) as backend:
        with locked(tmp_path / "audit.db"):
            backend.audit.record([delivery(seq, "s1") for seq in range(1, 11)])
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(backend.audit.flush(), 0.3)
            backend.audit.record([delivery(11, "s1")])
            assert (await backend.audit.totals("acme")).delivered == 11
            assert await backend.audit.rows("acme", limit=99) == []
            await backend.log.append(drafts(1))
        await asyncio.wait_for(backend.audit.flush(), 10)
        assert len(await backend.audit.rows("acme", limit=99)) == 11
        assert (await backend.audit.totals("acme")).delivered == 11


async def test_a_stuck_audit_has_no_room_until_it_moves_again(tmp_path: Path) -> None:
    async with opened(tmp_path, busy_timeout=0.05) as backend:
        many = tuple(f"s{number}" for number in range(10_000))
        with locked(tmp_path / "audit.db"):
            for seq in range(1, 11):
                await asyncio.wait_for(backend.audit.room(), 5)
                backend.audit.record([delivery(seq, *many)])
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(backend.audit.room(), 0.2)
        await asyncio.wait_for(backend.audit.room(), 10)
        await asyncio.wait_for(backend.audit.flush(), 10)
        assert (await backend.audit.totals("acme")).delivered == 100_000


async def test_an_audit_that_stays_stuck_does_not_hold_up_the_close(tmp_path: Path) -> None:
    with locked_after_open(tmp_path) as lock:
        backend = await open_sqlite(tmp_path, busy_timeout=0.05)
        lock()
        backend.audit.record([delivery(1, "s1")])
        await asyncio.wait_for(backend.aclose(), 10)
    async with opened(tmp_path) as again:
        assert (await again.audit.totals("acme")).delivered == 0


@contextmanager
def locked_after_open(directory: Path) -> Iterator[Any]:
    held: list[sqlite3.Connection] = []

    def lock() -> None:
        held.append(sqlite3.connect(directory / "audit.db", isolation_level=None))
        held[0].execute("BEGIN EXCLUSIVE")

    yield lock
    for connection in held:
        connection.execute("ROLLBACK")
        connection.close()


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file of this process grows beyond `room` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def largest(directory: Path) -> int:
    return max(path.stat().st_size for path in directory.iterdir())


async def test_a_full_disk_refuses_stores_nothing_by_halves_and_recovers(tmp_path: Path) -> None:
    big = {"text": "x" * 20_000}
    async with opened(tmp_path) as backend:
        await backend.log.append(drafts(3))
        acknowledged = {f"e{number}": number for number in range(1, 4)}
        size = largest(tmp_path)
        refused: list[str] = []
        with full_disk(size + 100_000):
            for number in range(20):
                some = [draft(f"big{number}-{place}", payload=big) for place in range(3)]
                try:
                    answers = await backend.log.append(some)
                except StoreUnavailable:
                    refused.extend(one.event_id for one in some)
                else:
                    acknowledged |= {one.event_id: answer.seq for one, answer in zip(some, answers, strict=True)}
            assert refused
            head = (await backend.log.bounds("acme")).head
            assert head == len(acknowledged)
        again = [draft(name, payload=big) for name in refused]
        for one, answer in zip(again, await backend.log.append(again), strict=True):
            assert isinstance(answer, Appended)
            assert not answer.duplicate
            acknowledged[one.event_id] = answer.seq
    async with opened(tmp_path) as backend:
        events = (await backend.log.read("acme", 0, limit=1000)).events
        assert {event.event_id: event.seq for event in events} == acknowledged
        assert [event.seq for event in events] == list(range(1, len(acknowledged) + 1))
    with closing(sqlite3.connect(tmp_path / "clarion.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_a_closed_store_refuses_clearly(tmp_path: Path) -> None:
    backend = await open_sqlite(tmp_path)
    await backend.log.append(drafts(1))
    await backend.aclose()
    await backend.aclose()
    for call in (
        lambda: backend.log.append(drafts(1)),
        lambda: backend.log.bounds("nobody"),
        lambda: backend.log.renew_epoch(),
        lambda: backend.log.trim(Retention(max_bytes=0)),
        lambda: backend.subscriptions.put(subscription("s1"), limits=at_most(1)),
        lambda: backend.subscriptions.get("acme", "alice", "s1"),
        lambda: backend.keys.add(key("k1")),
        lambda: backend.consents.append(consent("p1", ConsentState.GRANTED)),
        lambda: backend.consents.states("acme", ["p1"]),
        lambda: backend.topics.put("acme", topic("a"), limit=1),
        lambda: backend.audit.totals("acme"),
    ):
        with pytest.raises(StoreUnavailable, match="closed"):
            await call()


async def test_one_callers_bad_draft_is_not_anothers(tmp_path: Path) -> None:
    async with opened(tmp_path) as backend:
        calls = [
            backend.log.append([draft(f"e{number}", actor_id="\ud800" if number == 3 else None)]) for number in range(8)
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(answer, UnicodeEncodeError) for answer in answers] == [number == 3 for number in range(8)]
        assert [event.seq for event in (await backend.log.read("acme", 0, limit=99)).events] == list(range(1, 8))


async def test_retention_by_size_shrinks_the_file(tmp_path: Path) -> None:
    path = tmp_path / "clarion.db"
    async with opened(tmp_path) as backend:
        for first in range(1, 4001, 500):
            await backend.log.append([draft(f"e{n}", payload={"t": "x" * 1000}) for n in range(first, first + 500)])
        await backend.log.trim(Retention(max_bytes=1_500_000))
        bounds = await backend.log.bounds("acme")
        assert 0 < bounds.floor < bounds.head == 4000
        assert path.stat().st_size <= 1_800_000  # indexes, and pages that are partly full
        left = (await backend.log.read("acme", 0, limit=5000)).events
        assert [event.seq for event in left] == list(range(bounds.floor + 1, 4001))
        assert path.stat().st_size >= 1_000_000
