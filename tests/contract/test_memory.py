"""The memory backend keeps every contract but durability."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from clarion.stores.memory import open_memory
from clarion.stores.protocols import Backend
from clarion.testing.contracts import BackendContract


class TestMemory(BackendContract):
    @asynccontextmanager
    async def open(self) -> AsyncIterator[Backend]:
        backend = open_memory()
        yield backend
        await backend.aclose()
