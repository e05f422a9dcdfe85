"""The dispatcher: wake-ups are hints, a failing store is waited for, a batch is one write per connection."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from clarion.errors import StoreUnavailable
from clarion.hub import dispatcher
from clarion.hub.dispatcher import BATCH, RETRY_SECONDS
from clarion.model import Principal
from clarion.sources.emit import Emission
from clarion.stores.memory import open_memory
from clarion.stores.protocols import Detach, Stored
from clarion.testing.hubs import opened_hub, settle, until


class Deaf:
    """Wake-ups that never come."""

    def attach(self, hint: Callable[[], None]) -> Detach:
        return lambda: None


class Around:
    """Another object, but for what is overridden."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class FailingLog(Around):
    """A log whose tail fails while it is told to."""

    failing = False
    tails = 0

    async def tail(self, after_offset: int, **bounds: Any) -> Sequence[Stored]:
        self.tails += 1
        if self.failing:
            raise StoreUnavailable("the disk is away")
        return await self._inner.tail(after_offset, **bounds)  # type: ignore[no-any-return]


class StuckAudit(Around):
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


async def test_a_lost_wake_up_costs_no_more_than_the_poll_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "POLL_SECONDS", 0.02)
    async with opened_hub(replace(open_memory(), wakeups=Deaf())) as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            await rig.emit_some(3)
            await settle()
            assert stream.seqs == []  # nobody told the dispatcher
            await until(lambda: stream.seqs == [1, 2, 3])


async def test_the_poll_interval_is_a_second() -> None:
    assert dispatcher.POLL_SECONDS == 1.0


async def test_dispatch_goes_on_where_it_was_when_the_store_comes_back() -> None:
    memory = open_memory()
    log = FailingLog(memory.log)
    async with opened_hub(replace(memory, log=log)) as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            await rig.emit_some(2)
            await rig.dispatched()
            log.failing = True
            await rig.emit_some(3)
            await settle()
            assert rig.hub.failing == "the disk is away"
            assert stream.seqs == [1, 2]
            tries = log.tails
            await rig.clock.advance(RETRY_SECONDS * 3)
            assert log.tails == tries + 3  # patient, yet not asleep
            log.failing = False
            await rig.clock.advance(RETRY_SECONDS)
            await rig.dispatched()
            assert stream.seqs == [1, 2, 3, 4, 5]
            assert rig.hub.failing is None


async def test_a_backlog_of_the_audit_holds_dispatch_up_and_not_emit() -> None:
    memory = open_memory()
    audit = StuckAudit(memory.audit)
    async with opened_hub(replace(memory, audit=audit)) as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            audit.open.clear()
            assert await rig.emit_some(5) == [1, 2, 3, 4, 5]
            await settle()
            assert stream.seqs == []
            audit.open.set()
            await rig.dispatched()
            assert stream.seqs == [1, 2, 3, 4, 5]


async def test_a_batch_is_one_write_per_connection() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        await rig.subscribe("*")
        async with rig.stream() as one, rig.stream() as other:
            before = len(one.sink.writes), len(other.sink.writes)
            await rig.emit_some(20)
            await rig.dispatched()
            assert len(one.events) == len(other.events) == 40
            assert (len(one.sink.writes), len(other.sink.writes)) == (before[0] + 1, before[1] + 1)


async def test_a_batch_beyond_the_chunk_asks_the_water_mark_between_its_writes() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            stream.sink.resume(room=1)
            emissions = [Emission("deal.won", {"text": "x" * 30_000}) for _ in range(10)]
            await rig.emitter.emit_many(Principal("acme", "publisher"), emissions)
            await rig.dispatched()
            assert stream.seqs == [1, 2]  # what fits 64 KiB
            assert stream.connection.waiting == 8
            stream.sink.resume()
            await settle()
            assert stream.seqs == list(range(1, 11))
            assert stream.of("subscription.lag") == []


async def test_more_than_a_batch_is_dispatched_in_order() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            await rig.emit_some(BATCH * 2 + 7)
            await rig.dispatched()
            assert stream.seqs == list(range(1, BATCH * 2 + 8))


async def test_the_wall_clock_may_jump() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            for jump in (-86_400 * 365, 86_400 * 365, 3_600, -7_200):
                rig.clock.jump(jump)
                await rig.emit_some(2)
                await rig.dispatched()
            assert stream.seqs == list(range(1, 9))
            beats = len(stream.of("heartbeat"))
            rig.clock.jump(-86_400)
            await rig.clock.advance(15)
            assert len(stream.of("heartbeat")) == beats + 1  # measured by the clock that does not jump


async def test_a_transport_that_breaks_ends_its_own_stream_only() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        async with rig.stream() as broken, rig.stream() as healthy:
            broken.sink.fail = ConnectionError("broken pipe")
            await rig.emit_some(3)
            await rig.dispatched()
            assert broken.connection.close_reason is not None
            assert healthy.seqs == [1, 2, 3]
            await rig.emit_some(1)
            await rig.dispatched()
            assert healthy.seqs == [1, 2, 3, 4]
            assert rig.hub.totals.delivered == 4
            assert broken.task.done()


async def test_a_broken_transport_does_not_stop_the_heartbeats_of_others() -> None:
    async with opened_hub() as rig, rig.stream() as broken, rig.stream() as healthy:
        broken.sink.fail = ConnectionError("broken pipe")
        await rig.clock.advance(30)
        assert len(healthy.of("heartbeat")) == 2


async def test_tenants_see_nothing_of_each_other() -> None:
    async with opened_hub() as rig:
        await rig.subscribe("*")
        await rig.subscribe("*", tenant="other")
        async with rig.stream() as mine, rig.stream(tenant="other") as theirs:
            await rig.emit()
            await rig.emit(tenant="other")
            await rig.emit(tenant="other")
            await rig.dispatched()
            assert mine.seqs == [1]
            assert theirs.seqs == [1, 2]
            await rig.clock.advance(15)
            assert mine.of("heartbeat")[0].params["cursor"] == 1  # not how much others do
