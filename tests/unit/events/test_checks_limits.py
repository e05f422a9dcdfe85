"""How much of an upstream, and of the server, one caller may have: what it asks for beyond is refused or waits, and
others notice nothing of it."""

import asyncio
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
from checks_rig import INTERVAL, NAME, Rig, Upstream, rigged

from clarion.errors import ClarionError, CloseReason, HookFailed, LimitExceeded
from clarion.events import check_turns, checks
from clarion.events.check_turns import (
    CATCH_UPS,
    CATCH_UPS_PER_PRINCIPAL,
    CATCH_UPS_PER_TENANT,
    POLLS_PER_PRINCIPAL,
    TURN_SECONDS,
    Turns,
)
from clarion.events.checks import LOOPS_PER_PRINCIPAL
from clarion.events.hooks import HOOK_SECONDS, Hooks
from clarion.hub.hub import HubLimits
from clarion.model import Principal
from clarion.testing.clock import FakeClock
from clarion.testing.hubs import opened_hub, settle
from clarion.wires.mcp_events.cursors import Cursors
from clarion.wires.mcp_events.protocol import Portion


async def refused(rig: Rig, upstream: Upstream, **wanted: Any) -> dict[str, Any]:
    """The details with which a stream is refused."""
    with pytest.raises(LimitExceeded) as refusal:
        async with rig.stream(rig.source(upstream, **wanted)):
            pass
    return dict(refusal.value.details)


def at(tenant: str, text: str) -> str:
    """The wire's cursor of an upstream's, of a tenant."""
    return Cursors("", tenant, NAME).wrap(f'"{text}"')


def polls(rig: Rig, upstream: Upstream, count: int, wait: float = 0, **wanted: Any) -> list[asyncio.Task[Portion]]:
    fields = {"cursor": rig.at("0"), **wanted}
    return [asyncio.create_task(rig.source(upstream, **fields).poll(10, wait)) for _ in range(count)]


async def dropped(tasks: list[asyncio.Task[Portion]]) -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, ClarionError):
            await task


# -- open streams ----------------------------------------------------------------------------------------------------


async def test_streams_of_checks_and_of_the_log_count_together() -> None:
    limits, upstream = HubLimits(connections_per_principal=2, connections=3), Upstream()
    async with opened_hub(limits=limits) as hub, rigged(hub.hub.counted) as rig:
        async with hub.stream(), rig.stream(rig.source(upstream)):
            of_one = {"limit": "connections_per_principal", "max": 2}
            calls = len(upstream.calls)
            assert await refused(rig, upstream) == of_one
            with pytest.raises(LimitExceeded) as refusal:
                async with hub.stream():
                    pass
            assert refusal.value.details == of_one
            async with rig.stream(rig.source(upstream, subject="bob")):
                calls += 1
                assert await refused(rig, upstream, subject="carol") == {"limit": "connections", "max": 3}
                with pytest.raises(LimitExceeded, match="tenant"):
                    async with hub.stream(subject="carol"):
                        pass
                async with rig.stream(rig.source(upstream, tenant="globex")):
                    calls += 1
            assert len(upstream.calls) == calls  # nothing of what was refused reached the upstream
        async with hub.stream(), hub.stream():
            pass
        async with rig.stream(rig.source(upstream)), rig.stream(rig.source(upstream)):
            pass


async def test_a_principal_has_so_many_loops_whatever_its_arguments_and_so_many_streams_as_it_likes() -> None:
    upstream = Upstream()
    async with rigged() as rig, AsyncExitStack() as stack:
        for number in range(LOOPS_PER_PRINCIPAL - 1):
            await stack.enter_async_context(rig.stream(rig.source(upstream, arguments={"n": number})))
        async with rig.stream(rig.source(upstream, arguments={"n": "last"})):
            calls = len(upstream.calls)
            details = await refused(rig, upstream, arguments={"n": "more"})
            assert details == {"limit": "subscriptions", "max": LOOPS_PER_PRINCIPAL}
            assert (rig.checks.loops, len(upstream.calls)) == (LOOPS_PER_PRINCIPAL, calls)
            async with rig.stream(rig.source(upstream, arguments={"n": 0})) as again:
                assert again.kinds == ["active"]
            async with rig.stream(rig.source(upstream, subject="bob", arguments={"n": "more"})) as other:
                assert other.kinds == ["active"]
        async with rig.stream(rig.source(upstream, arguments={"n": "more"})) as instead:
            assert instead.kinds == ["active"]


