"""kill -9 at random points under load.

What must hold afterwards: every acknowledged event is in the log exactly once, at the position that was acknowledged;
every stream that resumes by Last-Event-ID has a history without a gap. The side channel delivers at least once: an
event that several subscriptions of one stream match is one write whose last frame alone carries the id, so when the
stream breaks between those frames, the whole event comes again. That, as the first event of the next connection, is the
only repetition that is allowed here.
"""

import asyncio
import os
import random
from pathlib import Path

import httpx2
import pytest

from clarion.testing.hubs import Frame, until
from clarion.testing.server import RawStream, ServerProcess, served

pytestmark = [pytest.mark.fault, pytest.mark.timeout(1800)]

ROUNDS = int(os.environ.get("ROUNDS", "5"))
PUBLISHERS = 4
STREAMS = 3
BATCH = 5


class Load:
    """What publishers and streams share: whether the server is there, and when to stop."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.up = asyncio.Event()
        self.up.set()
        self.stopping = False


class Publisher:
    """Posts events with ids of its own, and each of them again until it was acknowledged."""

    def __init__(self, load: Load, name: str) -> None:
        self._load = load
        self._name = name
        self.acknowledged: dict[str, int] = {}

    async def run(self) -> None:
        number = 0
        client: httpx2.AsyncClient | None = None
        url = ""
        while not self._load.stopping:
            ids = [f"{self._name}-{number + each}" for each in range(BATCH)]
            number += BATCH
            while ids:
                await self._load.up.wait()
                if client is None or url != self._load.server.url:
                    if client is not None:
                        await client.aclose()
                    client, url = self._load.server.http(), self._load.server.url
                ids = await self._post(client, ids)
        if client is not None:
            await client.aclose()

    async def _post(self, client: httpx2.AsyncClient, ids: list[str]) -> list[str]:
        """Answers the ids that were not acknowledged."""
        body = [{"topic": "deal.won", "event_id": one, "payload": {"id": one}} for one in ids]
        try:
            answer = await client.post("/v1/events", json=body)
        except httpx2.TransportError:
            await asyncio.sleep(0)
            return ids
        if answer.status_code == 503:
            return ids
        assert answer.status_code == 200, answer.text
        for result in answer.json()["results"]:
            assert self.acknowledged.setdefault(result["event_id"], result["seq"]) == result["seq"]
        return []


class Follower:
    """Follows one client's stream over all breaks, resuming after the last id that it saw."""

    def __init__(self, load: Load, client_id: str) -> None:
        self._load = load
        self._client_id = client_id
        self._last_id: str | None = None
        self.sessions: list[list[Frame]] = []
        self.lags = 0

    @property
    def last(self) -> int:
        return int(self._last_id.rsplit("-", 1)[1]) if self._last_id else 0

    async def run(self) -> None:
        while True:
            await self._load.up.wait()
            try:
                await self._session()
            except OSError:
                await asyncio.sleep(0)

    async def _session(self) -> None:
        cursor = "earliest" if self._last_id is None else None
        stream = await self._load.server.stream(self._client_id, cursor=cursor, last_event_id=self._last_id)
        try:
            if stream.status != 200:
                return
            events: list[Frame] = []
            self.sessions.append(events)
            while frames := await stream.frames():
                for frame in frames:
                    if frame.name == "subscription.open":
                        assert frame.params["truncated"] is False
                    if frame.name == "subscription.lag":  # as it says: come again, from there
                        epoch = (self._last_id or "").partition("-")[0]
                        self._last_id = f"{epoch}-{frame.params['last_event_id']}"
                        self.lags += 1
                        return
                    if frame.name == "event":
                        events.append(frame)
                    self._last_id = frame.id or self._last_id
        finally:
            stream.close()

    def history(self, subscription: str) -> list[int]:
        """The seqs that the subscription got. Fails on any repetition but the one that is allowed, and any disorder."""
        seqs: list[int] = []
        for events in self.sessions:
            mine = [frame.seq for frame in events if frame.subscription == subscription]
            assert mine == sorted(set(mine)), "an event twice, or out of order, on one connection"
            if mine and seqs and mine[0] == seqs[-1]:
                assert events[0].seq == mine[0], "a repetition that no resume explains"
                mine = mine[1:]
            seqs += mine
        return seqs


def acknowledged_by(publishers: list[Publisher]) -> int:
    return sum(len(publisher.acknowledged) for publisher in publishers)


async def log_of(server: ServerProcess, head: int) -> list[Frame]:
    """The whole log, as a client sees it that starts at the beginning."""
    stream = await server.stream("auditor", cursor="earliest")
    try:
        found: list[Frame] = []
        while not found or found[-1].seq < head:
            frames = await stream.frames()
            assert frames, "the stream ended early"
            found += [frame for frame in frames if frame.name == "event"]
        return found
    finally:
        stream.close()


async def test_what_was_acknowledged_survives_kills_and_streams_resume_without_a_gap(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    async with served(tmp_path / "data") as server:
        load = Load(server)
        subscriptions: dict[str, list[str]] = {}
        async with server.http() as client:
            for number in range(STREAMS):
                name = f"stream-{number}"
                subscriptions[name] = [
                    await server.subscribe(client, name, "deal.*"), await server.subscribe(client, name, "*")
                ]  # fmt: skip
            await server.subscribe(client, "auditor", "*")
        publishers = [Publisher(load, f"p{number}") for number in range(PUBLISHERS)]
        followers = [Follower(load, name) for name in subscriptions]
        async with asyncio.TaskGroup() as tasks:
            following = [tasks.create_task(follower.run()) for follower in followers]
            publishing = [tasks.create_task(publisher.run()) for publisher in publishers]
            for _ in range(ROUNDS):
                aim = acknowledged_by(publishers) + chance.randrange(20, 400)
                await until(lambda aim=aim: acknowledged_by(publishers) >= aim)  # type: ignore[misc]
                load.up.clear()
                await server.kill()
                await server.start()
                load.up.set()
            load.stopping = True
            await asyncio.wait(publishing)
            acknowledged: dict[str, int] = {}
            for publisher in publishers:
                acknowledged |= publisher.acknowledged
            head = max(acknowledged.values())
            await until(lambda: all(follower.last >= head for follower in followers))
            for task in following:
                task.cancel()
        log = await log_of(server, head)
        assert [frame.seq for frame in log] == list(range(1, head + 1))
        assert {frame.params["payload"]["id"]: frame.seq for frame in log} == acknowledged
        assert len(acknowledged) == head  # nothing in the log twice, nothing that nobody sent
        for follower, name in zip(followers, subscriptions, strict=True):
            for subscription in subscriptions[name]:
                assert follower.history(subscription) == list(range(1, head + 1))
        print(f"{ROUNDS} kills, {head} events, {[len(one.sessions) for one in followers]} sessions")


async def test_a_stream_that_a_kill_broke_has_not_ended(tmp_path: Path) -> None:
    """So that a client can tell a crash from an orderly stop."""
    async with served(tmp_path / "data") as server:
        stream = await server.stream("laptop")
        assert [frame.name for frame in await stream.frames()] == ["subscription.open"]
        await server.kill()
        assert await _rest(stream) == []
        assert not stream.ended
        stream.close()


async def _rest(stream: RawStream) -> list[Frame]:
    try:
        return await stream.frames()
    except OSError:
        return []
