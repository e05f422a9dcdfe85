"""The gate against a naive reading of SEEDS "Consent", over random ledgers."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from clarion.gate import Gate, decide
from clarion.model import ConsentEntry, ConsentState, Event
from clarion.stores.memory import open_memory
from clarion.testing.clock import FakeClock
from clarion.testing.contracts.examples import consent, draft

NOW = 100
PURPOSES = (None, "marketing", "analytics")


@st.composite
def lines(draw: st.DrawFn, subject: str = "ann") -> ConsentEntry:
    state = draw(st.sampled_from(list(ConsentState)))
    if state in (ConsentState.SUPPRESSED, ConsentState.RELEASED):
        return consent(subject, state, reason="stop" if state is ConsentState.SUPPRESSED else None)
    expires = None
    if state is not ConsentState.WITHDRAWN:
        expires = draw(st.sampled_from([None, NOW - 1, NOW, NOW + 1]))
    return consent(subject, state, purpose=draw(st.sampled_from(PURPOSES)), expires_at=expires)


def naive(ledger: list[ConsentEntry], purpose: str | None) -> bool:
    """May an event about the subject of this ledger be seen? Written from the rules, line by line."""
    suppressed = [line.state for line in ledger if line.state in (ConsentState.SUPPRESSED, ConsentState.RELEASED)]
    if suppressed and suppressed[-1] is ConsentState.SUPPRESSED:
        return False
    spoken = [line for line in ledger if line.state not in (ConsentState.SUPPRESSED, ConsentState.RELEASED)]
    general = [line for line in spoken if line.purpose is None]
    if purpose is None:
        return not (general and general[-1].state is ConsentState.WITHDRAWN)
    all_withdrawn = (None, ConsentState.WITHDRAWN)
    of_it = [line for line in spoken if line.purpose == purpose or (line.purpose, line.state) == all_withdrawn]
    if not of_it or of_it[-1].state is not ConsentState.GRANTED:
        return False
    return of_it[-1].expires_at is None or of_it[-1].expires_at > NOW


@given(st.lists(lines(), max_size=8), st.sampled_from(PURPOSES))
def test_the_gate_agrees_with_the_rules(ledger: list[ConsentEntry], purpose: str | None) -> None:
    async def main() -> None:
        consents = open_memory().consents
        for line in ledger:
            await consents.append(line)
        gate = Gate(consents, FakeClock(NOW))
        event = Event.of(draft("e1", subjects=("ann",)), 1)
        await gate.learn([event])
        assert (gate.admits(event, "alice", purpose) is None) == naive(ledger, purpose)
        states = await consents.states("acme", ["ann"])
        assert decide(states["ann"], purpose, NOW).allowed == naive(ledger, purpose)

    asyncio.run(main())


@given(st.lists(st.one_of(lines("ann"), lines("bob")), max_size=10), st.sampled_from(PURPOSES))
def test_an_event_about_two_passes_when_both_would(ledger: list[ConsentEntry], purpose: str | None) -> None:
    async def main() -> None:
        consents = open_memory().consents
        for line in ledger:
            await consents.append(line)
        gate = Gate(consents, FakeClock(NOW))
        both, ann, bob = (Event.of(draft("e", subjects=who), 1) for who in (("ann", "bob"), ("ann",), ("bob",)))
        await gate.learn([both, ann, bob])
        passes = [gate.admits(event, "alice", purpose) is None for event in (both, ann, bob)]
        assert passes[0] == (passes[1] and passes[2])

    asyncio.run(main())


@given(st.lists(st.tuples(lines(), st.booleans()), max_size=12))
def test_a_cached_answer_never_outlives_a_change(steps: list[tuple[ConsentEntry, bool]]) -> None:
    """Whatever was learned between, the gate says what the ledger says now."""

    async def main() -> None:
        consents = open_memory().consents
        gate = Gate(consents, FakeClock(NOW))
        event = Event.of(draft("e1", subjects=("ann",)), 1)
        ledger = []
        for line, learn_first in steps:
            if learn_first:
                await gate.learn([event])
            await consents.append(line)
            gate.changed("acme", "ann")
            ledger.append(line)
            await gate.learn([event])
            for purpose in PURPOSES:
                assert (gate.admits(event, "alice", purpose) is None) == naive(ledger, purpose)

    asyncio.run(main())