@pytest.mark.parametrize("shared", [False, True])
async def test_a_subscription_counts_until_its_last_stream_is_gone(
    shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "LOOPS_PER_PRINCIPAL", 1)
    upstream, another = Upstream(), {"n": 2}
    async with rigged() as rig:
        async with rig.stream(rig.source(upstream, shared=shared)):
            async with rig.stream(rig.source(upstream, shared=shared)):
                pass
            await refused(rig, upstream, shared=shared, arguments=another)
        async with rig.stream(rig.source(upstream, shared=shared, arguments=another)):
            await refused(rig, upstream, shared=shared)


# -- catching up -----------------------------------------------------------------------------------------------------


async def hang(rig: Rig, stack: AsyncExitStack, count: int, **wanted: Any) -> Upstream:
    """Streams that catch up with an upstream that does not answer."""
    upstream = Upstream()
    upstream.held = asyncio.Event()
    for number in range(count):
        source = rig.source(upstream, arguments={"n": number}, **wanted)
        await stack.enter_async_context(rig.stream(source))
    return upstream


@pytest.mark.parametrize(
    ("bad", "good"),
    [
        ({"tenant": "globex"}, {}),
        ({"subject": "mallory"}, {"subject": "alice"}),
    ],
)
async def test_forty_streams_that_hang_delay_no_other_principals_catch_up(bad: Any, good: Any) -> None:
    well = Upstream()
    well.add(3)
    async with rigged() as rig, AsyncExitStack() as stack:
        hung = await hang(rig, stack, 40, cursor=at(bad.get("tenant", "acme"), "0"), **bad)
        assert hung.running == CATCH_UPS_PER_PRINCIPAL
        async with rig.stream(rig.source(well, cursor=rig.at("0"), **good)) as stream:
            assert stream.numbers == [1, 2, 3]
            assert rig.checks.loops == 1  # the time has not moved: it waited for nobody


async def test_a_tenant_whose_upstreams_all_hang_delays_no_other_tenants_catch_up() -> None:
    well = Upstream()
    well.add(3)
    async with rigged() as rig, AsyncExitStack() as stack:
        cursor = at("globex", "0")
        hung = [
            await hang(rig, stack, 8, tenant="globex", subject=f"mallory-{number}", cursor=cursor)
            for number in range(CATCH_UPS)
        ]
        assert sum(upstream.running for upstream in hung) == CATCH_UPS_PER_TENANT
        async with rig.stream(rig.source(well, cursor=rig.at("0"))) as stream:
            assert stream.numbers == [1, 2, 3]


