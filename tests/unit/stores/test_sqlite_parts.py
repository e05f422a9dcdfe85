"""What the contracts cannot bring about from outside: commits that nobody was told of, and errors after a write."""

import asyncio
import shutil
import sqlite3
from pathlib import Path

import pytest

from clarion.model import Bounds, DeliveryRecord, Outcome
from clarion.stores.sqlite import open_sqlite
from clarion.stores.sqlite.audit import SqliteAudit, _Batch, _fold, _recover, _Sets, _write_batch
from clarion.stores.sqlite.connections import Database
from clarion.stores.sqlite.log import SqliteLog
from clarion.stores.sqlite.schema import Migration, migrate, migrations_of
from clarion.stores.sqlite.statements import MOST_ROWS, ManyRows
from clarion.stores.sqlite.writer import IsolatedJobs, Job, Writer
from clarion.testing.contracts.examples import delivery, drafts


async def test_a_job_that_fails_after_a_write_leaves_nothing_and_harms_no_other(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.db", [Migration(1, "first", "CREATE TABLE a (x INTEGER);")], "FULL", 1.0)
    writer = Writer(database, IsolatedJobs(), name="test")
    await writer.start()

    def write(connection: sqlite3.Connection, value: int, fails: bool) -> int:
        connection.execute("INSERT INTO a VALUES (?)", (value,))
        if fails:
            raise ValueError(value)
        return value

    futures = [writer.submit(Job(lambda one, n=n: write(one, n, n % 2 == 0))) for n in range(6)]
    answers = await asyncio.gather(*futures, return_exceptions=True)
    kept = await writer.submit(Job(lambda one: one.execute("SELECT x FROM a ORDER BY x").fetchall()))
    await writer.aclose()
    assert [isinstance(answer, ValueError) for answer in answers] == [True, False] * 3
    assert kept == [(1,), (3,), (5,)]


async def test_results_are_published_in_commit_order_before_callers_are_answered(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.db", [Migration(1, "first", "CREATE TABLE a (x INTEGER);")], "FULL", 1.0)
    writer = Writer(database, IsolatedJobs(), name="test")
    await writer.start()
    published: list[int] = []
    futures = [writer.submit(Job(lambda _, n=n: n, publish=published.append)) for n in range(50)]
    for number, future in enumerate(futures):
        assert await future == number
        assert published[: number + 1] == list(range(number + 1))
    await writer.aclose()


def test_a_batch_whose_commit_was_not_reported_is_counted_once() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection, migrations_of("audit"))
    batch = _Batch(1)
    batch.add([delivery(1, "s1", "s2")])
    for _ in range(2):
        _write_batch(connection, batch, _Sets(lambda: 0.0))
    for _ in range(2):
        _fold(connection, batch.tally, 1)
    assert connection.execute("SELECT delivered FROM subscription_counters").fetchall() == [(1,), (1,)]
    assert connection.execute("SELECT count(*) FROM packed_deliveries").fetchone() == (1,)
    connection.close()


async def test_totals_are_exact_while_batches_are_being_written(tmp_path: Path) -> None:
    backend = await open_sqlite(tmp_path)
    many = tuple(f"s{number}" for number in range(2_000))
    for seq in range(1, 41):
        backend.audit.record([delivery(seq, *many)])
        seen = await asyncio.gather(*(backend.audit.totals("acme") for _ in range(6)))
        assert {one.delivered for one in seen} == {2_000 * seq}
    await backend.aclose()


async def test_a_fold_that_is_durable_before_the_loop_is_told_is_counted_once(tmp_path: Path) -> None:
    backend = await open_sqlite(tmp_path)
    audit = backend.audit
    assert isinstance(audit, SqliteAudit)
    audit.record([delivery(1, "s1", "s2")])
    await audit.flush()
    tally = audit._unfolded
    await audit._fold_all()
    audit._folding, audit._fold_upto, audit._folded = tally, 1, 0
    assert (await audit.totals("acme")).delivered == 2
    assert (await audit.counters("acme", ["s1"]))["s1"].delivered == 1
    audit._folding, audit._folded = None, 1
    await backend.aclose()


async def test_counters_are_exact_while_they_are_folded(tmp_path: Path) -> None:
    backend = await open_sqlite(tmp_path)
    audit = backend.audit
    assert isinstance(audit, SqliteAudit)
    for seq in range(1, 41):
        audit.record([delivery(seq, "s1", f"only-{seq}")])
        folding = asyncio.create_task(audit._fold_all()) if seq % 3 == 0 else None
        found = await asyncio.gather(*(audit.counters("acme", ["s1", f"only-{seq}"]) for _ in range(4)))
        assert [{one: counters.delivered for one, counters in each.items()} for each in found] == [
            {"s1": seq, f"only-{seq}": 1}
        ] * 4
        if folding is not None:
            await folding
        if seq % 5 == 0:
            await audit.flush()
    await backend.aclose()
    again = await open_sqlite(tmp_path)
    assert (await again.audit.totals("acme")).delivered == 80
    await again.aclose()


async def test_what_a_killed_process_had_not_folded_is_added_up_from_its_rows(tmp_path: Path) -> None:
    backend = await open_sqlite(tmp_path / "one")
    backend.audit.record([delivery(1, "s1", "s2")])
    await backend.audit.flush()
    assert isinstance(backend.audit, SqliteAudit)
    await backend.audit._fold_all()
    backend.audit.record([delivery(2, "s1", "s2"), delivery(3, "s1", "s2"), delivery(4, "s3")])
    await backend.audit.flush()
    shutil.copytree(tmp_path / "one", tmp_path / "killed")
    await backend.aclose()
    for trimmed in (4, 0):  # the second time it is all folded
        again = await open_sqlite(tmp_path / "killed")
        counters = await again.audit.counters("acme", ["s1", "s2", "s3"])
        assert [counters[one].delivered for one in ("s1", "s2", "s3")] == [3, 3, 1]
        assert counters["s1"].last_delivered_at == 3
        assert await again.audit.trim(10) == trimmed
        await again.aclose()


async def test_subscriptions_that_many_rows_name_are_stored_once_and_go_with_the_last_of_them(tmp_path: Path) -> None:
    backend = await open_sqlite(tmp_path)
    ids = tuple(f"s{number}" for number in range(50))

    async def recorded(*seqs: int) -> None:
        backend.audit.record(
            [DeliveryRecord("acme", seq, f"e{seq}", "t", "pact", Outcome.DELIVERED, seq, ids) for seq in seqs]
        )
        await backend.audit.flush()

    async def stored() -> int:
        connection = sqlite3.connect(tmp_path / "audit.db")
        (count,) = connection.execute("SELECT count(*) FROM subscription_sets").fetchone()
        (seen,) = connection.execute("SELECT count(*) FROM mcp_push_deliveries").fetchone()
        connection.close()
        assert seen == len(await backend.audit.rows("acme", limit=10_000))
        return int(count)

    await recorded(1, 2)
    await recorded(3)
    assert await stored() == 1
    assert len(await backend.audit.rows("acme", subscription_id="s7", limit=10)) == 3
    await backend.audit.trim(3)
    assert [row.seq for row in await backend.audit.rows("acme", subscription_id="s7", limit=10)] == [3]
    await recorded(4)
    assert await stored() == 2  # what a trim may have taken is not named again
    await backend.audit.trim(4)
    assert await stored() == 1
    await backend.audit.trim(9)
    assert await stored() == 0
    await recorded(10)
    assert {row.subscription_id for row in await backend.audit.rows("acme", limit=100)} == set(ids)
    assert (await backend.audit.counters("acme", ["s7"]))["s7"].delivered == 5
    await backend.aclose()


def test_counters_of_before_they_were_folded_count_on() -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection, migrations_of("audit")[:1])
    connection.execute("INSERT INTO meta VALUES ('batch', 7)")
    connection.execute(
        "INSERT INTO packed_deliveries VALUES (1, 'acme', 1, 'e1', 't', 'pact', 'delivered', 1, '[\"s1\"]', 1)"
    )
    connection.execute("INSERT INTO subscription_counters VALUES ('acme', 's1', 1, 0, 0, 1)")
    migrate(connection, migrations_of("audit"))
    last, folded, tally = _recover(connection)
    assert (last, folded, tally.weight) == (7, 7, 0)
    connection.close()


