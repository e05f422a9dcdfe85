"""Hooks and checks that hang, raise, block a thread or answer nonsense: their own subscription's trouble, and nobody
else's, nor the server's when it is to stop."""

import asyncio
import threading
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from clarion.events import Event, Events
from clarion.events.hooks import HOOK_THREADS, Hook
from clarion.testing.hubs import until
from clarion.testing.server import ServerProcess
from fault.events_load import EventStream, Wanted, numbers_of, open_stream
from fault.test_events_kill import LIBRARY
from interaction.events_raw import EVENTS, Frames, HttpPeer, Message, Refused
from interaction.events_requirements import requirement
from interaction.events_targets import FAST, HttpTarget, both_paths

pytestmark = pytest.mark.fault

HOOK_SECONDS = 1.0
"""What one call of a hook may take here."""

PROMPT = 0.6
"""Seconds within which whoever is not concerned is served: less than a hook that hangs takes."""

SLACK = 1.5
"""Seconds that may be added to the bound of a hook until its end is seen."""

COUNT = 10
ARGUMENTS = {"type": "object", "properties": {"who": {"type": "string"}}}
VICTIM, OTHER = {"who": "victim"}, {"who": "other"}


class Trouble:
    """The author's code: as long as it is `on`, it does what it must not to whoever asks as the victim."""

    def __init__(self, way: Any = "hang") -> None:
        self.on = False
        self.way = way
        self.calls = 0
        self.release = threading.Event()

    async def strike(self, arguments: dict[str, Any], otherwise: Any) -> Any:
        if not self.on or arguments.get("who") == "other":
            return otherwise
        self.calls += 1
        if self.way == "hang":
            await asyncio.Event().wait()
        if self.way == "raise":
            raise RuntimeError("a secret of the author")
        return self.way

    def block(self, arguments: dict[str, Any]) -> None:
        if self.on and arguments.get("who") != "other":
            self.calls += 1
            self.release.wait(60)  # as a call without a time-out of its own does


def declare(hook: str, trouble: Trouble) -> Events:
    """A type `tick` with one hook that is trouble."""
    events = Events(hook_seconds=HOOK_SECONDS)

    async def decide(_ctx: Any, _event: Any, arguments: dict[str, Any]) -> Any:
        return await trouble.strike(arguments, otherwise=True)

    async def shape(_ctx: Any, event: Event, arguments: dict[str, Any]) -> Any:
        return await trouble.strike(arguments, otherwise=event)

    async def set_up(_ctx: Any, arguments: dict[str, Any], _subscription_id: str) -> None:
        await trouble.strike(arguments, otherwise=None)

    functions = {"transform": shape, "on_subscribe": set_up, "on_unsubscribe": set_up}
    options: dict[str, Any] = {hook: functions.get(hook, decide)}
    events.event("tick", "A tick.", arguments=ARGUMENTS, payload={"n": int}, **options)
    return events


async def emit(events: Events, first: int, count: int = 1) -> None:
    for number in range(first, first + count):
        await events.emit("tick", {"n": number}, event_id=f"e{number}")


async def begun(stack: AsyncExitStack, peer: HttpPeer, arguments: dict[str, Any], name: str = "tick") -> Frames:
    frames = await stack.enter_async_context(peer.stream(name, arguments=arguments))
    await frames.expect("active")
    return frames


def numbers(messages: list[Message]) -> list[int]:
    return [message["params"]["data"]["n"] for message in messages if message.get("method") == EVENTS + "event"]


