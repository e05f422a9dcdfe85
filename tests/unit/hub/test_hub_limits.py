"""What one reader, one event or one mistake may cost all others: memory, writes, silence, the process."""

import asyncio
import gc
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from clarion.errors import CloseReason, StoreUnavailable
from clarion.filters import compile_filter
from clarion.gate import Gate
from clarion.hub import attachment
from clarion.hub.connection import REPLAY_BYTES, Connection
from clarion.hub.dispatcher import AUDIT_STUCK, RETRY_SECONDS
from clarion.hub.hub import CONCURRENT_REPLAYS, HEARTBEAT_SECONDS, HubLimits
from clarion.hub.index import TopicIndex, Unmatchable
from clarion.hub.outlet import WRITE_CHUNK
from clarion.hub.protocols import Overflow
from clarion.hub.ring import Entry, Parcel, Ring, RingBudget
from clarion.hub.shared import Phase
from clarion.model import Earliest, Event, Position, Principal, SubjectConsent, Subscription
from clarion.sources.emit import Emission
from clarion.stores.memory import open_memory
from clarion.stores.protocols import Page, Retention, Stored, SubscriptionLimits
from clarion.testing.contracts.examples import draft, subscription
from clarion.testing.hubs import HubRig, OpenStream, opened_hub, settle
from clarion.testing.sinks import FakeSink
from clarion.topics import glob
from clarion.wires.pact import PactFraming


class Around:
    """Another object, but for what is overridden."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Events(list[Event]):
    """A page's events, of which one can tell whether anybody still holds them."""


class WatchedLog(Around):
    """A log that knows which pages are in memory, and how many bytes were asked for."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.pages: weakref.WeakSet[Events] = weakref.WeakSet()
        self.most = 0
        self.asked: set[int | None] = set()

    async def read(self, tenant: str, after: int, **bounds: Any) -> Page:
        self.asked.add(bounds.get("max_bytes"))
        page = await self._inner.read(tenant, after, **bounds)
        events = Events(page.events)
        self.pages.add(events)
        await settle(3)  # as a database would
        self.most = max(self.most, len(self.pages))
        return Page(events, page.bounds)

    def __hash__(self) -> int:
        return id(self)


Events.__hash__ = object.__hash__  # type: ignore[assignment]


class FailingLog(Around):
    """A log whose tail raises what it is told to."""

    error: Exception | None = None
    tails = 0

    async def tail(self, after_offset: int, **bounds: Any) -> Sequence[Stored]:
        self.tails += 1
        if self.error is not None:
            raise self.error
        return await self._inner.tail(after_offset, **bounds)  # type: ignore[no-any-return]


class HeldAudit(Around):
    """An audit that has room when it is told to."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.open = asyncio.Event()
        self.open.set()

    @property
    def roomy(self) -> bool:
        return self.open.is_set()

    async def room(self) -> None:
        await self.open.wait()


async def emit_large(rig: HubRig, count: int, size: int, **fields: Any) -> None:
    for _ in range(count):
        await rig.emit(payload={"x": "x" * size}, **fields)


# -- replays ----------------------------------------------------------------------------------------------------------


async def test_a_stalled_replay_holds_nothing_and_takes_up_where_it_stalled() -> None:
    memory = open_memory()
    log = WatchedLog(memory.log)
    async with opened_hub(replace(memory, log=log)) as rig:
        await rig.subscribe()
        await emit_large(rig, 20, 100_000)
        sinks = [FakeSink(room=2) for _ in range(12)]
        async with AsyncStreams(rig, sinks) as streams:
            await settle(400)
            gc.collect()
            assert all(stream.connection.phase is Phase.REPLAY for stream in streams)
            assert all(len(stream.seqs) >= 1 for stream in streams)
            assert len(log.pages) == 0
            assert log.most <= CONCURRENT_REPLAYS
            assert log.asked == {REPLAY_BYTES}
            for sink in sinks:
                sink.resume()
            await settle(2_000)
            assert [stream.seqs for stream in streams] == [list(range(1, 21))] * 12