async def test_a_head_that_a_reader_saw_first_does_not_go_back(tmp_path: Path) -> None:
    backend = await open_sqlite(tmp_path)
    await backend.log.append(drafts(2))
    log = backend.log
    assert isinstance(log, SqliteLog)
    epoch = (await log.bounds("acme")).epoch
    # A reader saw a commit that the event loop is told of after an earlier one.
    assert log._learn("acme", Bounds(epoch, 0, 1, 5)) == Bounds(epoch, 0, 1, 5)
    assert log._learn("acme", Bounds(epoch, 0, 0, 4)) == Bounds(epoch, 0, 1, 5)
    assert await log.bounds("acme") == Bounds(epoch, 0, 1, 5)
    # Not yet told either: the events between are in the database, if anywhere, and not in the window.
    assert [event.seq for event in (await log.read("acme", 1, limit=9)).events] == [2]
    await backend.aclose()


@pytest.mark.parametrize("count", [0, 1, 2, 5, 7, 100, MOST_ROWS, MOST_ROWS + 1, 3 * MOST_ROWS + 11])
def test_any_number_of_rows_is_written_and_found(count: int) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE a (x INTEGER PRIMARY KEY, y)")
    insert = ManyRows("INSERT INTO a SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL", 2)
    insert.execute(connection, [(number, None) for number in range(count)])
    find = ManyRows("WITH wanted (x) AS (VALUES {rows}) SELECT a.x FROM wanted CROSS JOIN a ON a.x = wanted.x", 1)
    assert find.fetch(connection, [(number,) for number in range(count)]) == [(number,) for number in range(count)]
    assert connection.execute("SELECT count(*) FROM a").fetchone() == (count,)
    connection.close()
