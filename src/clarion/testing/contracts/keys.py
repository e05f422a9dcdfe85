"""What every Keys must do."""

from __future__ import annotations

import pytest

from clarion.errors import Conflict
from clarion.model import Role
from clarion.testing.contracts.examples import Opening, key

__all__ = ["KeysContract"]


class KeysContract:
    """Adding, finding, revoking."""

    def open(self) -> Opening:
        raise NotImplementedError

    async def test_a_key_is_found_as_it_was_added(self) -> None:
        added = key("k1", role=Role.ADMIN, modules=("admin", "billing"), sha256=bytes(range(32)))
        async with self.open() as backend:
            await backend.keys.add(added)
            assert await backend.keys.find("k1") == added
            assert await backend.keys.find("k2") is None

    async def test_a_key_id_is_added_once(self) -> None:
        async with self.open() as backend:
            await backend.keys.add(key("k1"))
            with pytest.raises(Conflict):
                await backend.keys.add(key("k1", tenant="globex"))
            assert await backend.keys.find("k1") == key("k1")

    async def test_a_tenant_lists_its_own_oldest_first(self) -> None:
        async with self.open() as backend:
            for name, at, tenant in (("k2", 1, "acme"), ("k1", 2, "acme"), ("k3", 3, "globex")):
                await backend.keys.add(key(name, created_at=at, tenant=tenant))
            assert [one.key_id for one in await backend.keys.of_tenant("acme")] == ["k2", "k1"]
            assert await backend.keys.of_tenant("nobody") == []

    async def test_revoking_keeps_the_first_moment_and_knows_its_tenant(self) -> None:
        async with self.open() as backend:
            await backend.keys.add(key("k1"))
            assert await backend.keys.revoke("globex", "k1", 8) is None
            assert await backend.keys.revoke("acme", "nope", 8) is None
            assert await backend.keys.find("k1") == key("k1")
            assert await backend.keys.revoke("acme", "k1", 8) == key("k1", revoked_at=8)
            assert await backend.keys.revoke("acme", "k1", 9) == key("k1", revoked_at=8)
            assert await backend.keys.find("k1") == key("k1", revoked_at=8)
