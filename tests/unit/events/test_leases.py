"""Leases: set up once, for as long as somebody polls or streams, and taken down once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from clarion.errors import ClarionError, Forbidden, HookFailed, LimitExceeded
from clarion.events.hooks import HOOK_SECONDS, HookRunner, Hooks
from clarion.events.leases import LEASE_SECONDS, LeaseLimits, Leases
from clarion.events.occurrence import Context
from clarion.model import Principal
from clarion.testing.clock import FakeClock
from clarion.testing.hubs import settle


class Author:
    """What an author sets up and takes down, in order. `held` keeps it at it; `fail` is raised by it."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str]] = []
        self.ids: set[str] = set()
        self.held: asyncio.Event | None = None
        self.fail: Exception | None = None

    async def on_subscribe(self, ctx: Context, arguments: Any, subscription_id: str) -> None:
        await self._do("+", ctx, arguments, subscription_id)

    async def on_unsubscribe(self, ctx: Context, arguments: Any, subscription_id: str) -> None:
        await self._do("-", ctx, arguments, subscription_id)

    async def _do(self, sign: str, ctx: Context, arguments: Any, subscription_id: str) -> None:
        if self.held is not None:
            await self.held.wait()
        if self.fail is not None:
            raise self.fail
        self.done.append((sign, arguments["channel"]))
        self.ids.add(subscription_id)

    @property
    def hooks(self) -> Hooks:
        return Hooks(on_subscribe=self.on_subscribe, on_unsubscribe=self.on_unsubscribe)


def context(channel: str = "general", *, subject: str = "alice", name: str = "slack.message") -> Context:
    return Context(Principal("acme", subject), f"sub_{channel}", name, {}, "laptop", {"channel": channel})


@asynccontextmanager
async def running(clock: FakeClock, limits: LeaseLimits | None = None) -> AsyncIterator[Leases]:
    async with Leases(HookRunner(clock), clock, limits=limits).running() as leases:
        yield leases


async def test_the_first_poll_sets_up_before_it_is_answered_and_the_others_do_not() -> None:
    author, clock = Author(), FakeClock()
    async with running(clock) as leases:
        for _ in range(3):
            await leases.polled(context(), author.hooks)
            assert author.done == [("+", "general")]
        await leases.polled(context("random"), author.hooks)
        await leases.polled(context(subject="bob"), author.hooks)
        assert author.done == [("+", "general"), ("+", "random"), ("+", "general")]
        assert author.ids == {"sub_general", "sub_random"}


async def test_two_first_polls_at_once_set_up_once_and_both_wait_for_it() -> None:
    author, clock = Author(), FakeClock()
    author.held = asyncio.Event()
    async with running(clock) as leases:
        polls = [asyncio.create_task(leases.polled(context(), author.hooks)) for _ in range(2)]
        await settle()
        assert not any(poll.done() for poll in polls)
        author.held.set()
        first, second = await asyncio.gather(*polls)
        assert first is second
        assert author.done == [("+", "general")]


async def test_each_poll_renews_and_silence_ends() -> None:
    author, clock = Author(), FakeClock()
    async with running(clock) as leases:
        for _ in range(4):
            await leases.polled(context(), author.hooks)
            await clock.advance(LEASE_SECONDS - 1)
        assert author.done == [("+", "general")]
        await clock.advance(1)
        assert author.done == [("+", "general"), ("-", "general")]
        assert len(leases) == 0
        await leases.polled(context(), author.hooks)
        assert author.done[2:] == [("+", "general")]


async def test_each_lease_ends_at_its_own_moment() -> None:
    author, clock = Author(), FakeClock()
    async with running(clock) as leases:
        await leases.polled(context("a"), author.hooks)
        await clock.advance(10)
        await leases.polled(context("b"), author.hooks)
        await clock.advance(10)
        await leases.polled(context("a"), author.hooks)
        await clock.advance(LEASE_SECONDS - 10)
        assert author.done[2:] == [("-", "b")]
        await clock.advance(10)
        assert author.done[2:] == [("-", "b"), ("-", "a")]


async def test_a_setup_that_fails_fails_the_poll_and_leaves_no_lease() -> None:
    author, clock = Author(), FakeClock()
    async with running(clock) as leases:
        author.fail = ValueError("swordfish")
        with pytest.raises(HookFailed) as caught:
            await leases.polled(context(), author.hooks)
        assert caught.value.details == {"reason": "on_subscribe"}
        author.fail = Forbidden("join the channel first")
        with pytest.raises(Forbidden, match="join the channel"):
            async with leases.streamed(context(), author.hooks):
                pass
        assert len(leases) == 0
        author.fail = None
        await leases.polled(context(), author.hooks)
        assert author.done == [("+", "general")]


async def test_a_setup_that_hangs_fails_in_time() -> None:
    author, clock = Author(), FakeClock()
    author.held = asyncio.Event()
    async with running(clock) as leases:
        poll = asyncio.create_task(leases.polled(context(), author.hooks))
        await clock.advance(HOOK_SECONDS)
        with pytest.raises(HookFailed):
            await poll
        assert len(leases) == 0


async def test_streams_and_polls_share_one_setup_until_the_last_of_them_is_gone() -> None:
    author, clock = Author(), FakeClock()
    async with running(clock) as leases:
        async with leases.streamed(context(), author.hooks):
            async with leases.streamed(context(), author.hooks):
                await leases.polled(context(), author.hooks)
                await clock.advance(LEASE_SECONDS)
            await settle()
            assert author.done == [("+", "general")]
        await settle()
        assert author.done == [("+", "general"), ("-", "general")]


