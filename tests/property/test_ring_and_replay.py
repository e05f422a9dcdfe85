"""Replay, live, ring and lag under any interleaving, against a model that knows only the log.

A driver emits, stalls and releases the transport, disconnects and resumes after the last id that it received,
subscribes and unsubscribes; reads of the log take a random number of turns of the event loop. Afterwards every frame of
every connection is walked beside the log: a subscription's next frame is its next matching event, or a lag frame that
says exactly how many of its next ones were dropped and where to resume for them. Nothing else may come, nothing may be
skipped, and no cursor may pass what is still owed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import event as label
from hypothesis import given, settings
from hypothesis import strategies as st

from clarion.hub import connection, express, outlet
from clarion.hub.hub import HubLimits
from clarion.hub.protocols import Lens, Overflow
from clarion.hub.shared import Phase
from clarion.model import Earliest, Event, Start
from clarion.stores.memory import open_memory
from clarion.stores.protocols import Page, Stored
from clarion.testing.hubs import Frame, HubRig, OpenStream, opened_hub, settle, until
from clarion.topics import glob
from clarion.wires.pact import PactFraming

CAPACITY = 5
TOPICS = ("deal.won", "contact.created", "ticket.opened")
PATTERNS = ("deal.*", "contact.*", "*")

actions = st.lists(
    st.one_of(
        st.tuples(st.just("emit"), st.lists(st.sampled_from(TOPICS), min_size=1, max_size=12)),
        st.tuples(st.just("emit"), st.lists(st.just("deal.won"), min_size=1, max_size=12)),
        st.tuples(st.just("turns"), st.integers(1, 12)),
        st.tuples(st.just("pause"), st.none()),
        st.tuples(st.just("resume"), st.one_of(st.none(), st.integers(1, 3))),
        st.tuples(st.just("reconnect"), st.booleans()),
        st.tuples(st.just("subscribe"), st.sampled_from(PATTERNS)),
        st.tuples(st.just("unsubscribe"), st.sampled_from(PATTERNS)),
        st.tuples(st.just("subscribe anew"), st.sampled_from(PATTERNS)),
        *[st.tuples(st.just("flurry"), st.integers(CAPACITY - 2, 3 * CAPACITY))] * 3,
        *[st.tuples(st.just("resume"), st.one_of(st.none(), st.integers(1, 3)))] * 2,
        st.tuples(st.just("beat"), st.none()),
    ),
    min_size=10,
    max_size=40,
)


@contextmanager
def small_steps() -> Iterator[None]:
    """Pages and writes of a few events, so that a replay has many and a drain stops in the middle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "REPLAY_PAGE", 4)
        patch.setattr(outlet, "WRITE_CHUNK", 3_000)
        patch.setattr(express, "WRITE_CHUNK", 1_000)
        yield


class SlowLog:
    """A log whose reads let others have a few turns before and after."""

    def __init__(self, inner: Any, chance: random.Random) -> None:
        self._inner = inner
        self._chance = chance

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def read(self, tenant: str, after: int, **bounds: Any) -> Page:
        await settle(self._chance.randrange(6))
        page = await self._inner.read(tenant, after, **bounds)
        await settle(self._chance.randrange(6))
        return page  # type: ignore[no-any-return]

    async def tail(self, after_offset: int, **_bounds: Any) -> Sequence[Stored]:
        await settle(self._chance.randrange(4))
        stored = await self._inner.tail(after_offset, limit=self._chance.randrange(1, 8))
        await settle(self._chance.randrange(4))
        return stored  # type: ignore[no-any-return]


class CatchUpFraming(PactFraming):
    """Frames of the side channel on a wire that loses nothing."""

    overflow = Overflow.CATCH_UP


