"""The hub: who gets which stream, its limits, its end, and what changes while a stream opens."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from clarion.errors import CloseReason, LimitExceeded, NotFound, StoreUnavailable
from clarion.hub.hub import RETRY_SECONDS, Hub, HubLimits
from clarion.hub.protocols import Viewer
from clarion.hub.services import ConsentRequest
from clarion.hub.shared import Phase
from clarion.model import MICROSECONDS, Earliest, Principal, Subscription
from clarion.stores.memory import open_memory
from clarion.testing.clock import FakeClock
from clarion.testing.hubs import opened_hub, settle, until
from clarion.testing.sinks import FakeSink
from clarion.wires.pact import PactFraming

ALICE = Viewer(Principal("acme", "alice"), "laptop", "key1")


class Slow:
    """A port whose named method waits for `free` after it has read."""

    def __init__(self, inner: Any, method: str) -> None:
        self._inner = inner
        self._method = method
        self.free = asyncio.Event()
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name != self._method:
            return found

        async def slowly(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            answer = await found(*arguments, **named)
            await self.free.wait()
            return answer

        return slowly


async def test_another_principals_client_of_the_same_name_gets_nothing() -> None:
    async with opened_hub() as rig:
        mine = await rig.subscribe("*")
        async with rig.stream() as alice, rig.stream(subject="eve") as eve, rig.stream(tenant="other") as other:
            await rig.emit_some(3)
            await rig.dispatched()
            assert len(alice.events) == 3
            assert [frame.name for frame in eve.frames] == ["subscription.open"]
            assert eve.frames[0].params["subscriptions"] == []
            assert other.seqs == []
            with pytest.raises(NotFound):
                await rig.hub.subscriptions.unsubscribe(Principal("acme", "eve"), mine.id)
            with pytest.raises(NotFound):
                await rig.hub.subscriptions.unsubscribe(Principal("other", "alice"), mine.id)
            await rig.subscribe("*", subject="eve")  # takes hold of eve's stream, not of alice's
            await rig.emit_some(1)
            await rig.dispatched()
            assert (len(alice.events), len(eve.events)) == (4, 1)


async def test_two_streams_of_one_client_have_a_ring_each() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        async with rig.stream() as one, rig.stream() as other:
            one.sink.pause()
            await rig.emit_some(150)
            await rig.dispatched()
            assert (one.connection.waiting, other.connection.waiting) == (100, 0)
            assert len(other.seqs) == 150
            other.sink.pause()
            await rig.emit_some(10)
            await rig.dispatched()
            assert (one.connection.waiting, other.connection.waiting) == (100, 10)


@pytest.mark.parametrize("client", ["a", "a b", "x" * 256, "é☃", "../../etc", "a/b?c=d&e", "'; DROP TABLE x; --", "0"])
async def test_a_client_id_may_be_any_printable_text(client: str) -> None:
    async with opened_hub() as rig:
        await rig.subscribe(client=client)
        async with rig.stream(client=client) as stream, rig.stream(client="someone else") as other:
            await rig.emit_some(1)
            await rig.dispatched()
            assert (stream.seqs, other.seqs) == ([1], [])
            assert stream.frames[0].params["client_id"] == client


async def test_a_change_while_a_stream_opens_is_not_lost() -> None:
    memory = open_memory()
    slow = Slow(memory.subscriptions, "of_client")
    async with opened_hub(replace(memory, subscriptions=slow)) as rig:
        slow.free.set()
        gone, kept = await rig.subscribe("deal.*"), await rig.subscribe("*")
        slow.free.clear()
        opening = asyncio.create_task(_opened(rig.hub))
        await until(lambda: slow.calls)
        await rig.unsubscribe(gone)  # after it was read, before it was attached
        await rig.subscribe("*", purpose="marketing")
        added = await rig.subscribe("contact.*")
        slow.free.set()
        found = {one.id: one for one in await opening}
        assert set(found) == {kept.id, added.id}
        assert found[kept.id].purpose == "marketing"


async def _opened(hub: Hub) -> list[Subscription]:
    async with hub.connect(ALICE, PactFraming(), FakeSink()) as stream:
        return stream.connection.subscriptions


async def test_connections_beyond_the_limit_of_a_tenant_are_refused_and_others_are_not() -> None:
    async with opened_hub(limits=HubLimits(connections=2)) as rig:
        async with rig.stream(), rig.stream():
            with pytest.raises(LimitExceeded) as refused:
                async with rig.stream():
                    pass
            assert refused.value.details == {"limit": "connections", "max": 2}
            async with rig.stream(tenant="other"):
                pass
        async with rig.stream():
            pass


async def test_ending_a_credential_closes_its_streams_and_no_others() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        async with rig.stream(credential="old") as old, rig.stream(credential="new") as new:
            assert rig.hub.end("old") == 1
            await settle()
            assert old.task.done()
            assert old.connection.close_reason is CloseReason.REVOKED
            await rig.emit_some(1)
            await rig.dispatched()
            assert (old.seqs, new.seqs) == ([], [1])


async def test_closing_ends_every_stream_and_refuses_new_ones() -> None:
    async with opened_hub() as rig, rig.stream() as one, rig.stream(tenant="other") as other:
        rig.hub.close()
        await settle()
        assert one.task.done()
        assert other.task.done()
        assert one.connection.close_reason is CloseReason.SERVER_STOPPING
        with pytest.raises(StoreUnavailable):
            async with rig.stream():
                pass


async def test_an_error_inside_leaves_the_hub_bare() -> None:
    with pytest.raises(KeyError, match="mine"):
        async with opened_hub():
            raise KeyError("mine")


async def test_retention_lets_old_events_go_by_itself() -> None:
    async with opened_hub(limits=HubLimits(retention_seconds=100)) as rig:
        await rig.emit_some(3)
        await rig.clock.advance(90)
        await rig.emit_some(2)
        await rig.clock.advance(60)
        bounds = await rig.hub.bounds("acme")
        assert (bounds.floor, bounds.head) == (3, 5)


async def test_retention_that_fails_is_tried_again() -> None:
    memory = open_memory()

    class Failing:
        failures = 2

        def __getattr__(self, name: str) -> Any:
            return getattr(memory.log, name)

        async def trim(self, retention: Any) -> int:
            if self.failures:
                self.failures -= 1
                raise StoreUnavailable("locked")
            return await memory.log.trim(retention)

    async with opened_hub(replace(memory, log=Failing()), limits=HubLimits(retention_seconds=1)) as rig:
        await rig.emit_some(3)
        await rig.clock.advance(200)
        assert (await rig.hub.bounds("acme")).floor == 3


async def test_a_withdrawal_counts_although_its_caller_went_away() -> None:
    memory = open_memory()
    slow = Slow(memory.consents, "append")
    async with opened_hub(replace(memory, consents=slow)) as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            await rig.emit(subjects=["ann"])
            await rig.dispatched()
            assert stream.seqs == [1]
            recording = asyncio.create_task(rig.hub.consent.record("acme", ConsentRequest("ann", "withdrawn")))
            await until(lambda: slow.calls)
            recording.cancel()  # the line is in the ledger by now
            await asyncio.wait([recording])
            slow.free.set()
            await settle()
            await rig.emit(subjects=["ann"])
            await rig.dispatched()
            assert stream.seqs == [1]


async def test_a_stream_ends_when_the_log_cannot_be_read_and_says_why() -> None:
    memory = open_memory()

    class Away:
        def __getattr__(self, name: str) -> Any:
            return getattr(memory.log, name)

        async def read(self, *_: Any, **__: Any) -> Any:
            raise StoreUnavailable("the disk is away")

    async with opened_hub(replace(memory, log=Away())) as rig, rig.stream(Earliest()) as stream:
        assert isinstance(stream.task.exception(), StoreUnavailable)


async def test_nothing_is_left_of_streams_that_closed() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        for _ in range(3):
            async with rig.stream() as stream:
                stream.sink.pause()
                await rig.emit_some(120)
                await rig.dispatched()
            assert stream.connection.phase is Phase.CLOSED
        assert list(rig.hub.connections()) == []
        assert rig.hub.ring_bytes == 0


async def test_time_starts_where_the_clock_says() -> None:
    clock = FakeClock(5 * MICROSECONDS)
    async with opened_hub(clock=clock) as rig:
        receipt = await rig.emit()
        page = await rig.backend.log.read("acme", 0, limit=1)
        assert page.events[0].recorded_at == 5 * MICROSECONDS
        assert receipt.position.seq == 1


# -- a dispatcher whose task ends -------------------------------------------------------------------------------------


class Ending:
    """A log whose tail raises what no store should."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.error: BaseException | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def tail(self, after_offset: int, **bounds: Any) -> Any:
        error, self.error = self.error, None
        if error is not None:
            raise error
        return await self._inner.tail(after_offset, **bounds)