@both_paths
@pytest.mark.parametrize("hook", ["match", "transform", "authorize"])
@requirement("ours.hooks.hang", "ours.hooks.closed", "ours.hooks.told", "ours.stream.isolated")
async def test_a_hook_that_hangs_on_an_event_delays_its_own_subscription_alone(hook: str, target: HttpTarget) -> None:
    trouble = Trouble()
    events = declare(hook, trouble)
    async with target.serve(events) as peer, AsyncExitStack() as stack:
        victim, other = await begun(stack, peer, VICTIM), await begun(stack, peer, OTHER)
        polled = (await peer.poll("tick", arguments=OTHER))["cursor"]
        trouble.on = True
        began = time.monotonic()
        await emit(events, 0)
        await until(lambda: trouble.calls)
        trouble.on = False
        await emit(events, 1, COUNT - 1)
        assert [data["n"] for data in await other.data(COUNT)] == list(range(COUNT))
        page = await peer.poll("tick", polled, arguments=OTHER)
        assert [event["data"]["n"] for event in page["events"]] == list(range(COUNT))
        assert time.monotonic() - began < PROMPT
        got = await victim.until("error")
        assert HOOK_SECONDS - 0.1 < time.monotonic() - began < HOOK_SECONDS + SLACK
        assert got[-1]["params"]["error"]["data"]["reason"] == hook
        while COUNT - 1 not in numbers(got):
            got += await victim.until("event")
        assert numbers(got) == list(range(1, COUNT))  # the first is kept back, for good
        assert events.hook_failures == {("tick", Hook(hook)): 1}


@requirement("ours.hooks.told")
async def test_a_hook_that_hangs_on_every_event_is_told_at_the_first() -> None:
    trouble = Trouble()
    events = declare("match", trouble)
    async with FAST.serve(events) as peer, AsyncExitStack() as stack:
        victim = await begun(stack, peer, VICTIM)
        trouble.on = True
        began = time.monotonic()
        await emit(events, 0, 5)
        await victim.expect("error")
        assert time.monotonic() - began < HOOK_SECONDS + SLACK


GARBAGE = [
    ("match", "raise"), ("match", "yes"), ("match", None),
    ("authorize", "raise"), ("authorize", "yes"),
    ("transform", "raise"), ("transform", None), ("transform", 7), ("transform", [1]), ("transform", "text"),
    ("transform", {"n": object()}), ("transform", {"n": float("nan")}), ("transform", {"n": "no number"}),
    ("transform", Event({"n": 1}, meta=["no", "object"])),  # type: ignore[arg-type]
]  # fmt: skip


@pytest.mark.parametrize(("hook", "way"), GARBAGE, ids=str)
@requirement("ours.hooks.closed", "ours.hooks.told", "ours.hooks.data", "ours.hooks.authorize")
async def test_a_hook_that_raises_or_answers_nonsense_keeps_back_that_event_alone(hook: str, way: Any) -> None:
    trouble = Trouble(way)
    events = declare(hook, trouble)
    async with FAST.serve(events) as peer, AsyncExitStack() as stack:
        victim, other = await begun(stack, peer, VICTIM), await begun(stack, peer, OTHER)
        trouble.on = True
        began = time.monotonic()
        await emit(events, 0)
        assert [data["n"] for data in await other.data(1)] == [0]
        error = await victim.expect("error")
        assert time.monotonic() - began < PROMPT
        assert "secret" not in str(error)
        trouble.on = False
        await emit(events, 1)
        assert [data["n"] for data in await victim.data(1)] == [1]
        assert [data["n"] for data in await other.data(1)] == [1]
        assert events.hook_failures == {("tick", Hook(hook)): 1}


@pytest.mark.parametrize("hook", ["authorize", "on_subscribe"])
@pytest.mark.parametrize("method", ["events/poll", "events/stream"])
@requirement("ours.hooks.hang", "ours.hooks.authorize")
async def test_a_hook_that_hangs_at_the_start_refuses_that_start_in_time(hook: str, method: str) -> None:
    trouble = Trouble()
    events = declare(hook, trouble)
    trouble.on = True
    async with FAST.serve(events) as peer, asyncio.TaskGroup() as tasks, AsyncExitStack() as stack:
        began = time.monotonic()
        asked = tasks.create_task(peer.refused(method, name="tick", arguments=VICTIM))
        await until(lambda: trouble.calls)
        other = await begun(stack, peer, OTHER)
        await emit(events, 0)
        assert [data["n"] for data in await other.data(1)] == [0]
        await peer.poll("tick", arguments=OTHER)
        assert time.monotonic() - began < PROMPT
        refused = await asked
        assert HOOK_SECONDS - 0.1 < time.monotonic() - began < HOOK_SECONDS + SLACK
        assert refused.code == -32603
        assert refused.data["reason"] == hook
        assert events.hook_failures == {("tick", Hook(hook)): 1}


