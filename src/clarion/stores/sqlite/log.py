"""EventLog and Wakeups over SQLite: the event loop's side."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial

from clarion.encoding import decode
from clarion.ids import Randomness
from clarion.model import Bounds, Draft, Event
from clarion.stores.protocols import Appended, ConflictingEvent, Detach, Page, Retention, Stored
from clarion.stores.sqlite.appends import AppendJob, Appends, Committed, Trimmed
from clarion.stores.sqlite.connections import Database
from clarion.stores.sqlite.readers import Readers, snapshot
from clarion.stores.sqlite.rows import stored_events
from clarion.stores.sqlite.statements import queries
from clarion.stores.sqlite.writer import Job, Writer
from clarion.stores.window import Window, fitting

__all__ = ["SqliteLog"]

_SQL = queries("log")
_logger = logging.getLogger(__name__)

_WINDOW_EVENTS = 8_192
"""Events kept in memory for readers near the head; a bound, since a burst would otherwise fill the memory."""

_WINDOW_BYTES = 32 * 1024 * 1024
"""Bytes of them, likewise."""

_READ_ROWS = 256
"""Rows packed into one answer of the database: 256 of the largest payload are 60 MB for a moment."""

_VACUUM_PAGES = 1_000
"""Pages that one transaction gives back to the disk, so that emits are not held up."""


class SqliteLog:
    """The log, its newest events and its tenants' bounds in memory, kept in commit order."""

    def __init__(self, database: Database, readers: Readers, randomness: Randomness) -> None:
        self._readers = readers
        self._appends = Appends(self._extend, randomness)
        self.writer = Writer(database, self._appends, name="clarion-log")
        self._window = Window(max_events=_WINDOW_EVENTS, max_bytes=_WINDOW_BYTES)
        self._bounds: dict[str, Bounds] = {}
        self._epoch = ""
        self._hints: dict[object, Callable[[], None]] = {}

    async def start(self, epoch: str) -> None:
        """Open the database; `epoch` is its name if it is new."""
        await self.writer.start()
        self._epoch, end = await self.writer.submit(Job(partial(_begin, epoch=epoch)))
        self._window = Window(end, max_events=_WINDOW_EVENTS, max_bytes=_WINDOW_BYTES)

    async def append(self, drafts: Sequence[Draft]) -> list[Appended | ConflictingEvent]:
        if not drafts:
            return []
        return await self.writer.submit(AppendJob(self._appends, drafts))

    async def bounds(self, tenant: str) -> Bounds:
        known = self._bounds.get(tenant)
        if known is not None:
            return known
        return self._learn(tenant, await self._readers.run(partial(_read_bounds, tenant=tenant)))

    async def read(
        self, tenant: str, after: int, *, upto: int | None = None, limit: int, max_bytes: int | None = None
    ) -> Page:
        bounds = self._bounds.get(tenant)
        if bounds is not None:
            first, last = max(after, bounds.floor), bounds.head if upto is None else min(upto, bounds.head)
            if first >= last or limit <= 0:
                return Page((), bounds)
            held = self._window.read(tenant, first, last, limit, max_bytes)
            if held is not None:
                return Page(held, bounds)
        work = partial(_read_page, tenant=tenant, after=after, upto=upto, limit=limit, max_bytes=max_bytes)
        page = await self._readers.run(work)
        self._learn(tenant, page.bounds)
        return page

    async def tail(self, after_offset: int, *, limit: int, max_bytes: int | None = None) -> Sequence[Stored]:
        held = self._window.tail(after_offset, limit, max_bytes)
        if held is not None:
            return held
        return await self._readers.run(partial(_read_tail, after=after_offset, limit=limit, max_bytes=max_bytes))

    async def end(self) -> int:
        return self._window.end

    async def trim(self, retention: Retention) -> int:
        """In transactions of a bounded size, so that appends go on meanwhile.

        The oldest event that must be kept ends a trim by age, also when a clock that went back left older ones after
        it: floors are a single position, and an event is never deleted before its time. The database is larger than
        its events: indexes, pages that are partly full, and all else that it holds.
        """
        count = 0
        more = True
        while more:
            work = partial(self._appends.trim, retention=retention)
            trimmed = await self.writer.submit(Job(work, publish=self._forget))
            count += trimmed.count
            more = trimmed.more
        if count:
            while await self.writer.submit(Job(_vacuum)):
                pass
            await self.writer.submit(Job(_checkpoint, alone=True))
        return count

    async def renew_epoch(self) -> str:
        return await self.writer.submit(Job(self._appends.renew_epoch, publish=self._renewed))

    def attach(self, hint: Callable[[], None]) -> Detach:
        token = object()
        self._hints[token] = hint

        def detach() -> None:
            self._hints.pop(token, None)

        return detach

    # Called on the event loop in commit order.

    def _extend(self, committed: Committed) -> None:
        self._window.extend(committed.stored)
        self._learn_all(committed.bounds)
        for hint in list(self._hints.values()):
            try:
                hint()
            except Exception:
                # The callers of this commit wait behind the hints.
                _logger.exception("a wake-up hint failed")

    def _forget(self, trimmed: Trimmed) -> None:
        self._window.evict(trimmed.upto)
        self._learn_all(trimmed.bounds)

    def _renewed(self, epoch: str) -> None:
        self._epoch = epoch
        self._bounds.clear()

    def _learn_all(self, bounds: dict[str, Bounds]) -> None:
        for tenant, each in bounds.items():
            self._learn(tenant, each)

    def _learn(self, tenant: str, seen: Bounds) -> Bounds:
        """Keep what a commit told or a reader saw, whichever of them is ahead; answers the newest that is known.

        A reader may see a commit before the event loop is told of it. The head must not go back then: a position that
        was just given out would look like one that nobody was ever given.
        """
        if seen.epoch != self._epoch or not seen.head:
            return seen
        known = self._bounds.get(tenant)
        if known is not None:
            seen = Bounds(
                seen.epoch, max(known.start, seen.start), max(known.floor, seen.floor), max(known.head, seen.head)
            )
        self._bounds[tenant] = seen
        return seen


