"""The recorder: one packed record per event, wire and outcome of a write batch, and nothing twice."""

from collections.abc import Sequence

from clarion.hub.recorder import Recorder
from clarion.hub.ring import Parcel
from clarion.model import DeliveryRecord, Event, Outcome
from clarion.stores.memory import open_memory
from clarion.testing.clock import FakeClock
from clarion.testing.contracts.examples import draft, subscription


class Kept:
    """The one method of the audit that a recorder uses."""

    def __init__(self) -> None:
        self.records: list[DeliveryRecord] = []
        self.calls = 0

    def record(self, records: Sequence[DeliveryRecord]) -> None:
        self.calls += 1
        self.records += records


def parcel(seq: int) -> Parcel:
    return Parcel(Event.of(draft(f"e{seq}"), seq))


def test_many_connections_make_one_record_per_event_wire_and_outcome() -> None:
    audit = Kept()
    recorder = Recorder(audit, FakeClock())  # type: ignore[arg-type]
    first, second = parcel(1), parcel(2)
    for number in range(1000):
        recorder.note(first, "pact", Outcome.DELIVERED, [subscription(f"s{number}")])
    recorder.note(first, "pubsub", Outcome.DELIVERED, [subscription("t1")])
    recorder.note(first, "pact", Outcome.DROPPED, [subscription("s1"), subscription("s2")])
    recorder.note(second, "pact", Outcome.REFUSED, [subscription("s3")])
    assert recorder.commit() == 1001
    assert [(one.seq, one.wire, one.outcome, len(one.subscription_ids)) for one in audit.records] == [
        (1, "pact", Outcome.DELIVERED, 1000),
        (1, "pubsub", Outcome.DELIVERED, 1),
        (1, "pact", Outcome.DROPPED, 2),
        (2, "pact", Outcome.REFUSED, 1),
    ]
    assert (recorder.totals.delivered, recorder.totals.dropped, recorder.totals.refused) == (1001, 2, 1)


def test_a_commit_hands_nothing_over_twice() -> None:
    audit = Kept()
    recorder = Recorder(audit, FakeClock())  # type: ignore[arg-type]
    one = parcel(1)
    recorder.note(one, "pact", Outcome.DELIVERED, [subscription("s1")])
    assert recorder.commit() == 1
    assert recorder.commit() == 0
    assert audit.calls == 1
    recorder.note(one, "pact", Outcome.DELIVERED, [subscription("s2")])  # the same event, in a later batch
    recorder.commit()
    assert [record.subscription_ids for record in audit.records] == [("s1",), ("s2",)]


async def test_counters_add_up_to_what_was_noted() -> None:
    backend, clock = open_memory(), FakeClock()
    recorder = Recorder(backend.audit, clock)
    for seq in range(1, 4):
        recorder.note(parcel(seq), "pact", Outcome.DELIVERED, [subscription("s1"), subscription("s2")])
        recorder.commit()
    counters = (await backend.audit.counters("acme", ["s1"]))["s1"]
    assert (counters.delivered, counters.last_delivered_at) == (3, clock.now())