class SlowLens:
    """Hooks that take a few turns, and show everything."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    async def view(self, event: Event) -> Event | None:
        await settle(self._chance.randrange(3))
        return event


@dataclass
class Owing:
    """A stretch of a connection in which one subscription was owed events: after `since`, from frame `begin` on."""

    pattern: str
    since: int
    begin: int
    end: int | None = None


@dataclass
class Session:
    """One connection: where it began, its frames, and what it owed to whom."""

    start: int
    frames: list[Frame] = field(default_factory=list)
    owing: dict[str, list[Owing]] = field(default_factory=dict)
    complete: bool = False
    """It was left only after everything that it owed could have come."""


async def caught_up(stream: OpenStream) -> None:
    """The stream, whose transport takes everything, has sent all that it owes."""
    await until(lambda: stream.connection.phase is Phase.LIVE)
    await settle()


class Driver:
    def __init__(self, rig: HubRig, stack: AsyncExitStack, lens: Lens | None = None) -> None:
        self.rig = rig
        self._lens = lens
        self.log: list[str] = []
        self.active: dict[str, str] = {}
        self.sessions: list[Session] = []
        self.last = 0
        self._stack = stack
        self._stream: OpenStream | None = None

    @property
    def stream(self) -> OpenStream:
        assert self._stream is not None
        return self._stream

    async def connect(self, start: Start, after: int) -> None:
        session = Session(after)
        for identity, pattern in self.active.items():
            session.owing[identity] = [Owing(pattern, after, 0)]
        self.sessions.append(session)
        context = self.rig.stream(start, settled=False, lens=self._lens)
        self._stream = await self._stack.enter_async_context(context)

    async def leave(self, *, complete: bool) -> None:
        session, self.sessions[-1].complete = self.sessions[-1], complete
        await self._stack.aclose()
        session.frames = self.stream.frames
        for frame in session.frames:
            if frame.id is not None:
                self.last = int(frame.id.rsplit("-", 1)[1])

    async def act(self, name: str, argument: Any) -> None:
        sink = self.stream.sink
        match name:
            case "emit":
                for topic in argument:
                    await self.rig.emit(topic)
                self.log += argument
            case "flurry":
                if not sink.paused:
                    await settle(100)  # live by now, most likely
                sink.pause()
                for _ in range(argument):
                    await self.rig.emit("deal.won")
                self.log += ["deal.won"] * argument
                await self.rig.dispatched()
            case "turns":
                await settle(argument)
            case "pause":
                sink.pause()
            case "resume":
                sink.resume(argument)
            case "beat":
                await self.rig.clock.advance(15)
            case "reconnect":
                if argument:
                    await settle(10)
                await self.leave(complete=False)
                await self.connect(await self.rig.after(self.last), self.last)
            case "subscribe":
                await self._subscribe(argument)
            case "unsubscribe":
                await self._unsubscribe(argument)
            case "subscribe anew":
                await self._unsubscribe(argument)
                await self._subscribe(argument)

    async def _subscribe(self, pattern: str) -> None:
        identity = (await self.rig.subscribe(pattern)).id
        if identity not in self.active:
            self.active[identity] = pattern
            stretches = self.sessions[-1].owing.setdefault(identity, [])
            stretches.append(Owing(pattern, len(self.log), len(self.stream.frames)))

    async def _unsubscribe(self, pattern: str) -> None:
        for identity in [one for one, its in self.active.items() if its == pattern]:
            rows = await self.rig.backend.subscriptions.of_client("acme", "alice", "laptop")
            await self.rig.unsubscribe(next(row for row in rows if row.id == identity))
            del self.active[identity]
            self.sessions[-1].owing[identity][-1].end = len(self.stream.frames)


class Walker:
    """Walks one stretch's frames beside what the log owes it."""

    def __init__(self, owing: Owing, log: list[str]) -> None:
        matches = glob(owing.pattern).matches
        self.owed = [seq for seq, topic in enumerate(log, 1) if seq > owing.since and matches(topic)]
        self.next = 0
        self.lagged = 0

    @property
    def rest(self) -> list[int]:
        return self.owed[self.next :]

    def event(self, seq: int) -> None:
        assert self.rest, f"event {seq} came, and nothing was owed"
        assert seq == self.rest[0], f"event {seq} came where {self.rest[0]} was owed"
        self.next += 1

    def lag(self, frame: Frame) -> None:
        dropped, last = frame.params["dropped_count"], frame.params["last_event_id"]
        assert frame.params["buffer_capacity"] == CAPACITY
        assert 0 < dropped <= len(self.rest)
        assert self.rest[0] > last, "resuming there would not bring back the first that was dropped"
        assert self.next == 0 or self.owed[self.next - 1] <= last, "resuming there would repeat what came"
        self.next += dropped
        self.lagged += 1

    def cursor(self, seq: int) -> None:
        assert not self.rest or self.rest[0] > seq, f"the cursor {seq} passes {self.rest[0]}, which is still owed"


