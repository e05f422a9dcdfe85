"""Where subscriptions stand, kept over restarts of the client (SEP-3415 "Cursor Lifecycle")."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from clarion.encoding import canonical, decode, encode
from clarion.errors import InvalidInput, MalformedJSON

__all__ = ["CursorStore", "FileCursors", "MemoryCursors", "subscription_key"]


def subscription_key(name: str, arguments: Mapping[str, Any]) -> str:
    """The same for the same event type and equal arguments, whatever their order."""
    return f"{name} {hashlib.sha256(canonical(arguments)).hexdigest()[:32]}"


class CursorStore(Protocol):
    """Cursors by subscription key, for one server and one principal: use another store for another server."""

    async def get(self, key: str) -> str | None:
        """The cursor that was put last; None when there is none."""
        ...

    async def put(self, key: str, cursor: str) -> None:
        """Returns when the cursor is as safe as this store makes it."""
        ...

    async def delete(self, key: str) -> None:
        """Forget the key; no error when it is not there."""
        ...


class MemoryCursors:
    """Cursors that end with the process."""

    def __init__(self) -> None:
        self._cursors: dict[str, str] = {}

    async def get(self, key: str) -> str | None:
        return self._cursors.get(key)

    async def put(self, key: str, cursor: str) -> None:
        self._cursors[key] = cursor

    async def delete(self, key: str) -> None:
        self._cursors.pop(key, None)


class FileCursors:
    """Cursors in one JSON file, mode 0600, replaced as a whole and synced on every change.

    The file is one process's: two that write the same one undo each other's progress, and get events again.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """The file is made when the first cursor is put; its directory must exist."""
        self._path = Path(path)
        self._cursors: dict[str, str] | None = None
        self._lock = asyncio.Lock()

    async def get(self, key: str) -> str | None:
        """Raises InvalidInput when the file is not one of cursors."""
        async with self._lock:
            return (await self._loaded()).get(key)

    async def put(self, key: str, cursor: str) -> None:
        async with self._lock:
            cursors = await self._loaded()
            if cursors.get(key) != cursor:
                await self._write({**cursors, key: cursor})

    async def delete(self, key: str) -> None:
        async with self._lock:
            cursors = await self._loaded()
            if key in cursors:
                await self._write({name: cursor for name, cursor in cursors.items() if name != key})

    async def _loaded(self) -> dict[str, str]:
        if self._cursors is None:
            self._cursors = await asyncio.to_thread(_read, self._path)
        return self._cursors

    async def _write(self, cursors: dict[str, str]) -> None:
        await asyncio.to_thread(_replace, self._path, encode(cursors, field="cursors"))
        self._cursors = cursors


def _read(path: Path) -> dict[str, str]:
    try:
        found = decode(path.read_bytes())
    except FileNotFoundError:
        return {}
    except MalformedJSON:
        found = None
    if not isinstance(found, dict) or not all(isinstance(cursor, str) for cursor in found.values()):
        raise InvalidInput(f"{path} holds no cursors; move it away, and every subscription starts from now")
    return found


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
