"""Migrations: the schema is all of them applied; an older database is upgraded, a newer one refused."""

import asyncio
import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from clarion.errors import SchemaTooNew
from clarion.model import ConsentState, Outcome, PurposeConsent
from clarion.stores.protocols import Retention
from clarion.stores.sqlite import open_sqlite
from clarion.stores.sqlite.connections import Database
from clarion.stores.sqlite.rows import EVENT_COLUMNS, event_row
from clarion.stores.sqlite.schema import Migration, migrate, migrations_of, version_of
from clarion.testing.contracts.examples import consent, delivery, draft, drafts

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


def at_version(path: Path, version: int) -> sqlite3.Connection:
    """A log of an older Clarion."""
    connection = plain(path)
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    migrate(connection, migrations_of("log")[:version])
    return connection


async def test_a_withdrawal_of_everything_takes_back_older_grants_of_an_older_database(tmp_path: Path) -> None:
    ledger = [
        ("ann", "granted", "marketing"),
        ("ann", "granted", ""),
        ("bob", "granted", "marketing"),
        ("ann", "withdrawn", None),
        ("ann", "granted", "analytics"),
        ("ann", "granted", None),
        ("cat", "withdrawn", None),
        ("cat", "granted", "marketing"),
    ]
    with closing(at_version(tmp_path / "clarion.db", 1)) as old:
        for seq, (subject, state, purpose) in enumerate(ledger, 1):
            old.execute(
                "INSERT INTO consent_ledger (tenant, seq, subject, state, purpose, recorded_at) "
                "VALUES ('acme', ?, ?, ?, ?, 7)",
                (seq, subject, state, purpose),
            )
            old.execute(
                "INSERT OR REPLACE INTO consent_states VALUES ('acme', ?, ?, ?, ?, 99)", (subject, purpose, state, seq)
            )
    backend = await open_sqlite(tmp_path)
    states = await backend.consents.states("acme", ["ann", "bob", "cat"])
    await backend.aclose()
    granted, gone = ConsentState.GRANTED, PurposeConsent(ConsentState.WITHDRAWN, 4)
    assert states["ann"].purposes == {
        "marketing": gone,
        "": gone,
        "analytics": PurposeConsent(granted, 5, 99),
        None: PurposeConsent(granted, 6, 99),
    }
    assert states["bob"].purposes == {"marketing": PurposeConsent(granted, 3, 99)}
    assert states["cat"].purposes["marketing"] == PurposeConsent(granted, 8, 99)


async def test_the_events_of_an_older_database_are_weighed(tmp_path: Path) -> None:
    with closing(at_version(tmp_path / "clarion.db", 2)) as old:
        old.execute("INSERT INTO tenants (id, name) VALUES (1, 'acme')")
        columns = ",".join("?" * EVENT_COLUMNS)
        for seq in range(1, 11):
            row = event_row(draft(f"e{seq}", payload={"t": "x" * 1000}), seq, 1, seq)
            old.execute(f"INSERT INTO events VALUES ({columns})", row)
    backend = await open_sqlite(tmp_path)
    assert await backend.log.trim(Retention(max_bytes=15_000)) == 0
    await backend.log.append([draft("new", payload={"t": "x" * 1000})])
    assert await backend.log.trim(Retention(max_bytes=6_800)) == 6
    await backend.aclose()
    with closing(plain(tmp_path / "clarion.db")) as connection:
        weighed = connection.execute("SELECT value FROM meta WHERE name = 'event_bytes'").fetchone()
        assert weighed == connection.execute("SELECT sum(size) FROM events").fetchone()


async def test_the_weight_of_all_events_follows_every_append_and_trim(tmp_path: Path) -> None:
    backend = await open_sqlite(tmp_path)
    full = draft("full", attributes={"a": "ä"}, audience=("alice",), subjects=("ann", "zoë"), key="k", actor_id="u")
    await asyncio.gather(*(backend.log.append([draft(f"e{n % 7}"), full]) for n in range(20)))  # many are known
    unstorable = draft("bad", actor_id="\ud800")
    answers = await asyncio.gather(
        backend.log.append([draft("good"), unstorable]), backend.log.append(drafts(700)), return_exceptions=True
    )
    assert isinstance(answers[0], UnicodeEncodeError)
    with closing(plain(tmp_path / "clarion.db")) as connection:
        weighed = "SELECT value, (SELECT sum(size) FROM events) FROM meta WHERE name = 'event_bytes'"
        held, really = connection.execute(weighed).fetchone()
        assert held == really > 700 * 300
        await backend.log.trim(Retention(max_bytes=50_000))
        held, really = connection.execute(weighed).fetchone()
        assert held == really <= 50_000
    await backend.aclose()


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
