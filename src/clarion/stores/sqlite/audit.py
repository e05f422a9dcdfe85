"""Audit over SQLite: records taken on the event loop, written behind the deliveries in batches.

Batches are numbered, and the number is written with the batch: one whose commit failed without saying whether it
happened is not written twice when it is tried again.

The rows are what is durable. Counters are added up in memory and folded into their table now and then, with the number
of the last batch that is in it: a counter of a busy subscription is then written once for all events of half a minute,
not once for each. What a killed process had not folded is added up from its rows at the next start.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial, reduce

from clarion.encoding import decode, encode
from clarion.errors import StoreUnavailable
from clarion.model import Counters, DeliveryRecord, Outcome
from clarion.stores.protocols import DeliveryRow
from clarion.stores.sqlite.connections import Database
from clarion.stores.sqlite.readers import Readers, snapshot
from clarion.stores.sqlite.statements import ManyRows, queries
from clarion.stores.sqlite.writer import IsolatedJobs, Job, Writer
from clarion.stores.tally import Tally, add_counters

__all__ = ["SqliteAudit"]

_SQL = queries("audit")
_PACKED = ManyRows(_SQL["insert_packed"], 11)
_COUNTERS = ManyRows(_SQL["add_counters"], 6)
_logger = logging.getLogger(__name__)

_ROOM = 100_000
"""The weight (`Tally.weight`) of what may wait to be written: about 20 MB. Beyond it deliveries wait, as a stuck disk
would else fill the memory."""

_LINGER = 0.1
"""Seconds that records wait for others before they are written; what a killed process loses at most, and a batch."""

_BATCH = 20_000
"""The weight that is written at once, without lingering."""

_FOLD_SECONDS = 30.0
"""Between two times that counters are folded."""

_FOLD_WEIGHT = 100_000
"""The weight of tallies that are folded sooner: it bounds their memory, and what the next start must add up."""

_SET_IDS = 16
"""Subscriptions from which on those of a row are kept apart, for other rows to name as well."""

_KNOWN_IDS = 400_000
"""Ids in the sets that are remembered to be there. Bounds the memory that this takes."""

_SET_SECONDS = 3600.0
"""How long a set is named by new rows. It goes when the last row goes that names it or an older one."""

_RETRY_FIRST, _RETRY_MOST = 0.1, 5.0
"""Seconds between tries to write a batch, doubling."""

_TRIM_ROWS = 1_000
"""Packed rows that one transaction deletes."""


class _Batch:
    """Records with a number, and what they add up to."""

    __slots__ = ("number", "records", "tally")

    def __init__(self, number: int) -> None:
        self.number = number
        self.records: list[DeliveryRecord] = []
        self.tally = Tally()

    def add(self, records: Sequence[DeliveryRecord]) -> None:
        self.records.extend(records)
        for record in records:
            self.tally.add(record)


class _Sets:
    """The sets of subscriptions that are in the database, as far as the writer's thread remembers them."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._until = now() + _SET_SECONDS
        self._known: dict[int, tuple[tuple[str, ...], int]] = {}
        self._ids = 0
        self.doubtful = False
        """Whether what was written last is there is not known: nothing is remembered then."""

    def forget(self) -> None:
        self._known.clear()
        self._ids = 0
        self.doubtful = False
        self._until = self._now() + _SET_SECONDS

    def number(self, connection: sqlite3.Connection, ids: tuple[str, ...]) -> int:
        """The set's own, once it is in the database."""
        if self.doubtful or self._now() >= self._until:
            self.forget()
        known = self._known.get(id(ids))  # held below, so that no other can have this id
        if known is not None:
            return known[1]
        number = connection.execute(_SQL["insert_set"], (encode(ids).decode(),)).lastrowid
        if number is None:
            raise RuntimeError("a row was inserted and has no id")
        self._ids += len(ids)
        if self._ids > _KNOWN_IDS:
            self.forget()
        self._known[id(ids)] = ids, number
        return number


