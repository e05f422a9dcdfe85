"""What must hold on every wire that pushes (see `interaction.wires`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clarion.model import MICROSECONDS, isoformat
from clarion.testing.clock import FakeClock
from interaction.requirements import requirement
from interaction.serving import SMALL_BUFFER, Running, call, connect, operator, refused, serving, stall, summary_where
from interaction.wires import Interest, OpenWire, WireUnderTest

EVERYTHING = [Interest(["*"])]
END = "custom.end"
DAY = 86_400 * MICROSECONDS


async def consent(running: Running, subject: str, state: str, **fields: Any) -> None:
    async with running.http(operator()) as client:
        answer = await client.post("/v1/consent", json={"subject": subject, "state": state, **fields})
    assert answer.status_code == 201, answer.text


async def sees_eve(running: Running, stream: OpenWire) -> bool:
    """Whether an event about eve, emitted now, is pushed."""
    seq = await running.emit("contact.updated", {}, subjects=["eve"])
    await running.emit(END, {})
    return seq in [event.seq for event in await stream.until(END)]


@requirement("row-15")
async def test_only_the_large_deal_of_the_account_is_pushed(tmp_path: Path, store: str, wire: WireUnderTest) -> None:
    interests = [Interest(["deal.*"], {"account_id": "acc_1", "amount_gte": 100_000}), Interest([END])]
    async with serving(tmp_path, store) as running, wire.open(running, operator(), "agent", interests) as stream:
        await running.emit("deal.stage_changed", {"account_id": "acc_1", "amount": 150_000})
        await running.emit("deal.stage_changed", {"account_id": "acc_1", "amount": 50_000})
        await running.emit("deal.stage_changed", {"account_id": "acc_2", "amount": 150_000})
        await running.emit(END, {})
        pushed = await stream.until(END)
    assert [event.payload for event in pushed] == [{"account_id": "acc_1", "amount": 150_000}]


@requirement("row-8", "tenant-isolation")
async def test_nothing_crosses_tenants_and_foreign_ids_are_not_found(
    tmp_path: Path, store: str, wire: WireUnderTest
) -> None:
    async with serving(tmp_path, store) as running:
        acme = await running.key("subscriber", subject="ada")
        globex = await running.key("subscriber", tenant="globex", subject="ada")
        async with connect(running, acme) as session:
            made = await call(session, "subscribe", topic=["*"], client_id="client")
        await _not_found(running, globex, made["subscription_id"])
        async with (
            wire.open(running, acme, "client", EVERYTHING) as ours,
            wire.open(running, globex, "client", EVERYTHING) as theirs,
        ):
            await running.emit("deal.won", {"of": "acme"})
            await running.emit("deal.won", {"of": "globex"}, bearer=operator("globex"))
            await running.emit(END, {})
            await running.emit(END, {}, bearer=operator("globex"))
            assert [event.payload for event in await ours.until(END)] == [{"of": "acme"}]
            assert [event.payload for event in await theirs.until(END)] == [{"of": "globex"}]
        async with wire.open(running, globex, "client", EVERYTHING, after=0) as again:
            pushed = await again.until(END)
            assert [(event.seq, event.payload) for event in pushed] == [(1, {"of": "globex"})]


@requirement("row-8", "principal-isolation")
async def test_another_principals_subscription_is_not_found_and_pushes_nothing(
    tmp_path: Path, store: str, wire: WireUnderTest
) -> None:
    async with serving(tmp_path, store) as running:
        ada = await running.key("subscriber", subject="ada")
        bob = await running.key("subscriber", subject="bob")
        async with connect(running, ada) as session:
            made = await call(session, "subscribe", topic=["deal.*"], client_id="client")
        await _not_found(running, bob, made["subscription_id"])
        async with (
            wire.open(running, ada, "client", [Interest([END])]) as ours,
            wire.open(running, bob, "client", [Interest([END])]) as theirs,
        ):
            await running.emit("deal.won", {})
            await running.emit("deal.lost", {}, audience=["ada"])
            await running.emit("deal.lost", {}, audience=["bob"])
            await running.emit(END, {})
            assert [event.seq for event in await ours.until(END)] == [1, 2]
            assert await theirs.until(END) == []
        async with connect(running, ada) as session:
            (row, _) = (await call(session, "list_subscriptions", client_id="client"))["subscriptions"]
        assert row["status"] == "active"


async def _not_found(running: Running, bearer: str, foreign: str) -> None:
    """On every tool an id of somebody else is answered as one that never was."""
    async with connect(running, bearer) as session:
        unknown = "00000000-0000-4000-8000-000000000000"
        theirs = await refused(session, "unsubscribe", subscription_id=foreign)
        nobodys = await refused(session, "unsubscribe", subscription_id=unknown)
        assert theirs.replace(foreign, unknown) == nobodys
        listed = await call(session, "list_subscriptions", client_id="client", include_deleted=True)
        assert listed["subscriptions"] == []


@requirement("row-9", "consent-gate")
@pytest.mark.parametrize("state", ["withdrawn", "suppressed"])
async def test_withdrawn_and_suppressed_subjects_are_not_pushed_live_or_on_replay(
    tmp_path: Path, store: str, wire: WireUnderTest, state: str
) -> None:
    async with serving(tmp_path, store) as running:
        async with wire.open(running, operator(), "agent", EVERYTHING) as stream:
            await running.emit("contact.updated", {"n": 1}, subjects=["eve"])
            await running.emit(END, {})
            assert [event.payload["n"] for event in await stream.until(END)] == [1]
            await consent(running, "eve", state)
            await running.emit("contact.updated", {"n": 2}, subjects=["eve"])
            await running.emit("contact.updated", {"n": 3}, subjects=["ada", "eve"])
            await running.emit("contact.updated", {"n": 4}, subjects=["ada"])
            await running.emit(END, {})
            assert [event.payload["n"] for event in await stream.until(END)] == [4]
        async with wire.open(running, operator(), "agent", EVERYTHING, after=0) as stream:
            assert await stream.until(END) == []
            assert [event.payload["n"] for event in await stream.until(END)] == [4]
        assert (await running.summary())["events_refused"] == 5
        await consent(running, "eve", "granted" if state == "withdrawn" else "released")
        async with wire.open(running, operator(), "agent", EVERYTHING, after=0) as stream:
            assert [event.payload["n"] for event in await stream.until(END)] == [1]
            assert [event.payload["n"] for event in await stream.until(END)] == [2, 3, 4]


@requirement("row-9", "consent-regates-waiting")
async def test_events_that_wait_for_a_slow_reader_are_not_sent_after_a_withdrawal(
    tmp_path: Path, store: str, wire: WireUnderTest
) -> None:
    async with serving(tmp_path, store, send_buffer=SMALL_BUFFER) as running:
        opening = wire.open(running, operator(), "agent", EVERYTHING, receive_buffer=SMALL_BUFFER)
        async with opening as stream:
            first = await stall(running, subjects=["eve"])
            await running.emit("deal.won", {"of": "eve"}, subjects=["eve"])
            await running.emit("deal.won", {"of": "ada"}, subjects=["ada"])
            await summary_where(running, lambda summary: summary["waiting_events"] == 3)
            await consent(running, "eve", "withdrawn")
            assert (await running.summary())["waiting_events"] == 1
            await running.emit(END, {})
            pushed = await stream.until(END)
    assert [event.seq for event in pushed] == [*range(1, first), first + 2]


@requirement("row-10", "consent-purpose")
async def test_a_purpose_sees_only_what_was_granted_for_it(tmp_path: Path, store: str, wire: WireUnderTest) -> None:
    clock = FakeClock()
    interests = [Interest(["contact.*"], purpose="marketing"), Interest([END])]
    opening = wire.open
    async with serving(tmp_path, store, clock=clock) as running, opening(running, operator(), "c", interests) as stream:
        assert not await sees_eve(running, stream)
        await consent(running, "eve", "granted", purpose="analytics")
        assert not await sees_eve(running, stream)
        await consent(running, "eve", "granted")
        assert not await sees_eve(running, stream)
        await consent(running, "eve", "pending", purpose="marketing")
        assert not await sees_eve(running, stream)
        await consent(running, "eve", "granted", purpose="marketing", expires_at=isoformat(clock.now() + DAY))
        assert await sees_eve(running, stream)
        await clock.advance(86_400)
        assert not await sees_eve(running, stream)
        await consent(running, "eve", "granted", purpose="marketing")
        assert await sees_eve(running, stream)
        await consent(running, "eve", "withdrawn")
        assert not await sees_eve(running, stream)
        await running.emit("contact.updated", {"n": "nobody's data"})
        await running.emit(END, {})
        assert len(await stream.until(END)) == 1


@requirement("row-10", "consent-purpose")
async def test_without_a_purpose_only_a_general_withdrawal_hides(
    tmp_path: Path, store: str, wire: WireUnderTest
) -> None:
    async with serving(tmp_path, store) as running, wire.open(running, operator(), "c", EVERYTHING) as stream:
        assert await sees_eve(running, stream)
        await consent(running, "eve", "pending")
        assert await sees_eve(running, stream)
        await consent(running, "eve", "withdrawn", purpose="marketing")
        assert await sees_eve(running, stream)
        await consent(running, "eve", "withdrawn")
        assert not await sees_eve(running, stream)
        await consent(running, "eve", "granted", purpose="marketing")
        assert not await sees_eve(running, stream)
        await consent(running, "eve", "granted")
        assert await sees_eve(running, stream)


@requirement("wire-resume")
async def test_a_verified_order_survives_a_break(tmp_path: Path, store: str, wire: WireUnderTest) -> None:
    """What was emitted while nobody listened comes once, in order, before what is live."""
    async with serving(tmp_path, store) as running:
        async with wire.open(running, operator(), "agent", EVERYTHING) as stream:
            await running.emit("deal.won", {})
            await running.emit(END, {})
            (last,) = await stream.until(END)
        for _ in range(3):
            await running.emit("deal.won", {})
        async with wire.open(running, operator(), "agent", EVERYTHING, after=last.seq + 1) as stream:
            await running.emit("deal.won", {})
            await running.emit(END, {})
            assert [event.seq for event in await stream.until(END)] == [3, 4, 5, 6]


@requirement("keys-revoked-streams")
async def test_revoking_a_key_ends_its_streams_and_no_others(tmp_path: Path, wire: WireUnderTest) -> None:
    async with serving(tmp_path) as running, running.http(operator()) as admin:
        old = await running.key("subscriber", subject="ada")
        new = await running.key("subscriber", subject="ada")
        async with (
            wire.open(running, old, "agent", EVERYTHING) as ended,
            wire.open(running, new, "agent", EVERYTHING) as kept,
        ):
            assert (await admin.delete(f"/v1/keys/{old.split('_')[1]}")).status_code == 200
            assert (await running.summary())["connected_streams"] == 1
            await running.emit(END, {})
            assert await kept.until(END) == []
            with pytest.raises(AssertionError, match="ended before"):
                await ended.until(END)