def _begin(connection: sqlite3.Connection, epoch: str) -> tuple[str, int]:
    """Name the epoch of a new log; answers the log's epoch and end."""
    connection.execute(_SQL["put_meta_once"], ("epoch", epoch))
    current = connection.execute(_SQL["epoch"]).fetchone()[0]
    return current, int(connection.execute(_SQL["end"]).fetchone()[0])


def _read_bounds(connection: sqlite3.Connection, tenant: str) -> Bounds:
    with snapshot(connection):
        return _bounds_of(connection, tenant)


def _bounds_of(connection: sqlite3.Connection, tenant: str) -> Bounds:
    epoch = connection.execute(_SQL["epoch"]).fetchone()[0]
    row = connection.execute(_SQL["tenant"], (tenant,)).fetchone()
    return Bounds(epoch, *row[1:]) if row is not None else Bounds(epoch, 0, 0, 0)


def _read_page(
    connection: sqlite3.Connection, tenant: str, after: int, upto: int | None, limit: int, max_bytes: int | None
) -> Page:
    with snapshot(connection):
        bounds = _bounds_of(connection, tenant)
        last = bounds.head if upto is None else min(upto, bounds.head)
        events: list[Event] = []
        seq = max(after, bounds.floor)
        if max_bytes is not None:
            sizes = decode(connection.execute(_SQL["read_sizes"], (tenant, seq, last, limit)).fetchone()[0])
            limit = fitting(sizes, max_bytes)
        while len(events) < limit and seq < last:
            wanted = min(_READ_ROWS, limit - len(events))
            packed = connection.execute(_SQL["read"], (tenant, seq, last, wanted)).fetchone()[0]
            events.extend(stored.event for stored in stored_events(packed))
            seq += wanted
    return Page(events, bounds)


def _read_tail(connection: sqlite3.Connection, after: int, limit: int, max_bytes: int | None) -> list[Stored]:
    stored: list[Stored] = []
    with snapshot(connection):
        if max_bytes is not None:
            sizes = decode(connection.execute(_SQL["tail_sizes"], (after, limit)).fetchone()[0])
            limit = fitting(sizes, max_bytes)
        while len(stored) < limit:
            wanted = min(_READ_ROWS, limit - len(stored))
            packed = connection.execute(_SQL["tail"], (after, wanted)).fetchone()[0]
            found = stored_events(packed)
            stored.extend(found)
            if len(found) < wanted:
                break
            after = found[-1].offset
    return stored


def _vacuum(connection: sqlite3.Connection) -> bool:
    """Give free pages back to the file system; answers whether it helped and there are more."""
    before = connection.execute(_SQL["free_pages"]).fetchone()[0]
    connection.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
    return bool(0 < connection.execute(_SQL["free_pages"]).fetchone()[0] < before)


def _checkpoint(connection: sqlite3.Connection) -> None:
    """Move the write-ahead log into the database, which is when the file shrinks."""
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
