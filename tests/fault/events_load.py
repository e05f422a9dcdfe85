"""Clients of the Events wire that live through anything: they follow, poll and publish, and remember what they got.

Streams are read from a socket of their own, only when a test reads them and not through any HTTP library, so that
nothing reads ahead.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx2

from clarion.testing.server import RawStream, ServerProcess
from interaction.events_raw import INITIALIZE, MODERN, HttpPeer

__all__ = [
    "EVENTS",
    "EventStream",
    "Follower",
    "Load",
    "Poller",
    "Publisher",
    "Wanted",
    "acknowledged_by",
    "numbers_of",
    "open_stream",
    "peer_of",
]

EVENTS = "notifications/events/"
BATCH = 6
"""Events of one request of a publisher: all topics and lanes have their share of each."""

LANES = ("a", "b")

PAUSE = 0.02
"""Seconds that a poller leaves between two polls that found nothing."""

Message = dict[str, Any]


class EventStream(RawStream):
    """One `events/stream` over HTTP."""

    @classmethod
    async def of(cls, request: httpx2.Request, *, receive_buffer: int | None = None) -> EventStream:
        """Send the request and read the head of its answer. Raises OSError when the server is not there."""
        place = urlsplit(str(request.url))
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection.setblocking(False)
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        stream = cls(connection)
        head = b"".join(b"%s: %s\r\n" % pair for pair in request.headers.raw)
        try:
            loop = asyncio.get_running_loop()
            await loop.sock_connect(connection, (place.hostname, place.port))
            start = f"POST {place.path} HTTP/1.1\r\n".encode()
            await loop.sock_sendall(connection, b"".join((start, head, b"\r\n", request.content)))
            await stream._head()
        except BaseException:
            connection.close()
            raise
        return stream

    @property
    def address(self) -> tuple[str, int]:
        """This end of the connection."""
        host, port = self._socket.getsockname()[:2]
        return host, port

    async def blocks(self) -> list[bytes]:
        """The JSON of the messages that came next, at least one; none when the stream is over. Raises OSError when it
        broke."""
        while True:
            end = self._body.rfind(b"\r\n\r\n")
            if end >= 0:
                whole = bytes(self._body[:end])
                del self._body[: end + 4]
                blocks = [block.partition(b"data: ")[2] for block in whole.split(b"\r\n\r\n")]
                if found := [block for block in blocks if block]:  # without comments
                    return found
            elif self.ended or not await self._more():
                return []
            else:
                self._unchunk()

    async def messages(self) -> list[Message]:
        """The same, decoded."""
        return [json.loads(block) for block in await self.blocks()]

    async def until(self, kind: str, count: int = 1) -> list[Message]:
        """All messages up to those with the `count`th `notifications/events/<kind>`."""
        found: list[Message] = []
        while sum(message.get("method") == EVENTS + kind for message in found) < count:
            messages = await self.messages()
            assert messages, f"the stream ended early, after {[message.get('method') for message in found][-3:]}"
            found += messages
        return found


@dataclass(frozen=True)
class Wanted:
    """One subscription; `options` are more of a request's params."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    era: str = MODERN
    declared: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)

    def params(self, cursor: str | None) -> Message:
        return {"name": self.name, "arguments": dict(self.arguments), "cursor": cursor, **self.options}

    def matches(self, event: Mapping[str, Any]) -> bool:
        """Whether an event as it was posted is one of this subscription's."""
        topic, payload = event["topic"], event["payload"]
        family = self.name.removesuffix("*")
        if topic != self.name and (family == self.name or not topic.startswith(family)):
            return False
        return all({"topic": topic, **payload}.get(key) == value for key, value in self.arguments.items())


def peer_of(http: httpx2.AsyncClient, era: str = MODERN, *, declared: bool = True) -> HttpPeer:
    """A client of a server that keeps no sessions."""
    return HttpPeer(http, era, declared, path="/mcp", repeats=True)


async def open_stream(
    http: httpx2.AsyncClient, wanted: Wanted, cursor: str | None = None, *, receive_buffer: int | None = None
) -> EventStream:
    """A stream whose head was read, and nothing else."""
    peer = peer_of(http, wanted.era, declared=wanted.declared)
    request = peer.request(peer.message("events/stream", wanted.params(cursor), "s1"))
    return await EventStream.of(request, receive_buffer=receive_buffer)


def numbers_of(messages: list[Message]) -> list[int]:
    """`data.n` of the events among them."""
    return [message["params"]["data"]["n"] for message in messages if message.get("method") == EVENTS + "event"]


