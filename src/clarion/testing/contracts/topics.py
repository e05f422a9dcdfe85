"""What every Topics must do."""

from __future__ import annotations

import pytest

from clarion.errors import LimitExceeded
from clarion.testing.contracts.examples import Opening, topic

__all__ = ["TopicsContract"]


class TopicsContract:
    """Declarations per tenant."""

    def open(self) -> Opening:
        raise NotImplementedError

    async def test_declarations_come_back_in_the_order_of_their_patterns(self) -> None:
        full = topic("deal.b", schema={"type": "object"}, filter_examples=({"n": 1}, {"m_gte": 2}))
        async with self.open() as backend:
            for one in (full, topic("deal.a"), topic("custom.*")):
                await backend.topics.put("acme", one, limit=9)
            await backend.topics.put("globex", topic("deal.z"), limit=9)
            assert await backend.topics.of_tenant("acme") == [topic("custom.*"), topic("deal.a"), full]
            assert await backend.topics.of_tenant("nobody") == []

    async def test_a_pattern_is_replaced_and_a_new_one_needs_room(self) -> None:
        async with self.open() as backend:
            await backend.topics.put("acme", topic("a"), limit=1)
            await backend.topics.put("acme", topic("a", description="Other."), limit=1)
            assert await backend.topics.of_tenant("acme") == [topic("a", description="Other.")]
            with pytest.raises(LimitExceeded):
                await backend.topics.put("acme", topic("b"), limit=1)
            await backend.topics.put("globex", topic("b"), limit=1)
            assert [one.pattern for one in await backend.topics.of_tenant("acme")] == ["a"]
