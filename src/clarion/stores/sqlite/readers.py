"""Reading beside the writer: a few threads, each with a read-only connection."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from clarion.errors import StoreUnavailable
from clarion.stores.sqlite.connections import Database, breaks_transaction, unavailable

__all__ = ["Readers", "snapshot"]

T = TypeVar("T")


class Readers:
    """Threads that start when they are first needed."""

    def __init__(self, database: Database, *, threads: int, name: str) -> None:
        self._database = database
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._closed = False

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """`work` on a reader's thread. Raises StoreUnavailable when the database cannot be read, or is closed."""
        if self._closed:
            raise StoreUnavailable("The store is closed.")
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._run, work)

    async def aclose(self) -> None:
        """Wait for what is being read, then close the connections."""
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(None, self._executor.shutdown)
        while self._connections:
            self._connections.pop().close()

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return work(self._connection())
        except Exception as error:
            if breaks_transaction(error):
                self._drop_connection()
                raise unavailable(error) from error
            raise

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._database.read()
            self._connections.append(connection)
        return connection

    def _drop_connection(self) -> None:
        """A connection that failed may be broken: the next read of this thread opens another."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is not None:
            self._local.connection = None
            self._connections.remove(connection)
            connection.close()


@contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """Several statements that see the database at one moment."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
