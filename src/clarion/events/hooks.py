"""The author's hooks: called bounded in time, apart from everybody else's, and failing closed.

What goes wrong in a hook is its own subscription's trouble: it gets nothing that the hook did not say yes to, the
failure is counted and logged, and neither the client nor the log learns what the exception said.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import inspect
import threading
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from clarion import model
from clarion.clock import Clock
from clarion.encoding import encode
from clarion.errors import ClarionError, Forbidden, HookFailed, InvalidInput
from clarion.events.functions import definition, qualified_name
from clarion.events.occurrence import Context, Event
from clarion.logs import get_logger, origin

__all__ = [
    "HOOK_SECONDS",
    "HOOK_THREADS",
    "PARAMETERS",
    "REAUTHORIZE_SECONDS",
    "SLOW_INLINE_SECONDS",
    "Hook",
    "HookLens",
    "HookRunner",
    "Hooks",
    "Misfit",
    "authorized",
    "reauthorize",
]

HOOK_SECONDS = 10.0
"""Seconds that one call of a hook may take. Stops a hook that hangs from holding a request, a stream or a loop."""

HOOK_THREADS = 8
"""Threads that one hook of one event type may hold. Stops a hook that hangs, whose thread cannot be ended, from
taking all of the process's: its slots are spent, and other hooks have theirs."""

SLOW_INLINE_SECONDS = 0.05
"""Seconds that `match` or `transform` may hold the event loop before that is logged."""

REAUTHORIZE_SECONDS = 60.0
"""Seconds between two questions whether an open stream may go on, when no event asks sooner."""

LOG_SECONDS = 10.0
"""Seconds between two lines about the same failure. Stops a hook that fails on every event from flooding the log."""

logger = get_logger("clarion.hooks")


class Hook(StrEnum):
    """The hooks there are, under the names that `HookFailed` gives as its reason."""

    MATCH = "match"
    TRANSFORM = "transform"
    AUTHORIZE = "authorize"
    ON_SUBSCRIBE = "on_subscribe"
    ON_UNSUBSCRIBE = "on_unsubscribe"
    CHECK = "check"


PARAMETERS: Mapping[Hook, tuple[str, str, str]] = {
    Hook.MATCH: ("ctx", "event", "arguments"),
    Hook.TRANSFORM: ("ctx", "event", "arguments"),
    Hook.AUTHORIZE: ("principal", "event", "arguments"),
    Hook.ON_SUBSCRIBE: ("ctx", "arguments", "subscription_id"),
    Hook.ON_UNSUBSCRIBE: ("ctx", "arguments", "subscription_id"),
    Hook.CHECK: ("ctx", "arguments", "cursor"),
}
"""What each hook is called with, by position."""

_KEPT_BACK = "An event could not be prepared for this subscription; it was kept back."

_SAID = {
    Hook.AUTHORIZE: "The server could not check your access just now; try again.",
    Hook.ON_SUBSCRIBE: "The server could not set this subscription up; try again.",
    Hook.CHECK: "The server's source did not answer; nothing is lost, it tries again.",
}
"""What a client is told of a hook's failure; of others that an event was kept back."""

INLINE = frozenset((Hook.MATCH, Hook.TRANSFORM))
"""Hooks that are called on the event loop when they are plain functions: they only look at what they are given."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the author of an event type declared, each a plain or an async function, or None.

    `match(ctx, event, arguments) -> bool`; `transform(ctx, event, arguments) -> Event`, of which data and meta count;
    `authorize(principal, event, arguments) -> bool`, `event` being the event type's name: asked at subscribe, at
    intervals and at delivery; `on_subscribe` and `on_unsubscribe(ctx, arguments, subscription_id)`.
    """

    match: Callable[..., Any] | None = None
    transform: Callable[..., Any] | None = None
    authorize: Callable[..., Any] | None = None
    on_subscribe: Callable[..., Any] | None = None
    on_unsubscribe: Callable[..., Any] | None = None

    @property
    def per_event(self) -> bool:
        """Whether any of them is asked about each event, so that a subscription needs a lens."""
        return not (self.match is None and self.transform is None and self.authorize is None)

    @property
    def lifecycle(self) -> bool:
        """Whether the author sets something up for each subscription."""
        return not (self.on_subscribe is None and self.on_unsubscribe is None)