class SqliteAudit:
    def __init__(self, database: Database) -> None:
        self._writer = Writer(database, IsolatedJobs(), name="clarion-audit")
        self._readers = Readers(database, threads=1, name="clarion-audit-read")
        self._loop = asyncio.get_running_loop()
        self._sets = _Sets(self._loop.time)
        self._gathering = _Batch(1)
        self._writing: _Batch | None = None
        self._unfolded = Tally()
        """Of batches that are written and in no fold yet."""
        self._folding: Tally | None = None
        """What is being folded, or is to be tried again."""
        self._fold_job: asyncio.Future[None] | None = None
        self._fold_upto = self._folded = 0
        """The last batch of `_folding`, and of the last fold that is done."""
        self._fold_due = self._loop.time() + _FOLD_SECONDS
        self._timer: asyncio.TimerHandle | None = None
        self._retry_in = _RETRY_FIRST
        self._roomy = asyncio.Event()
        self._roomy.set()
        self._flushes: list[tuple[int, asyncio.Future[None]]] = []
        self._closing = False

    async def start(self) -> None:
        await self._writer.start()
        last, self._folded, self._unfolded = await self._writer.submit(Job(_recover))
        self._gathering = _Batch(last + 1)

    def record(self, records: Sequence[DeliveryRecord]) -> None:
        batch = self._gathering
        batch.add(records)
        if self._unwritten() >= _ROOM:
            self._roomy.clear()
        if self._writing is None and batch.records:
            if batch.tally.weight >= _BATCH:
                self._write()
            elif self._timer is None:
                self._timer = self._loop.call_later(_LINGER, self._write)

    @property
    def roomy(self) -> bool:
        return self._roomy.is_set()

    async def room(self) -> None:
        await self._roomy.wait()

    async def flush(self) -> None:
        """Waits as long as the disk is stuck. Raises StoreUnavailable when the store closes without writing them."""
        last = self._gathering.number if self._gathering.records else self._gathering.number - 1
        if last == self._gathering.number or self._writing is not None:
            written: asyncio.Future[None] = self._loop.create_future()
            self._flushes.append((last, written))
            if self._writing is None:
                self._write()
            await written

    async def counters(self, tenant: str, subscription_ids: Collection[str]) -> Mapping[str, Counters]:
        wanted = encode(list(dict.fromkeys(subscription_ids))).decode()
        folded, tallies = await self._read(partial(_read_counters, tenant=tenant, wanted=wanted))
        found = dict.fromkeys(subscription_ids, Counters()) | folded
        for tally in tallies:
            for one, counters in tally.counters(tenant, found).items():
                found[one] = add_counters(found[one], counters)
        return found

    async def totals(self, tenant: str) -> Counters:
        folded, tallies = await self._read(partial(_read_totals, tenant=tenant))
        return reduce(add_counters, (tally.total(tenant) for tally in tallies), folded[""])

    async def rows(self, tenant: str, *, subscription_id: str | None = None, limit: int) -> list[DeliveryRow]:
        parameters = (tenant, subscription_id, limit)
        return await self._readers.run(partial(_read_rows, parameters=parameters))

    async def trim(self, keep_after: int) -> int:
        await self._fold_all()  # what is in no counter yet must not go with its row
        count = gone = await self._writer.submit(Job(partial(_trim, keep_after=keep_after)))
        while gone == _TRIM_ROWS:
            gone = await self._writer.submit(Job(partial(_trim, keep_after=keep_after)))
            count += gone
        if count:
            await self._writer.submit(Job(partial(_trim_sets, sets=self._sets)))
        return count

    async def aclose(self) -> None:
        """Write what is left, with one more try if the disk is stuck; what is lost then is logged."""
        if not self._closing:
            self._closing = True
            self._roomy.set()
            try:
                if self._writing is not None and self._timer is not None:
                    self._retry()
                await self.flush()
                await self._fold_all()
            except StoreUnavailable as error:
                _logger.error("%d audit rows were not written: %s", self._unwritten_rows(), error.message)
        await self._readers.aclose()
        await self._writer.aclose()

    def _unwritten(self) -> int:
        return sum(batch.tally.weight for batch in self._batches())

    def _unwritten_rows(self) -> int:
        return sum(len(batch.records) for batch in self._batches())

    def _batches(self) -> list[_Batch]:
        return [batch for batch in (self._writing, self._gathering) if batch is not None]

    def _write(self) -> None:
        """Hand what was gathered to the writer."""
        self._cancel_timer()
        self._writing, self._gathering = self._gathering, _Batch(self._gathering.number + 1)
        self._submit(self._writing)

    def _retry(self) -> None:
        self._cancel_timer()
        if self._writing is not None:
            self._submit(self._writing)

    def _submit(self, batch: _Batch) -> None:
        try:
            future = self._writer.submit(
                Job(partial(_write_batch, batch=batch, sets=self._sets), rows=len(batch.records))
            )
        except StoreUnavailable as error:
            self._fail(error)
            return
        future.add_done_callback(self._written)

    def _written(self, future: asyncio.Future[None]) -> None:
        error = future.exception()
        if error is not None:
            self._fail(error)
            return
        batch, self._writing = self._writing, None
        if batch is not None:
            self._unfolded.merge(batch.tally)
        self._retry_in = _RETRY_FIRST
        if self._unwritten() < _ROOM:
            self._roomy.set()
        number = batch.number if batch is not None else 0
        waiting = [flush for flush in self._flushes if flush[0] > number]
        for last, written in self._flushes:
            if last <= number and not written.done():
                written.set_result(None)
        self._flushes = waiting
        if self._gathering.records:
            self._write()
        if self._unfolded.weight >= _FOLD_WEIGHT or self._loop.time() >= self._fold_due:
            self._fold()

    def _fail(self, error: BaseException) -> None:
        """Keep the batch, and try again later; when closing, tell who waits that it was not written."""
        self._sets.doubtful = True
        if self._closing:
            flushes, self._flushes = self._flushes, []
            for _, written in flushes:
                if not written.done():
                    written.set_exception(StoreUnavailable(str(error)))
            return
        _logger.warning("the audit cannot be written, trying again in %.1f s: %s", self._retry_in, error)
        self._timer = self._loop.call_later(self._retry_in, self._retry)
        self._retry_in = min(self._retry_in * 2, _RETRY_MOST)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _read(self, work: partial[tuple[int, dict[str, Counters]]]) -> tuple[dict[str, Counters], list[Tally]]:
        """What `work` reads of the folded counters, and the tallies of everything that is not in it.

        A snapshot from before the last fold is taken anew: nobody holds any more what it lacks.
        """
        while True:
            number, found = await self._readers.run(work)
            if number < self._folded:
                continue
            tallies = [self._unfolded, *(batch.tally for batch in self._batches())]
            if self._folding is not None and number < self._fold_upto:
                tallies.append(self._folding)
            return found, tallies

    # -- folding ----------------------------------------------------------------------------------------------------

    def _fold(self) -> asyncio.Future[None] | None:
        """Fold what is written, or what could not be folded before; None when there is nothing."""
        if self._fold_job is not None:
            return self._fold_job
        if self._folding is None:
            if not self._unfolded.weight:
                return None
            self._folding, self._unfolded = self._unfolded, Tally()
            self._fold_upto = (self._writing or self._gathering).number - 1
        self._fold_due = self._loop.time() + _FOLD_SECONDS
        job = self._fold_job = self._writer.submit(Job(partial(_fold, tally=self._folding, upto=self._fold_upto)))
        job.add_done_callback(self._folded_in)
        return job

    def _folded_in(self, job: asyncio.Future[None]) -> None:
        self._fold_job = None
        error = job.exception()
        if error is None:
            self._folded, self._folding = self._fold_upto, None
        else:
            _logger.warning("the counters cannot be written, trying again later: %s", error)

    async def _fold_all(self) -> None:
        """Fold all that was written before. Raises StoreUnavailable."""
        for _ in range(2):  # what is under way, and what came since it began
            folding = self._fold()
            if folding is not None:
                await asyncio.shield(folding)