class Unheard(BaseException):
    """Nothing that anybody catches."""


@pytest.mark.parametrize("kind", [asyncio.CancelledError, Unheard])
async def test_a_dispatcher_that_ends_begins_again_and_its_streams_come_back(kind: type[BaseException]) -> None:
    memory = open_memory()
    log = Ending(memory.log)
    async with opened_hub(replace(memory, log=log)) as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            await rig.emit_some(2)
            await rig.dispatched()
            log.error = kind("secret")
            await rig.emit_some(2)
            await settle()
            assert rig.hub.faults == {"dispatch": kind.__name__}
            assert rig.hub.failing is not None
            assert kind.__name__ in rig.hub.failing
            assert "secret" not in rig.hub.failing
            assert stream.connection.close_reason is CloseReason.FAILED  # it may have missed some
            await rig.clock.advance(RETRY_SECONDS)
            assert (rig.hub.failing, rig.hub.totals.events) == (None, 4)
            assert rig.hub.faults == {"dispatch": kind.__name__}
        async with rig.stream(await rig.after(2)) as again:
            await rig.emit_some(1)
            await rig.dispatched()
            assert (stream.seqs, again.seqs) == ([1, 2], [3, 4, 5])


async def test_a_dispatcher_that_is_cancelled_begins_again_where_it_was_and_streams_stay() -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            await rig.emit_some(2)
            await rig.dispatched()
            (dispatcher,) = (task for task in asyncio.all_tasks() if task.get_name() == "clarion-dispatcher")
            dispatcher.cancel()
            await settle()
            assert rig.hub.faults == {"dispatch": "CancelledError"}
            await rig.emit_some(2)
            await settle()
            assert stream.seqs == [1, 2]
            await rig.clock.advance(RETRY_SECONDS)
            assert stream.seqs == [1, 2, 3, 4]
            assert rig.hub.failing is None


async def test_a_dispatcher_that_ends_before_it_began_leaves_the_past_alone() -> None:
    memory = open_memory()
    async with opened_hub(memory) as rig:
        await rig.emit_some(3)
    async with opened_hub(memory) as rig:
        await asyncio.sleep(0)
        (dispatcher,) = (task for task in asyncio.all_tasks() if task.get_name() == "clarion-dispatcher")
        dispatcher.cancel()  # before its first step
        await rig.subscribe()
        async with rig.stream() as stream:
            await rig.clock.advance(RETRY_SECONDS)
            await rig.emit_some(1)
            await settle()
            assert (stream.seqs, rig.hub.totals.events) == ([4], 1)
