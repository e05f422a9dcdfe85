"""The gate: the decisions of SEEDS "Consent" as a table, the audience, expiry, and what is not known yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import pytest

from clarion.errors import StoreUnavailable
from clarion.gate import Gate, Refusal, decide
from clarion.model import ConsentEntry, ConsentState, Event, PurposeConsent, SubjectConsent
from clarion.stores.memory import open_memory
from clarion.testing.clock import FakeClock
from clarion.testing.contracts.examples import consent, draft

NOW = 1_000
GRANTED, WITHDRAWN, PENDING = ConsentState.GRANTED, ConsentState.WITHDRAWN, ConsentState.PENDING
SUPPRESSED, RELEASED = ConsentState.SUPPRESSED, ConsentState.RELEASED

Line = tuple[ConsentState, str | None] | tuple[ConsentState, str | None, int]


def event(seq: int = 1, **changes: object) -> Event:
    return Event.of(draft(f"e{seq}", **changes), seq)


async def ledger(*lines: Line) -> SubjectConsent:
    """What a real ledger says of ann after `lines`."""
    consents = open_memory().consents
    for state, purpose, *expiry in lines:
        await consents.append(consent("ann", state, purpose=purpose, expires_at=expiry[0] if expiry else None))
    return (await consents.states("acme", ["ann"]))["ann"]


TABLE: list[tuple[str, list[Line], bool, bool, str, str]] = [
    # what the ledger holds, passes without purpose, passes for marketing, state of each
    ("nothing", [], True, False, "unknown", "unknown"),
    ("general grant", [(GRANTED, None)], True, False, "granted", "unknown"),
    ("general pending", [(PENDING, None)], True, False, "pending", "unknown"),
    ("general withdrawal", [(WITHDRAWN, None)], False, False, "withdrawn", "withdrawn"),
    ("expired general grant", [(GRANTED, None, NOW)], True, False, "expired", "unknown"),
    ("grant for it", [(GRANTED, "marketing")], True, True, "unknown", "granted"),
    ("grant for it, to expire", [(GRANTED, "marketing", NOW + 1)], True, True, "unknown", "granted"),
    ("grant for it, expired this very moment", [(GRANTED, "marketing", NOW)], True, False, "unknown", "expired"),
    ("pending for it", [(PENDING, "marketing")], True, False, "unknown", "pending"),
    ("pending for it, expired", [(PENDING, "marketing", NOW - 1)], True, False, "unknown", "expired"),
    ("withdrawal for it", [(WITHDRAWN, "marketing")], True, False, "unknown", "withdrawn"),
    ("grant for another", [(GRANTED, "analytics")], True, False, "unknown", "unknown"),
    ("withdrawal for another", [(GRANTED, "marketing"), (WITHDRAWN, "analytics")], True, True, "unknown", "granted"),
    ("grant taken back", [(GRANTED, "marketing"), (WITHDRAWN, "marketing")], True, False, "unknown", "withdrawn"),
    ("grant given again", [(WITHDRAWN, "marketing"), (GRANTED, "marketing")], True, True, "unknown", "granted"),
    ("grant, then general withdrawal", [(GRANTED, "marketing"), (WITHDRAWN, None)], False, False, "withdrawn",
     "withdrawn"),
    ("general withdrawal, then grant for it", [(WITHDRAWN, None), (GRANTED, "marketing")], False, True, "withdrawn",
     "granted"),
    ("general withdrawal, then a general grant", [(GRANTED, "marketing"), (WITHDRAWN, None), (GRANTED, None)], True,
     False, "granted", "withdrawn"),
    ("general withdrawal, then generally pending", [(GRANTED, "marketing"), (WITHDRAWN, None), (PENDING, None)], True,
     False, "pending", "withdrawn"),
    ("general withdrawal, general grant, then grant for it", [(GRANTED, "marketing"), (WITHDRAWN, None),
     (GRANTED, None), (GRANTED, "marketing")], True, True, "granted", "granted"),
    ("general withdrawal after an expiring grant", [(GRANTED, "marketing", NOW + 1), (WITHDRAWN, None),
     (GRANTED, None)], True, False, "granted", "withdrawn"),
    ("suppressed", [(GRANTED, "marketing"), (SUPPRESSED, None)], False, False, "unknown", "granted"),
    ("released", [(GRANTED, "marketing"), (SUPPRESSED, None), (RELEASED, None)], True, True, "unknown", "granted"),
    ("granted while suppressed", [(SUPPRESSED, None), (GRANTED, "marketing"), (GRANTED, None)], False, False,
     "granted", "granted"),
    ("withdrawn, suppressed, released", [(WITHDRAWN, None), (SUPPRESSED, None), (RELEASED, None)], False, False,
     "withdrawn", "withdrawn"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "general", "marketing", "state", "marketing_state"),
                         [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])  # fmt: skip
async def test_what_the_ledger_says_decides(
    lines: list[Line], general: bool, marketing: bool, state: str, marketing_state: str
) -> None:
    held = await ledger(*lines)
    without, named = decide(held, None, NOW), decide(held, "marketing", NOW)
    assert (without.allowed, without.state) == (general, state)
    assert (named.allowed, named.state) == (marketing, marketing_state)
    assert without.reason
    assert named.reason


@pytest.mark.parametrize("reason", ["bounce", "complaint", "stop", "admin", "legal"])
def test_a_suppression_blocks_whatever_was_granted_and_says_by_what(reason: str) -> None:
    held = SubjectConsent(reason, {None: PurposeConsent(GRANTED, 1), "marketing": PurposeConsent(GRANTED, 2)})
    for purpose in (None, "marketing"):
        decision = decide(held, purpose, NOW)
        assert not decision.allowed
        assert decision.suppressed_by == reason
        assert reason in decision.reason


def gate_over(states: Mapping[str, SubjectConsent] | None = None, *, max_known: int = 100) -> tuple[Gate, Ledger]:
    store = Ledger(dict(states or {}))
    return Gate(store, FakeClock(NOW), max_known=max_known), store


class Ledger:
    """A ledger that a test sets; `meanwhile` runs after it was read and before the answer is given."""

    def __init__(self, states: dict[str, SubjectConsent]) -> None:
        self.held = states
        self.meanwhile: Callable[[], None] = lambda: None
        self.failing = False
        self.asked: list[set[str]] = []

    async def append(self, entry: ConsentEntry) -> ConsentEntry:
        return entry

    async def states(self, tenant: str, subjects: Collection[str]) -> dict[str, SubjectConsent]:
        self.asked.append(set(subjects))
        if self.failing:
            raise StoreUnavailable("away")
        found = {subject: self.held[subject] for subject in subjects if subject in self.held}
        self.meanwhile()
        await asyncio.sleep(0)
        return found

    async def history(self, tenant: str, subject: str, *, limit: int) -> list[ConsentEntry]:
        return []


GONE = SubjectConsent(None, {None: PurposeConsent(WITHDRAWN, 1)})
FREE = SubjectConsent(None, {None: PurposeConsent(GRANTED, 1)})


def test_an_event_without_subjects_passes_and_needs_no_learning() -> None:
    gate, _ = gate_over()
    assert gate.knows([event()])
    assert gate.admits(event(), "alice", None) is None
    assert gate.admits(event(), "alice", "marketing") is None


def test_the_gate_fails_closed_of_a_subject_that_nothing_was_learned_of() -> None:
    gate, _ = gate_over({"ann": FREE})
    guarded = event(subjects=("ann",))
    assert not gate.knows([guarded])
    assert gate.admits(guarded, "alice", None) is Refusal.CONSENT


async def test_all_of_several_subjects_must_pass() -> None:
    gate, _ = gate_over({"ann": FREE, "bob": GONE})
    both, one = event(1, subjects=("ann", "bob")), event(2, subjects=("ann",))
    await gate.learn([both, one])
    assert gate.admits(one, "alice", None) is None
    assert gate.admits(both, "alice", None) is Refusal.CONSENT


async def test_a_subject_the_ledger_does_not_know_is_known_to_be_unknown() -> None:
    gate, store = gate_over()
    guarded = event(subjects=("nobody",))
    await gate.learn([guarded])
    assert gate.knows([guarded])
    assert gate.admits(guarded, "alice", None) is None
    assert gate.admits(guarded, "alice", "marketing") is Refusal.CONSENT
    await gate.learn([guarded])
    assert len(store.asked) == 1


def test_an_audience_admits_its_members_only_whatever_consent_says() -> None:
    gate, _ = gate_over()
    limited = event(audience=("alice", "bob"))
    assert gate.admits(limited, "alice", None) is None
    assert gate.admits(limited, "eve", None) is Refusal.AUDIENCE
    assert gate.admits(event(audience=()), "alice", None) is Refusal.AUDIENCE
    assert gate.admits(event(audience=("Alice",)), "alice", None) is Refusal.AUDIENCE


def test_an_event_is_refused_from_the_moment_it_expires() -> None:
    gate, _ = gate_over()
    assert gate.admits(event(expires_at=NOW + 1), "alice", None) is None
    assert gate.admits(event(expires_at=NOW), "alice", None) is Refusal.EXPIRED
    assert gate.admits(event(expires_at=NOW - 1), "alice", None) is Refusal.EXPIRED


async def test_the_same_subject_in_two_tenants_is_two_people() -> None:
    backend = open_memory()
    await backend.consents.append(consent("ann", WITHDRAWN))
    gate = Gate(backend.consents, FakeClock(NOW))
    mine, theirs = event(subjects=("ann",)), event(subjects=("ann",), tenant="other")
    await gate.learn([mine])
    assert not gate.knows([theirs])
    await gate.learn([theirs])
    assert gate.admits(mine, "alice", None) is Refusal.CONSENT
    assert gate.admits(theirs, "alice", None) is None


async def test_a_change_forgets_the_subject_and_moves_the_tenants_generation() -> None:
    gate, store = gate_over({"ann": FREE, "bob": FREE})
    events = [event(1, subjects=("ann",)), event(2, subjects=("bob",))]
    await gate.learn(events)
    before = gate.generation("acme")
    store.held["ann"] = GONE
    gate.changed("acme", "ann")
    assert gate.generation("acme") > before
    assert gate.generation("other") == 0
    assert gate.admits(events[0], "alice", None) is Refusal.CONSENT  # closed until it is learned anew
    assert not gate.knows(events)
    assert gate.knows(events[1:])
    await gate.learn(events)
    assert gate.admits(events[0], "alice", None) is Refusal.CONSENT
    assert store.asked[-1] == {"ann"}


async def test_a_read_that_a_change_overtook_is_not_believed() -> None:
    gate, store = gate_over({"ann": FREE})
    guarded = event(subjects=("ann",))

    def withdraw() -> None:
        store.held["ann"] = GONE
        store.meanwhile = lambda: None
        gate.changed("acme", "ann")

    store.meanwhile = withdraw
    await gate.learn([guarded])
    assert gate.admits(guarded, "alice", None) is Refusal.CONSENT
    assert len(store.asked) == 2


async def test_a_stream_of_changes_to_others_does_not_keep_the_gate_from_learning() -> None:
    gate, store = gate_over({"ann": FREE})
    store.meanwhile = lambda: gate.changed("acme", "somebody else")
    async with asyncio.timeout(5):
        await gate.learn([event(subjects=("ann",))])
    assert gate.admits(event(subjects=("ann",)), "alice", None) is None
    assert len(store.asked) == 1


async def test_a_ledger_that_cannot_be_read_leaves_the_gate_closed() -> None:
    gate, store = gate_over({"ann": FREE})
    guarded = event(subjects=("ann",))
    store.failing = True
    with pytest.raises(StoreUnavailable):
        await gate.learn([guarded])
    assert gate.admits(guarded, "alice", None) is Refusal.CONSENT
    store.failing = False
    await gate.learn([guarded])
    assert gate.admits(guarded, "alice", None) is None


async def test_what_is_kept_is_bounded_and_enough_for_the_question_at_hand() -> None:
    gate, store = gate_over(max_known=3)
    events = [event(seq, subjects=(f"p{seq}",)) for seq in range(10)]
    for one in events:
        await gate.learn([one])
    assert sum(gate.knows([one]) for one in events) == 3
    await gate.learn(events)
    assert gate.knows(events)
    mixed = [events[0], replace_subjects(events[1], "new1", "new2")]
    await gate.learn(mixed)
    assert gate.knows(mixed)
    assert store.asked


def replace_subjects(one: Event, *subjects: str) -> Event:
    return replace(one, subjects=subjects)