class Load:
    """What all clients share: whether the server is there, and when to stop."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.up = asyncio.Event()
        self.up.set()
        self.stopping = False
        self._http: httpx2.AsyncClient | None = None

    def begin(self) -> None:
        """The server is there, in another life."""
        self._http = None
        self.up.set()

    @property
    def http(self) -> httpx2.AsyncClient:
        """The client of this life of the server. It is not closed, as little as a killed server says goodbye."""
        if self._http is None:
            self._http = self.server.http()
        return self._http

    async def kill(self) -> None:
        """kill -9, and start again."""
        self.up.clear()
        if self._http is not None:
            await self._http.aclose()
        await self.server.kill()
        await self.server.start()
        self.begin()


class Publisher:
    """Posts numbered events with ids of its own, and each of them again until it was acknowledged."""

    def __init__(self, load: Load, name: str, topics: tuple[str, ...]) -> None:
        self._load = load
        self._name = name
        self._topics = topics
        self.acknowledged: dict[str, int] = {}
        """The position in the log of each event id."""
        self.posted: dict[str, Message] = {}

    async def run(self) -> None:
        number = 0
        while not self._load.stopping:
            batch = [self._event(number + each) for each in range(BATCH)]
            number += BATCH
            while batch:
                await self._load.up.wait()
                batch = await self._post(batch)

    def _event(self, number: int) -> Message:
        event_id = f"{self._name}-{number}"
        topic = self._topics[number % len(self._topics)]
        lane = LANES[number // len(self._topics) % len(LANES)]
        event = {"topic": topic, "event_id": event_id, "payload": {"id": event_id, "lane": lane}}
        self.posted[event_id] = event
        return event

    async def _post(self, batch: list[Message]) -> list[Message]:
        """Answers what was not acknowledged."""
        try:
            answer = await self._load.http.post("/v1/events", json=batch)
        except (httpx2.TransportError, RuntimeError):  # the latter: the client was closed with its server
            await asyncio.sleep(0)
            return batch
        if answer.status_code == 503:
            return batch
        assert answer.status_code == 200, answer.text
        for result in answer.json()["results"]:
            assert self.acknowledged.setdefault(result["event_id"], result["seq"]) == result["seq"]
        return []


def acknowledged_by(publishers: list[Publisher]) -> int:
    return sum(len(publisher.acknowledged) for publisher in publishers)


class Subscriber:
    """What one subscription got, over all of its connections."""

    def __init__(self, load: Load, wanted: Wanted) -> None:
        self._load = load
        self.wanted = wanted
        self.cursor: str | None = None
        self.begun = asyncio.Event()
        """It has a cursor: from here on it must miss nothing."""
        self.sessions: list[list[str]] = []
        """The event ids of each connection, or of each life of the server."""

    @property
    def got(self) -> list[str]:
        return [event_id for session in self.sessions for event_id in session]

    def _take(self, event: Message) -> None:
        assert event["eventId"] == event["data"]["id"]
        self.sessions[-1].append(event["eventId"])

    def _stand(self, cursor: str | None, *, truncated: bool = False) -> None:
        assert not truncated, "retention was not reached"
        assert cursor is not None
        self.cursor = cursor
        self.begun.set()

    def expected(self, publishers: list[Publisher]) -> list[str]:
        """Every acknowledged event that matches, in the order of the log."""
        found = [
            (seq, event_id)
            for publisher in publishers
            for event_id, seq in publisher.acknowledged.items()
            if self.wanted.matches(publisher.posted[event_id])
        ]
        return [event_id for _, event_id in sorted(found)]

    def check(self, publishers: list[Publisher]) -> int:
        """Fails on a gap or disorder; answers how many events came again. That may happen across a reconnect only, and
        the client can tell by their ids."""
        history: dict[str, None] = {}
        repeats = 0
        for session in self.sessions:
            assert len(set(session)) == len(session), "an event twice on one connection"
            fresh = [event_id for event_id in session if event_id not in history]
            repeats += len(session) - len(fresh)
            assert session[len(session) - len(fresh) :] == fresh, "a repetition that no resume explains"
            history |= dict.fromkeys(fresh)
        assert list(history) == self.expected(publishers)
        return repeats


class Follower(Subscriber):
    """Follows a stream over all breaks, resuming after the last cursor that it saw."""

    async def run(self) -> None:
        while True:
            await self._load.up.wait()
            try:
                await self._session()
            except OSError:
                await asyncio.sleep(0)

    async def _session(self) -> None:
        stream = await open_stream(self._load.http, self.wanted, self.cursor)
        try:
            assert stream.status == 200, stream.status
            self.sessions.append([])
            first = True
            while messages := await stream.messages():
                for message in messages:
                    kind, params = message["method"].removeprefix(EVENTS), message["params"]
                    assert (kind == "active") is first, message
                    first = False
                    assert kind in ("active", "event", "heartbeat"), message
                    if kind == "event":
                        self._take(params)
                    self._stand(params["cursor"], truncated=params.get("truncated", False))
        finally:
            stream.close()


class Poller(Subscriber):
    """Polls on from its last cursor, whatever happens."""

    async def run(self) -> None:
        http: httpx2.AsyncClient | None = None
        while True:
            await self._load.up.wait()
            if http is not self._load.http:
                http = self._load.http
                peer = peer_of(http, self.wanted.era, declared=self.wanted.declared)
                self.sessions.append([])
            try:
                result = await peer.call("events/poll", **self.wanted.params(self.cursor))
            except (httpx2.TransportError, RuntimeError):
                await asyncio.sleep(0)
                continue
            assert len(result["events"]) <= self.wanted.options.get("maxEvents", 500)
            for event in result["events"]:
                self._take(event)
            self._stand(result["cursor"], truncated=result["truncated"])
            if not result["events"]:
                await asyncio.sleep(PAUSE)


TOPICS = ("deal.won", "deal.lost", "custom.alpha")

FOLLOWED = (
    Wanted("deal.won"),
    Wanted("deal.won", {"lane": "a"}, INITIALIZE),
    Wanted("deal.lost", era=INITIALIZE, declared=False),
    Wanted("custom.*"),
    Wanted("custom.*", {"topic": "custom.alpha", "lane": "b"}, declared=False),
)
"""Streams of what `clarion serve` offers: several names and arguments, both eras, both dialects."""

POLLED = (
    Wanted("deal.won", options={"maxEvents": 7}),
    Wanted("deal.won", {"lane": "b"}, INITIALIZE, options={"timeoutMs": 2_000}),
    Wanted("custom.*", declared=False, options={"timeoutMs": 500, "maxEvents": 50}),
    Wanted("deal.lost", era=INITIALIZE),
)
