"""Keys over SQLite."""

from __future__ import annotations

import sqlite3
from functools import partial
from typing import Any

from clarion.encoding import decode, encode
from clarion.errors import Conflict
from clarion.model import ApiKey, Role
from clarion.stores.sqlite.readers import Readers
from clarion.stores.sqlite.statements import queries
from clarion.stores.sqlite.writer import Job, Writer

__all__ = ["SqliteKeys"]

_SQL = queries("keys")


class SqliteKeys:
    def __init__(self, writer: Writer, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers

    async def add(self, key: ApiKey) -> None:
        """Raises Conflict when the key id is taken."""
        await self._writer.submit(Job(partial(_add, key=key)))

    async def find(self, key_id: str) -> ApiKey | None:
        return await self._readers.run(partial(_find, key_id=key_id))

    async def of_tenant(self, tenant: str) -> list[ApiKey]:
        return await self._readers.run(partial(_of_tenant, tenant=tenant))

    async def revoke(self, tenant: str, key_id: str, at: int) -> ApiKey | None:
        return await self._writer.submit(Job(partial(_revoke, tenant=tenant, key_id=key_id, at=at)))


def _add(connection: sqlite3.Connection, key: ApiKey) -> None:
    row = (
        key.key_id,
        key.tenant,
        key.subject,
        key.role.value,
        encode(key.modules).decode(),
        key.sha256,
        key.created_at,
        key.revoked_at,
    )
    if connection.execute(_SQL["add"], row).rowcount != 1:
        raise Conflict("The key id is taken.")


def _find(connection: sqlite3.Connection, key_id: str) -> ApiKey | None:
    found = connection.execute(_SQL["find"], (key_id,)).fetchone()
    return _key(found) if found is not None else None


def _of_tenant(connection: sqlite3.Connection, tenant: str) -> list[ApiKey]:
    return [_key(row) for row in connection.execute(_SQL["of_tenant"], (tenant,)).fetchall()]


def _revoke(connection: sqlite3.Connection, tenant: str, key_id: str, at: int) -> ApiKey | None:
    if connection.execute(_SQL["revoke"], (tenant, key_id, at)).rowcount != 1:
        return None
    return _find(connection, key_id)


def _key(row: tuple[Any, ...]) -> ApiKey:
    key_id, tenant, subject, role, modules, sha256, created_at, revoked_at = row
    return ApiKey(key_id, tenant, subject, Role(role), tuple(decode(modules)), sha256, created_at, revoked_at)