def check(session: Session, log: list[str], resumed_at: int | None) -> int:
    """Walk every frame of a session; answers how many lag frames there were."""
    if not session.frames:  # left, or stalled, before it began
        return 0
    assert session.frames[0].name == "subscription.open"
    assert session.frames[0].params["cursor"] == session.start
    assert not session.frames[0].params["truncated"]
    lags = 0
    for identity, stretches in session.owing.items():
        covered: set[int] = set()
        for owing in stretches:
            walker = Walker(owing, log)
            end = len(session.frames) if owing.end is None else owing.end
            for index in range(owing.begin, end):
                frame = session.frames[index]
                covered.add(index)
                if frame.name == "heartbeat":
                    walker.cursor(frame.params["cursor"])
                elif frame.params.get("subscription_id") == identity:
                    walker.event(frame.seq) if frame.name == "event" else walker.lag(frame)
            lags += walker.lagged
            if owing.end is None and session.complete:
                assert walker.rest == [], "owed, and neither sent nor told to be lost"
            elif owing.end is None and resumed_at is not None:
                walker.cursor(resumed_at)
        stray = [
            frame
            for index, frame in enumerate(session.frames)
            if index not in covered and frame.params.get("subscription_id") == identity
        ]
        assert stray == [], "frames of a subscription that was not active"
    return lags


@pytest.mark.parametrize(
    ("framing", "looked_at"),
    [(PactFraming(), False), (CatchUpFraming(), False), (CatchUpFraming(), True)],
    ids=["drop", "catch-up", "catch-up-hooks"],
)
@given(actions, st.integers(0, 2**32), st.booleans(), st.booleans())
@settings(max_examples=150, deadline=None)
def test_every_event_comes_once_in_order_or_is_told_to_be_lost(
    framing: PactFraming, looked_at: bool, steps: list[tuple[str, Any]], seed: int, from_the_start: bool, direct: bool
) -> None:
    async def main() -> None:
        memory, chance = open_memory(), random.Random(seed)
        backend = replace(memory, log=SlowLog(memory.log, chance))
        async with opened_hub(backend, limits=HubLimits(ring_capacity=CAPACITY)) as rig, AsyncExitStack() as stack:
            rig.framing, rig.direct = framing, direct
            driver = Driver(rig, stack, SlowLens(chance) if looked_at else None)
            identity = (await rig.subscribe("deal.*")).id
            driver.active[identity] = "deal.*"
            if from_the_start:
                for _ in range(20):
                    await rig.emit("deal.won")
                driver.log += ["deal.won"] * 20
            await driver.connect(Earliest(), 0)
            for name, argument in steps:
                await driver.act(name, argument)
            driver.stream.sink.resume()
            await rig.dispatched()
            await caught_up(driver.stream)
            await driver.leave(complete=True)
            lags = 0
            for number, session in enumerate(driver.sessions):
                later = driver.sessions[number + 1 :]
                lags += check(session, driver.log, later[0].start if later else None)
            assert rig.hub.ring_bytes == 0
            if framing.overflow is Overflow.CATCH_UP:
                assert lags == 0
            label(f"lag frames: {min(lags, 3)}{'+' if lags > 3 else ''}")
            label(f"connections: {min(len(driver.sessions), 4)}")

    with small_steps():
        asyncio.run(main())


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_a_lag_frames_position_brings_back_all_that_was_dropped(bursts: list[int], seed: int) -> None:
    """Stall, burst, release, over and over: what came, and what resuming at each lag frame brings, is everything."""

    async def main() -> None:
        chance = random.Random(seed)
        memory = open_memory()
        backend = replace(memory, log=SlowLog(memory.log, chance))
        async with opened_hub(backend, limits=HubLimits(ring_capacity=CAPACITY)) as rig:
            await rig.subscribe("deal.*")
            async with rig.stream(Earliest()) as stream:
                for burst in bursts:
                    stream.sink.pause()
                    await rig.emit_some(burst)
                    await rig.dispatched()
                    stream.sink.resume(chance.choice([None, 1, 2]))
                    await settle(chance.randrange(30))
                stream.sink.resume()
                await caught_up(stream)
                came, lags = stream.seqs, stream.of("subscription.lag")
            dropped: set[int] = set()
            for lag in lags:
                async with rig.stream(await rig.after(lag.params["last_event_id"])) as again:
                    await caught_up(again)
                    brought = [seq for seq in again.seqs if seq not in came and seq not in dropped]
                    assert len(brought) >= lag.params["dropped_count"]
                    dropped |= set(brought[: lag.params["dropped_count"]])
            assert sorted([*came, *dropped]) == list(range(1, sum(bursts) + 1))

    with small_steps():
        asyncio.run(main())