async def test_a_poll_outlives_the_stream_that_it_shared_with() -> None:
    author, clock = Author(), FakeClock()
    async with running(clock) as leases:
        async with leases.streamed(context(), author.hooks):
            await leases.polled(context(), author.hooks)
        await settle()
        assert author.done == [("+", "general")]
        await clock.advance(LEASE_SECONDS)
        assert author.done == [("+", "general"), ("-", "general")]


async def test_a_stream_that_goes_while_it_is_set_up_is_taken_down_after_it() -> None:
    author, clock = Author(), FakeClock()
    author.held = asyncio.Event()

    async def stream() -> None:
        async with leases.streamed(context(), author.hooks):
            await asyncio.Event().wait()

    async with running(clock) as leases:
        task = asyncio.create_task(stream())
        await settle()
        task.cancel()
        await asyncio.wait([task])
        assert author.done == []
        author.held.set()
        await settle()
        assert author.done == [("+", "general"), ("-", "general")]


async def test_who_comes_back_during_the_end_is_set_up_after_it() -> None:
    author, clock = Author(), FakeClock()
    async with running(clock) as leases:
        await leases.polled(context(), author.hooks)
        author.held = asyncio.Event()
        await clock.advance(LEASE_SECONDS)
        poll = asyncio.create_task(leases.polled(context(), author.hooks))
        await settle()
        assert not poll.done()
        author.held.set()
        await poll
        assert author.done == [("+", "general"), ("-", "general"), ("+", "general")]
        assert len(leases) == 1


async def test_an_end_that_fails_is_over_all_the_same() -> None:
    author, clock = Author(), FakeClock()
    async with running(clock) as leases:
        await leases.polled(context(), author.hooks)
        author.fail = ValueError()
        await clock.advance(LEASE_SECONDS)
        assert len(leases) == 0


async def test_an_end_that_hangs_keeps_no_other_lease() -> None:
    author, other, clock = Author(), Author(), FakeClock()
    async with running(clock) as leases:
        await leases.polled(context("a"), author.hooks)
        await leases.polled(context("b"), other.hooks)
        author.held = asyncio.Event()
        await clock.advance(LEASE_SECONDS)
        assert other.done == [("+", "b"), ("-", "b")]
        await clock.advance(HOOK_SECONDS)
        assert len(leases) == 0


async def test_a_shutdown_takes_everything_down() -> None:
    author, clock = Author(), FakeClock()
    async with running(clock) as leases:
        for number in range(40):
            await leases.polled(context(str(number)), author.hooks)
    assert sorted(author.done[40:]) == sorted(("-", str(number)) for number in range(40))
    with pytest.raises(ClarionError, match="stopping"):
        await leases.polled(context(), author.hooks)


async def test_a_shutdown_waits_for_hooks_that_hang_no_longer_than_it_must() -> None:
    author, clock = Author(), FakeClock()
    entered, leave = asyncio.Event(), asyncio.Event()

    async def serve() -> None:
        async with running(clock) as leases:
            for number in range(100):
                await leases.polled(context(str(number)), author.hooks)
            author.held = asyncio.Event()
            entered.set()
            await leave.wait()

    task = asyncio.create_task(serve())
    await entered.wait()
    leave.set()
    await clock.advance(2 * HOOK_SECONDS)
    await settle()
    assert task.done()
    await task


async def test_a_type_that_is_gone_ends_its_polls_at_once() -> None:
    author, clock = Author(), FakeClock()
    async with running(clock) as leases:
        await leases.polled(context("a"), author.hooks)
        await leases.polled(context("b", name="other"), author.hooks)
        leases.retire("slack.message")
        await settle()
        assert author.done[2:] == [("-", "a")]
        assert len(leases) == 1


@pytest.mark.parametrize(
    ("limits", "most"), [(LeaseLimits(total=2), 2), (LeaseLimits(per_principal=2), 2)], ids=["all", "one principal"]
)
async def test_beyond_the_limit_nothing_is_set_up(limits: LeaseLimits, most: int) -> None:
    author, clock = Author(), FakeClock()
    async with running(clock, limits) as leases:
        await leases.polled(context("a"), author.hooks)
        await leases.polled(context("b"), author.hooks)
        with pytest.raises(LimitExceeded) as caught:
            await leases.polled(context("c"), author.hooks)
        assert caught.value.details == {"limit": "subscriptions", "max": most}
        assert len(author.done) == 2
        await leases.polled(context("a"), author.hooks)  # whoever has one keeps it
        await clock.advance(LEASE_SECONDS)
        await leases.polled(context("c"), author.hooks)
        assert author.done[-1] == ("+", "c")


async def test_one_principals_leases_take_nothing_from_another() -> None:
    author, clock = Author(), FakeClock()
    async with running(clock, LeaseLimits(per_principal=1)) as leases:
        await leases.polled(context("a"), author.hooks)
        await leases.polled(context("a", subject="bob"), author.hooks)
        assert len(leases) == 2


async def test_a_type_without_anything_to_set_up_is_polled_beyond_the_limit() -> None:
    clock = FakeClock()
    async with running(clock, LeaseLimits(total=1)) as leases:
        for channel in "abc":
            await leases.polled(context(channel), Hooks())
        assert len(leases) == 1


async def test_arguments_are_one_whatever_their_order() -> None:
    author, clock = Author(), FakeClock()
    async with running(clock) as leases:
        for arguments in ({"channel": "a", "x": 1}, {"x": 1, "channel": "a"}):
            one = Context(Principal("acme", "alice"), "sub", "slack.message", {}, "laptop", arguments)
            await leases.polled(one, author.hooks)
        assert author.done == [("+", "a")]
