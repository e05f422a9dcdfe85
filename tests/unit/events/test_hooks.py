"""Hooks: bounded in time, failing closed, and each subscription's trouble its own."""

import asyncio
import functools
import logging
import threading
import time
from contextvars import ContextVar
from typing import Any

import pytest

from clarion import model
from clarion.clock import SystemClock
from clarion.errors import Forbidden, HookFailed, NotFound
from clarion.events.hooks import (
    HOOK_SECONDS,
    HOOK_THREADS,
    REAUTHORIZE_SECONDS,
    SLOW_INLINE_SECONDS,
    Hook,
    HookLens,
    HookRunner,
    Hooks,
    authorized,
    reauthorize,
)
from clarion.events.occurrence import Context, Event
from clarion.model import Principal
from clarion.testing.clock import FakeClock
from clarion.testing.hubs import settle, until

NAME = "mail.received"


def context(**fields: Any) -> Context:
    values: dict[str, Any] = {
        "principal": Principal("acme", "alice"),
        "subscription_id": "sub_1",
        "name": NAME,
        "claims": {},
        "client_id": "laptop",
        "arguments": {"from": {"x": 1}},
    }
    return Context(**(values | fields))


def event(data: Any = None, **fields: Any) -> model.Event:
    return Event({"n": 1} if data is None else data, event_id="e1", **fields).checked("acme", NAME, 1)


def lens(runner: HookRunner | None = None, **hooks: Any) -> HookLens:
    return HookLens(runner or HookRunner(FakeClock()), Hooks(**hooks), context())


# -- calling ----------------------------------------------------------------------------------------------------------


async def test_plain_functions_run_in_a_thread_and_pure_ones_inline() -> None:
    runner = HookRunner(FakeClock())
    assert await runner.call(NAME, Hook.CHECK, threading.current_thread) is not threading.main_thread()
    assert await runner.call(NAME, Hook.MATCH, threading.current_thread) is threading.main_thread()


async def test_anything_that_gives_an_awaitable_is_awaited() -> None:
    async def double(number: int) -> int:
        return 2 * number

    class Callable:
        async def __call__(self, number: int) -> int:
            return 2 * number

    runner = HookRunner(FakeClock())
    for function in (double, Callable(), functools.partial(double), lambda number: double(number)):
        for hook in (Hook.MATCH, Hook.AUTHORIZE):
            assert await runner.call(NAME, hook, function, 4) == 8


async def test_context_variables_reach_a_thread() -> None:
    variable = ContextVar("variable", default="nothing")
    variable.set("request")
    assert await HookRunner(FakeClock()).call(NAME, Hook.CHECK, variable.get) == "request"


