"""What is stored is announced, whatever becomes of the caller; limits; how a data subject is written."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from clarion.errors import InvalidEvent, InvalidInput, LimitExceeded, NotFound, StoreUnavailable
from clarion.hub.hub import HubLimits
from clarion.hub.services import ConsentRequest
from clarion.model import Principal, normal_subject
from clarion.stores.memory import open_memory
from clarion.stores.protocols import Backend
from clarion.testing.clock import FakeClock
from clarion.testing.hubs import HubRig, opened_hub, settle
from clarion.testing.sinks import FakeSink

ALICE = Principal("acme", "alice")
COMPOSED, DECOMPOSED = "zo\u00eb@example.com", "zoe\u0308@example.com"


class Held:
    """A port whose method `name` stores and then keeps its caller waiting until it is let go."""

    def __init__(self, port: Any, name: str) -> None:
        self._port = port
        self._name = name
        self.stored = asyncio.Event()
        self.free = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._port, name)
        if name != self._name:
            return found

        async def held(*arguments: Any, **options: Any) -> Any:
            answer = await found(*arguments, **options)
            self.stored.set()
            await self.free.wait()
            return answer

        return held


async def leave_once_stored(held: Held, call: Coroutine[Any, Any, Any]) -> None:
    """Begin `call`, go away when it is stored, and let the store answer."""
    calling = asyncio.create_task(call)
    await held.stored.wait()
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    held.free.set()
    await settle()


def holding(port: str, name: str) -> tuple[Backend, Held]:
    backend = open_memory()
    held = Held(getattr(backend, port), name)
    return replace(backend, **{port: held}), held


# -- the caller goes away ---------------------------------------------------------------------------------------------


async def test_a_subscribe_whose_caller_left_is_announced_to_open_streams() -> None:
    backend, held = holding("subscriptions", "put")
    async with opened_hub(backend) as rig, rig.stream() as stream:
        await leave_once_stored(held, rig.subscribe())
        await rig.emit()
        await rig.dispatched()
        assert stream.seqs == [1]
        again = await rig.subscribe()
        assert [one.id for one in stream.connection.subscriptions] == [again.id]


async def test_subscribing_again_heals_a_stream_that_was_never_told() -> None:
    """The store failed to say that it had committed."""
    backend = open_memory()
    put = backend.subscriptions.put

    class Silent(Held):
        def __getattr__(self, name: str) -> Any:
            return getattr(self._port, name)

        async def put(self, *arguments: Any, **options: Any) -> Any:
            answer = await put(*arguments, **options)
            if not self.stored.is_set():
                self.stored.set()
                raise StoreUnavailable()
            return answer

    silent = replace(backend, subscriptions=Silent(backend.subscriptions, ""))
    async with opened_hub(silent) as rig, rig.stream() as stream:
        with pytest.raises(StoreUnavailable):
            await rig.subscribe()
        await rig.subscribe()
        await rig.emit()
        await rig.dispatched()
        assert stream.seqs == [1]


async def test_an_unsubscribe_whose_caller_left_ends_the_deliveries() -> None:
    backend, held = holding("subscriptions", "delete")
    async with opened_hub(backend) as rig:
        subscription = await rig.subscribe()
        async with rig.stream() as stream:
            await leave_once_stored(held, rig.unsubscribe(subscription))
            await rig.emit()
            await rig.dispatched()
            assert stream.seqs == []


async def test_a_declaration_whose_caller_left_is_in_force() -> None:
    backend, held = holding("topics", "put")
    async with opened_hub(backend) as rig:
        await rig.hub.topics.declared("acme")  # kept in memory from here on
        schema = {"type": "object", "required": ["id"]}
        declaring = rig.hub.topics.declare(
            "acme", "orders.paid", category=None, description="Paid.", schema=schema, filter_examples=[]
        )
        await leave_once_stored(held, declaring)
        with pytest.raises(InvalidEvent):
            await rig.emit("orders.paid", {"no": "id"})


async def test_a_rule_that_is_remembered_gives_way_to_a_declaration() -> None:
    schema = {"type": "object", "required": ["id"]}
    async with opened_hub() as rig:
        await rig.emit("orders.paid", {})
        known = rig.hub.topics.known_rules("acme")
        assert known is not None
        assert known.found("orders.paid") is not None
        await rig.hub.topics.declare(
            "acme", "orders.*", category="workflow", description="Orders.", schema=schema, filter_examples=[]
        )
        with pytest.raises(InvalidEvent):
            await rig.emit("orders.paid", {})
        await rig.emit("orders.paid", {"id": 1})
        await rig.hub.append([])
        rules = await rig.hub.topics.rules("acme")
        assert rules is rig.hub.topics.known_rules("acme")
        assert rules.of("orders.paid").category == "workflow"
        assert (await rig.hub.topics.rules("globex")).of("orders.paid").schema is None


async def test_remembered_rules_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clarion.hub.services.MAX_RULES", 3)
    async with opened_hub() as rig:
        rules = await rig.hub.topics.rules("acme")
        for number in range(10):
            rules.of(f"made.up{number}")
        assert sum(rules.found(f"made.up{number}") is not None for number in range(10)) <= 3


async def test_declarations_that_cannot_be_read_are_told_after_what_is_wrong_by_itself() -> None:
    backend = open_memory()

    async def unread(_tenant: str) -> Any:
        raise StoreUnavailable()

    backend.topics.of_tenant = unread  # type: ignore[method-assign]
    async with opened_hub(backend) as rig:
        with pytest.raises(InvalidEvent):
            await rig.emit(payload={"a": float("nan")})
        with pytest.raises(StoreUnavailable):
            await rig.emit()
        assert rig.hub.topics.known_rules("acme") is None


async def test_a_withdrawal_whose_caller_left_empties_what_waits() -> None:
    backend, held = holding("consents", "append")
    sink = FakeSink()
    async with opened_hub(backend) as rig:
        await rig.subscribe()
        async with rig.stream(sink=sink) as stream:
            sink.pause()
            await rig.emit(subjects=["ann"])
            await rig.dispatched()
            assert stream.connection.waiting == 1
            await leave_once_stored(held, rig.consent("ann", "withdrawn"))
            assert stream.connection.waiting == 0
            sink.resume()
            await settle()
            assert stream.seqs == []


async def test_a_line_that_is_stored_is_answered_also_when_regating_must_wait() -> None:
    sink = FakeSink()
    async with opened_hub() as rig:
        await rig.subscribe()
        async with rig.stream(sink=sink) as stream:
            sink.pause()
            await rig.emit(subjects=["ann"])
            await rig.dispatched()
            states = rig.backend.consents.states

            async def away(*_: Any) -> Any:
                raise StoreUnavailable()

            rig.backend.consents.states = away  # type: ignore[method-assign]
            entry = await rig.hub.consent.record("acme", ConsentRequest("ann", "withdrawn"))
            assert entry.seq == 1
            rig.backend.consents.states = states  # type: ignore[method-assign]
            sink.resume()
            await settle()
            assert stream.seqs == []


# -- limits -----------------------------------------------------------------------------------------------------------


async def test_a_client_reaches_its_own_limit_of_subscriptions_before_the_tenants() -> None:
    async with opened_hub(limits=HubLimits(subscriptions_per_client=3)) as rig:
        for number in range(3):
            await rig.subscribe(filter={"n": number})
        with pytest.raises(LimitExceeded):
            await rig.subscribe(filter={"n": 3})
        await rig.subscribe(filter={"n": 3}, client="phone")


async def test_subscribing_and_unsubscribing_does_not_pile_up_rows() -> None:
    async with opened_hub(limits=HubLimits(subscriptions=5)) as rig:
        first = await rig.subscribe()
        await rig.unsubscribe(first)
        for number in range(20):
            await rig.unsubscribe(await rig.subscribe(filter={"n": number}, client=f"c{number}"))
        assert await rig.hub.subscriptions.count("acme") == (0, 5)
        with pytest.raises(NotFound):
            await rig.unsubscribe(first)


async def test_a_principal_reaches_its_own_limit_of_streams_before_the_tenants() -> None:
    async with opened_hub(limits=HubLimits(connections_per_principal=2)) as rig:
        async with rig.stream(client="a"), rig.stream(client="b"):
            with pytest.raises(LimitExceeded) as refusal:
                async with rig.stream(client="c"):
                    pass
            assert refusal.value.details == {"limit": "connections_per_principal", "max": 2}
            async with rig.stream(subject="bob"), rig.stream(tenant="globex"):
                pass
        async with rig.stream(), rig.stream():
            pass


# -- data subjects ----------------------------------------------------------------------------------------------------


def test_a_data_subject_is_written_in_one_way() -> None:
    assert normal_subject(DECOMPOSED) == normal_subject(COMPOSED) == COMPOSED
    assert normal_subject("Ada B") == "Ada B"


@pytest.mark.parametrize(("emitted", "withdrawn"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
async def test_a_withdrawal_holds_however_an_accent_was_typed(emitted: str, withdrawn: str) -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            await rig.emit(subjects=[emitted])
            await rig.dispatched()
            await rig.consent(withdrawn, "withdrawn")
            await rig.emit(subjects=[emitted])
            await rig.dispatched()
            assert stream.seqs == [1]
        assert not (await rig.hub.consent.check("acme", emitted, None)).allowed
        assert [one.subject for one in await rig.hub.consent.history("acme", emitted, limit=9)] == [COMPOSED]


@pytest.mark.parametrize("subject", [" ann", "ann ", " ", ""])
async def test_blanks_around_a_data_subject_are_refused_everywhere(subject: str) -> None:
    async with opened_hub() as rig:
        calls: list[Callable[[HubRig], Awaitable[Any]]] = [
            lambda rig: rig.emit(subjects=[subject]),
            lambda rig: rig.consent(subject, "withdrawn"),
            lambda rig: rig.hub.consent.check("acme", subject, None),
            lambda rig: rig.hub.consent.history("acme", subject, limit=9),
        ]
        for call in calls:
            with pytest.raises((InvalidInput, InvalidEvent)):
                await call(rig)


async def test_retention_does_not_wait_for_an_event_that_a_wrong_clock_dated_ahead() -> None:
    clock = FakeClock()
    async with opened_hub(clock=clock, limits=HubLimits(retention_seconds=100)) as rig:
        clock.jump(86_400)
        await rig.emit()
        clock.jump(-86_400)
        await rig.emit()
        await rig.dispatched()
        assert await rig.hub.trim() == 0
        await clock.advance(101)
        assert await rig.hub.trim() == 2
