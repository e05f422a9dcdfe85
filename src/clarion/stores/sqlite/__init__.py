"""Every port over SQLite: `clarion.db` for the log and what is configured, `audit.db` for the audit.

Each database has one thread that writes, with group commit, and a few that read. The audit has a file and a writer of
its own so that its bulk never delays an emit.
"""

from __future__ import annotations

import secrets
from contextlib import AsyncExitStack
from pathlib import Path

from clarion.ids import Randomness, new_epoch
from clarion.stores.protocols import Backend
from clarion.stores.sqlite.audit import SqliteAudit
from clarion.stores.sqlite.connections import Database, Synchronous
from clarion.stores.sqlite.consents import SqliteConsents
from clarion.stores.sqlite.keys import SqliteKeys
from clarion.stores.sqlite.log import SqliteLog
from clarion.stores.sqlite.readers import Readers
from clarion.stores.sqlite.schema import migrations_of
from clarion.stores.sqlite.subscriptions import SqliteSubscriptions
from clarion.stores.sqlite.topics import SqliteTopics

__all__ = ["FILES", "Synchronous", "open_sqlite"]

FILES = ("clarion.db", "audit.db")
"""The names of the two databases in a directory."""

_READERS = 2
"""Threads that read `clarion.db`: one long replay does not hold up the dispatcher."""


async def open_sqlite(
    directory: Path,
    *,
    files: tuple[str, str] = FILES,
    synchronous: Synchronous = "FULL",
    busy_timeout: float = 5.0,
    randomness: Randomness = secrets.token_bytes,
) -> Backend:
    """The store in `directory`, made if it is not there, its schemas brought up to date.

    `synchronous` is the log's (FULL: an acknowledged event survives a power failure); `busy_timeout` in seconds is how
    long another process's lock is waited for before StoreUnavailable. One process at a time owns a directory: that is
    the caller's to ensure. Raises SchemaTooNew, StoreUnavailable, or OSError when the directory cannot be made.
    """
    directory.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240  # once, before anything is served
    main = Database(directory / files[0], migrations_of("log"), synchronous, busy_timeout)
    beside = Database(directory / files[1], migrations_of("audit"), "NORMAL", busy_timeout)
    readers = Readers(main, threads=_READERS, name="clarion-read")
    log = SqliteLog(main, readers, randomness)
    audit = SqliteAudit(beside)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(log.writer.aclose)
        stack.push_async_callback(readers.aclose)
        await log.start(new_epoch(randomness))
        stack.push_async_callback(audit.aclose)
        await audit.start()
        opened = stack.pop_all()
    return Backend(
        log=log,
        wakeups=log,
        subscriptions=SqliteSubscriptions(log.writer, readers),
        audit=audit,
        keys=SqliteKeys(log.writer, readers),
        consents=SqliteConsents(log.writer, readers),
        topics=SqliteTopics(log.writer, readers),
        aclose=opened.aclose,
    )
