"""Topics over SQLite."""

from __future__ import annotations

import sqlite3
from functools import partial

from clarion.encoding import decode, encode
from clarion.errors import LimitExceeded
from clarion.model import TopicDeclaration
from clarion.stores.sqlite.readers import Readers
from clarion.stores.sqlite.statements import queries
from clarion.stores.sqlite.writer import Job, Writer

__all__ = ["SqliteTopics"]

_SQL = queries("topics")


class SqliteTopics:
    def __init__(self, writer: Writer, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers

    async def put(self, tenant: str, declaration: TopicDeclaration, *, limit: int) -> None:
        await self._writer.submit(Job(partial(_put, tenant=tenant, declaration=declaration, limit=limit)))

    async def of_tenant(self, tenant: str) -> list[TopicDeclaration]:
        return await self._readers.run(partial(_of_tenant, tenant=tenant))


def _put(connection: sqlite3.Connection, tenant: str, declaration: TopicDeclaration, limit: int) -> None:
    name = (tenant, declaration.pattern)
    known = connection.execute(_SQL["exists"], name).fetchone() is not None
    if not known and connection.execute(_SQL["others"], name).fetchone()[0] >= limit:
        raise LimitExceeded(f"The tenant has declared {limit} topics, which is its limit.")
    schema = encode(dict(declaration.schema)).decode()
    examples = encode([dict(example) for example in declaration.filter_examples]).decode()
    connection.execute(_SQL["put"], (*name, declaration.category, declaration.description, schema, examples))


def _of_tenant(connection: sqlite3.Connection, tenant: str) -> list[TopicDeclaration]:
    rows = connection.execute(_SQL["of_tenant"], (tenant,)).fetchall()
    return [
        TopicDeclaration(pattern, category, description, decode(schema), tuple(decode(examples)))
        for pattern, category, description, schema, examples in rows
    ]
