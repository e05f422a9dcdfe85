"""`Events`: everything that an MCP server needs to speak SEP-3415, in three lines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from clarion.clock import Clock, SystemClock
from clarion.errors import (
    ClarionError,
    CloseReason,
    DataDirectoryOwned,
    InvalidInput,
    SchemaTooNew,
    StoreUnavailable,
    Unsupported,
)
from clarion.events.compatibility import breaks_arguments, breaks_payload
from clarion.events.declared import HOOKS, Declared, Shape, declare, is_positive
from clarion.events.emission import emission_of
from clarion.events.hooks import HOOK_SECONDS, Hook, HookRunner
from clarion.events.identity import Identity, TenantOf, identify
from clarion.events.life import Life
from clarion.events.offer import LibraryOffer, no_such_event
from clarion.events.runtime import Runtime, opened, store_url
from clarion.events.signatures import check_callable, to_come
from clarion.hub.hub import HubLimits
from clarion.hub.services import check_name
from clarion.logs import get_logger, quiet_library_logs
from clarion.model import Principal
from clarion.sources.emit import Receipt
from clarion.wires.mcp_events.protocol import Live
from clarion.wires.mcp_events.sdk import Context as RequestContext
from clarion.wires.mcp_events.sdk import EventsBinding
from clarion.wires.mcp_events.service import PAGE_SIZE, EventsService

__all__ = ["Events", "Identity"]

T = TypeVar("T")

logger = get_logger("clarion.events")

SOURCE = "library"
"""The source of what is emitted, within which an event's id is one event."""

THREAD_SECONDS = 10.0
"""Seconds that another thread waits for the event loop to do what it asks."""


