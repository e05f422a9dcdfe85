"""What a frame costs the hub by itself: matched, admitted, framed, handed over and noted, with no socket behind it.

Each stream has a transport that takes what it is given and forgets it. Processor time of the dispatcher's thread, and
of all threads together: the difference is the audit's writer.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from typing import Any

from benchmarks.generator import Generator
from benchmarks.report import Row, median
from clarion.composition import open_backend
from clarion.encoding import encode
from clarion.hub.hub import Hub
from clarion.hub.protocols import Line, Viewer
from clarion.model import Draft, Latest, Principal, Subscription
from clarion.wires.pact import PactFraming

__all__ = ["dispatch"]

STREAMS = 1_000
SINGLES = 300
BURST, BURSTS = 200, 8
WARMUP = 20
ROUNDS = 3

PAYLOAD = encode({"account_id": "acc_1", "amount": 150_000, "note": "n" * 90})


class Nowhere:
    """A line to nowhere."""

    kind = "nowhere"
    paused = write_paused = False

    def __init__(self) -> None:
        self.flow = self.transport = self
        self.line: Line = self

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        """Take it, and forget it."""

    def around(self, size: int) -> tuple[bytes, bytes]:
        return b"%x\r\n" % size, b"\r\n"

    async def writable(self) -> None:
        """It always is."""


def dispatch(generator: Generator) -> list[Row]:
    """One event at a time, and bursts, to 1,000 streams, with the events and the audit in SQLite."""
    rounds = [_round() for _ in range(generator.rounds(ROUNDS))]
    names = [
        f"a frame without its socket, {what} to {STREAMS:,} streams, {whose}"
        for what in ("one event at a time", f"bursts of {BURST}")
        for whose in ("dispatcher's thread", "all threads")
    ]
    return [
        Row(name, "µs", median([one[place] for one in rounds]), rounds=tuple(one[place] for one in rounds))
        for place, name in enumerate(names)
    ]


def _round() -> list[float]:
    command = [sys.executable, "-m", "benchmarks.dispatch_cost"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return [float(one) for one in done.stdout.split()]


async def _streams(hub: Hub, stack: AsyncExitStack) -> None:
    framing, viewer_of = PactFraming(), Principal("bench", "agent")
    for number in range(STREAMS):
        client = f"c{number}"
        identity = f"00000000-0000-4000-8000-{number:012d}"
        filter: dict[str, Any] = {"amount_gte": 1000}
        own = Subscription(identity, "bench", "agent", client, ("deal.*",), filter, None, None, 0, 0)
        stream = await stack.enter_async_context(
            hub.connect(Viewer(viewer_of, client, "key"), framing, Nowhere(), own=[own])
        )
        running = asyncio.create_task(stream.run(Latest()))
        stack.push_async_callback(asyncio.wait, [running])
        stack.callback(running.cancel)
    await asyncio.sleep(0.5)  # all of them go live


async def _cost(hub: Hub, events: int, times: int, prefix: str) -> tuple[float, float]:
    """Microseconds a frame: of the dispatcher, and of the process."""
    dispatcher, spent = hub._dispatcher, 0.0
    inner = dispatcher._dispatch

    def timed(batch: Any) -> None:
        nonlocal spent
        began = time.thread_time()
        inner(batch)
        spent += time.thread_time() - began

    dispatcher._dispatch = timed  # type: ignore[method-assign]
    began = time.process_time()
    for number in range(times):
        now = time.time_ns() // 1000
        drafts = [
            Draft("bench", "api", f"{prefix}-{number}-{each}", "deal.won", "crm", PAYLOAD, bytes(32), now, now, "agent")
            for each in range(events)
        ]
        until = hub.totals.delivered + events * STREAMS
        await hub.append(drafts)
        while hub.totals.delivered < until:  # noqa: ASYNC110  # nothing else runs, and nothing is woken by a total
            await asyncio.sleep(0)
    whole = time.process_time() - began
    dispatcher._dispatch = inner  # type: ignore[method-assign]
    frames = times * events * STREAMS
    return spent / frames * 1e6, whole / frames * 1e6


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with open_backend(f"sqlite:{directory}") as backend:
            hub = Hub(backend)
            async with hub.running(), AsyncExitStack() as stack:
                await _streams(hub, stack)
                gc.collect()
                gc.freeze()
                gc.set_threshold(50_000, 20, 20)
                await _cost(hub, 1, WARMUP, "warm")
                single = await _cost(hub, 1, SINGLES, "single")
                burst = await _cost(hub, BURST, BURSTS, "burst")
                print(*single, *burst)


if __name__ == "__main__":
    asyncio.run(main())