class AsyncStreams:
    """Streams from the earliest event, one for each sink."""

    def __init__(self, rig: HubRig, sinks: Sequence[FakeSink]) -> None:
        self._contexts = [rig.stream(Earliest(), sink=sink, settled=False) for sink in sinks]

    async def __aenter__(self) -> list[OpenStream]:
        return [await context.__aenter__() for context in self._contexts]

    async def __aexit__(self, *raised: Any) -> None:
        for context in self._contexts:
            await context.__aexit__(*raised)


async def test_a_replay_waits_for_the_audit_and_closes_all_the_same() -> None:
    memory = open_memory()
    audit = HeldAudit(memory.audit)
    async with opened_hub(replace(memory, audit=audit)) as rig:
        await rig.subscribe()
        await rig.emit_some(5)
        await rig.dispatched()
        audit.open.clear()
        async with rig.stream(Earliest()) as waiting, rig.stream(Earliest()) as closed:
            assert (waiting.seqs, closed.seqs) == ([], [])
            closed.connection.close(CloseReason.REVOKED)
            await settle()
            assert closed.task.done()
            audit.open.set()
            await settle()
            assert waiting.seqs == [1, 2, 3, 4, 5]


async def test_what_waits_in_a_ring_waits_for_the_audit_too() -> None:
    memory = open_memory()
    audit = HeldAudit(memory.audit)
    async with opened_hub(replace(memory, audit=audit)) as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            stream.sink.pause()
            await rig.emit_some(5)
            await rig.dispatched()
            audit.open.clear()
            stream.sink.resume()
            await settle()
            assert stream.seqs == []
            audit.open.set()
            await settle()
            assert stream.seqs == [1, 2, 3, 4, 5]


async def test_a_stuck_audit_is_why_nothing_is_dispatched() -> None:
    memory = open_memory()
    audit = HeldAudit(memory.audit)
    async with opened_hub(replace(memory, audit=audit)) as rig:
        await rig.emit_some(1)
        await rig.dispatched()
        assert rig.hub.failing is None
        audit.open.clear()
        await rig.emit_some(1)
        await settle()
        assert rig.hub.failing == AUDIT_STUCK
        audit.open.set()
        await rig.dispatched()
        assert rig.hub.failing is None


# -- writes -----------------------------------------------------------------------------------------------------------


async def test_an_event_whose_frames_exceed_a_write_goes_alone_and_the_water_mark_is_asked_before_it() -> None:
    async with opened_hub() as rig:
        for number in range(4):
            await rig.subscribe("deal.*", filter={f"x{number}_not": 1})
        async with rig.stream() as stream:
            before = len(stream.sink.writes)
            stream.sink.room = 1
            emissions = [Emission("deal.won", {"x": "x" * size}) for size in (10, 40_000, 10)]
            await rig.emitter.emit_many(Principal("acme", "publisher"), emissions)
            await rig.dispatched()
            assert set(stream.seqs) == {1}  # not with the large one behind it
            assert stream.connection.waiting == 2
            stream.sink.resume()
            await settle()
            sizes = [len(write) for write in stream.sink.writes[before:]]
            assert len(sizes) == 3
            assert sizes[1] > 2 * WRITE_CHUNK > max(sizes[0], sizes[2])
            assert stream.seqs == [1] * 4 + [2] * 4 + [3] * 4


# -- decoded payloads -------------------------------------------------------------------------------------------------


async def test_nobody_keeps_a_decoded_payload_beyond_the_match() -> None:
    async with opened_hub() as rig:
        await rig.subscribe("deal.*", filter={"n_gte": 0})
        async with rig.stream() as live, rig.stream() as lagging:
            lagging.sink.pause()
            await rig.emit_some(10)
            await rig.dispatched()
            assert (len(live.events), lagging.connection.waiting) == (10, 10)
            assert await decoded(rig) == 0
        async with rig.stream(Earliest()) as replayed:
            assert len(replayed.events) == 10
            assert await decoded(rig) == 0


