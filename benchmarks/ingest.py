"""Events in: NDJSON and single POSTs over HTTP into a FULL-durable log, beside raw SQLite and a bare HTTP answer."""

from __future__ import annotations

import contextlib
import tempfile
import time
from pathlib import Path

from benchmarks.generator import Generator, post
from benchmarks.report import Goal, Row
from benchmarks.serving import TENANT, Server, clarion, raw
from benchmarks.store_speed import insert_raw, timed
from clarion.encoding import digest, encode
from clarion.model import Draft
from clarion.stores.sqlite.connections import Database
from clarion.stores.sqlite.rows import EVENT_COLUMNS, event_row
from clarion.stores.sqlite.schema import migrations_of

__all__ = ["ingest", "posts"]

ROUNDS = 3
LINES = 1_000
REQUESTS = 40
CONNECTIONS = 4

SINGLES = 8_000
SINGLE_CONNECTIONS = 32

GROUP = 500
"""Rows of a raw transaction; what the server puts into one."""


def item(number: int) -> dict[str, object]:
    payload = {"account_id": f"acc_{number % 97}", "amount": 150_000, "stage": "won", "note": "n" * 120}
    aggregate = {"aggregate_type": "deal", "aggregate_id": f"d{number}"}
    return {"topic": "deal.won", "payload": payload, **aggregate, "actor_id": "u1"}


def ingest(generator: Generator) -> list[Row]:
    """NDJSON requests of 1,000 events on 4 connections."""
    rates, limits = [], []
    with clarion() as server:
        body = b"".join(encode(item(number)) + b"\n" for number in range(LINES))
        requests = [post(server, body, "application/x-ndjson")] * REQUESTS
        generator.throughput(server, requests[:4], posters=CONNECTIONS)
        for _ in range(generator.rounds(ROUNDS)):
            found = generator.throughput(server, requests, posters=CONNECTIONS)
            rates.append(LINES * REQUESTS / found["seconds"])
            limits.append(raw_rate(GROUP, LINES * REQUESTS))
    goals = (Goal(25_000, True), Goal(0.35, True, of_ratio=True))
    name = f"raw SQLite, FULL, {GROUP} rows a commit"
    note = f"{CONNECTIONS} connections, {LINES:,} events a request"
    return [Row.paired("NDJSON ingest, durable", "events/s", rates, limits, name, goals=goals, note=note)]


def posts(generator: Generator) -> list[Row]:
    """One event a request on 32 keep-alive connections."""
    rates, limits, bare = [], [], []
    with clarion() as server, raw() as peer:
        requests = singles(server)
        generator.throughput(server, requests[:1000], posters=SINGLE_CONNECTIONS)
        for _ in range(generator.rounds(ROUNDS)):
            rates.append(SINGLES / generator.throughput(server, requests, posters=SINGLE_CONNECTIONS)["seconds"])
            bare.append(SINGLES / generator.throughput(peer, singles(peer), posters=SINGLE_CONNECTIONS)["seconds"])
            limits.append(raw_rate(SINGLE_CONNECTIONS, SINGLES * 2))
    what = "single POSTs, durable"
    return [
        Row.paired(
            what, "events/s", rates, limits, f"raw SQLite, FULL, {SINGLE_CONNECTIONS} rows a commit",
            goals=(Goal(3_000, True),), note=f"{SINGLE_CONNECTIONS} connections",
        ),
        Row.paired(what, "events/s", rates, bare, "HTTP answered by a bare uvloop transport"),
    ]  # fmt: skip


def singles(server: Server) -> list[bytes]:
    return [post(server, encode(item(number))) for number in range(SINGLES)]


def raw_rate(group: int, total: int) -> float:
    """Rows a second that sqlite3 alone puts into the same table and indexes, `group` a transaction."""
    drafts = [draft(number) for number in range(total)]
    with tempfile.TemporaryDirectory() as directory:
        connection = Database(Path(directory) / "raw.db", migrations_of("log"), "FULL", 5.0).create()
        connection.execute("INSERT INTO tenants (id, name) VALUES (1, 'bench')")
        statement = f"INSERT INTO events VALUES ({','.join('?' * EVENT_COLUMNS)})"
        rows = [event_row(one, place, 1, place) for place, one in enumerate(drafts, 1)]
        with contextlib.closing(connection), timed() as taken:
            for first in range(0, total, group):
                insert_raw(connection, statement, rows[first : first + group])
        return total / taken()


def draft(number: int) -> Draft:
    one = item(number)
    at = time.time_ns() // 1000
    return Draft(
        TENANT, "api", f"01JB{number:022d}", "deal.won", "crm", encode(one["payload"]), digest(number), at, at, "agent",
        "deal", f"d{number}", "u1",
    )  # fmt: skip
