"""How a connection is opened, and what its errors mean."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from clarion.errors import StoreUnavailable
from clarion.stores.sqlite.schema import Migration, migrate, refuse_newer

__all__ = ["Database", "Synchronous", "breaks_transaction", "unavailable"]

Synchronous: TypeAlias = Literal["FULL", "NORMAL"]
"""FULL: a commit survives a power failure. NORMAL: it survives the end of the process."""

_WAL_LIMIT = 64 * 1024 * 1024
"""Bytes that the write-ahead log is cut back to after a checkpoint; a burst would otherwise keep its disk for ever."""


@dataclass(frozen=True, slots=True)
class Database:
    """One file and how to open it. `busy_timeout` in seconds: how long a lock of another process is waited for."""

    path: Path
    migrations: Sequence[Migration]
    synchronous: Synchronous
    busy_timeout: float

    def create(self) -> sqlite3.Connection:
        """The writer's first connection: makes the file if there is none, and brings its schema up to date."""
        connection = self._connect("rwc")
        try:
            refuse_newer(connection, self.migrations)
            # Only before the first table, and before WAL writes the header.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
            self._tune(connection)
            migrate(connection, self.migrations)
        except BaseException:
            connection.close()
            raise
        return connection

    def reopen(self) -> sqlite3.Connection:
        """Another connection of the writer, to the file that `create` made; never makes one anew."""
        connection = self._connect("rw")
        try:
            self._tune(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def read(self) -> sqlite3.Connection:
        """A connection that cannot write."""
        return self._connect("ro")

    def _connect(self, mode: str) -> sqlite3.Connection:
        return sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=self.busy_timeout,
            isolation_level=None,
            check_same_thread=False,
        )

    def _tune(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA synchronous = {self.synchronous}")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
        connection.execute("PRAGMA temp_store = MEMORY")


def breaks_transaction(error: BaseException) -> bool:
    """Whether `error` speaks of the database (full, locked, damaged) and not of one caller's statement."""
    if isinstance(error, MemoryError):
        return True
    of_statement = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.InterfaceError)
    return isinstance(error, sqlite3.Error) and not isinstance(error, of_statement)


def unavailable(error: BaseException) -> StoreUnavailable:
    """What callers are told when `error` kept the database from being used."""
    if isinstance(error, StoreUnavailable):
        return error
    told = StoreUnavailable(
        f"The event store cannot be used right now ({error}); nothing was stored. Try again shortly."
    )
    told.__cause__ = error
    return told
