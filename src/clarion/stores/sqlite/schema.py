"""Versioned migrations: numbered .sql files, applied in order, each in a transaction with its `user_version`."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from clarion.errors import SchemaTooNew

__all__ = ["Migration", "migrate", "migrations_of", "refuse_newer", "version_of"]

_FILE = re.compile(r"(\d{4})_(\w+)\.sql\Z")


@dataclass(frozen=True, slots=True)
class Migration:
    """What takes a database from `number - 1` to `number`. `sql` is statements without transaction control."""

    number: int
    name: str
    sql: str


def migrations_of(database: str) -> list[Migration]:
    """The files of `migrations/<database>/`, in order of their numbers, which count from 1 without a hole."""
    found = []
    for file in resources.files(__package__).joinpath("migrations", database).iterdir():
        match = _FILE.match(file.name)
        if match is not None:
            found.append(Migration(int(match[1]), match[2], file.read_text(encoding="utf-8")))
    return sorted(found, key=lambda migration: migration.number)


def version_of(connection: sqlite3.Connection) -> int:
    """The number of the last migration that was applied, 0 for an empty database."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def refuse_newer(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> None:
    """Raises SchemaTooNew for a version that `migrations` does not know; nothing was changed then."""
    version, newest = version_of(connection), migrations[-1].number
    if version > newest:
        raise SchemaTooNew(
            f"The database has schema version {version} and this Clarion knows versions up to {newest}; "
            "upgrade Clarion or restore a backup that it wrote.",
            details={"found": version, "supported": newest},
        )


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> None:
    """Apply what is missing, after `refuse_newer`.

    A migration that fails is rolled back whole, and leaves the version before it.
    """
    refuse_newer(connection, migrations)
    version = version_of(connection)
    for migration in migrations:
        if migration.number <= version:
            continue
        try:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{migration.sql}\nPRAGMA user_version = {migration.number};\nCOMMIT;"
            )
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