async def decoded(rig: HubRig) -> int:
    """How many events of the log, which rings share, hold their decoded payload."""
    page = await rig.backend.log.read("acme", 0, limit=99)
    return sum(event._payload is not None for event in page.events)


def test_a_forgotten_payload_is_decoded_again() -> None:
    event = Event.of(draft("e1", payload={"a": 1}), 1)
    assert event.payload == {"a": 1}
    assert event._payload is not None
    event.forget()
    assert event._payload is None
    assert event.payload == {"a": 1}


# -- retention that is faster than the dispatcher ----------------------------------------------------------------------


async def trimmed_while_held(rig: HubRig, audit: HeldAudit, *, keep: int) -> None:
    """Emit 10 events that nobody dispatches, and let go of all but the newest `keep`."""
    audit.open.clear()
    await rig.emit()
    await settle()  # the dispatcher has this one in its hand
    rig.clock.jump(10)
    await rig.emit_some(10 - keep)
    rig.clock.jump(10)
    moment = rig.clock.now()
    await rig.emit_some(keep)
    await rig.backend.log.trim(Retention(moment))
    audit.open.set()
    await settle(100)


async def test_events_that_retention_took_before_they_were_dispatched_are_told_before_the_next() -> None:
    memory = open_memory()
    audit = HeldAudit(memory.audit)
    async with opened_hub(replace(memory, audit=audit)) as rig:
        await rig.subscribe()
        async with rig.stream() as stream, rig.stream(client="without subscriptions") as idle:
            await trimmed_while_held(rig, audit, keep=3)
            names = [frame.name for frame in stream.frames]
            assert names == ["subscription.open", "event", "subscription.open", *["event"] * 3]
            told = stream.of("subscription.open")[1].params
            assert (told["truncated"], told["truncated_reason"], told["cursor"]) == (True, "retention", 8)
            assert stream.seqs == [1, 9, 10, 11]
            assert len(idle.of("subscription.open")) == 1
            await rig.emit()
            await settle()
            assert stream.seqs == [1, 9, 10, 11, 12]
            assert len(stream.of("subscription.open")) == 2


async def test_events_that_retention_took_are_told_although_no_other_comes() -> None:
    memory = open_memory()
    audit = HeldAudit(memory.audit)
    async with opened_hub(replace(memory, audit=audit)) as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            await trimmed_while_held(rig, audit, keep=0)
            assert [one.params["truncated"] for one in stream.of("subscription.open")] == [False, True]
            await rig.clock.advance(HEARTBEAT_SECONDS)
            assert stream.of("heartbeat")[-1].params["cursor"] == 11
            await rig.emit()
            await settle()
            assert len(stream.of("subscription.open")) == 2
            assert stream.seqs == [1, 12]


async def test_a_stalled_reader_is_told_of_retention_in_its_place_among_what_waits() -> None:
    memory = open_memory()
    audit = HeldAudit(memory.audit)
    async with opened_hub(replace(memory, audit=audit)) as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            stream.sink.pause()
            await trimmed_while_held(rig, audit, keep=2)
            await rig.clock.advance(HEARTBEAT_SECONDS)
            for _ in range(4):
                stream.sink.resume(room=1)
                await settle()
            stream.sink.resume()
            await settle()
            order = [(frame.name, frame.params.get("event_id", frame.params.get("cursor"))) for frame in stream.frames]
            opening = "subscription.open"
            assert order == [(opening, 0), ("event", 1), (opening, 9), ("event", 10), ("event", 11)]
            assert stream.connection.phase is Phase.LIVE