async def test_an_upstream_is_caught_up_with_a_few_at_a_time_and_everybody_gets_a_turn() -> None:
    async with rigged() as rig, AsyncExitStack() as stack:
        tenants = [f"t{number}" for number in range(2 * CATCH_UPS // CATCH_UPS_PER_PRINCIPAL)]
        hung = {tenant: await hang(rig, stack, 8, tenant=tenant, cursor=at(tenant, "0")) for tenant in tenants}
        assert sum(upstream.running for upstream in hung.values()) == CATCH_UPS
        await rig.clock.advance(HOOK_SECONDS)  # those that hung are given up, and try again behind the others
        assert all(upstream.calls for upstream in hung.values())
        assert sum(upstream.running for upstream in hung.values()) == CATCH_UPS


async def test_turns_are_remembered_no_longer_than_they_are_had() -> None:
    async with rigged() as rig:
        async with AsyncExitStack() as stack:
            await hang(rig, stack, 2 * CATCH_UPS_PER_PRINCIPAL, cursor=rig.at("0"))
            assert len(rig.checks.turns) == 3
        assert len(rig.checks.turns) == 0
        upstream = Upstream()
        upstream.held = asyncio.Event()
        tasks = polls(rig, upstream, 2 * POLLS_PER_PRINCIPAL)
        await settle()
        assert len(rig.checks.turns) == 1
        await dropped(tasks)
        assert len(rig.checks.turns) == 0


async def test_a_turn_that_comes_as_its_time_is_over_is_lost_to_nobody() -> None:
    clock, alice = FakeClock(), Principal("acme", "alice")
    turns = Turns(clock)

    async def ask(hold: float, patience: float) -> str:
        try:
            async with turns.poll(NAME, alice, patience):
                await clock.sleep(hold)
        except LimitExceeded:
            return "refused"
        return "asked"

    first = [asyncio.create_task(ask(10, 1)) for _ in range(POLLS_PER_PRINCIPAL)]
    await settle()
    second = [asyncio.create_task(ask(1, 10)) for _ in range(3 * POLLS_PER_PRINCIPAL)]
    await clock.advance(20)
    assert {await task for task in first} == {"asked"}
    assert {await task for task in second} <= {"asked", "refused"}
    assert len(turns) == 0
    third = [asyncio.create_task(ask(1, 1)) for _ in range(POLLS_PER_PRINCIPAL)]
    await clock.advance(1)
    assert [await task for task in third] == ["asked"] * POLLS_PER_PRINCIPAL


# -- polls -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", [0, 60])
@pytest.mark.parametrize("cursor", [True, False])
async def test_polls_of_one_principal_ask_the_upstream_a_few_at_a_time_and_all_are_answered(
    wait: float, cursor: bool
) -> None:
    upstream, other = Upstream(), Upstream()
    upstream.add(2)
    upstream.held = asyncio.Event()
    async with rigged() as rig:
        tasks = polls(rig, upstream, 5 * POLLS_PER_PRINCIPAL, wait, cursor=rig.at("0") if cursor else None)
        await settle()
        assert upstream.running == POLLS_PER_PRINCIPAL
        assert (await rig.source(other, subject="bob").poll(10, 0)).cursor == rig.at("0")
        upstream.held.set()
        portions = [await task for task in tasks]
        assert upstream.most == POLLS_PER_PRINCIPAL
        assert {portion.cursor for portion in portions} == {rig.at("2")}
        assert {len(portion.occurrences) for portion in portions} == {2 if cursor else 0}


async def test_a_poll_whose_turn_does_not_come_is_refused_in_time_and_the_upstream_not_asked_for_it() -> None:
    upstream = Upstream()
    upstream.held = asyncio.Event()
    async with rigged() as rig:
        tasks = polls(rig, upstream, 4 * POLLS_PER_PRINCIPAL)
        await settle()
        await rig.clock.advance(TURN_SECONDS - HOOK_SECONDS / 2)
        late = polls(rig, upstream, 1)
        await rig.clock.advance(HOOK_SECONDS / 2)
        assert not late[0].done()
        late_for_it = [task for task in tasks if task.done() and isinstance(task.exception(), LimitExceeded)]
        assert len(late_for_it) >= POLLS_PER_PRINCIPAL
        await rig.clock.advance(HOOK_SECONDS)
        outcomes = await asyncio.gather(*tasks, *late, return_exceptions=True)
        asked = [outcome for outcome in outcomes if isinstance(outcome, HookFailed)]
        assert len(asked) + len(late_for_it) == len(outcomes)
        assert len(asked) == len(upstream.calls) > 2 * POLLS_PER_PRINCIPAL


async def test_polls_beyond_the_line_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_turns, "POLLS_IN_LINE", 3)
    upstream = Upstream()
    upstream.held = asyncio.Event()
    async with rigged() as rig:
        tasks = polls(rig, upstream, POLLS_PER_PRINCIPAL + 3)
        await settle()
        (beyond,) = polls(rig, upstream, 1)
        await settle()
        assert beyond.done()
        with pytest.raises(LimitExceeded) as refusal:
            await beyond
        assert refusal.value.details == {"limit": "polls", "max": POLLS_PER_PRINCIPAL}
        await rig.source(Upstream(), subject="bob").poll(10, 0)
        upstream.held.set()
        assert [(await task).cursor for task in tasks] == [rig.at("0")] * len(tasks)


async def test_a_long_poll_that_waits_for_its_turn_is_answered_in_its_own_time() -> None:
    upstream, quiet = Upstream(), Upstream()
    async with rigged() as rig:
        (waiting,) = polls(rig, quiet, 1, INTERVAL + 2)
        await settle()
        upstream.held = asyncio.Event()
        tasks = polls(rig, upstream, POLLS_PER_PRINCIPAL)
        await rig.clock.advance(INTERVAL)  # it would ask again now, and may not
        assert (len(quiet.calls), waiting.done()) == (1, False)
        await rig.clock.advance(2)
        portion = await waiting
        assert (list(portion.occurrences), portion.cursor, len(quiet.calls)) == ([], rig.at("0"), 1)
        await dropped(tasks)


async def test_polls_beyond_those_that_may_wait_are_answered_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MAX_WAITING_POLLS", 2)
    upstream = Upstream()
    async with rigged() as rig:
        first, second, third = polls(rig, upstream, 3, 60)
        await settle()
        assert [task.done() for task in (first, second, third)] == [False, False, True]
        (others,) = polls(rig, upstream, 1, 60, subject="bob")
        await settle()
        assert not others.done()
        await dropped([first, second, others])
        (after,) = polls(rig, upstream, 1, 60)
        await settle()
        assert not after.done()
        await dropped([after])


# -- the end ---------------------------------------------------------------------------------------------------------


async def test_long_polls_are_answered_with_where_they_are_as_soon_as_the_server_stops() -> None:
    quiet, hung = Upstream(), Upstream()
    quiet.add(1)
    hung.held = asyncio.Event()
    hooks = Hooks(match=lambda ctx, event, arguments: False)
    async with rigged() as rig:
        (waiting,) = polls(rig, quiet, 1, 60, hooks=hooks)
        asking = polls(rig, hung, POLLS_PER_PRINCIPAL, 60, subject="bob")
        in_line = polls(rig, hung, 2, 60, subject="bob")
        await settle()
        assert not any(task.done() for task in (waiting, *asking, *in_line))
        rig.checks.close()
        rig.checks.close()
        await settle()
        assert all(task.done() for task in (waiting, *asking, *in_line))
        portions = [await task for task in (waiting, *asking, *in_line)]
        assert [portion.cursor for portion in portions] == [rig.at("1")] + [rig.at("0")] * (len(portions) - 1)
        assert not any(portion.occurrences or portion.truncated for portion in portions)
        assert hung.running == 0


async def test_a_poll_that_has_no_place_yet_is_told_that_the_server_stops() -> None:
    hung = Upstream()
    hung.held = asyncio.Event()
    async with rigged() as rig:
        (task,) = polls(rig, hung, 1, 60, cursor=None)
        await settle()
        rig.checks.close()
        with pytest.raises(ClarionError, match="stopping"):
            await task


async def test_a_poll_that_comes_while_the_server_stops_is_answered_and_does_not_wait() -> None:
    upstream = Upstream()
    upstream.add(1)
    async with rigged() as rig:
        rig.checks.close()
        (task,) = polls(rig, upstream, 1, 60, cursor=rig.at("1"))
        await settle()
        assert task.done()
        portion = await task
        assert (list(portion.occurrences), portion.cursor) == ([], rig.at("1"))


async def test_a_poll_that_is_ended_amid_its_events_gives_those_it_has_and_a_cursor_to_the_others() -> None:
    upstream, looking = Upstream(own=True), asyncio.Event()
    upstream.add(3)

    async def match(ctx: Any, event: Any, arguments: Any) -> bool:
        if event.data["n"] == 3:
            looking.set()
            await asyncio.Event().wait()
        return True

    async with rigged() as rig:
        (task,) = polls(rig, upstream, 1, 60, hooks=Hooks(match=match))
        await looking.wait()
        rig.checks.close()
        portion = await task
        assert ([one.data["n"] for one in portion.occurrences], portion.cursor) == ([1, 2], rig.at("2"))
        assert rig.checks.recorder.totals.delivered == 2


async def test_streams_that_wait_for_their_turn_end_with_the_library() -> None:
    async with AsyncExitStack() as stack, rigged() as rig:
        upstream = Upstream()
        upstream.held = asyncio.Event()
        streams = [
            await stack.enter_async_context(rig.stream(rig.source(upstream, cursor=rig.at("0"))))
            for _ in range(2 * CATCH_UPS_PER_PRINCIPAL)
        ]
        rig.checks.close()
        await settle()
        assert all(stream.task.done() for stream in streams)
        assert {stream.live.close_reason for stream in streams} == {CloseReason.SERVER_STOPPING}
        assert len(rig.checks.turns) == 0
