"""What one event costs a server with 5,000 streams and 100,000 subscriptions, beside one with 1,000 of each.

Every event matches 100 subscriptions, each of another stream, in both: so what differs is how many do not match. It
goes the whole way, from the request to the frames that were read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.generator import PLACEHOLDER, Generator, get, post
from benchmarks.report import Goal, Row
from benchmarks.serving import Server, clarion, subscription
from clarion.encoding import encode
from clarion.model import Subscription

__all__ = ["scale"]

MATCHING = 100
EVENTS = 600
WARMUP = 100
ROUNDS = 3

TOPICS = ("deal.*", "deal.won")


@dataclass(frozen=True, slots=True)
class Size:
    """Streams of a server, and how many subscriptions each of them has."""

    streams: int
    each: int

    @property
    def accounts(self) -> int:
        """Accounts that subscriptions ask for: so many that each is asked for by `MATCHING` of them."""
        return self.streams * self.each // MATCHING

    def subscriptions(self) -> list[Subscription]:
        return [
            subscription(
                number,
                number // self.each,
                TOPICS[number % len(TOPICS)],
                {"account_id": f"acc_{number % self.accounts}"},
            )
            for number in range(self.streams * self.each)
        ]

    def requests(self, server: Server) -> list[bytes]:
        accounts = (number * 7919 % self.accounts for number in range(WARMUP + EVENTS))
        return [post(server, _event(account)) for account in accounts]


FEW, MANY = Size(1_000, 1), Size(5_000, 20)


def _event(account: int) -> bytes:
    payload = {"account_id": f"acc_{account}", "amount": 150_000, "sent_ns": PLACEHOLDER}
    return encode({"topic": "deal.won", "payload": payload})


def scale(generator: Generator) -> list[Row]:
    """Processor time of the server, and time until the last of 100 frames was read, of one event at a time."""
    runs: tuple[list[dict[str, float]], ...] = ([], [])
    with clarion(subscriptions=FEW.subscriptions()) as few, clarion(subscriptions=MANY.subscriptions()) as many:
        for _ in range(generator.rounds(ROUNDS)):
            for found, size, server in zip(runs, (FEW, MANY), (few, many), strict=True):
                streams = [get(server, f"/mcp/push/sse?client_id=c{number}") for number in range(size.streams)]
                run = generator.pingpong(
                    server, streams, size.requests(server), frames=1, readers=MATCHING, warmup=WARMUP
                )
                if run["frames"] != EVENTS * MATCHING:
                    raise RuntimeError(f"an event does not match {MATCHING} subscriptions: {run}")
                wall = run["seconds"] / EVENTS * 1e6
                found.append({"processor time": run["server_s"] / EVENTS * 1e6, "wall time": wall})
    what = f"an event that matches {MATCHING} of {MANY.streams * MANY.each:,} subscriptions on {MANY.streams:,} streams"
    beside = f"of {FEW.streams * FEW.each:,} on {FEW.streams:,}"
    goals = (Goal(1.5, False, of_ratio=True),)
    return [
        Row.paired(f"{what}, {time}", "µs", _of(runs[1], time), _of(runs[0], time), beside, goals=goals)
        for time in ("processor time", "wall time")
    ]


def _of(runs: Sequence[dict[str, float]], name: str) -> list[float]:
    return [run[name] for run in runs]
