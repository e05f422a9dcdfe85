"""The SQLite backend keeps every contract."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

from clarion.stores.protocols import Backend
from clarion.stores.sqlite import open_sqlite
from clarion.testing.contracts import BackendContract, DurableContract
from clarion.testing.contracts.durable import Reopen


class TestSqlite(BackendContract, DurableContract):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Backend]:
        with self.lasting() as reopen:
            async with reopen() as backend:
                yield backend

    @contextmanager
    def lasting(self) -> Iterator[Reopen]:
        with tempfile.TemporaryDirectory() as directory:
            yield partial(_opened, Path(directory) / "data")


@asynccontextmanager
async def _opened(directory: Path) -> AsyncIterator[Backend]:
    backend = await open_sqlite(directory)
    try:
        yield backend
    finally:
        await backend.aclose()
