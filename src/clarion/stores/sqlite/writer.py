"""The one thread that writes to a database, with group commit: all that waits shares a transaction."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from clarion.errors import StoreUnavailable
from clarion.stores.sqlite.connections import Database, breaks_transaction, unavailable

__all__ = ["Group", "IsolatedJobs", "Job", "Writer"]

T = TypeVar("T")

_GROUP_ROWS = 2_000
"""Rows after which a transaction takes no more jobs: it bounds how long the first of them waits for the last."""

_GROUP_BYTES = 8 * 1024 * 1024
"""Bytes likewise, which also bounds what the write-ahead log grows by at once."""

_TRANSIENT = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL}
"""Errors that leave the connection sound; after others it is opened anew."""


class Job(Generic[T]):
    """Work for the writer's thread, and the future of its result.

    `publish` is called on the event loop after the commit, in commit order, before the future resolves. `rows` and
    `size` (bytes) say how much it writes. A job with `alone` runs outside of a transaction.
    """

    __slots__ = ("alone", "error", "future", "publish", "result", "rows", "size", "work")

    future: asyncio.Future[T]
    """Made when it is submitted."""

    def __init__(
        self,
        work: Callable[[sqlite3.Connection], T],
        *,
        publish: Callable[[T], None] | None = None,
        rows: int = 1,
        size: int = 0,
        alone: bool = False,
    ) -> None:
        self.work = work
        self.publish = publish
        self.rows = rows
        self.size = size
        self.alone = alone
        self.result: T | None = None
        self.error: Exception | None = None

    def run(self, connection: sqlite3.Connection) -> None:
        """Work inside a savepoint: an error of its own leaves the rest of the transaction alone."""
        connection.execute("SAVEPOINT job")
        try:
            self.result = self.work(connection)
        except Exception as error:
            if breaks_transaction(error):
                raise
            self.error = error
            connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")

    def settle(self) -> None:
        """On the event loop, after the commit: publish, and answer the caller unless it went away."""
        if self.error is None and self.publish is not None:
            self.publish(self.result)  # type: ignore[arg-type]  # a job without an error has its result
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)  # type: ignore[arg-type]


class Group(Protocol):
    """How the jobs of one transaction are run."""

    def run(self, connection: sqlite3.Connection, jobs: Sequence[Job[Any]]) -> Callable[[], None] | None:
        """Run `jobs` and commit them together; the answer is called on the event loop.

        An error of the database is raised, whatever transaction is open then is rolled back by the caller.
        """
        ...

    def forget(self) -> None:
        """The transaction failed: what is held in memory of the database may be wrong."""
        ...


class IsolatedJobs:
    """A Group that runs each job by itself."""

    def run(self, connection: sqlite3.Connection, jobs: Sequence[Job[Any]]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        for job in jobs:
            job.run(connection)
        connection.execute("COMMIT")

    def forget(self) -> None:
        """Nothing is held."""


class Writer:
    """Owns the thread and its connection. Made and used on one event loop; `start` before anything else."""

    def __init__(self, database: Database, group: Group, *, name: str) -> None:
        self._database = database
        self._group = group
        self._queue: SimpleQueue[Job[Any] | None] = SimpleQueue()
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        self._stopping = False
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._started: asyncio.Future[None] = self._loop.create_future()

    async def start(self) -> None:
        """Open the database, making or upgrading it. Raises SchemaTooNew, or StoreUnavailable."""
        self._thread.start()
        await self._started

    def submit(self, job: Job[T]) -> asyncio.Future[T]:
        """Queue `job`. Raises StoreUnavailable once the writer is closed."""
        if self._closed:
            raise StoreUnavailable("The store is closed.")
        future = job.future = self._loop.create_future()
        self._queue.put(job)
        return future

    async def aclose(self) -> None:
        """Finish what was queued, then close the connection. Does nothing the second time."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        await self._ended.wait()
        self._thread.join()

    # Everything below runs on the thread.

    def _main(self) -> None:
        try:
            self._connection = self._database.create()
        except Exception as error:
            self._closed = True
            told = unavailable(error) if isinstance(error, sqlite3.Error | OSError) else error
            self._call(lambda: self._report(self._started, told))
            self._call(self._ended.set)
            return
        self._call(lambda: self._report(self._started, None))
        while not self._stopping:
            group = self._gather()
            announce = self._commit(group)
            if not self._call(lambda group=group, announce=announce: self._settle(group, announce)):  # type: ignore[misc]
                break
        self._drop_connection()
        self._call(self._ended.set)

    def _gather(self) -> list[Job[Any]]:
        """All jobs that wait, at least one unless the writer is closing, up to the bounds of a group."""
        group: list[Job[Any]] = []
        rows = size = 0
        job = self._queue.get()
        while job is not None:
            group.append(job)
            rows += job.rows
            size += job.size
            if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
                return group
            try:
                job = self._queue.get_nowait()
            except Empty:
                return group
        self._stopping = True
        return group

    def _commit(self, group: list[Job[Any]]) -> Callable[[], None] | None:
        inside = [job for job in group if not job.alone]
        announce = None
        try:
            connection = self._connected()
            if inside:
                announce = self._group.run(connection, inside)
        except Exception as error:
            # Whatever it was, the thread must live on: others wait behind this group.
            self._abandon(error)
            for job in group:
                job.error = unavailable(error)
            return None
        for job in group:
            if job.alone:
                self._run_alone(connection, job)
        return announce

    def _run_alone(self, connection: sqlite3.Connection, job: Job[Any]) -> None:
        try:
            job.result = job.work(connection)
        except Exception as error:
            job.error = unavailable(error) if breaks_transaction(error) else error

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._database.reopen()
        return self._connection

    def _abandon(self, error: Exception) -> None:
        """Leave the transaction; a connection that will not, or may be broken, is dropped."""
        self._group.forget()
        if self._connection is None:
            return
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            self._drop_connection()
            return
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) not in _TRANSIENT:
            self._drop_connection()

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except sqlite3.Error:
                pass  # The file is what it is; there is nothing left to save through this connection.

    def _call(self, on_loop: Callable[[], object]) -> bool:
        """Call on the event loop; False when it was closed without closing the store."""
        try:
            self._loop.call_soon_threadsafe(on_loop)
        except RuntimeError:
            return False
        return True

    @staticmethod
    def _settle(group: list[Job[Any]], announce: Callable[[], None] | None) -> None:
        if announce is not None:
            announce()
        for job in group:
            job.settle()

    @staticmethod
    def _report(future: asyncio.Future[None], error: Exception | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