@pytest.mark.parametrize("hook", list(Hook))
@pytest.mark.parametrize(
    "error", [ValueError("swordfish"), StopIteration(), NotFound("swordfish"), asyncio.CancelledError()]
)
async def test_a_hook_that_raises_fails_and_tells_nothing(
    hook: Hook, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def plain() -> None:
        raise error

    async def asynchronous() -> None:
        raise error

    runner = HookRunner(FakeClock())
    functions = [asynchronous] if isinstance(error, asyncio.CancelledError) else [plain, asynchronous]
    for function in functions:
        with pytest.raises(HookFailed) as caught:
            await runner.call(NAME, hook, function)
        assert caught.value.details == {"reason": hook.value}
        assert "swordfish" not in str(caught.value)
    assert runner.failures == {(NAME, hook): len(functions)}
    assert "swordfish" not in caplog.text
    assert "hook_failed" in caplog.text


async def test_the_log_names_the_kind_and_the_place_of_a_failure_once_in_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken() -> None:
        raise LookupError("swordfish")

    clock = FakeClock()
    runner = HookRunner(clock)
    for _ in range(50):
        with pytest.raises(HookFailed):
            await runner.call(NAME, Hook.CHECK, broken)
    assert len(caplog.records) == 1
    assert "LookupError" in caplog.text
    assert "test_hooks.py" in caplog.text
    await clock.advance(60)
    with pytest.raises(HookFailed):
        await runner.call(NAME, Hook.CHECK, broken)
    assert len(caplog.records) == 2
    assert runner.failures[NAME, Hook.CHECK] == 51


class Author:
    @staticmethod
    def broken(*arguments: Any) -> Any:
        return {}["swordfish"]

    def __call__(self, *arguments: Any) -> Any:
        return {}["swordfish"]


def line_of(function: Any) -> str:
    return f"test_hooks.py:{function.__code__.co_firstlineno}"


@pytest.mark.parametrize(
    ("function", "name", "line"),
    [
        (Author.broken, "Author.broken", line_of(Author.broken)),
        (functools.partial(Author.broken, 1), "Author.broken", line_of(Author.broken)),
        (Author(), "Author", line_of(Author.__call__)),
        (Author().__call__, "Author.__call__", line_of(Author.__call__)),
        (functools.wraps(Author.broken)(lambda *arguments: Author.broken()), "Author.broken", line_of(Author.broken)),
        (open, "open", "unknown"),
    ],
    ids=["static", "partial", "object", "method", "wrapped", "of C"],
)
async def test_the_log_names_the_authors_function_and_where_it_is_defined(
    function: Any, name: str, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(HookFailed):
        await HookRunner(FakeClock()).call(NAME, Hook.CHECK, function, "/swordfish", 1, 2)
    assert f"function={name} " in caplog.text
    assert line in caplog.text
    assert "swordfish" not in caplog.text


async def said(caplog: pytest.LogCaptureFixture, view: HookLens) -> str:
    caplog.clear()
    with pytest.raises(HookFailed):
        await view.view(event())
    (record,) = caplog.records
    assert not any(private in caplog.text for private in ("Misfit", "swordfish", "error="))
    return record.getMessage()


async def test_the_log_says_what_was_wrong_with_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    for hooks, reason in (
        ({"match": lambda *_: None}, "match answered NoneType; it answers True or False"),
        ({"authorize": lambda *_: "swordfish"}, "authorize answered str; it answers True or False"),
        ({"transform": lambda *_: ["swordfish"]}, "transform answered list; it answers an Event or its data"),
        ({"transform": lambda *_: Event([])}, "transform answered data or meta that is no object"),  # type: ignore[arg-type]
        ({"transform": lambda *_: {"swordfish": float("nan")}}, "transform's data holds a number that is not finite"),
        ({"match": lambda: True}, "it cannot be called with (ctx, event, arguments)"),
    ):
        message = await said(caplog, lens(**hooks))  # type: ignore[arg-type]
        assert reason in message
        assert "function=" in message


async def test_the_log_says_that_a_hook_took_too_long(caplog: pytest.LogCaptureFixture) -> None:
    clock = FakeClock()
    call = asyncio.create_task(HookRunner(clock, seconds=2).call(NAME, Hook.CHECK, asyncio.Event().wait))
    await clock.advance(2)
    with pytest.raises(HookFailed):
        await call
    assert "it took longer than 2 seconds" in caplog.text


@pytest.mark.parametrize(
    ("hook", "says"),
    [
        (Hook.MATCH, "it was kept back"),
        (Hook.TRANSFORM, "it was kept back"),
        (Hook.AUTHORIZE, "could not check your access just now; try again"),
        (Hook.ON_SUBSCRIBE, "could not set this subscription up; try again"),
        (Hook.CHECK, "nothing is lost, it tries again"),
    ],
)
async def test_a_client_is_told_what_a_failure_means_for_it(hook: Hook, says: str) -> None:
    with pytest.raises(HookFailed) as caught:
        await HookRunner(FakeClock()).call(NAME, hook, Author.broken)
    assert says in caught.value.message


async def test_an_event_whose_access_cannot_be_checked_is_said_to_be_kept_back() -> None:
    with pytest.raises(HookFailed, match="it was kept back") as caught:
        await lens(authorize=Author.broken).view(event())
    assert caught.value.details == {"reason": "authorize"}


async def test_an_exit_in_a_thread_ends_nothing_but_the_call() -> None:
    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(HookFailed):
        await HookRunner(FakeClock()).call(NAME, Hook.AUTHORIZE, leave)


async def test_what_passes_is_raised_as_it_is() -> None:
    def check() -> None:
        raise NotFound("no such channel")

    runner = HookRunner(FakeClock())
    with pytest.raises(NotFound, match="no such channel"):
        await runner.call(NAME, Hook.CHECK, check, passes=NotFound)
    assert not runner.failures


async def test_an_async_hook_that_hangs_fails_in_time_even_if_it_will_not_end() -> None:
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    clock = FakeClock()
    call = asyncio.create_task(HookRunner(clock).call(NAME, Hook.CHECK, stubborn))
    await clock.advance(HOOK_SECONDS - 1)
    assert not call.done()
    await clock.advance(1)
    with pytest.raises(HookFailed):
        await call
    release.set()
    await settle()


async def test_a_thread_that_hangs_costs_its_slot_and_no_other_hook_a_slot() -> None:
    release = threading.Event()
    clock = FakeClock()
    runner = HookRunner(clock)
    hung = [asyncio.create_task(runner.call(NAME, Hook.CHECK, release.wait)) for _ in range(HOOK_THREADS)]
    await clock.advance(HOOK_SECONDS)
    assert [isinstance(answer, HookFailed) for answer in await asyncio.gather(*hung, return_exceptions=True)] == [
        True
    ] * HOOK_THREADS
    starved = asyncio.create_task(runner.call(NAME, Hook.CHECK, lambda: "answer"))
    await settle()
    assert await runner.call(NAME, Hook.AUTHORIZE, lambda: True) is True
    assert await runner.call("other", Hook.CHECK, lambda: "other") == "other"
    assert not starved.done()
    release.set()
    await until(starved.done)
    assert await starved == "answer"


async def test_cancelling_a_call_cancels_its_hook() -> None:
    ended = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    call = asyncio.create_task(HookRunner(FakeClock()).call(NAME, Hook.CHECK, wait))
    await settle()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await settle()
    assert ended.is_set()


async def test_a_hook_that_holds_the_event_loop_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    def slow() -> bool:
        time.sleep(SLOW_INLINE_SECONDS * 1.5)
        return True

    runner = HookRunner(SystemClock())
    for _ in range(2):
        assert await runner.call(NAME, Hook.MATCH, slow) is True
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "hook_holds_the_event_loop" in caplog.text


# -- the lens ---------------------------------------------------------------------------------------------------------


async def test_without_hooks_the_event_itself_is_shown() -> None:
    one = event()
    assert await lens().view(one) is one


async def test_match_decides_and_transform_shapes() -> None:
    one = event({"n": 1, "secret": "x"}, meta={"trace": "t"})
    shaped = await lens(
        match=lambda ctx, event, arguments: event.data["n"] == arguments["from"]["x"],
        transform=lambda ctx, event, arguments: event.replace(data={"n": event.data["n"]}),
    ).view(one)
    assert shaped is not None
    assert (shaped.payload, shaped.event_id, shaped.attributes) == ({"n": 1}, "e1", {"meta": {"trace": "t"}})
    assert one.payload == {"n": 1, "secret": "x"}
    assert await lens(match=lambda ctx, event, arguments: False).view(one) is None


async def test_a_cached_payload_does_not_outlive_a_transform() -> None:
    one = event({"secret": 1})
    assert one.payload == {"secret": 1}
    shaped = await lens(transform=lambda ctx, event, arguments: {"shown": 1}).view(one)
    assert shaped is not None
    assert shaped.payload == {"shown": 1}


async def test_a_transform_that_changes_nothing_shares_the_event() -> None:
    one = event({"n": 1}, meta={"m": 1})
    assert await lens(transform=lambda ctx, event, arguments: event).view(one) is one


async def test_a_transform_may_change_or_drop_meta() -> None:
    one = event(meta={"m": 1})
    changed = await lens(transform=lambda ctx, event, arguments: event.replace(meta={"m": 2})).view(one)
    dropped = await lens(transform=lambda ctx, event, arguments: event.replace(meta={})).view(one)
    assert changed is not None
    assert dropped is not None
    assert (changed.attributes, dropped.attributes) == ({"meta": {"m": 2}}, {})


@pytest.mark.parametrize("answer", [None, 1, "yes", [], {"a": 1}])
async def test_a_match_that_is_no_bool_shows_nothing(answer: Any) -> None:
    runner = HookRunner(FakeClock())
    with pytest.raises(HookFailed):
        await lens(runner, match=lambda ctx, event, arguments: answer).view(event())
    assert runner.failures[NAME, Hook.MATCH] == 1


@pytest.mark.parametrize("answer", [None, 1, "text", [1], {"a": object()}, Event({"a": float("inf")}), Event([])])  # type: ignore[arg-type]
async def test_a_transform_that_gives_no_event_shows_nothing(answer: Any) -> None:
    with pytest.raises(HookFailed) as caught:
        await lens(transform=lambda ctx, event, arguments: answer).view(event())
    assert caught.value.details == {"reason": "transform"}


async def test_what_one_hook_does_to_its_event_another_subscription_does_not_see() -> None:
    def spoil(ctx: Context, event: Event, arguments: Any) -> bool:
        event.data["n"] = "spoiled"  # type: ignore[index]
        arguments["from"]["x"] = "spoiled"
        return True

    one, theirs = event(), context()
    runner = HookRunner(FakeClock())
    await HookLens(runner, Hooks(match=spoil), theirs).view(one)
    assert one.payload == {"n": 1}
    assert theirs.arguments == {"from": {"x": 1}}


async def test_access_that_is_gone_is_forbidden_before_anything_else_is_asked() -> None:
    asked: list[str] = []
    hooks = {
        "authorize": lambda principal, event, arguments: False,
        "match": lambda ctx, event, arguments: asked.append("match"),
    }
    with pytest.raises(Forbidden, match="Access revoked"):
        await lens(**hooks).view(event())
    assert asked == []


# -- authorization ----------------------------------------------------------------------------------------------------


async def test_authorize_is_asked_with_the_principal_the_event_and_the_arguments() -> None:
    asked: list[Any] = []

    def authorize(*arguments: Any) -> bool:
        asked.append(arguments)
        return True

    await authorized(HookRunner(FakeClock()), Hooks(authorize=authorize), context())
    assert asked == [(Principal("acme", "alice"), "mail.received", {"from": {"x": 1}})]
    await authorized(HookRunner(FakeClock()), Hooks(), context())


@pytest.mark.parametrize(
    ("answer", "error"), [(False, Forbidden), (None, Forbidden), (0, Forbidden), ("no", HookFailed)]
)
async def test_only_true_allows(answer: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        await authorized(HookRunner(FakeClock()), Hooks(authorize=lambda *arguments: answer), context())


async def test_an_author_may_raise_forbidden_instead_of_answering() -> None:
    def authorize(*arguments: Any) -> bool:
        raise Forbidden("swordfish")

    with pytest.raises(Forbidden) as caught:
        await authorized(HookRunner(FakeClock()), Hooks(authorize=authorize), context())
    assert "swordfish" not in str(caught.value)


async def test_an_open_stream_is_asked_about_until_access_is_gone() -> None:
    answers: list[Any] = [True, ValueError("unknown"), True, False]
    revoked: list[Forbidden] = []

    async def authorize(*arguments: Any) -> bool:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return bool(answer)

    clock = FakeClock()
    runner = HookRunner(clock)
    task = asyncio.create_task(reauthorize(runner, Hooks(authorize=authorize), context(), clock, revoked.append))
    for left in (3, 2, 1):
        await clock.advance(REAUTHORIZE_SECONDS)
        assert (len(answers), revoked) == (left, [])
    await clock.advance(REAUTHORIZE_SECONDS)
    await task
    assert [error.details for error in revoked] == [{"reason": "Access revoked"}]
    assert runner.failures[NAME, Hook.AUTHORIZE] == 1


async def test_nothing_is_asked_again_without_a_hook() -> None:
    clock = FakeClock()
    await reauthorize(HookRunner(clock), Hooks(), context(), clock, lambda error: None)
    assert clock.sleepers == 0