async def test_what_comes_after_retention_is_handed_over_at_once_and_fills_no_ring() -> None:
    memory = open_memory()
    audit = HeldAudit(memory.audit)
    async with opened_hub(replace(memory, audit=audit), limits=HubLimits(ring_capacity=5)) as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            await trimmed_while_held(rig, audit, keep=9)
            assert len(stream.of("subscription.open")) == 2
            assert stream.of("subscription.lag") == []
            assert stream.seqs == [1, *range(3, 12)]


async def test_nothing_overtakes_the_word_of_what_retention_took() -> None:
    memory = open_memory()
    audit = HeldAudit(memory.audit)
    async with opened_hub(replace(memory, audit=audit)) as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            audit.open.clear()
            await rig.emit()
            await settle()
            stream.sink.room = 1  # takes the first event, and pauses
            await rig.emit_some(3)
            rig.clock.jump(10)
            await rig.backend.log.trim(Retention(rig.clock.now()))
            audit.open.set()
            await settle()
            assert (stream.seqs, stream.connection.waiting) == ([1], 0)
            stream.sink._paused = False  # takes writes, but whoever waits for that was not woken yet
            stream.connection.heartbeat()
            await rig.emit()
            await settle()
            stream.sink.resume()
            await settle()
            names = [frame.name for frame in stream.frames]
            assert names == ["subscription.open", "event", "subscription.open", "event"]


async def test_a_stream_that_opened_behind_what_retention_took_is_told_nothing() -> None:
    memory = open_memory()
    audit = HeldAudit(memory.audit)
    async with opened_hub(replace(memory, audit=audit)) as rig:
        await rig.subscribe()
        await rig.emit_some(3)
        rig.clock.jump(10)
        async with rig.stream() as stream:  # at the head: nothing of this tenant was ever dispatched to it
            await rig.backend.log.trim(Retention(rig.clock.now()))
            await rig.emit_some(2)
            await rig.dispatched()
            assert len(stream.of("subscription.open")) == 1
            assert stream.seqs == [4, 5]


async def test_what_retention_took_before_a_tenants_first_dispatch_is_told_as_well() -> None:
    memory = open_memory()
    log = FailingLog(memory.log)
    async with opened_hub(replace(memory, log=log)) as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            log.error = StoreUnavailable("the disk is away")
            await rig.emit_some(3)
            rig.clock.jump(10)
            await rig.backend.log.trim(Retention(rig.clock.now()))
            await rig.emit_some(1)
            log.error = None
            await rig.clock.advance(RETRY_SECONDS)
            await settle()
            assert [one.params["truncated"] for one in stream.of("subscription.open")] == [False, True]
            assert stream.seqs == [4]


# -- what goes wrong in one stream, or in nobody's ---------------------------------------------------------------------


class Picky(PactFraming):
    """A framing that raises for some events, as a transform of a library's user may."""

    def event(self, parcel: Parcel, subscriptions: Sequence[Subscription], position: Position) -> bytes:
        if parcel.event.payload.get("bad"):
            raise KeyError("transform")
        return super().event(parcel, subscriptions, position)

    def heartbeat(self, position: Position) -> bytes:
        raise KeyError("transform")


@pytest.mark.parametrize("how", ["live", "ring", "replay", "heartbeat"])
async def test_a_framing_that_raises_ends_its_own_stream_and_no_other(how: str) -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        await rig.emit(payload={"bad": True})
        await rig.dispatched()
        async with rig.stream() as healthy:
            rig.framing = Picky()
            async with rig.stream(Earliest() if how == "replay" else None) as broken:
                if how == "ring":
                    broken.sink.pause()
                if how != "heartbeat":
                    await rig.emit(payload={"bad": True})
                    await rig.dispatched()
                broken.sink.resume()
                await rig.clock.advance(HEARTBEAT_SECONDS)
                assert broken.connection.close_reason is CloseReason.FAILED
                assert broken.connection.close_reason.reconnect
                assert broken.task.done()
                assert broken.task.exception() is None
            await rig.emit()
            await rig.dispatched()
            assert healthy.seqs == ([2] if how == "heartbeat" else [2, 3])
            await rig.clock.advance(HEARTBEAT_SECONDS)
            assert healthy.of("heartbeat")
            assert rig.hub.failing is None


