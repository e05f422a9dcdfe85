"""Everything that sends events to open SSE streams: Clarion's ways, and the peers that they are measured beside.

Each is driven by the same generator: streams are opened, then one event at a time is sent, or a burst of them, each
when every stream has read what came before. Frames have about 450 bytes in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from benchmarks import nchan
from benchmarks.events import call, emission, listen
from benchmarks.generator import PLACEHOLDER, STAMPED, Generator, get, post
from benchmarks.serving import Server, clarion, mcp, raw
from clarion.encoding import encode

__all__ = [
    "CONTENDERS", "LIBRARY", "LISTEN", "NCHAN", "OURS", "RAW_NAME", "SDK", "SERVE", "SIDE", "STREAMS", "Contender",
]  # fmt: skip

STREAMS = 1_000

SIDE = "side channel"
SERVE = "events/stream"
LIBRARY = "events/stream, library"
NCHAN = "nchan"
RAW_NAME = "raw uvloop"
SDK = "SDK send_notification"
LISTEN = "SDK subscriptions/listen"

OURS = (SIDE, SERVE, LIBRARY)


@dataclass(frozen=True, slots=True)
class Contender:
    """How to start a server, open its streams, and have it send `n` events at once."""

    name: str
    start: Callable[[], AbstractContextManager[Server]]
    stream: Callable[[Server, int], bytes]
    request: Callable[[Server, int], bytes]
    singles: int
    bursts: tuple[int, int]
    """Events of a round one at a time; bursts of a round, and events in a burst."""
    pipelined: bool = False
    """Takes one event a request, so that a burst is many of them, sent at once on one connection."""
    marker: str = STAMPED

    def streams(self, server: Server) -> list[bytes]:
        return [self.stream(server, number) for number in range(STREAMS)]

    def one_at_a_time(self, generator: Generator, server: Server) -> dict[str, Any]:
        warmup = max(4, self.singles // 8)
        requests = [self.request(server, 1)] * (warmup + self.singles)
        streams = self.streams(server)
        return generator.pingpong(server, streams, requests, frames=1, warmup=warmup, marker=self.marker)

    def in_bursts(self, generator: Generator, server: Server) -> dict[str, Any]:
        rounds, events = self.bursts
        requests = [self.request(server, events)] * (1 + rounds)
        return generator.pingpong(
            server, self.streams(server), requests, frames=events, warmup=1, marker=self.marker,
            answers=events if self.pipelined else 1,
        )  # fmt: skip


def _posted(server: Server, count: int, note: int = 0) -> bytes:
    """`count` events as `POST /v1/events` takes them."""
    payload = {"account_id": "acc_1", "amount": 150_000, "sent_ns": PLACEHOLDER, "note": "n" * note}
    kind = "application/json" if count == 1 else "application/x-ndjson"
    return post(server, b"\n".join([encode({"topic": "deal.won", "payload": payload})] * count), kind)


def _posted_longer(server: Server, count: int) -> bytes:
    """The same with more to fill a frame of the Events wire, which says less around the payload."""
    return _posted(server, count, 72)


def _side_stream(server: Server, number: int) -> bytes:
    return get(server, f"/mcp/push/sse?client_id=c{number}")


def _filtered(server: Server, number: int) -> bytes:
    return call(server, "events/stream", number, arguments={"amount_gte": 1000})


def _plain(server: Server, number: int) -> bytes:
    return call(server, "events/stream", number)


def _nchan(server: Server, _number: int) -> bytes:
    return nchan.subscribe(server)


CONTENDERS: Sequence[Contender] = (
    Contender(SIDE, lambda: clarion(STREAMS), _side_stream, _posted, 120, (8, 200)),
    Contender(SERVE, clarion, _filtered, _posted_longer, 120, (8, 200)),
    Contender(LIBRARY, lambda: mcp("layered", sqlite=True), _plain, emission, 120, (8, 200)),
    Contender(NCHAN, nchan.nchan, _nchan, nchan.publish, 120, (2, 200), pipelined=True),
    Contender(RAW_NAME, raw, _side_stream, _posted, 120, (12, 200)),
    Contender(SDK, lambda: mcp("sdk"), _plain, emission, 12, (1, 10)),
    Contender(LISTEN, lambda: mcp("listen"), listen, emission, 8, (1, 10), marker="notifications/resources/updated"),
)
