"""What open streams cost when nothing happens: memory, and the processor time of heartbeats."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.contenders import LIBRARY, SDK, SERVE, SIDE
from benchmarks.events import call
from benchmarks.generator import Generator, get
from benchmarks.report import Goal, Row
from benchmarks.serving import Server, clarion, file_limit, mcp
from clarion.hub.hub import HEARTBEAT_SECONDS

__all__ = ["idle", "memory"]

STREAMS = 2_000
WARM_STREAMS = 100
SETTLE_SECONDS = 2.0

MANY = 10_000
SPARE_FILES = 200
"""Files that a server and a generator open beside streams."""
BEATS = 2.2
"""Heartbeat periods that are watched: two at least of every stream."""

Stream = Callable[[Server, int], bytes]


def _side(server: Server, number: int) -> bytes:
    return get(server, f"/mcp/push/sse?client_id=c{number}")


def _events(server: Server, number: int) -> bytes:
    return call(server, "events/stream", number)


def memory(generator: Generator) -> list[Row]:
    """Resident memory that idle streams add to a server that has served a few before."""
    with mcp("sdk") as peer:
        theirs = _grown(generator, peer, _events)
    what, goals = f"memory of an idle stream, of {STREAMS:,}", (Goal(24, False),)
    rows = []
    for who, started, stream in (
        (SIDE, clarion(STREAMS), _side),
        (SERVE, clarion(), _events),
        (LIBRARY, mcp("layered", sqlite=True), _events),
    ):
        with started as server:
            mine = _grown(generator, server, stream)
        rows.append(Row.paired(what, "KiB", [mine], [theirs], SDK, goals=goals, who=who))
    return rows


def _grown(generator: Generator, server: Server, stream: Stream) -> float:
    """KiB a stream."""
    with generator.held(server, [stream(server, number) for number in range(WARM_STREAMS)]):
        pass
    time.sleep(SETTLE_SECONDS)
    before = server.resident()
    with generator.held(server, [stream(server, number) for number in range(STREAMS)]):
        time.sleep(SETTLE_SECONDS)
        return (server.resident() - before) / STREAMS / 1024


def idle(generator: Generator) -> list[Row]:
    """10,000 streams that nothing happens on but heartbeats; fewer where the limit of open files is lower."""
    count = min(MANY, file_limit() - SPARE_FILES)
    note = "" if count == MANY else f"only {count:,}: the limit of open files is {file_limit():,}"
    rows = []
    with clarion(count) as side, clarion() as serve:
        for who, server, stream in ((SIDE, side, _side), (SERVE, serve, _events)):
            resident, began = server.resident(), time.monotonic()
            with generator.held(server, [stream(server, number) for number in range(count)]):
                opening = time.monotonic() - began
                time.sleep(SETTLE_SECONDS)
                used, began = server.cpu_seconds(), time.monotonic()
                time.sleep(BEATS * HEARTBEAT_SECONDS)
                share = (server.cpu_seconds() - used) / (time.monotonic() - began) * 100
                grown = (server.resident() - resident) / count / 1024
            rows += [
                Row.alone(f"{MANY:,} idle streams, of a core", "%", [share], (Goal(10, False),), note=note, who=who),
                Row.alone(f"{MANY:,} idle streams, memory of each", "KiB", [grown], (Goal(24, False),), who=who),
                Row.alone(f"{MANY:,} idle streams, opening them", "s", [opening], note=note, who=who),
            ]
    return rows
