"""MCP Events: requests to an official SDK server, and the library in ways that are not among the contenders.

The library is measured in turns with the same server that notifies its clients by itself: one event at a time to 1,000
open `events/stream` requests, the next when every stream has read the one before.
"""

from __future__ import annotations

import time
import urllib.request
from typing import Any

from benchmarks.generator import PLACEHOLDER, Generator
from benchmarks.report import Goal, Row
from benchmarks.serving import Server, mcp
from clarion.encoding import decode, encode

__all__ = ["call", "emission", "listen", "paths", "polls"]

STREAMS = 1_000
ROUNDS = 3
PATH_ROUNDS = 2
WARMUP = 4

FAST_EVENTS = 80
SLOW_EVENTS = 16
"""Counted events of a round, of a server that writes frames itself and of one that has the SDK send them."""

SETTLE_SECONDS = 1.5

POLLS = 2_000
POLL_CONNECTIONS = 8

VERSION = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": VERSION,
    "io.modelcontextprotocol/clientCapabilities": {"extensions": {"io.modelcontextprotocol/events": {}}},
    "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
}
URI = "bench://resource/".ljust(284, "n")
"""Of a length that gives a frame about 450 bytes. It is the only thing that such a frame says."""

SDK_NAME = "the SDK's send_notification"
WHAT = f"one event at a time to {STREAMS:,} events/stream"


def call(server: Server, method: str, number: int = 1, **params: Any) -> bytes:
    named = {} if method == "subscriptions/listen" else {"name": "deal.won"}
    message = {"jsonrpc": "2.0", "id": number, "method": method, "params": {"_meta": META, **named, **params}}
    body = encode(message)
    head = (
        f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {server.key}\r\n"
        f"Accept: application/json, text/event-stream\r\nMcp-Protocol-Version: {VERSION}\r\nMcp-Method: {method}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def emission(server: Server, count: int = 1) -> bytes:
    """The data of `count` events, such that a frame has about 450 bytes."""
    one = encode({"account_id": "acc_1", "amount": 150_000, "sent_ns": PLACEHOLDER, "note": "n" * 72})
    body = b"\n".join([one] * count)
    head = f"POST /emit HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def listen(server: Server, number: int) -> bytes:
    """Open a `subscriptions/listen` for the one resource that `events_server.py` has."""
    return call(server, "subscriptions/listen", number, notifications={"resourceSubscriptions": [URI]})


def streams_of(server: Server, count: int) -> list[bytes]:
    return [call(server, "events/stream", number) for number in range(count)]


def paths(generator: Generator) -> list[Row]:
    """The library with its events in memory, and without the layer, where the SDK carries the library's frames."""
    rows = []
    for who, kind, count in (
        ("EventsLayer, in memory", "layered", FAST_EVENTS),
        ("without EventsLayer", "plain", SLOW_EVENTS),
    ):
        with mcp(kind) as server, mcp("sdk") as peer:
            ours, theirs = _in_turns(generator, (server, count), (peer, SLOW_EVENTS), PATH_ROUNDS)
        goals = (Goal(8, True, of_ratio=True),) if kind == "layered" else ()
        rows.append(Row.paired(WHAT, "frames/s", _rates(ours), _rates(theirs), SDK_NAME, goals=goals, who=who))
    return rows


def polls(generator: Generator) -> list[Row]:
    """`events/poll` with nothing new, and what SQLite was asked meanwhile."""
    rates, theirs = [], []
    with mcp("layered", sqlite=True, counted=True) as server, mcp("sdk") as peer:
        generator.throughput(server, [emission(server)], posters=1)
        cursor = decode(_answer(server, "/mcp", call(server, "events/poll")))["result"]["cursor"]
        before = _statements(server)
        generator.throughput(server, [emission(server)], posters=1)
        if _statements(server) == before:
            raise RuntimeError("an event was appended, and no statement was counted: the count is of no use")
        found = decode(_answer(server, "/mcp", call(server, "events/poll", cursor=cursor)))["result"]
        if len(found["events"]) != 1:
            raise RuntimeError(f"the poll does not find the event: {found}")
        requests = [call(server, "events/poll", cursor=found["cursor"])] * POLLS
        bare = [call(peer, "events/poll", cursor=found["cursor"])] * POLLS
        time.sleep(SETTLE_SECONDS)
        before = _statements(server)
        for _ in range(ROUNDS):
            rates.append(POLLS / generator.throughput(server, requests, posters=POLL_CONNECTIONS)["seconds"])
            theirs.append(POLLS / generator.throughput(peer, bare, posters=POLL_CONNECTIONS)["seconds"])
        asked = _statements(server) - before
    return [
        Row.paired("empty events/poll", "polls/s", rates, theirs, "the SDK answering a constant"),
        Row(f"SQL statements of {ROUNDS * POLLS:,} empty polls", "", asked, (Goal(0, False),)),
    ]


def _in_turns(
    generator: Generator, server: tuple[Server, int], peer: tuple[Server, int], rounds: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rounds of two servers, each with how many events it is given."""
    pairs = [(_fan(generator, *server), _fan(generator, *peer)) for _ in range(rounds)]
    return [ours for ours, _ in pairs], [theirs for _, theirs in pairs]


def _fan(generator: Generator, server: Server, count: int) -> dict[str, Any]:
    requests = [emission(server)] * (WARMUP + count)
    return generator.pingpong(server, streams_of(server, STREAMS), requests, frames=1, warmup=WARMUP)


def _rates(runs: list[dict[str, Any]]) -> list[float]:
    return [run["frames"] / run["seconds"] for run in runs]


def _statements(server: Server) -> int:
    return int(_answer(server, "/statements"))


def _answer(server: Server, path: str, message: bytes | None = None) -> bytes:
    head, _, body = (message or b"").partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", body or None, headers)
    with urllib.request.urlopen(request, timeout=10) as response:
        answer: bytes = response.read()
        return answer
