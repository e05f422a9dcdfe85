"""emit: every limit and error, idempotency, order, and nothing stored when it fails."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from clarion.errors import (
    ClarionError,
    Conflict,
    InvalidEvent,
    InvalidInput,
    InvalidTopic,
    PayloadTooLarge,
    StoreUnavailable,
)
from clarion.model import MICROSECONDS, Principal, parse_time
from clarion.sources.emit import (
    MAX_ATTRIBUTE_BYTES,
    MAX_AUDIENCE,
    MAX_FIELD_LENGTH,
    MAX_PAYLOAD_BYTES,
    MAX_SUBJECTS,
    Emission,
    Emitter,
    Receipt,
)
from clarion.stores.memory import open_memory
from clarion.testing.hubs import HubRig, opened_hub

PUBLISHER = Principal("acme", "publisher")


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


def payload_of(size: int) -> dict[str, Any]:
    """A payload that takes exactly `size` bytes as stored."""
    return {"a": "x" * (size - len('{"a":""}'))}


async def nothing_stored(rig: HubRig) -> bool:
    return (await rig.hub.bounds("acme")).head == 0


# -- what is refused --------------------------------------------------------------------------------------------------


async def test_a_payload_of_exactly_240_kib_is_taken_and_one_byte_more_is_not() -> None:
    async with opened_hub() as rig:
        assert MAX_PAYLOAD_BYTES == 240 * 1024
        await rig.emit(payload=payload_of(MAX_PAYLOAD_BYTES))
        with pytest.raises(PayloadTooLarge) as refused:
            await rig.emit(payload=payload_of(MAX_PAYLOAD_BYTES + 1))
        assert refused.value.details == {"limit": "payload_bytes", "max": MAX_PAYLOAD_BYTES}
        assert (await rig.hub.bounds("acme")).head == 1


async def test_the_limit_counts_bytes_not_characters() -> None:
    async with opened_hub() as rig:
        with pytest.raises(PayloadTooLarge):
            await rig.emit(payload={"a": "é" * (MAX_PAYLOAD_BYTES // 2)})


async def test_a_lower_limit_is_kept_and_a_higher_one_is_not() -> None:
    async with opened_hub() as rig:
        low = Emitter(rig.hub, clock=rig.clock, max_payload_bytes=100)
        await low.emit(PUBLISHER, Emission("deal.won", payload_of(100)))
        with pytest.raises(PayloadTooLarge):
            await low.emit(PUBLISHER, Emission("deal.won", payload_of(101)))
        high = Emitter(rig.hub, clock=rig.clock, max_payload_bytes=10**9)
        with pytest.raises(PayloadTooLarge):
            await high.emit(PUBLISHER, Emission("deal.won", payload_of(MAX_PAYLOAD_BYTES + 1)))


BAD_PAYLOADS = {
    "not an object": ["a"],
    "text": "a",
    "nothing": None,
    "not a number": {"a": float("nan")},
    "infinite": {"a": [{"b": float("inf")}]},
    "minus infinite": {"a": float("-inf")},
    "lone surrogate": {"a": "\ud800"},
    "lone surrogate in a key": {"\udfff": 1},
    "key that is no text": {1: "a"},
    "beyond 64 bits": {"a": 2**70},
    "bytes": {"a": b"x"},
    "a set": {"a": {1}},
    "nested too deeply": nested(260),
    "nested to the encoder's very limit": nested(254),
}


@pytest.mark.parametrize("payload", BAD_PAYLOADS.values(), ids=BAD_PAYLOADS)
async def test_a_payload_that_json_cannot_hold_is_refused_by_name(payload: Any) -> None:
    async with opened_hub() as rig:
        with pytest.raises(InvalidEvent) as refused:
            await rig.emitter.emit(PUBLISHER, Emission("deal.won", payload))
        assert refused.value.field == "payload"
        assert await nothing_stored(rig)


async def test_no_depth_of_nesting_gets_by_with_another_error() -> None:
    async with opened_hub() as rig:
        outcomes = set()
        for depth in range(240, 270):
            (outcome,) = await rig.emitter.emit_many(PUBLISHER, [Emission("deal.won", nested(depth))])
            outcomes.add(type(outcome))
        assert outcomes == {Receipt, InvalidEvent}


LONG = "x" * (MAX_FIELD_LENGTH + 1)
NAMES = ("event_id", "source", "aggregate_type", "aggregate_id", "actor_id", "correlation_id", "causation_id", "key")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "value", ["", LONG, "a\nb", "a\x00", "\x1b[31m", "a\x7f", "a\x85", "a\ud800", 7, b"a", ["a"], True]
)
async def test_an_id_or_name_that_breaks_a_rule_is_refused_by_name(name: str, value: Any) -> None:
    async with opened_hub() as rig:
        with pytest.raises(InvalidEvent) as refused:
            await rig.emit(**{name: value})
        assert refused.value.field == name
        assert await nothing_stored(rig)


@pytest.mark.parametrize("name", NAMES)
async def test_an_id_or_name_may_be_as_long_as_the_limit_and_in_any_script(name: str) -> None:
    async with opened_hub() as rig:
        await rig.emit(**{name: "é☃" * (MAX_FIELD_LENGTH // 2)})


BAD_FIELDS: list[tuple[str, Any]] = [
    ("subjects", "ann"),
    ("subjects", None),
    ("subjects", {"ann"}),
    ("subjects", [""]),
    ("subjects", [" "]),
    ("subjects", ["a\nb"]),
    ("subjects", ["a\u00a0b"]),  # the ledger does not take it, so it could never be withdrawn
    ("subjects", [7]),
    ("subjects", [LONG]),
    ("subjects", ["s"] * (MAX_SUBJECTS + 1)),
    ("audience", "alice"),
    ("audience", [""]),
    ("audience", [None]),
    ("audience", [f"p{number}" for number in range(MAX_AUDIENCE + 1)]),
    ("priority", "extreme"),
    ("priority", ""),
    ("priority", None),
    ("priority", ["high"]),
    ("attributes", ["a"]),
    ("attributes", None),
    ("attributes", 0),
    ("attributes", {"a": float("nan")}),
    ("attributes", {"a": "x" * MAX_ATTRIBUTE_BYTES}),
    ("attributes", {1: "a"}),
    ("occurred_at", parse_time("2030-01-01")),
    ("occurred_at", -(10**18)),
    ("occurred_at", 1.5),
    ("occurred_at", True),
    ("occurred_at", "2026-01-01"),
    ("expires_at", 10**19),
    ("expires_at", "2030-01-01"),
]


@pytest.mark.parametrize(("name", "value"), BAD_FIELDS, ids=lambda value: repr(value)[:30])
async def test_a_field_that_breaks_a_rule_is_refused_by_name(name: str, value: Any) -> None:
    async with opened_hub() as rig:
        with pytest.raises(InvalidEvent) as refused:
            await rig.emit(**{name: value})
        assert refused.value.field == name
        assert await nothing_stored(rig)


@pytest.mark.parametrize("age", [0, 1])
async def test_an_expiry_that_has_come_is_refused(age: int) -> None:
    async with opened_hub() as rig:
        with pytest.raises(InvalidEvent) as refused:
            await rig.emit(expires_at=rig.clock.now() - age)
        assert refused.value.field == "expires_at"
        await rig.emit(expires_at=rig.clock.now() + 1)


@pytest.mark.parametrize(
    "topic", ["", ".", "a..b", "a.*", "a b", "a/b", "é", ".".join("a" * 17), "a" * 65, "a\n", 7, None]
)
async def test_a_topic_that_is_none_is_refused(topic: Any) -> None:
    async with opened_hub() as rig:
        with pytest.raises(InvalidTopic):
            await rig.emitter.emit(PUBLISHER, Emission(topic, {}))
        assert await nothing_stored(rig)


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00Z", "1969-12-31T23:59:59.999999Z", "2026-06-12T10:00:00+02:00"])
async def test_whatever_time_is_taken_can_be_framed(moment: str) -> None:
    async with opened_hub() as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            await rig.emit(occurred_at=parse_time(moment))
            await rig.dispatched()
            assert parse_time(stream.events[0].params["occurred_at"]) == parse_time(moment)


# -- what is stored ---------------------------------------------------------------------------------------------------


async def test_the_receipt_names_the_position_and_a_generated_id_is_a_ulid() -> None:
    async with opened_hub() as rig:
        receipt = await rig.emit()
        assert (receipt.position.seq, receipt.duplicate, receipt.topic) == (1, False, "deal.won")
        assert receipt.position.epoch == (await rig.hub.bounds("acme")).epoch
        assert len(receipt.event_id) == 26
        assert (await rig.emit()).event_id != receipt.event_id


async def test_the_tenant_and_origin_are_the_principals() -> None:
    async with opened_hub() as rig:
        await rig.emit(tenant="other")
        assert await nothing_stored(rig)
        (event,) = (await rig.backend.log.read("other", 0, limit=9)).events
        assert (event.tenant, event.origin) == ("other", "publisher")


async def test_the_payload_is_stored_as_it_was_given() -> None:
    async with opened_hub() as rig:
        given = {"z": 1, "a": [None, True, 1.5, "é☃\u2028", {"k": -(2**63)}], "": {}}
        await rig.emit(payload=given)
        (event,) = (await rig.backend.log.read("acme", 0, limit=9)).events
        assert event.payload == given
        assert list(event.payload) == ["z", "a", ""]


# -- idempotency ------------------------------------------------------------------------------------------------------


async def test_the_same_id_and_content_is_one_event_and_answers_the_first_position() -> None:
    async with opened_hub() as rig:
        first = await rig.emit(payload={"a": 1, "b": 2}, event_id="e1", subjects=["ann"])
        await rig.emit()
        again = await rig.emit(payload={"b": 2, "a": 1}, event_id="e1", subjects=["ann"])  # in another order
        assert (again.position, again.duplicate) == (first.position, True)
        assert (await rig.hub.bounds("acme")).head == 2


async def test_time_that_passes_does_not_make_a_retry_another_event() -> None:
    async with opened_hub() as rig:
        await rig.emit(event_id="e1")
        rig.clock.jump(3_600)
        assert (await rig.emit(event_id="e1")).duplicate


CHANGES: dict[str, Any] = {
    "payload": {"other": 1}, "aggregate_id": "x", "aggregate_type": "x", "actor_id": "x", "correlation_id": "x",
    "causation_id": "x", "audience": ["x"], "priority": "high", "key": "x", "attributes": {"x": 1},
    "subjects": ["x"], "occurred_at": 1, "expires_at": 2**52,
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
async def test_the_same_id_with_other_content_is_a_conflict_and_changes_nothing(name: str) -> None:
    async with opened_hub() as rig:
        await rig.emit(event_id="e1")
        with pytest.raises(Conflict) as refused:
            await rig.emit(event_id="e1", **{name: CHANGES[name]})
        assert refused.value.details == {"event_id": "e1", "seq": 1}
        assert (await rig.hub.bounds("acme")).head == 1


async def test_an_id_is_taken_within_one_source_of_one_tenant_only() -> None:
    async with opened_hub() as rig:
        await rig.emit(event_id="e1")
        assert not (await rig.emit(event_id="e1", source="other", payload={"x": 1})).duplicate
        assert not (await rig.emit(event_id="e1", tenant="other", payload={"x": 1})).duplicate


# -- several ----------------------------------------------------------------------------------------------------------


async def test_several_keep_their_order_and_good_ones_are_stored_among_bad_ones() -> None:
    async with opened_hub() as rig:
        emissions = [
            Emission("deal.won", {"n": 1}, event_id="a"),
            Emission("no such topic", {}),
            Emission("deal.won", {"n": 2}),
            Emission("deal.won", {"n": float("nan")}),
            Emission("deal.won", {"n": 1}, event_id="a"),
            Emission("deal.won", {"n": 3}, event_id="a"),
            Emission("deal.won", payload_of(MAX_PAYLOAD_BYTES + 1)),
            Emission("deal.won", {"n": 4}),
        ]
        outcomes = await rig.emitter.emit_many(PUBLISHER, emissions)
        assert [_outcome(one) for one in outcomes] == [
            1, InvalidTopic, 2, InvalidEvent, "again 1", Conflict, PayloadTooLarge, 3,
        ]  # fmt: skip
        events = (await rig.backend.log.read("acme", 0, limit=9)).events
        assert [event.payload["n"] for event in events] == [1, 2, 4]


def _outcome(one: Receipt | ClarionError) -> Any:
    if isinstance(one, ClarionError):
        return type(one)
    return f"again {one.position.seq}" if one.duplicate else one.position.seq


async def test_none_and_only_bad_ones_store_nothing() -> None:
    async with opened_hub() as rig:
        assert await rig.emitter.emit_many(PUBLISHER, []) == []
        (outcome,) = await rig.emitter.emit_many(PUBLISHER, [Emission("", {})])
        assert isinstance(outcome, InvalidInput)
        assert await nothing_stored(rig)


async def test_a_store_that_is_away_is_told_and_nothing_was_stored_or_sent() -> None:
    memory = open_memory()

    class Full:
        away = True

        def __getattr__(self, name: str) -> Any:
            return getattr(memory.log, name)

        async def append(self, drafts: Any) -> Any:
            if self.away:
                raise StoreUnavailable()
            return await memory.log.append(drafts)

    log = Full()
    async with opened_hub(replace(memory, log=log)) as rig:
        await rig.subscribe()
        async with rig.stream() as stream:
            with pytest.raises(StoreUnavailable):
                await rig.emit(event_id="e1")
            log.away = False
            assert not (await rig.emit(event_id="e1")).duplicate
            await rig.dispatched()
            assert stream.seqs == [1]


async def test_a_year_ahead_is_a_unit_mistaken_for_another() -> None:
    async with opened_hub() as rig:
        await rig.emit(occurred_at=rig.clock.now() + 300 * 86_400 * MICROSECONDS)
        with pytest.raises(InvalidEvent):
            await rig.emit(occurred_at=rig.clock.now() + 400 * 86_400 * MICROSECONDS)


async def test_a_retry_after_the_expiry_is_a_duplicate_and_a_late_event_with_an_id_is_stored() -> None:
    async with opened_hub() as rig:
        event = Emission("deal.won", {}, event_id="e1", expires_at=rig.clock.now() + 1)
        first = await rig.emitter.emit(PUBLISHER, event)
        await rig.clock.advance(1)
        again = await rig.emitter.emit(PUBLISHER, event)
        assert (again.duplicate, again.position) == (True, first.position)
        late = await rig.emitter.emit(PUBLISHER, replace(event, event_id="e2"))
        assert late.duplicate is False


async def test_an_emit_of_large_events_gives_others_a_turn() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with opened_hub() as rig:
        task = asyncio.create_task(other())
        await asyncio.sleep(0)
        before = turns
        checked = asyncio.create_task(
            rig.emitter.emit_many(PUBLISHER, [Emission("deal.won", payload_of(200_000))] * 20)
        )
        outcomes = await checked
        task.cancel()
    assert all(isinstance(outcome, Receipt) for outcome in outcomes)
    assert turns - before >= 10


async def declared(rig: HubRig, **schema: Any) -> None:
    await rig.hub.topics.declare("acme", "custom.a", category=None, description="d", schema=schema, filter_examples=[])


async def test_what_was_checked_before_a_declaration_is_checked_again_before_it_is_stored() -> None:
    async with opened_hub() as rig:
        emissions = [Emission("custom.a", {**payload_of(200_000), "n": n}) for n in range(6)]
        emissions[3] = Emission("custom.a", {**payload_of(200_000), "q": 1})
        emissions[5] = Emission("custom.a", {"q": 1})
        emitting = asyncio.create_task(rig.emitter.emit_many(PUBLISHER, emissions))
        await asyncio.sleep(0)  # the first stretch is checked
        assert not emitting.done()
        await declared(rig, type="object", required=["q"])
        outcomes = [_outcome(one) for one in await emitting]
        assert outcomes == [InvalidEvent, InvalidEvent, InvalidEvent, 1, InvalidEvent, 2]
        assert (await rig.hub.bounds("acme")).head == 2


async def test_declarations_that_come_while_it_is_checked_again_are_kept_too() -> None:
    async with opened_hub() as rig:
        emissions = [Emission("custom.a", {**payload_of(200_000), "q": 1, "z": n}) for n in range(24)]
        emitting = asyncio.create_task(rig.emitter.emit_many(PUBLISHER, emissions))
        for title in ("one", "two", "three"):
            await asyncio.sleep(0)
            await declared(rig, type="object", required=["q"], title=title)
        assert not emitting.done()
        await declared(rig, type="object", required=["w"])
        assert [_outcome(one) for one in await emitting] == [InvalidEvent] * 24
        assert await nothing_stored(rig)
