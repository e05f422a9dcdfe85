"""Migrations: the schema is all of them applied; an older database is upgraded, a newer one refused."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from clarion.errors import SchemaTooNew
from clarion.model import ConsentState, Outcome
from clarion.stores.sqlite import open_sqlite
from clarion.stores.sqlite.connections import Database
from clarion.stores.sqlite.schema import Migration, migrate, migrations_of, version_of
from clarion.testing.contracts.examples import consent, delivery, drafts

DATABASES = {"log": "clarion.db", "audit": "audit.db"}
FIRST = Migration(1, "first", "CREATE TABLE a (x INTEGER);\nINSERT INTO a VALUES (7);")
SECOND = Migration(2, "second", "ALTER TABLE a ADD COLUMN y INTEGER NOT NULL DEFAULT 1;\nCREATE INDEX a_y ON a (y);")
BROKEN = Migration(3, "broken", "CREATE TABLE b (x INTEGER);\nINSERT INTO nowhere VALUES (1);")


def schema(connection: sqlite3.Connection) -> list[tuple[str, ...]]:
    return connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY 1, 2").fetchall()


def plain(path: Path | str = ":memory:") -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


@pytest.mark.parametrize("name", DATABASES)
def test_migrations_are_numbered_from_one_without_a_hole(name: str) -> None:
    numbers = [migration.number for migration in migrations_of(name)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert numbers


@pytest.mark.parametrize(("name", "file"), DATABASES.items())
async def test_an_opened_store_has_the_schema_of_all_migrations_applied(name: str, file: str, tmp_path: Path) -> None:
    backend = await open_sqlite(tmp_path)
    await backend.aclose()
    with closing(plain(tmp_path / file)) as opened, closing(plain()) as applied:
        for migration in migrations_of(name):
            applied.executescript(migration.sql)
        assert schema(opened) == schema(applied)
        assert version_of(opened) == len(migrations_of(name))
        assert opened.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert opened.execute("PRAGMA auto_vacuum").fetchone() == (2,)
        assert opened.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_database_of_any_version_is_upgraded_with_its_rows() -> None:
    with closing(plain()) as connection:
        migrate(connection, [FIRST])
        assert version_of(connection) == 1
        migrate(connection, [FIRST, SECOND])
        assert version_of(connection) == 2
        assert connection.execute("SELECT x, y FROM a").fetchall() == [(7, 1)]
        migrate(connection, [FIRST, SECOND])
        assert connection.execute("SELECT x, y FROM a").fetchall() == [(7, 1)]


def test_opening_an_older_file_upgrades_it(tmp_path: Path) -> None:
    old = Database(tmp_path / "x.db", [FIRST], "FULL", 1.0)
    old.create().close()
    with closing(Database(tmp_path / "x.db", [FIRST, SECOND], "FULL", 1.0).create()) as connection:
        assert version_of(connection) == 2
        assert connection.execute("SELECT x, y FROM a").fetchall() == [(7, 1)]


def test_a_migration_that_fails_leaves_the_version_before_it() -> None:
    with closing(plain()) as connection:
        migrate(connection, [FIRST, SECOND])
        before = schema(connection)
        with pytest.raises(sqlite3.OperationalError, match="nowhere"):
            migrate(connection, [FIRST, SECOND, BROKEN])
        assert version_of(connection) == 2
        assert schema(connection) == before
        assert not connection.in_transaction


@pytest.mark.parametrize(("name", "file"), DATABASES.items())
async def test_a_newer_database_is_refused_and_left_alone(name: str, file: str, tmp_path: Path) -> None:
    newest = len(migrations_of(name))
    with closing(plain(tmp_path / file)) as connection:
        connection.execute(f"PRAGMA user_version = {newest + 3}")
    before = (tmp_path / file).read_bytes()
    with pytest.raises(SchemaTooNew, match=f"{newest + 3}.*{newest}"):
        await open_sqlite(tmp_path)
    assert (tmp_path / file).read_bytes() == before


async def test_the_consent_ledger_can_only_grow(tmp_path: Path) -> None:
    backend = await open_sqlite(tmp_path)
    await backend.consents.append(consent("p1", ConsentState.WITHDRAWN))
    await backend.aclose()
    with closing(plain(tmp_path / "clarion.db")) as connection:
        for statement in ("UPDATE consent_ledger SET state = 'granted'", "DELETE FROM consent_ledger"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(statement)
        assert connection.execute("SELECT state FROM consent_ledger").fetchall() == [("withdrawn",)]


async def test_the_views_unpack_a_row_for_each_delivery_and_each_loss(tmp_path: Path) -> None:
    backend = await open_sqlite(tmp_path)
    backend.audit.record([delivery(seq, "s1", "s2") for seq in range(1, 11)])
    backend.audit.record([delivery(11, "s1", outcome=Outcome.DROPPED), delivery(12, "s2", outcome=Outcome.REFUSED)])
    await backend.aclose()
    with closing(plain(tmp_path / "audit.db")) as connection:
        delivered = connection.execute("SELECT seq, subscription_id FROM mcp_push_deliveries ORDER BY 1, 2").fetchall()
        assert delivered == [(seq, name) for seq in range(1, 11) for name in ("s1", "s2")]
        losses = connection.execute("SELECT seq, subscription_id, outcome FROM mcp_push_losses ORDER BY 1").fetchall()
        assert losses == [(11, "s1", "dropped"), (12, "s2", "refused")]


async def test_a_clean_close_leaves_no_write_ahead_log(tmp_path: Path) -> None:
    backend = await open_sqlite(tmp_path)
    await backend.log.append(drafts(3))
    await backend.aclose()
    assert sorted(os.listdir(tmp_path)) == ["audit.db", "clarion.db"]
