"""Events out: what an open stream costs, how soon its frame comes, and how many frames leave a second.

Every stream is a client of its own with one filtered subscription that every event matches. The raw peer writes frames
of the same size to as many sockets, driven by the same generator in the same minute.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from benchmarks.generator import PLACEHOLDER, Generator, get, post
from benchmarks.report import Goal, Row, median
from benchmarks.serving import Server, clarion, raw
from clarion.encoding import encode

__all__ = ["fanout", "latency", "memory"]

IDLE = 2_000
IDLE_SECONDS = 2.0

LATENCY_STREAMS = 100
LATENCY_RATE = 500
LATENCY_EVENTS = 2_500
LATENCY_WARMUP = 250

STREAMS = 1_000
SINGLE_EVENTS = 220
BURST = 200
BURSTS = 6
WARMUP = 20
ROUNDS = 3

BURST_GOAL = 384_000
"""Three times what nchan sends (128,000 frames a second in the median), until nchan is measured in the same run."""

RAW_NAME = "raw uvloop transport.write"


def body(number: int) -> bytes:
    payload = {"account_id": "acc_1", "amount": 150_000, "sent_ns": PLACEHOLDER, "note": "n" * 60}
    return encode({"topic": "deal.won", "payload": payload, "aggregate_id": f"d{number}"})


def streams_of(server: Server, count: int) -> list[bytes]:
    return [get(server, f"/mcp/push/sse?client_id=c{number}") for number in range(count)]


def memory(generator: Generator) -> list[Row]:
    """Resident memory that idle streams add to a server that has served a few before."""
    with clarion(IDLE) as server:
        with generator.held(server, streams_of(server, 100)):
            pass
        time.sleep(IDLE_SECONDS)
        before = server.resident()
        with generator.held(server, streams_of(server, IDLE)):
            time.sleep(IDLE_SECONDS)
            grown = server.resident() - before
    goals = (Goal(40, False), Goal(24, False, later=True))
    return [Row(f"memory of an idle stream, of {IDLE:,}", "KiB", grown / IDLE / 1024, goals)]


def latency(generator: Generator) -> list[Row]:
    """500 events a second, each to 100 streams; from the moment an event was due to each of its frames."""

    def once(server: Server) -> dict[str, Any]:
        requests = [post(server, body(number)) for number in range(LATENCY_EVENTS)]
        streams = streams_of(server, LATENCY_STREAMS)
        return generator.paced(server, streams, requests, rate=LATENCY_RATE, warmup=LATENCY_WARMUP)

    ours, theirs, busy = [], [], []
    with clarion(LATENCY_STREAMS) as server, raw() as peer:
        for _ in range(ROUNDS):
            before = server.cpu_seconds()
            ours.append(once(server)["frame_us"])
            busy.append((server.cpu_seconds() - before) * LATENCY_RATE / LATENCY_EVENTS)
            theirs.append(once(peer)["frame_us"])
    what = f"emit to frame, {LATENCY_RATE} events/s to {LATENCY_STREAMS} streams"
    return [
        Row.paired(
            f"{what}, {name}", "ms", [one[name] / 1000 for one in ours], [one[name] / 1000 for one in theirs], RAW_NAME,
            goals=goals, note=note,
        )
        for name, goals, note in (
            ("p50", (), f"server busy {median(busy):.0%} of a core"), ("p99", (Goal(20, False),), ""),
        )
    ]  # fmt: skip


def fanout(generator: Generator) -> list[Row]:
    """One event at a time, and bursts, to 1,000 streams; the next when every stream has read the one before."""
    with clarion(STREAMS) as server, raw() as peer:
        single = _fan(generator, server, peer, 1, SINGLE_EVENTS)
        burst = _fan(generator, server, peer, BURST, BURSTS)
    rows = []
    for (ours, theirs), what, goal in (
        (single, "one event at a time", Goal(0.75, True, of_ratio=True, later=True)),
        (burst, f"bursts of {BURST} events", Goal(BURST_GOAL, True, later=True)),
    ):
        rows.append(
            Row.paired(
                f"{what} to {STREAMS:,} streams", "frames/s", _rates(ours), _rates(theirs), RAW_NAME,
                goals=(goal,), note=f"{_size(ours):.0f} bytes a frame",
            )
        )  # fmt: skip
    ours, theirs = single
    tail = [[one["round_us"]["p99"] / 1000 for one in runs] for runs in (ours, theirs)]
    goals = (Goal(2.0, False, of_ratio=True, later=True),)
    rows.append(Row.paired(f"emit to last of {STREAMS:,} frames, p99", "ms", tail[0], tail[1], RAW_NAME, goals=goals))
    return rows


def _fan(
    generator: Generator, server: Server, peer: Server, events: int, count: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    def once(one: Server) -> dict[str, Any]:
        lines = b"\n".join(body(number) for number in range(events))
        kind = "application/json" if events == 1 else "application/x-ndjson"
        requests = [post(one, lines, kind)] * count
        warmup = min(WARMUP, count // 3)
        return generator.pingpong(one, streams_of(one, STREAMS), requests, frames=events, warmup=warmup)

    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(once(server))
        theirs.append(once(peer))
    return ours, theirs


def _rates(runs: Sequence[dict[str, Any]]) -> list[float]:
    return [float(run["frames"] / run["seconds"]) for run in runs]


def _size(runs: Sequence[dict[str, Any]]) -> float:
    return median([float(run["bytes"] / run["frames"]) for run in runs])
