"""Subscriptions over SQLite."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from functools import partial
from typing import Any

from clarion.encoding import decode, encode
from clarion.model import Subscription
from clarion.stores.identity import identity_of
from clarion.stores.protocols import SubscriptionLimits
from clarion.stores.sqlite.readers import Readers
from clarion.stores.sqlite.statements import queries
from clarion.stores.sqlite.writer import Job, Writer

__all__ = ["SqliteSubscriptions"]

_SQL = queries("subscriptions")


class SqliteSubscriptions:
    def __init__(self, writer: Writer, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers

    async def put(self, wanted: Subscription, *, limits: SubscriptionLimits) -> tuple[Subscription, bool]:
        return await self._writer.submit(Job(partial(_put, wanted=wanted, limits=limits)))

    async def get(self, tenant: str, subject: str, subscription_id: str) -> Subscription | None:
        return await self._readers.run(partial(_get, key=(tenant, subject, subscription_id)))

    async def delete(
        self, tenant: str, subject: str, subscription_id: str, at: int, *, limits: SubscriptionLimits
    ) -> Subscription | None:
        key = (tenant, subject, subscription_id)
        return await self._writer.submit(Job(partial(_delete, key=key, at=at, limits=limits)))

    async def of_client(
        self, tenant: str, subject: str, client_id: str, *, include_deleted: bool = False
    ) -> list[Subscription]:
        parameters = (tenant, subject, client_id, include_deleted)
        return await self._readers.run(partial(_list, query="of_client", parameters=parameters))

    async def of_tenant(
        self, tenant: str, *, include_deleted: bool = False, limit: int, after_id: str | None = None
    ) -> list[Subscription]:
        query = "of_tenant" if include_deleted else "of_tenant_active"
        return await self._readers.run(partial(_list, query=query, parameters=(tenant, after_id or "", limit)))

    async def count(self, tenant: str) -> tuple[int, int]:
        active, every = await self._readers.run(partial(_count, tenant=tenant))
        return active, every - active


def _put(connection: sqlite3.Connection, wanted: Subscription, limits: SubscriptionLimits) -> tuple[Subscription, bool]:
    identity = identity_of(wanted)
    found = connection.execute(_SQL["by_identity"], (identity,)).fetchone()
    row = _subscription(found) if found is not None else None
    activated = row is None or not row.active
    if activated:
        client = (wanted.tenant, wanted.subject, wanted.client_id)
        active = connection.execute(_SQL["active_upto"], (*client, limits.per_tenant, limits.per_client)).fetchone()
        limits.check(*active)
    if row is None:
        values = (
            wanted.id,
            wanted.tenant,
            wanted.subject,
            wanted.client_id,
            encode(wanted.topics).decode(),
            encode(dict(wanted.filter)).decode(),
            wanted.label,
            wanted.purpose,
            wanted.created_at,
            wanted.updated_at,
            None,
        )
        connection.execute(_SQL["insert"], (*values, identity))
        return _subscription(values), True
    if activated or (row.label, row.purpose) != (wanted.label, wanted.purpose):
        connection.execute(_SQL["update"], (row.id, wanted.label, wanted.purpose, wanted.updated_at, None))
        row = _subscription(connection.execute(_SQL["by_identity"], (identity,)).fetchone())
    return row, activated


def _get(connection: sqlite3.Connection, key: tuple[str, str, str]) -> Subscription | None:
    found = connection.execute(_SQL["get"], key).fetchone()
    return _subscription(found) if found is not None else None


def _delete(
    connection: sqlite3.Connection, key: tuple[str, str, str], at: int, limits: SubscriptionLimits
) -> Subscription | None:
    row = _get(connection, key)
    if row is not None and row.active:
        row = replace(row, updated_at=at, deleted_at=at)
        connection.execute(_SQL["update"], (row.id, row.label, row.purpose, at, at))
        client = (row.tenant, row.subject, row.client_id)
        connection.execute(_SQL["purge_client"], (*client, limits.deleted_per_client))
        connection.execute(_SQL["purge_tenant"], (row.tenant, limits.deleted_per_tenant))
    return row


def _list(connection: sqlite3.Connection, query: str, parameters: tuple[Any, ...]) -> list[Subscription]:
    return [_subscription(row) for row in connection.execute(_SQL[query], parameters).fetchall()]


def _count(connection: sqlite3.Connection, tenant: str) -> tuple[int, int]:
    active, every = connection.execute(_SQL["count"], (tenant,)).fetchone()
    return active, every


def _subscription(row: tuple[Any, ...]) -> Subscription:
    name, tenant, subject, client_id, topics, wanted, *rest = row
    return Subscription(name, tenant, subject, client_id, tuple(decode(topics)), decode(wanted), *rest)