@requirement("ours.hooks.hang")
async def test_a_poll_whose_hook_hangs_on_every_event_is_answered_in_time() -> None:
    trouble = Trouble()
    events = declare("match", trouble)
    async with FAST.serve(events) as peer:
        cursor = (await peer.poll("tick", arguments=VICTIM))["cursor"]
        trouble.on = True
        await emit(events, 0, 5)
        began = time.monotonic()
        page = await peer.poll("tick", cursor, arguments=VICTIM)
        assert time.monotonic() - began < 3 * HOOK_SECONDS
        assert page["hasMore"]
        assert page["cursor"] != cursor


def declare_check(trouble: Trouble, *, blocking: bool) -> Events:
    """Types `upstream` and `elsewhere`, whose upstreams have a new event at each check; the first one is trouble."""
    events = Events(hook_seconds=HOOK_SECONDS)

    def answer(cursor: Any) -> Any:
        if cursor is None:
            return [], 0
        return [Event({"n": cursor}, event_id=f"e{cursor}")], cursor + 1

    async def check(ctx: Any, arguments: dict[str, Any], cursor: Any) -> Any:
        return await trouble.strike(arguments, otherwise=answer(cursor))

    def check_in_thread(ctx: Any, arguments: dict[str, Any], cursor: Any) -> Any:
        trouble.block(arguments)
        return answer(cursor)

    def healthy(ctx: Any, arguments: dict[str, Any], cursor: Any) -> Any:
        return answer(cursor)

    options: dict[str, Any] = {"arguments": ARGUMENTS, "interval": 0.02}
    events.event("upstream", "An upstream.", **options)(check_in_thread if blocking else check)
    events.event("elsewhere", "Another one.", **options)(healthy)
    return events


async def assert_prompt(frames: Frames) -> None:
    """Its upstream has an event for it at each check, some 50 a second; so many may take twice as long."""
    began = time.monotonic()
    await frames.data(COUNT)
    assert time.monotonic() - began < PROMPT


CHECKS = [(way, False) for way in ("hang", "raise", None, 7, ([], None), ("text", 1), ([], 1.5))] + [("block", True)]


@pytest.mark.parametrize(("way", "blocking"), CHECKS, ids=str)
@requirement("ours.hooks.hang", "ours.check.fails", "ours.stream.isolated")
async def test_a_check_that_fails_is_told_and_tried_again_and_delays_no_other(way: Any, blocking: bool) -> None:
    trouble = Trouble(way)
    events = declare_check(trouble, blocking=blocking)
    async with FAST.serve(events) as peer, AsyncExitStack() as stack:
        stack.callback(trouble.release.set)
        victim = await begun(stack, peer, VICTIM, "upstream")
        other = await begun(stack, peer, OTHER, "upstream")
        elsewhere = await begun(stack, peer, VICTIM, "elsewhere")
        await victim.expect("event")
        trouble.on = True
        began = time.monotonic()
        await until(lambda: trouble.calls)
        await assert_prompt(other)
        await assert_prompt(elsewhere)
        told = (await victim.until("error"))[-1]
        assert time.monotonic() - began < HOOK_SECONDS + SLACK
        assert told["params"]["error"]["data"]["reason"] == "check"
        assert events.hook_failures["upstream", Hook.CHECK] == 1
        with pytest.raises(Refused) as refused:
            await peer.poll("upstream", arguments=VICTIM)
        assert refused.value.data["reason"] == "check"
        trouble.on = False
        trouble.release.set()
        last = (await victim.until("event"))[-1]["params"]["data"]["n"]
        assert [data["n"] for data in await victim.data(3)] == [last + 1, last + 2, last + 3]