class Broken:
    """A filter that cannot be asked."""

    canonical = b"broken"
    clauses = ()

    def matches(self, event: Event) -> bool:
        raise RecursionError


def test_an_index_names_those_whose_filter_raises_and_finds_the_rest_without_them() -> None:
    index: TopicIndex[str] = TopicIndex()
    index.add("fine", [glob("deal.*")], compile_filter({}))
    index.add("broken", [glob("deal.*")], Broken())  # type: ignore[arg-type]
    event = Event.of(draft("e1"), 1)
    with pytest.raises(Unmatchable) as raised:
        index.match(event)
    assert raised.value.targets == ["broken"]
    index.remove("broken")
    assert index.match(event) == ["fine"]
    assert list(index) == ["fine"]


@pytest.mark.parametrize("start", [None, Earliest()], ids=["live", "replay"])
async def test_a_filter_that_raises_ends_its_own_stream_and_no_other(
    monkeypatch: pytest.MonkeyPatch, start: Earliest | None
) -> None:
    monkeypatch.setattr(
        attachment, "compile_filter", lambda wanted, known: Broken() if wanted else compile_filter(wanted, known)
    )
    async with opened_hub() as rig:
        await rig.subscribe()
        await rig.subscribe(client="other", filter={"n": 1})
        await rig.emit()
        await rig.dispatched()
        async with rig.stream() as healthy, rig.stream(start, client="other") as broken:
            await rig.emit_some(2)
            await rig.dispatched()
            assert broken.connection.close_reason is CloseReason.FAILED
            assert healthy.seqs == [2, 3]
            assert rig.hub.failing is None


async def test_what_nobody_expected_stops_dispatch_for_a_while_and_is_told() -> None:
    memory = open_memory()
    log = FailingLog(memory.log)
    async with opened_hub(replace(memory, log=log)) as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            log.error = KeyError("secret")
            await rig.emit_some(2)
            await settle()
            assert rig.hub.failing is not None
            assert "KeyError" in rig.hub.failing
            assert "secret" not in rig.hub.failing
            tries = log.tails
            await rig.clock.advance(RETRY_SECONDS * (1 + 2 + 4))
            assert log.tails == tries + 3  # each time twice as patient
            log.error = None
            await rig.clock.advance(RETRY_SECONDS * 8)
            assert stream.seqs == [1, 2]
            assert rig.hub.failing is None


async def test_a_batch_that_failed_half_way_comes_once_when_it_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened_hub() as rig:
        one = await rig.subscribe()
        await rig.consent("ann", "withdrawn")
        async with rig.stream() as stream:
            admits, asked = Gate.admits, 0

            def failing(gate: Gate, event: Event, subject: str, purpose: str | None) -> Any:
                nonlocal asked
                asked += 1
                if asked == 2:
                    raise MemoryError
                return admits(gate, event, subject, purpose)

            monkeypatch.setattr(Gate, "admits", failing)
            people = (["ann"], ["bob"], ["eve"])
            emissions = [Emission("deal.won", {}, subjects=subjects) for subjects in people]
            await rig.emitter.emit_many(Principal("acme", "publisher"), emissions)
            await settle()
            assert stream.seqs == []
            await rig.clock.advance(HEARTBEAT_SECONDS)
            await settle()
            assert stream.seqs == [2, 3]
            counters = (await rig.hub.deliveries.counters("acme", [one.id]))[one.id]
            assert (counters.delivered, counters.refused) == (2, 1)


