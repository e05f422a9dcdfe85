"""What every Consents must do."""

from __future__ import annotations

import asyncio

from clarion.model import ConsentState, PurposeConsent, SubjectConsent
from clarion.testing.contracts.examples import Opening, consent

__all__ = ["ConsentsContract"]

_GRANTED, _WITHDRAWN, _PENDING = ConsentState.GRANTED, ConsentState.WITHDRAWN, ConsentState.PENDING
_SUPPRESSED, _RELEASED = ConsentState.SUPPRESSED, ConsentState.RELEASED


class ConsentsContract:
    """The ledger, and what it says now."""

    def open(self) -> Opening:
        raise NotImplementedError

    async def test_an_unknown_subject_is_empty(self) -> None:
        async with self.open() as backend:
            assert await backend.consents.states("acme", ["p1"]) == {"p1": SubjectConsent()}
            assert await backend.consents.states("acme", []) == {}
            assert await backend.consents.history("acme", "p1", limit=9) == []

    async def test_the_newest_line_of_each_purpose_counts(self) -> None:
        async with self.open() as backend:
            lines = [
                consent("p1", _PENDING, purpose="marketing"),
                consent("p1", _GRANTED, purpose="marketing", expires_at=99),
                consent("p1", _GRANTED),
                consent("p1", _WITHDRAWN, purpose="profiling"),
                consent("p1", _WITHDRAWN, purpose=""),
            ]
            placed = [await backend.consents.append(line) for line in lines]
            seqs = [line.seq for line in placed]
            assert seqs == sorted(set(seqs))
            assert seqs[0] > 0
            states = await backend.consents.states("acme", ["p1", "p2"])
            assert states["p2"] == SubjectConsent()
            assert states["p1"] == SubjectConsent(
                None,
                {
                    "marketing": PurposeConsent(_GRANTED, seqs[1], 99),
                    None: PurposeConsent(_GRANTED, seqs[2]),
                    "profiling": PurposeConsent(_WITHDRAWN, seqs[3]),
                    "": PurposeConsent(_WITHDRAWN, seqs[4]),
                },
            )

    async def test_a_withdrawal_of_everything_stands_under_every_purpose_named_before_it(self) -> None:
        async with self.open() as backend:
            append = backend.consents.append
            for subject in ("p1", "p2"):
                await append(consent(subject, _GRANTED, purpose="marketing", expires_at=99))
            await append(consent("p1", _GRANTED, purpose=""))
            await append(consent("p1", _GRANTED))
            gone = PurposeConsent(_WITHDRAWN, (await append(consent("p1", _WITHDRAWN))).seq)
            states = await backend.consents.states("acme", ["p1", "p2"])
            assert states["p1"].purposes == {None: gone, "": gone, "marketing": gone}
            assert states["p2"].purposes["marketing"].state is _GRANTED
            general = PurposeConsent(_GRANTED, (await append(consent("p1", _GRANTED))).seq)
            again = PurposeConsent(_GRANTED, (await append(consent("p1", _GRANTED, purpose="marketing"))).seq)
            now = (await backend.consents.states("acme", ["p1"]))["p1"].purposes
            assert now == {None: general, "": gone, "marketing": again}

    async def test_suppression_stands_beside_the_purposes_until_released(self) -> None:
        async with self.open() as backend:
            append, states = backend.consents.append, backend.consents.states
            granted = await append(consent("p1", _GRANTED))
            await append(consent("p1", _SUPPRESSED, reason="bounce"))
            line = PurposeConsent(_GRANTED, granted.seq)
            assert await states("acme", ["p1"]) == {"p1": SubjectConsent("bounce", {None: line})}
            await append(consent("p1", _RELEASED))
            assert await states("acme", ["p1"]) == {"p1": SubjectConsent(None, {None: line})}
            await append(consent("p2", _SUPPRESSED))
            assert await states("acme", ["p2"]) == {"p2": SubjectConsent("admin")}

    async def test_history_is_newest_first_and_whole(self) -> None:
        full = consent(
            "p1",
            _GRANTED,
            purpose="marketing",
            reason="form",
            actor="alice",
            proof="doc-1",
            expires_at=50,
            recorded_at=3,
        )
        async with self.open() as backend:
            first = await backend.consents.append(full)
            await backend.consents.append(consent("p2", _GRANTED))
            second = await backend.consents.append(consent("p1", _WITHDRAWN, recorded_at=1))
            third = await backend.consents.append(consent("p1", _SUPPRESSED, reason="stop"))
            assert await backend.consents.history("acme", "p1", limit=9) == [third, second, first]
            assert await backend.consents.history("acme", "p1", limit=2) == [third, second]
            assert (first.purpose, first.reason, first.actor, first.proof) == ("marketing", "form", "alice", "doc-1")
            assert (first.expires_at, first.recorded_at, first.state) == (50, 3, _GRANTED)

    async def test_no_tenant_sees_another(self) -> None:
        async with self.open() as backend:
            await backend.consents.append(consent("p1", _WITHDRAWN, tenant="globex"))
            await backend.consents.append(consent("p1", _SUPPRESSED, tenant="globex"))
            assert await backend.consents.states("acme", ["p1"]) == {"p1": SubjectConsent()}
            assert await backend.consents.history("acme", "p1", limit=9) == []
            assert (await backend.consents.append(consent("p1", _GRANTED))).seq == 1

    async def test_concurrent_lines_get_each_a_place(self) -> None:
        async with self.open() as backend:
            lines = await asyncio.gather(*(backend.consents.append(consent("p1", _GRANTED)) for _ in range(20)))
            assert sorted(line.seq for line in lines) == list(range(1, 21))
            newest = (await backend.consents.states("acme", ["p1"]))["p1"].purposes[None]
            assert newest.seq == 20

    async def test_many_subjects_are_asked_at_once(self) -> None:
        async with self.open() as backend:
            names = [f"p{number}" for number in range(1200)]
            await backend.consents.append(consent("p1199", _WITHDRAWN))
            states = await backend.consents.states("acme", names)
            assert set(states) == set(names)
            assert [name for name in names if states[name].purposes] == ["p1199"]