@requirement("ours.hooks.hang", "ours.stream.isolated")
async def test_checks_that_block_all_threads_of_their_type_leave_other_types_theirs() -> None:
    trouble = Trouble()
    events = declare_check(trouble, blocking=True)
    trouble.on = True
    before = threading.active_count()
    async with FAST.serve(events) as peer, asyncio.TaskGroup() as tasks, AsyncExitStack() as stack:
        stack.callback(trouble.release.set)
        elsewhere = await begun(stack, peer, VICTIM, "elsewhere")
        asked = [
            tasks.create_task(peer.refused("events/poll", name="upstream", arguments={"who": f"victim {number}"}))
            for number in range(3 * HOOK_THREADS)
        ]
        await until(lambda: trouble.calls == HOOK_THREADS)
        began = time.monotonic()
        for one in asked:
            assert (await one).data["reason"] == "check"
        # Eight ask at a time, and each waits for a thread no longer than for an answer.
        assert time.monotonic() - began < 3 * HOOK_SECONDS + SLACK
        await assert_prompt(elsewhere)
        assert trouble.calls == HOOK_THREADS
        assert threading.active_count() <= before + HOOK_THREADS + 4
        assert events.hook_failures["upstream", Hook.CHECK] == 3 * HOOK_THREADS


@pytest.mark.parametrize(
    "hook", ["match", "transform", "authorize", "on_subscribe", "on_unsubscribe", "check", "block"]
)
@requirement("ours.hooks.hang", "ours.stream.stop", "ours.lib.lifespan")
async def test_closing_is_not_held_up_by_a_hook_that_hangs(hook: str) -> None:
    trouble = Trouble()
    check = hook in ("check", "block")
    name = "upstream" if check else "tick"
    events = declare_check(trouble, blocking=hook == "block") if check else declare(hook, trouble)
    async with FAST.serve(events) as peer, asyncio.TaskGroup() as tasks, AsyncExitStack() as stack:
        stack.callback(trouble.release.set)
        if hook == "on_subscribe":
            trouble.on = True
            asked = tasks.create_task(peer.ask("events/stream", {"name": name, "arguments": VICTIM}))
        else:
            victim = await begun(stack, peer, VICTIM, name)
            asked = tasks.create_task(_ended(victim))
            trouble.on = True
            if not check:
                await emit(events, 0)
        await until(lambda: trouble.calls or hook == "on_unsubscribe")
        began = time.monotonic()
        await events.aclose()
        taken = time.monotonic() - began
        print(f"closed in {taken:.2f} s")
        assert taken < HOOK_SECONDS + SLACK
        await asked
        assert time.monotonic() - began < HOOK_SECONDS + SLACK


async def _ended(frames: Frames) -> None:
    last = (await frames.rest())[-1]
    assert last["result"]["resultType"] == "complete"


@requirement("ours.hooks.hang", "ours.stream.stop")
async def test_a_server_full_of_hooks_that_hang_stops_when_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    server = ServerProcess(tmp_path / "data", {}, LIBRARY)
    streams: list[EventStream] = []
    try:
        await server.start()
        async with server.http() as client, asyncio.TaskGroup() as tasks:
            tick = await open_stream(client, Wanted("tick"))
            streams.append(tick)
            for name in ("stuck.match", "stuck.transform", "stuck.end"):
                streams.append(await open_stream(client, Wanted(name)))
                await streams[-1].until("active")
            asking = [
                tasks.create_task(open_stream(client, Wanted(name))) for name in ("stuck.check", "stuck.authorize")
            ]
            body = [
                {"topic": topic, "event_id": f"{topic}-{number}", "payload": {"n": number, "lane": "a"}}
                for number in range(COUNT)
                for topic in ("stuck.match", "stuck.transform", "tick")
            ]
            assert (await client.post("/v1/events", json=body)).status_code == 200
            assert numbers_of(await tick.until("event", COUNT)) == list(range(COUNT))
            began = time.monotonic()
            status = await server.terminate()
            taken = time.monotonic() - began
            print(f"stopped in {taken:.1f} s")
            checked, authorized = [await task for task in asking]
            streams += [checked, authorized]
            assert checked.status == 200  # it never began, and ends with its result alone
        assert status in (0, -15)
        assert taken < 6
    finally:
        for stream in streams:
            stream.close()
        await server.aclose()
