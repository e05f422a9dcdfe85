"""The one place that names backends: opens a store by URL, for the library and the server alike."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from clarion.errors import InvalidInput
from clarion.ids import Randomness
from clarion.stores.memory import open_memory
from clarion.stores.protocols import Backend
from clarion.stores.sqlite import open_sqlite

__all__ = ["open_backend"]


@asynccontextmanager
async def open_backend(
    url: str,
    *,
    synchronous: Literal["FULL", "NORMAL"] = "FULL",
    busy_timeout: float = 2.0,
    randomness: Randomness = secrets.token_bytes,
) -> AsyncIterator[Backend]:
    """The store behind `url`: `memory:`, or `sqlite:<directory>`; closed, with everything written, at the end.

    Raises InvalidInput for another scheme, SchemaTooNew, StoreUnavailable.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "memory" and not rest:
        backend = open_memory(randomness=randomness)
    elif scheme == "sqlite" and rest:
        backend = await open_sqlite(
            Path(rest), synchronous=synchronous, busy_timeout=busy_timeout, randomness=randomness
        )
    else:
        raise InvalidInput(f"{url!r} names no store; use memory: or sqlite:<directory>", field="url", rule="scheme")
    try:
        yield backend
    finally:
        await backend.aclose()
