"""The time that a library's store is open, on the event loop that needed it first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from clarion.events.runtime import Runtime
from clarion.events.stopping import stopped
from clarion.wires.mcp_events.service import EventsService

__all__ = ["Life"]


class Life:
    """From the opening of the store to its closing, in one task, whoever needed it first."""

    def __init__(self, store: Callable[[], AbstractAsyncContextManager[Runtime]], service: EventsService) -> None:
        self._store = store
        self._service = service
        self.loop = asyncio.get_running_loop()
        self.runtime: Runtime | None = None
        self._opened: asyncio.Future[Runtime] = self.loop.create_future()
        self._ending = asyncio.Event()
        self._task = self.loop.create_task(self._live(), name="clarion-events")

    @property
    def over(self) -> bool:
        return self._ending.is_set() or self._task.done() or self.loop.is_closed()

    @property
    def is_ending(self) -> bool:
        """It was told to end and has not yet, on this loop."""
        return self._ending.is_set() and not self._task.done() and self.is_here()

    def is_here(self) -> bool:
        """Whether this is the loop that the store was opened on."""
        try:
            return asyncio.get_running_loop() is self.loop
        except RuntimeError:
            return False

    async def running(self) -> Runtime:
        return await asyncio.shield(self._opened)

    async def aclose(self) -> None:
        """End it, and wait for that where it lives; from another loop it is only told."""
        if self.is_here():
            self._ending.set()
            await asyncio.wait([self._task])
        elif not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._ending.set)

    async def _live(self) -> None:
        service = self._service
        try:
            async with AsyncExitStack() as stack:
                self.runtime = await stack.enter_async_context(self._store())
                self._opened.set_result(self.runtime)
                ending = service.ending = asyncio.Event()  # one of this loop
                await stopped(self._ending)
                ending.set()
                self.runtime.hub.close()
                self.runtime.checks.close()
                await self._ending.wait()
        except Exception as error:
            if self._opened.done():
                raise
            self._opened.set_exception(error)
            self._opened.exception()  # told to whoever waits, if anybody does