def _last_batch(connection: sqlite3.Connection) -> int:
    return int(connection.execute(_SQL["batch"]).fetchone()[0])


def _last_folded(connection: sqlite3.Connection) -> int:
    return int(connection.execute(_SQL["folded"]).fetchone()[0])


def _recover(connection: sqlite3.Connection) -> tuple[int, int, Tally]:
    """The last batch, the last that is folded, and what is between them."""
    folded, tally = _last_folded(connection), Tally()
    packed = ""
    ids: tuple[str, ...] = ()
    for tenant, seq, event_id, topic, wire, outcome, at, text in connection.execute(_SQL["unfolded"], (folded,)):
        if text != packed:  # neighbours often went to the same subscriptions
            packed, ids = text, tuple(decode(text.encode()))
        tally.add(DeliveryRecord(tenant, seq, event_id, topic, wire, Outcome(outcome), at, ids))
    return _last_batch(connection), folded, tally


def _write_batch(connection: sqlite3.Connection, batch: _Batch, sets: _Sets) -> None:
    if _last_batch(connection) >= batch.number:
        return
    rows = []
    for record in batch.records:
        ids = record.subscription_ids
        number = sets.number(connection, ids) if len(ids) >= _SET_IDS else None
        text = encode(ids).decode() if number is None else "[]"
        about = (record.tenant, record.seq, record.event_id, record.topic, record.wire, record.outcome.value)
        rows.append((*about, record.at, text, len(ids), batch.number, number))
    _PACKED.execute(connection, rows)
    connection.execute(_SQL["put_batch"], (batch.number,))


def _fold(connection: sqlite3.Connection, tally: Tally, upto: int) -> None:
    if _last_folded(connection) >= upto:
        return
    # In the order of the table, so that each of its pages is changed once.
    _COUNTERS.execute(connection, [(*name, *counts) for name, counts in sorted(tally.counts().items())])
    connection.execute(_SQL["put_folded"], (upto,))


def _read_counters(connection: sqlite3.Connection, tenant: str, wanted: str) -> tuple[int, dict[str, Counters]]:
    with snapshot(connection):
        rows = connection.execute(_SQL["counters"], (tenant, wanted)).fetchall()
        return _last_folded(connection), {row[0]: Counters(*row[1:]) for row in rows}


def _read_totals(connection: sqlite3.Connection, tenant: str) -> tuple[int, dict[str, Counters]]:
    with snapshot(connection):
        row = connection.execute(_SQL["totals"], (tenant,)).fetchone()
        return _last_folded(connection), {"": Counters(*row)}


def _read_rows(connection: sqlite3.Connection, parameters: tuple[str, str | None, int]) -> list[DeliveryRow]:
    return [DeliveryRow(*row) for row in connection.execute(_SQL["rows"], parameters).fetchall()]


def _trim_sets(connection: sqlite3.Connection, sets: _Sets) -> None:
    sets.forget()  # what no row names goes, and may not be named again
    connection.execute(_SQL["trim_sets"])


def _trim(connection: sqlite3.Connection, keep_after: int) -> int:
    return connection.execute(_SQL["trim"], (keep_after, _TRIM_ROWS)).rowcount
