"""The one place that names backends: opens a store by URL, for the library and the server alike."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from clarion.errors import InvalidInput
from clarion.ids import Randomness
from clarion.stores.memory import open_memory
from clarion.stores.protocols import Backend
from clarion.stores.sqlite import FILES, open_sqlite

__all__ = ["FILE_SUFFIXES", "open_backend", "unknown_store"]

FILE_SUFFIXES = (".db", ".sqlite", ".sqlite3")
"""What the name of a SQLite file ends with; any other path is a directory."""


@asynccontextmanager
async def open_backend(
    url: str,
    *,
    synchronous: Literal["FULL", "NORMAL"] = "FULL",
    busy_timeout: float = 2.0,
    randomness: Randomness = secrets.token_bytes,
) -> AsyncIterator[Backend]:
    """The store behind `url`: `memory:`, `sqlite:<directory>`, or `sqlite:<file>.db`, which has its audit in a file
    beside it; closed, with everything written, at the end.

    The directory of a file must be there. Raises InvalidInput for another scheme, SchemaTooNew, StoreUnavailable.
    """
    scheme, _, rest = url.partition(":")
    if scheme == "memory" and not rest:
        backend = open_memory(randomness=randomness)
    elif scheme == "sqlite" and rest:
        path = Path(rest)
        files = (path.name, f"{path.stem}-audit{path.suffix}") if path.suffix in FILE_SUFFIXES else None
        for name in files or ():
            _make_private(path.with_name(name))
        backend = await open_sqlite(
            path if files is None else path.parent,
            files=files or FILES,
            synchronous=synchronous,
            busy_timeout=busy_timeout,
            randomness=randomness,
        )
    else:
        raise unknown_store(scheme)
    try:
        yield backend
    finally:
        await backend.aclose()


def unknown_store(scheme: str) -> InvalidInput:
    """No store has this scheme. The rest of the URL is not repeated: it may hold a password."""
    return InvalidInput(
        f"a URL that begins {scheme[:16] + ':'!r} names no store; use memory:, sqlite:<directory> or sqlite:<file>.db",
        field="url",
        rule="scheme",
    )


def _make_private(file: Path) -> None:
    """A database that only its owner can read; one that is there keeps its mode. SQLite's files beside it follow."""
    if not file.parent.is_dir():
        raise InvalidInput(f"{file} cannot be used: there is no directory {file.parent}", field="url", rule="parent")
    try:
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise InvalidInput(f"{file} cannot be used: {error.strerror}", field="url", rule="writable") from None
