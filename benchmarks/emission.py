"""Processor time of `await events.emit(...)` on SQLite when nobody listens, all threads of the process together.

    python benchmarks/emission.py DIRECTORY CALLERS

measures one round in this process and prints microseconds an emit, and microseconds that sqlite3 alone needs to put a
row into the same table with the same durability, as many rows a commit as there are callers.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from benchmarks.generator import Generator
from benchmarks.ingest import draft
from benchmarks.report import Goal, Row
from benchmarks.store_speed import insert_raw
from clarion.events import Events
from clarion.stores.sqlite.connections import Database
from clarion.stores.sqlite.rows import EVENT_COLUMNS, event_row
from clarion.stores.sqlite.schema import migrations_of

__all__ = ["emission"]

ROUNDS = 4
CALLERS = (1, 32)
EMITS = {1: 2_000, 32: 6_400}
WARMUP = 640

NAME = "deal.won"
DATA = {"account_id": "acc_1", "amount": 150_000, "stage": "won", "note": "n" * 120}
LIMIT = "raw SQLite, FULL, {} a commit"


def emission(generator: Generator) -> list[Row]:
    """In the library, with one caller who waits for each answer, and with 32 who share commits."""
    rows = []
    for callers in CALLERS:
        rounds = [_round(callers) for _ in range(generator.rounds(ROUNDS))]
        ours, limits = zip(*rounds, strict=True)
        who = "one after another" if callers == 1 else f"{callers} at once"
        rows.append(
            Row.paired(
                "emit without a subscriber, processor time", "µs", ours, limits, LIMIT.format(callers),
                goals=(Goal(150, False),), who=who,
            )
        )  # fmt: skip
    return rows


def _round(callers: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, "-m", "benchmarks.emission", directory, str(callers)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr)
        ours, limit = done.stdout.split()
        return float(ours), float(limit)


async def _emits(directory: Path, callers: int) -> float:
    """Microseconds of processor time an emit."""

    async def some(count: int) -> None:
        for _ in range(count):
            await events.emit(NAME, DATA)

    async def all_of(count: int) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(callers):
                tasks.create_task(some(count // callers))

    events = Events(directory / "events.db")
    events.event(NAME, "A deal was won.")
    async with events:
        await all_of(WARMUP)
        gc.collect()
        began = time.process_time()
        await all_of(EMITS[callers])
        return (time.process_time() - began) / EMITS[callers] * 1e6


def _raw(directory: Path, group: int) -> float:
    """The same of a row, with rows made beforehand."""
    total = EMITS[group]
    connection = Database(directory / "raw.db", migrations_of("log"), "FULL", 5.0).create()
    connection.execute("INSERT INTO tenants (id, name) VALUES (1, 'bench')")
    statement = f"INSERT INTO events VALUES ({','.join('?' * EVENT_COLUMNS)})"
    rows = [event_row(draft(number), number, 1, number) for number in range(1, total + 1)]
    with contextlib.closing(connection):
        began = time.process_time()
        for first in range(0, total, group):
            insert_raw(connection, statement, rows[first : first + group])
        return (time.process_time() - began) / total * 1e6


def main() -> None:
    directory, callers = Path(sys.argv[1]), int(sys.argv[2])
    print(uvloop.run(_emits(directory, callers)), _raw(directory, callers))


if __name__ == "__main__":
    main()