async def test_heartbeats_and_retention_go_on_after_what_nobody_expected() -> None:
    memory = open_memory()

    class Failing(Around):
        failures = 1

        async def trim(self, retention: Retention) -> int:
            self.failures -= 1
            if self.failures >= 0:
                raise ZeroDivisionError
            return await memory.log.trim(retention)

    async with opened_hub(replace(memory, log=Failing(memory.log)), limits=HubLimits(retention_seconds=1)) as rig:
        await rig.emit_some(3)
        await settle()
        assert rig.hub.faults == {"retention": "ZeroDivisionError"}
        async with rig.stream() as stream:
            await rig.clock.advance(HEARTBEAT_SECONDS)
            assert rig.hub.faults == {}
            assert len(stream.of("heartbeat")) == 1
            await rig.clock.advance(60)
            assert (await rig.hub.bounds("acme")).floor == 3


async def test_heartbeats_go_on_after_a_beat_that_nobody_expected_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened_hub() as rig, rig.stream() as stream:
        with monkeypatch.context() as patch:

            def failing(_connection: Connection) -> None:
                raise ZeroDivisionError

            patch.setattr(Connection, "heartbeat", failing)
            await rig.clock.advance(HEARTBEAT_SECONDS)
            assert rig.hub.faults == {"heartbeats": "ZeroDivisionError"}
        await rig.clock.advance(HEARTBEAT_SECONDS)
        assert rig.hub.faults == {}
        assert len(stream.of("heartbeat")) == 1


# -- the budget of all rings ------------------------------------------------------------------------------------------


async def test_a_stalled_reader_of_another_tenant_takes_nothing_from_one_that_waits_for_little() -> None:
    async with opened_hub(limits=HubLimits(ring_budget=4 * 2**20)) as rig:
        theirs, mine = await rig.subscribe(tenant="greedy"), await rig.subscribe()
        async with rig.stream(tenant="greedy") as greedy, rig.stream() as modest:
            greedy.sink.pause()
            await emit_large(rig, 19, 200_000, tenant="greedy")
            await emit_large(rig, 30, 7_000, tenant="greedy")
            await rig.dispatched()
            modest.sink.pause()
            await emit_large(rig, 10, 20_000)
            await rig.dispatched()
            assert modest.connection.waiting == 10
            assert rig.hub.ring_bytes <= 4 * 2**20
            modest.sink.resume()
            greedy.sink.resume()
            await settle()
            assert modest.seqs == list(range(1, 11))
            assert modest.of("subscription.lag") == []
            (lag,) = greedy.of("subscription.lag")
            assert greedy.seqs == list(range(lag.params["dropped_count"] + 1, 50))
        dropped = (await rig.hub.deliveries.counters("greedy", [theirs.id]))[theirs.id].dropped
        assert dropped == lag.params["dropped_count"] > 0
        assert (await rig.hub.deliveries.counters("acme", [mine.id]))[mine.id].dropped == 0
        assert rig.hub.ring_bytes == 0


def test_the_ring_that_holds_the_most_is_known_however_rings_grow_and_shrink() -> None:
    budget = RingBudget(limit=10**9)
    rings = [Ring(budget, 10**6, on_drop=lambda _entry: None) for _ in range(7)]
    state = 1
    for step in range(3_000):
        state = state * 1103515245 + 12345 & 0x7FFFFFFF
        ring = rings[state >> 8 & 7] if state >> 8 & 7 < 7 else rings[0]
        if state >> 16 & 3 and step % 500 < 400:
            parcel = Parcel(Event.of(draft("e", payload_json=b"x" * (state >> 4 & 1023)), step + 1))
            ring.push(Entry(parcel, [subscription("s")]))
        elif ring:
            ring.pop()
        if any(rings):
            assert budget.largest().held == max(each.held for each in rings)
    assert len(budget._ranked) < 200
    for ring in rings:
        ring.clear()
    assert (budget.used, len(budget.parcels), len(budget._rings)) == (0, 0, 0)


