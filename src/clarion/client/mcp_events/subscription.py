"""One subscription, as its user holds it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import Self

from clarion.client.mcp_events.delivery import Delivery
from clarion.client.mcp_events.values import Item

__all__ = ["Subscription"]


class Subscription:
    """An async iterator of `Item`; `async with` or `aclose` ends it promptly, on the server too.

    Delivery is at least once: an item counts as handled, and its cursor is kept, when the next one is asked for.
    Iterating raises NotFound for an event type that the server does not list, NoCompatibleDeliveryMode, Unsupported and
    Forbidden for a server that does not list any, and ConnectionLost. An `async for` that is left without `aclose` ends
    it too, when Python drops the iterator.
    """

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._items = delivery.run()  # refers to the delivery only: no cycle keeps it when this object is dropped

    @property
    def cursor(self) -> str | None:
        """The position after the last item that was handled; None before the first, or without replay."""
        return self._delivery.cursor

    @property
    def active(self) -> asyncio.Event:
        """Set once the server delivers: its stream is active, or the first poll was answered. It stays set."""
        return self._delivery.active

    def __aiter__(self) -> AsyncGenerator[Item, None]:
        return self._items

    async def __anext__(self) -> Item:
        return await anext(self._items)

    async def aclose(self) -> None:
        """Returns when the server was told that nobody listens any more. Idempotent.

        For the task that iterates; another one ends a subscription by cancelling that task.
        """
        await self._items.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