class HookRunner:
    """Calls the author's code, for one library on one event loop."""

    def __init__(self, clock: Clock, *, seconds: float = HOOK_SECONDS) -> None:
        self.failures: Counter[tuple[str, Hook]] = Counter()
        """How often each hook of each event type failed."""
        self._clock = clock
        self._seconds = seconds
        self._slots: dict[tuple[str, Hook, int], asyncio.Semaphore] = {}
        self._told: dict[tuple[str, ...], float] = {}
        self._slow: set[tuple[str, Hook]] = set()
        self._left: set[asyncio.Future[Any]] = set()

    async def call(
        self,
        name: str,
        hook: Hook,
        function: Callable[..., Any],
        *arguments: Any,
        passes: type[ClarionError] | None = None,
    ) -> Any:
        """What `function` answers. An async one is awaited; a plain one runs in a thread, or inline for the pure ones.

        Raises HookFailed (details `reason`) when it raises anything but `passes`, or takes too long.
        """
        try:
            if _is_async(function):
                return await self._bounded(function(*arguments))
            if hook in INLINE:
                answer = self._inline(name, hook, function, arguments)
                return await self._bounded(answer) if inspect.isawaitable(answer) else answer
            return await self._bounded(self._in_thread(name, hook, function, arguments))
        except Exception as error:
            if passes is not None and isinstance(error, passes):
                raise
            raise self.failed(name, hook, function, error) from None

    def failed(
        self,
        name: str,
        hook: Hook,
        function: Callable[..., Any] | None,
        error: BaseException,
        *,
        kept_back: bool = False,
    ) -> HookFailed:
        """Count and log a failure; answers the error that stands for it, which tells nothing of what it was.

        The log names the author's function, and what was wrong: a `Misfit` in its own words, anything else by its kind
        and place. `kept_back`: it cost one event, and nothing is tried again.
        """
        self.failures[name, hook] += 1
        if isinstance(error, Misfit):
            why = {"reason": str(error)}
        elif isinstance(error, TypeError) and _raised_by_the_call(error):
            why = {"reason": f"it cannot be called with ({', '.join(PARAMETERS[hook])})"}
        else:
            why = {"error": type(error).__name__, "at": origin(error)}
        key = (name, hook, *why.values())
        now = self._clock.monotonic()
        if now - self._told.get(key, -LOG_SECONDS) >= LOG_SECONDS:
            self._told[key] = now
            whose = {} if function is None else {"function": qualified_name(function), "defined": definition(function)}
            total = self.failures[name, hook]
            logger.warning("hook_failed", type=name, hook=hook.value, **whose, **why, failures=total)
        message = _KEPT_BACK if kept_back else _SAID.get(hook, _KEPT_BACK)
        return HookFailed(message, details={"reason": hook.value})

    def _inline(self, name: str, hook: Hook, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        began = self._clock.monotonic()
        try:
            return function(*arguments)
        finally:
            held = self._clock.monotonic() - began
            if held > SLOW_INLINE_SECONDS and (name, hook) not in self._slow:
                self._slow.add((name, hook))
                logger.warning("hook_holds_the_event_loop", type=name, hook=hook.value, seconds=round(held, 3))

    async def _in_thread(self, name: str, hook: Hook, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """As asyncio.to_thread, in a thread that neither a shutdown nor another hook waits for."""
        loop, context = asyncio.get_running_loop(), contextvars.copy_context()
        # Those of a loop that is gone are never given back: each loop has its own.
        slots = self._slots.setdefault((name, hook, id(loop)), asyncio.Semaphore(HOOK_THREADS))
        await slots.acquire()
        outcome: asyncio.Future[tuple[Any, Exception | None]] = loop.create_future()

        def settle(answer: Any, error: Exception | None) -> None:
            slots.release()
            if not outcome.done():
                outcome.set_result((answer, error))

        def work() -> None:
            answer, failure = None, None
            try:
                answer = context.run(function, *arguments)
            except Exception as error:
                failure = error
            except BaseException as error:  # an exit is the process's to decide, not a hook's
                failure = RuntimeError(type(error).__name__)
            with suppress(RuntimeError):  # the event loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, answer, failure)

        try:
            threading.Thread(target=work, name=f"clarion-{hook.value}", daemon=True).start()
        except BaseException:
            slots.release()
            raise
        answer, failure = await outcome
        if failure is not None:
            raise failure
        return await answer if inspect.isawaitable(answer) else answer

    async def _bounded(self, work: Awaitable[Any]) -> Any:
        """What `work` gives within the time of a hook. It is not waited for beyond, even if it ignores its end."""
        task = asyncio.ensure_future(work)
        timer = asyncio.ensure_future(self._clock.sleep(self._seconds))
        try:
            await asyncio.wait((task, timer), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise Misfit(f"it took longer than {self._seconds:g} seconds")
            if task.cancelled():
                raise Misfit("it cancelled itself")
            return task.result()
        finally:
            timer.cancel()
            if not task.done():
                task.cancel()
                self._left.add(task)
                task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Future[Any]) -> None:
        self._left.discard(task)
        if not task.cancelled():
            task.exception()  # it was told that nobody waits; what it says to that is of no interest


class Misfit(Exception):
    """What a hook did that it must not, in words of this library that hold nothing of an event."""


def _raised_by_the_call(error: TypeError) -> bool:
    """Whether the author's code was not even begun."""
    frames = traceback.extract_tb(error.__traceback__)
    return bool(frames) and frames[-1].filename == __file__


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


async def authorized(runner: HookRunner, hooks: Hooks, context: Context) -> None:
    """Return when the author's `authorize` allows it, or there is none.

    Raises Forbidden when it does not; HookFailed when it cannot tell, and then nothing is allowed either.
    """
    if hooks.authorize is None:
        return
    arguments = (context.principal, context.name, context.copy().arguments)
    try:
        allowed = await runner.call(context.name, Hook.AUTHORIZE, hooks.authorize, *arguments, passes=Forbidden)
    except Forbidden:
        allowed = False
    if allowed is True:
        return
    if allowed:
        raise runner.failed(context.name, Hook.AUTHORIZE, hooks.authorize, _no_bool(Hook.AUTHORIZE, allowed))
    raise Forbidden("You may not have this event with these arguments.")


def _no_bool(hook: Hook, answer: Any) -> Misfit:
    return Misfit(f"{hook.value} answered {type(answer).__name__}; it answers True or False")


def _revoked() -> Forbidden:
    return Forbidden("Access revoked: you may no longer have this event.", details={"reason": "Access revoked"})


async def reauthorize(
    runner: HookRunner, hooks: Hooks, context: Context, clock: Clock, revoke: Callable[[Forbidden], None]
) -> None:
    """Ask `authorize` again and again while a stream is open, and call `revoke` once when it says no.

    When it cannot tell, the stream stays as it is and is asked about next time: each event asks by itself.
    """
    while hooks.authorize is not None:
        await clock.sleep(REAUTHORIZE_SECONDS)
        try:
            await authorized(runner, hooks, context)
        except HookFailed:
            continue
        except Forbidden:
            revoke(_revoked())
            return


class HookLens:
    """A `clarion.hub.protocols.Lens` of the author's hooks, for one subscription."""

    __slots__ = ("_context", "_hooks", "_runner")

    def __init__(self, runner: HookRunner, hooks: Hooks, context: Context) -> None:
        self._runner = runner
        self._hooks = hooks
        self._context = context.copy()

    async def view(self, event: model.Event) -> model.Event | None:
        """See `Lens.view`. The hooks are asked in this order: authorize, match, transform."""
        hooks, context, runner = self._hooks, self._context, self._runner
        shown = Event.of(event)
        try:
            await authorized(runner, hooks, context)
        except Forbidden:
            raise _revoked() from None
        except HookFailed as error:
            raise HookFailed(_KEPT_BACK, details=error.details) from None
        if hooks.match is not None:
            matched = await runner.call(context.name, Hook.MATCH, hooks.match, context, shown, context.arguments)
            if matched is not True and matched is not False:
                raise runner.failed(context.name, Hook.MATCH, hooks.match, _no_bool(Hook.MATCH, matched))
            if not matched:
                return None
        if hooks.transform is None:
            return event
        answer = await runner.call(context.name, Hook.TRANSFORM, hooks.transform, context, shown, context.arguments)
        try:
            return _transformed(event, answer)
        except Exception as error:
            raise runner.failed(context.name, Hook.TRANSFORM, hooks.transform, error) from None


def _transformed(event: model.Event, answer: Any) -> model.Event:
    """`event` with the data and meta of what a `transform` answered; itself when that says the same."""
    if isinstance(answer, Event):
        data, meta = answer.data, answer.meta
    else:
        data, meta = answer, event.attributes.get("meta", {})
    if not isinstance(data, Mapping) or not isinstance(meta, Mapping):
        wrong = type(answer).__name__ if not isinstance(answer, Event) else "data or meta that is no object"
        raise Misfit(f"transform answered {wrong}; it answers an Event or its data, a JSON object")
    try:
        payload, attributes = encode(dict(data), field="data"), dict(event.attributes)
        encode(dict(meta), field="meta")
    except InvalidInput as error:
        raise Misfit(f"transform's {error.message}") from None
    attributes.pop("meta", None)
    if meta:
        attributes["meta"] = dict(meta)
    if payload == event.payload_json and attributes == event.attributes:
        return event
    return dataclasses.replace(event, payload_json=payload, attributes=attributes, _payload=None)
