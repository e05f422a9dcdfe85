"""Rows a second through `EventLog.append` on SQLite, beside what sqlite3 itself takes on this machine.

    .venv/bin/python benchmarks/store_speed.py

"alone": one caller, who waits for each answer. "32 callers": they share commits. "raw": the same rows by `executemany`
into the same table in one transaction a group, nothing else done. Medians of the rounds; all of it in under 30 s.

The second table is one caller beside an event loop that never rests and holds the interpreter's lock for about 0.2 ms
at a time. A thread that wants the lock asks for it after the switch interval, and starves while the loop lets go of it
more often than that: so a server sets the interval below the time of its callbacks.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from clarion.model import Draft
from clarion.stores.protocols import Backend
from clarion.stores.sqlite import Synchronous, open_sqlite
from clarion.stores.sqlite.connections import Database
from clarion.stores.sqlite.rows import EVENT_COLUMNS, event_row
from clarion.stores.sqlite.schema import migrations_of
from clarion.testing.contracts.examples import draft

ROUNDS = 3
PAYLOAD = {"account_id": "acme", "amount": 150_000, "stage": "won", "note": "n" * 120}
GROUPS = {1: 300, 100: 5_000, 500: 15_000}
"""Drafts in a call, and events in a round."""
BUSY_SECONDS = 1.0
INTERVALS = (0.005, 0.0001)


def main() -> None:
    print(f"{'synchronous':<12}{'group':>6}{'raw':>11}{'alone':>11}{'ratio':>7}{'32 callers':>12}   rows/s")
    for synchronous in ("FULL", "NORMAL"):
        for group, total in GROUPS.items():
            raw, alone, shared = (
                statistics.median(once(synchronous, group, total) for _ in range(ROUNDS))
                for once in (raw_rate, alone_rate, shared_rate)
            )
            print(f"{synchronous:<12}{group:>6}{raw:>11,.0f}{alone:>11,.0f}{alone / raw:>7.2f}{shared:>12,.0f}")
    print(f"\n{'busy loop':<12}{'group':>6}" + "".join(f"{f'{one * 1e3:g} ms':>11}" for one in INTERVALS) + "   rows/s")
    usual = sys.getswitchinterval()
    for group in (1, 500):
        rates = []
        for interval in INTERVALS:
            sys.setswitchinterval(interval)
            rates.append(busy_rate("FULL", group))
        print(f"{'FULL':<12}{group:>6}" + "".join(f"{rate:>11,.0f}" for rate in rates))
    sys.setswitchinterval(usual)


def drafts_of(group: int, total: int) -> list[list[Draft]]:
    every = [
        draft(f"01JB{number:022d}", payload=PAYLOAD, aggregate_type="deal", actor_id="u1") for number in range(total)
    ]
    return [every[start : start + group] for start in range(0, total, group)]


def raw_rate(synchronous: Synchronous, group: int, total: int) -> float:
    with tempfile.TemporaryDirectory() as directory:
        connection = Database(Path(directory) / "raw.db", migrations_of("log"), synchronous, 5.0).create()
        connection.execute("INSERT INTO tenants (id, name) VALUES (1, 'acme')")
        statement = f"INSERT INTO events VALUES ({','.join('?' * EVENT_COLUMNS)})"
        rows = [
            [event_row(one, call * group + place + 1, 1, call * group + place + 1) for place, one in enumerate(drafts)]
            for call, drafts in enumerate(drafts_of(group, total))
        ]
        with contextlib.closing(connection), timed() as taken:
            for some in rows:
                insert_raw(connection, statement, some)
        return total / taken()


def insert_raw(connection: sqlite3.Connection, statement: str, rows: list[tuple[object, ...]]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(statement, rows)
    connection.execute("COMMIT")


def alone_rate(synchronous: Synchronous, group: int, total: int) -> float:
    async def run(backend: Backend) -> None:
        for drafts in calls:
            await backend.log.append(drafts)

    calls = drafts_of(group, total)
    return total / asyncio.run(time_of(run, synchronous))


def shared_rate(synchronous: Synchronous, group: int, total: int) -> float:
    async def run(backend: Backend) -> None:
        async with asyncio.TaskGroup() as callers:
            for first in range(32):
                callers.create_task(call_all(backend, calls[first::32]))

    total = max(total, 32 * 100)
    calls = drafts_of(group, total)
    return total / asyncio.run(time_of(run, synchronous))


def busy_rate(synchronous: Synchronous, group: int) -> float:
    done = 0

    async def spin() -> None:
        while True:
            sum(range(16_000))
            await asyncio.sleep(0)

    async def run(backend: Backend) -> None:
        nonlocal done
        spinning = asyncio.create_task(spin())
        until = time.perf_counter() + BUSY_SECONDS
        for drafts in calls:
            await backend.log.append(drafts)
            done += len(drafts)
            if time.perf_counter() > until:
                break
        spinning.cancel()

    calls = drafts_of(group, group * 200)
    taken = asyncio.run(time_of(run, synchronous))
    return done / taken


async def call_all(backend: Backend, calls: list[list[Draft]]) -> None:
    for drafts in calls:
        await backend.log.append(drafts)


async def time_of(run: Callable[[Backend], Awaitable[None]], synchronous: Synchronous) -> float:
    with tempfile.TemporaryDirectory() as directory:
        backend = await open_sqlite(Path(directory), synchronous=synchronous)
        try:
            with timed() as taken:
                await run(backend)
            return taken()
        finally:
            await backend.aclose()


@contextlib.contextmanager
def timed() -> Iterator[Callable[[], float]]:
    begun = time.perf_counter()
    ended = begun
    yield lambda: ended - begun
    ended = time.perf_counter()


if __name__ == "__main__":
    main()
