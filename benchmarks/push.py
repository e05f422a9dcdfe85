"""Events out at a steady rate: how soon a frame comes.

Every stream is a client of its own with one filtered subscription that every event matches. The raw peer writes frames
of the same size to as many sockets, driven by the same generator in the same minute.
"""

from __future__ import annotations

from typing import Any

from benchmarks.contenders import RAW_NAME
from benchmarks.generator import PLACEHOLDER, Generator, get, post
from benchmarks.report import Goal, Row, median
from benchmarks.serving import Server, clarion, raw
from clarion.encoding import encode

__all__ = ["latency"]

LATENCY_STREAMS = 100
LATENCY_RATE = 500
LATENCY_EVENTS = 2_500
LATENCY_WARMUP = 250

ROUNDS = 3


def body(number: int) -> bytes:
    payload = {"account_id": "acc_1", "amount": 150_000, "sent_ns": PLACEHOLDER, "note": "n" * 60}
    return encode({"topic": "deal.won", "payload": payload, "aggregate_id": f"d{number}"})


def streams_of(server: Server, count: int) -> list[bytes]:
    return [get(server, f"/mcp/push/sse?client_id=c{number}") for number in range(count)]


def latency(generator: Generator) -> list[Row]:
    """500 events a second, each to 100 streams; from the moment an event was due to each of its frames."""

    def once(server: Server) -> dict[str, Any]:
        requests = [post(server, body(number)) for number in range(LATENCY_EVENTS)]
        streams = streams_of(server, LATENCY_STREAMS)
        return generator.paced(server, streams, requests, rate=LATENCY_RATE, warmup=LATENCY_WARMUP)

    ours, theirs, busy = [], [], []
    with clarion(LATENCY_STREAMS) as server, raw() as peer:
        for _ in range(generator.rounds(ROUNDS)):
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