async def test_readers_that_stall_on_the_same_events_lose_the_oldest_together_and_not_all() -> None:
    size = 10_000
    async with opened_hub(limits=HubLimits(ring_budget=10 * (size + 2_000))) as rig:
        await rig.subscribe()
        async with rig.stream() as one, rig.stream() as two, rig.stream() as three:
            streams = (one, two, three)
            for stream in streams:
                stream.sink.pause()
            for _ in range(30):
                await emit_large(rig, 1, size)
                await rig.dispatched()
            for stream in streams:
                assert 8 <= stream.connection.waiting <= 11
                stream.sink.resume()
            await settle()
            assert all(stream.seqs[-1] == 30 for stream in streams)


# -- consent while much waits ---------------------------------------------------------------------------------------


async def stalled(rig: HubRig, streams: Sequence[OpenStream], people: Sequence[list[str]]) -> None:
    for stream in streams:
        stream.sink.pause()
    emissions = [Emission("deal.won", {}, subjects=subjects) for subjects in people]
    await rig.emitter.emit_many(Principal("acme", "publisher"), emissions)
    await rig.dispatched()


async def test_a_consent_line_asks_once_about_each_event_that_names_its_subject(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    admits = Gate.admits

    def counting(gate: Gate, event: Event, subject: str, purpose: str | None) -> Any:
        asked.append(event.seq)
        return admits(gate, event, subject, purpose)

    async with opened_hub() as rig:
        await rig.subscribe()
        async with rig.stream() as one, rig.stream() as two, rig.stream() as three:
            streams = (one, two, three)
            await stalled(rig, streams, [["ann"], ["bob", "eve"], ["bob"], ["ann", "bob"]])
            monkeypatch.setattr(Gate, "admits", counting)
            await rig.consent("nobody", "withdrawn")
            assert asked == []
            await rig.consent("ann", "withdrawn")
            assert sorted(asked) == [1, 4]  # for three streams
            for stream in streams:
                stream.sink.resume()
            await settle()
            assert [stream.seqs for stream in streams] == [[2, 3]] * 3


class AwayConsents(Around):
    """A ledger that cannot be read when it is told to."""

    away = False

    async def states(self, *arguments: Any) -> dict[str, SubjectConsent]:
        if self.away:
            raise StoreUnavailable("the disk is away")
        return await self._inner.states(*arguments)  # type: ignore[no-any-return]


async def test_a_ledger_that_cannot_be_read_after_a_line_lets_the_line_stand_and_nothing_go() -> None:
    memory = open_memory()
    ledger = AwayConsents(memory.consents)
    async with opened_hub(replace(memory, consents=ledger)) as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            await stalled(rig, [stream], [["ann"], ["bob"]])
            ledger.away = True
            await rig.consent("ann", "withdrawn")  # and does not raise: it is stored
            stream.sink.resume()
            await settle()
            assert stream.seqs == []
            ledger.away = False
        async with rig.stream(Earliest()) as again:
            assert again.seqs == [2]


# -- announcements that were lost --------------------------------------------------------------------------------------


async def test_subscribing_again_reaches_an_open_stream_that_never_heard_of_the_first_time() -> None:
    async with opened_hub() as rig, rig.stream() as stream:
        wish = subscription("s1", topics=("deal.*",), client_id="laptop", subject="alice")
        await rig.backend.subscriptions.put(wish, limits=SubscriptionLimits(9))
        await rig.emit_some(2)
        await rig.dispatched()
        again = await rig.subscribe("deal.*")
        assert again.id == "s1"
        await rig.emit_some(1)
        await rig.dispatched()
        assert stream.seqs == [3]


# -- overflow ----------------------------------------------------------------------------------------------------------


def test_the_side_channel_drops_the_oldest() -> None:
    assert PactFraming().overflow is Overflow.DROP_OLDEST
