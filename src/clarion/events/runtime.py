"""What a library of events runs on: a store of its own, a hub over it, and the authors' loops, opened and closed as
one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from clarion.clock import Clock
from clarion.composition import FILE_SUFFIXES, open_backend, unknown_store
from clarion.errors import DataDirectoryOwned, InvalidInput
from clarion.events.checks import Checks
from clarion.events.hooks import HookRunner
from clarion.events.leases import Leases
from clarion.hub.hub import Hub, HubLimits
from clarion.sources.emit import Emitter
from clarion.wires.mcp_events.log import LogSource

__all__ = ["Runtime", "opened", "store_url"]


@dataclass(frozen=True, slots=True)
class Runtime:
    """A running hub with everything that the library puts around it."""

    hub: Hub
    emitter: Emitter
    log: LogSource
    checks: Checks
    leases: Leases


def store_url(place: str | Path | None) -> str:
    """The URL of a store that may be given as a path: none is memory, anything without a scheme a SQLite file, whose
    name ends with one of `FILE_SUFFIXES`. A directory is written as `sqlite:<directory>`.

    Raises InvalidInput for what cannot be one; whether its directory is there, opening tells.
    """
    if place is None:
        return "memory:"
    if not isinstance(place, str | Path):
        raise InvalidInput(
            f"url must be a path, a store's URL or None, not {type(place).__name__}", field="url", rule="type"
        )
    text = str(place)
    scheme, separator, rest = text.partition(":")
    if isinstance(place, Path) or not separator or len(scheme) == 1:  # C: is no scheme
        _check_path(text, bare=True)
        return f"sqlite:{text}"
    if scheme == "sqlite" and rest:
        _check_path(rest, bare=False)
    elif text != "memory:":
        raise unknown_store(scheme)
    return text


def _check_path(text: str, *, bare: bool) -> None:
    """Raises InvalidInput for a path that cannot be a store; a `bare` one is that of a file."""
    path = Path(text)
    if not bare and text.startswith("//"):
        raise InvalidInput(
            f"a store's URL has no host: write sqlite:{'/' + text.lstrip('/')} for an absolute path, sqlite:"
            f"{text.lstrip('/')} for a relative one",
            field="url",
            rule="path",
        )
    if path.suffix in FILE_SUFFIXES:
        if path.is_dir():
            raise InvalidInput(f"{text} is a directory; name a file in it", field="url", rule="directory")
    elif bare:
        raise InvalidInput(
            f"{text!r} is no file's name: that ends with {', '.join(FILE_SUFFIXES)}; for a directory write "
            f"sqlite:{text}, for memory give nothing",
            field="url",
            rule="suffix",
        )
    elif path.exists() and not path.is_dir():
        raise InvalidInput(
            f"{text} is a file, and its name does not end with {', '.join(FILE_SUFFIXES)}", field="url", rule="suffix"
        )


@asynccontextmanager
async def opened(
    url: str, *, clock: Clock, hooks: HookRunner, limits: HubLimits | None = None
) -> AsyncIterator[Runtime]:
    """Open the store behind `url` and run until the block ends.

    Raises InvalidInput, DataDirectoryOwned while another process has the file, SchemaTooNew, StoreUnavailable.
    """
    with _owned(url):
        async with open_backend(url) as backend:
            hub = Hub(backend, limits=limits, clock=clock)
            checks, leases = Checks(hooks, hub.recorder, clock, counted=hub.counted), Leases(hooks, clock)
            async with hub.running(), checks.running(), leases.running():
                yield Runtime(hub, Emitter(hub, clock=clock), LogSource(hub), checks, leases)


@contextmanager
def _owned(url: str) -> Iterator[None]:
    """Hold the lock of a store on disk, a file `<name>.lock` beside it: one process at a time writes to it."""
    scheme, _, path = url.partition(":")
    if scheme != "sqlite" or not path:
        yield
        return
    file = Path(path)
    if not file.parent.is_dir():
        raise InvalidInput(
            f"{path} cannot be used: there is no directory {file.parent}; make it first", field="url", rule="parent"
        )
    try:
        lock = FileLock(file.with_name(f"{file.name}.lock"), mode=0o600)
        lock.acquire(timeout=0)
    except Timeout:
        raise DataDirectoryOwned(
            f"another process has {path} open; give each process a file of its own, or let the others emit through it"
        ) from None
    except OSError as error:
        raise InvalidInput(f"{path} cannot be used: {error.strerror}", field="url", rule="writable") from None
    try:
        yield
    finally:
        lock.release()