class Events:
    """The event types of one MCP server, and the log behind them.

    `url`: nothing for memory, the path of a file such as `"events.db"`, or a store's URL. `tenant` is the name of the
    one tenant, or gives it for a caller (see `Identity`). `authorize(principal, event, arguments)`, `event` being the
    type's name, is asked for every type that has none of its own. `hook_seconds` is how long one call of a hook may
    take. Raises InvalidInput for a url that names no store, a name that cannot be a tenant's, and the like.

    The store is opened when it is first needed, and closed with the lifespan of the server it was given to, or by
    `async with events:`.
    """

    def __init__(
        self,
        url: str | Path | None = None,
        *,
        tenant: str | TenantOf = "default",
        authorize: Callable[..., Any] | None = None,
        limits: HubLimits | None = None,
        page_size: int = PAGE_SIZE,
        hook_seconds: float = HOOK_SECONDS,
        clock: Clock | None = None,
    ) -> None:
        quiet_library_logs()
        _check_options(tenant, authorize, hook_seconds)
        self.url = store_url(url)
        self._tenant = tenant
        self._authorize = authorize
        self._limits = limits
        self._clock = clock or SystemClock()
        self._runner = HookRunner(self._clock, seconds=hook_seconds)
        self._offer = LibraryOffer(self._running, self._runner)
        self._service = EventsService(self._offer, page_size=page_size)
        self._life: Life | None = None

    # -- event types ------------------------------------------------------------------------------------------------

    def event(
        self,
        name: str,
        description: str | None = None,
        *,
        arguments: Shape = None,
        payload: Shape = None,
        delivery: Sequence[str] | None = None,
        replay: bool = True,
        interval: float | None = None,
        shared: bool = False,
        max_streams: int | None = None,
        meta: Mapping[str, Any] | None = None,
        match: Callable[..., Any] | None = None,
        transform: Callable[..., Any] | None = None,
        authorize: Callable[..., Any] | None = None,
        on_subscribe: Callable[..., Any] | None = None,
        on_unsubscribe: Callable[..., Any] | None = None,
    ) -> Callable[[T], T]:
        """Declare an event type, from a class or a check function (see `declare`); also without decorating anything.

        A type without a check function is emitted to; what it emits can be replayed from the log unless `replay` is
        False. `interval` (seconds between two checks for streams) and `shared` are a check function's; `max_streams`
        is how many open streams of it one principal may have. With `interval` or `shared` there is no type before a
        check function was decorated.
        Raises InvalidTopic, InvalidSchema, InvalidInput, also when the name is taken.
        """
        hooks = {
            "match": match,
            "transform": transform,
            "authorize": authorize,
            "on_subscribe": on_subscribe,
            "on_unsubscribe": on_unsubscribe,
        }
        options: dict[str, Any] = {
            "description": description, "arguments": arguments, "payload": payload, "delivery": delivery,
            "replay": replay, "interval": interval, "shared": shared, "max_streams": max_streams, "meta": meta,
        }  # fmt: skip
        checked = interval is not None or shared
        declared = declare(name, check=to_come if checked else None, hooks=hooks, **options)
        if name in self._offer.types:
            raise InvalidInput(f"{name} is declared already; `change` changes it", field="name", rule="taken")
        if not checked:
            self._put(declared)

        def decorate(target: T) -> T:
            try:
                self._put(declare(name, target, hooks=hooks, **options))
            except ClarionError:
                if name in self._offer.types:
                    self.remove(name)  # without the hooks that it was to have
                raise
            return target

        return decorate

    def _put(self, declared: Declared) -> None:
        hooks = declared.hooks
        if hooks.authorize is None and self._authorize is not None:
            declared = replace(declared, hooks=replace(hooks, authorize=self._authorize))
        self._here(lambda: self._offer.put(declared))

    def change(self, name: str, description: str | None = None, *, target: Any = None, **options: Any) -> None:
        """Change what the options of `event` name, or declare it anew from `target`, a class or a function; the rest
        stays. A change that is more than an addition ends the open streams with Unsupported, so that clients look
        again (SEP-3415, "Event type removal and breaking changes"); other hooks end them with their result alone, so
        that clients come back to the new ones."""
        old = self._declared(name)
        if description is not None:
            options["description"] = description
        hooks = {hook: options.pop(hook) for hook in list(options) if hook in HOOKS}
        new = old.changed(options, hooks) if target is None else declare(name, target, hooks=hooks, **options)
        self._put(new)
        for feature, broken in (
            ("inputSchema", breaks_arguments(old.descriptor.input_schema, new.descriptor.input_schema)),
            ("payloadSchema", breaks_payload(old.descriptor.payload_schema, new.descriptor.payload_schema)),
        ):
            if broken:
                self._end(
                    name,
                    Unsupported(
                        f"the {feature} of {name} has changed; look at events/list and subscribe anew",
                        details={"feature": feature, "reason": "schema_changed"},
                    ),
                )
                return
        if self._declared(name).hooks != old.hooks:  # they come back with their cursor, to the new ones
            self._each(name, lambda live: live.close(CloseReason.SERVER_STOPPING), None)

    def remove(self, name: str) -> None:
        """Offer `name` no longer: its streams end with NotFound, which polls get from now on."""
        self._declared(name)

        def drop() -> None:
            self._offer.drop(name)
            if self._life is not None and self._life.runtime is not None:
                self._life.runtime.leases.retire(name)
                self._life.runtime.hub.reader.rouse(topic=name)
            self._end(name, no_such_event(name))

        self._here(drop)

    def _declared(self, name: str) -> Declared:
        declared = self._offer.types.get(name)
        if declared is None:
            known = ", ".join(self._offer.types) or "none"
            raise InvalidInput(f"no event type {name!r} is declared; known are {known}", field="name", rule="unknown")
        return declared

    # -- emitting ---------------------------------------------------------------------------------------------------

    async def emit(
        self,
        name: str,
        data: Mapping[str, Any],
        *,
        event_id: str | None = None,
        timestamp: datetime | None = None,
        audience: Sequence[str] | None = None,
        subjects: Sequence[str] = (),
        subscription_id: str | None = None,
        meta: Mapping[str, Any] | None = None,
        expires_at: datetime | None = None,
        tenant: str | None = None,
    ) -> Receipt:
        """Append an event; it is durable when this returns, where the store is. From any task, thread or loop.

        `event_id` should be the upstream's own: the same id with the same content is the same event. `audience` limits
        it to principals, by subject; `subscription_id`, as hooks know it, to one subscription. `subjects` are people
        whose data it holds, whom the consent ledger is asked about. `meta` becomes `_meta`.
        Raises InvalidInput for an unknown type, InvalidEvent, PayloadTooLarge, Conflict, StoreUnavailable.
        """
        declared = self._declared(name)
        if declared.check is not None:
            raise InvalidInput(f"{name} has a check function, which alone gives its events", field="name", rule="check")
        emission = emission_of(
            name, data, source=SOURCE, event_id=event_id, timestamp=timestamp, audience=audience, subjects=subjects,
            subscription_id=subscription_id, meta=meta, expires_at=expires_at,
        )  # fmt: skip
        declared.check_payload(emission.payload)
        principal = Principal(self._own_tenant(tenant), SOURCE)

        life = self._life
        if life is not None and life.runtime is not None and not life.over and life.is_here():
            return await life.runtime.emitter.emit(principal, emission)

        async def append() -> Receipt:
            return await (await self._running()).emitter.emit(principal, emission)

        return await self._on_own_loop(append)

    def _own_tenant(self, tenant: str | None) -> str:
        if tenant is not None:
            self._check_tenant(tenant)
            return tenant
        if isinstance(self._tenant, str):
            return self._tenant
        raise InvalidInput("name the tenant: events of several are served here", field="tenant", rule="required")

    def _check_tenant(self, tenant: str) -> None:
        if isinstance(self._tenant, str) and tenant != self._tenant:
            raise InvalidInput(
                f"this server has one tenant, {self._tenant!r}; Events(tenant=function) serves several",
                field="tenant",
                rule="unknown",
            )
        check_name(tenant, "tenant")

    # -- telling and ending streams ---------------------------------------------------------------------------------

    def error(self, name: str, message: str, *, reason: str | None = None, tenant: str | None = None) -> int:
        """Tell the open streams of `name`, of one tenant or of all, of a failure that passes, such as an upstream that
        cannot be reached; answers how many. They stay open."""
        self._declared(name)
        error = ClarionError(message, details={} if reason is None else {"reason": reason})
        return self._each(name, lambda live: live.report(error), tenant)

    def gap(self, name: str, *, tenant: str | None = None) -> int:
        """Tell the open streams of `name`, of one tenant or of all, that events were lost before they could be
        emitted; answers how many."""
        self._declared(name)
        return self._each(name, lambda live: live.skip(), tenant)

    def terminate(self, name: str, error: ClarionError, *, tenant: str | None = None) -> int:
        """End the open streams of `name`, of one tenant or of all, with `error`, such as Forbidden; answers how many.
        The type stays."""
        self._declared(name)
        return self._end(name, error, tenant)

    def _end(self, name: str, error: ClarionError, tenant: str | None = None) -> int:
        return self._each(name, lambda live: live.close(CloseReason.TERMINATED, error), tenant)

    def _each(self, name: str, act: Callable[[Live], None], tenant: str | None) -> int:
        if tenant is not None:
            self._check_tenant(tenant)

        def each() -> int:
            streams = list(self._service.streams(name, tenant))
            for live in streams:
                act(live)
            return len(streams)

        return self._here(each)

    @property
    def hook_failures(self) -> Mapping[tuple[str, Hook], int]:
        """How often each hook of each event type failed, since the start."""
        return self._runner.failures

    # -- on a server ------------------------------------------------------------------------------------------------

    def binding(self, *, list_changed: bool = True) -> EventsBinding:
        """The methods for one SDK server."""
        return EventsBinding(
            self._serving, self._caller, ending=lambda: self._service.ending, list_changed=list_changed
        )

    def calls_author(self, name: object) -> bool:
        """Whether functions of the server's author may be called for a stream of the event type `name`, also for who
        opens it; what is not declared counts as such."""
        declared = self._offer.types.get(name) if isinstance(name, str) else None
        if declared is None or declared.check is not None or not isinstance(self._tenant, str):
            return True
        return declared.hooks.per_event or declared.hooks.lifecycle

    def extension(self) -> Any:
        """For `MCPServer(..., extensions=[events.extension()])`."""
        from clarion.events.servers import extension

        return extension(self)

    def attach(self, server: Any) -> None:
        """Give a server that exists already the Events methods: an `MCPServer` or a `FastMCP`, before it serves."""
        from clarion.events.servers import attach

        attach(self, server)

    async def _serving(self) -> EventsService:
        """Raises StoreUnavailable, which tells a client nothing of where the store is."""
        life = self._life
        if life is not None and not life.over and not life.is_here():
            logger.error("other_loop", reason="the events were opened on another event loop, by an earlier emit")
            raise StoreUnavailable("the events of this server are open elsewhere; its operator finds why in the log")
        try:
            await self._running()
        except (InvalidInput, DataDirectoryOwned, SchemaTooNew) as error:
            logger.error("store_not_opened", reason=error.message)
            raise StoreUnavailable(
                "the events of this server cannot be opened; its operator finds why in the log"
            ) from None
        return self._service

    def _caller(self, ctx: RequestContext) -> Any:
        return identify(ctx, self._tenant)

    # -- life -------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self._running()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the open streams and close the store; what comes later opens it again."""
        life = self._life
        if life is not None:
            await life.aclose()
            if self._life is life:
                self._life = None

    async def _running(self) -> Runtime:
        while (life := self._life) is not None and life.is_ending:
            await life.aclose()  # what comes later waits for what was before
        if life is None or life.over:
            life = self._life = Life(self._opened, self._service)
        return await life.running()

    def _opened(self) -> AbstractAsyncContextManager[Runtime]:
        return opened(self.url, clock=self._clock, hooks=self._runner, limits=self._limits)

    def _here(self, act: Callable[[], T]) -> T:
        """Do `act` on the loop that the store was opened on, also when a tool's thread asks for it."""
        life = self._life
        if life is None or life.over or life.is_here():
            return act()

        async def there() -> T:
            return act()

        return asyncio.run_coroutine_threadsafe(there(), life.loop).result(THREAD_SECONDS)

    async def _on_own_loop(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do `work` on the loop that the store was opened on."""
        life = self._life
        if life is None or life.over or life.is_here():
            return await work()
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work(), life.loop))


def _check_options(tenant: object, authorize: object, hook_seconds: object) -> None:
    if isinstance(tenant, str) or not callable(tenant):
        check_name(tenant, "tenant")
    if authorize is not None:
        check_callable("Events", Hook.AUTHORIZE, authorize)
    if not is_positive(hook_seconds):
        raise InvalidInput("hook_seconds must be a positive number of seconds", field="hook_seconds", rule="minimum")
