"""Which server a command speaks to: one elsewhere, the owner of a data directory, or the directory itself.

There is one code path, the HTTP API. A directory that nobody owns is owned for the length of the command, with the
server's own application run inside this process.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from clarion.cli.exits import UsageProblem
from clarion.cli.invocation import invoked
from clarion.cli.terminal import note
from clarion.client.errors import ServerUnreachable
from clarion.errors import ClarionError, DataDirectoryOwned
from clarion.local import DataDirectory, local_bearer

if TYPE_CHECKING:
    from clarion.client.api import ApiClient

__all__ = [
    "DEFAULT_DATA",
    "DEFAULT_TENANT",
    "Address",
    "Target",
    "call",
    "find_owner",
    "find_server",
    "pick_data",
    "pick_target",
    "reachable",
    "with_data",
]

DEFAULT_DATA = Path("clarion-data")
DEFAULT_TENANT = "default"

PATIENCE_SECONDS = 5.0
"""How long another process may own the directory without answering: a server that starts, a short command."""

POLL_SECONDS = 0.05
"""Between looks at a directory that another process owns; neither a lock nor a socket can be waited for portably."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Address:
    """A server and the bearer for it."""

    url: str
    key: str


@dataclass(frozen=True, slots=True)
class Target:
    """What the options and the environment ask for: an address, or a directory with a tenant."""

    address: Address | None
    data: Path
    tenant: str


def pick_data(data: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
    """The data directory: the option, CLARION_DATA, or ./clarion-data."""
    return data or Path(environment.get("CLARION_DATA") or DEFAULT_DATA)


def with_data(data: Path) -> str:
    """The option that leads a hint's command to the same directory; nothing for the default one."""
    return "" if data == DEFAULT_DATA else f" --data {shlex.quote(str(data))}"


def pick_target(
    data: Path | None, url: str | None, tenant: str | None, environment: Mapping[str, str] = os.environ
) -> Target:
    """Options beat the environment, where CLARION_URL beats CLARION_DATA. Raises UsageProblem."""
    if url is not None and data is not None:
        raise UsageProblem("--url and --data exclude each other: one names a server, one a directory")
    if url is None and data is None:
        url = environment.get("CLARION_URL") or None
    if url is None:
        from clarion.auth.keys import check_tenant

        if environment.get("CLARION_KEY", "").strip():
            note("CLARION_KEY is not used for a directory on this machine, only with --url")
        return Target(None, pick_data(data, environment), check_tenant(tenant or DEFAULT_TENANT))
    if tenant is not None:
        raise UsageProblem("--tenant goes with a data directory; at a URL the key decides whose tenant it is")
    key = environment.get("CLARION_KEY", "").strip()
    if not key:
        raise UsageProblem(f"set CLARION_KEY to a key of {url}; on its machine `{invoked()} keys create` makes one")
    return Target(Address(url, key), pick_data(data, environment), DEFAULT_TENANT)


def find_server(target: Target) -> Address:
    """The server to stream from. Raises ServerUnreachable when there is none."""
    if target.address is not None:
        return target.address
    directory = DataDirectory(target.data)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while _is_directory(target.data):
        address = _owner(directory, target.tenant)
        if address is not None:
            return address
        try:
            with directory.owned():
                break
        except DataDirectoryOwned:
            if time.monotonic() > deadline:
                raise _silent_owner(target.data) from None
        time.sleep(POLL_SECONDS)
    raise ServerUnreachable(
        f"no server runs on {target.data.absolute()}; start one with `{invoked()} serve{with_data(target.data)}`"
    )


def find_owner(target: Target) -> Address | None:
    """Who serves the target's directory now; None for a target elsewhere, or when nobody answers."""
    return None if target.address is not None else _owner(DataDirectory(target.data), target.tenant)


def call(
    target: Target,
    use: Callable[[ApiClient], Awaitable[T]],
    *,
    recorded: Callable[[T], bool] = lambda _: False,
) -> T:
    """What `use` answers, given a client of the target. Raises DataDirectoryOwned and the API's errors.

    `recorded`: whether by that answer there are new events; then a note says when nobody is there to push them.
    """
    answer, served = asyncio.run(_call(target, use))
    if not served and recorded(answer):
        note(f"no server runs here: recorded in {target.data.absolute()}, pushed when one starts")
    return answer


async def _call(target: Target, use: Callable[[ApiClient], Awaitable[T]]) -> tuple[T, bool]:
    """The answer, and whether a server gave it."""
    if target.address is not None:
        return await _over_network(target.address, use), True
    directory = DataDirectory(target.data)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        address = _owner(directory, target.tenant)
        if address is not None:
            return await _over_network(address, use), True
        with ExitStack() as stack:
            existed = _is_directory(target.data)
            try:
                stack.enter_context(directory.owned())
            except DataDirectoryOwned:
                if time.monotonic() > deadline:
                    raise _silent_owner(target.data) from None
            else:
                if not existed:
                    note(f"created the data directory {target.data.absolute()}")
                return await _in_process(target, use), False
        await asyncio.sleep(POLL_SECONDS)


def _is_directory(path: Path) -> bool:
    """False also where this user may not look: owning it says what is wrong."""
    try:
        return path.is_dir()
    except OSError:
        return False


def _owner(directory: DataDirectory, tenant: str) -> Address | None:
    """The owner's address, if it takes connections: a file that a killed owner left behind is none."""
    endpoint = directory.endpoint()
    if endpoint is None:
        return None
    url = reachable(endpoint.url)
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=1.0):
            return Address(url, local_bearer(endpoint.secret, tenant))
    except OSError:
        return None


def reachable(url: str) -> str:
    """Where to call an owner that listens on every address: its loopback one, which its host check knows."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def _silent_owner(data: Path) -> DataDirectoryOwned:
    return DataDirectoryOwned(
        f"another process owns {data.absolute()} but does not answer; wait for it, stop it, or use another directory "
        "with --data"
    )


async def _over_network(address: Address, use: Callable[[ApiClient], Awaitable[T]]) -> T:
    from clarion.client.api import ApiClient

    async with ApiClient(address.url, address.key) as api:
        return await use(api)


async def _in_process(target: Target, use: Callable[[ApiClient], Awaitable[T]]) -> T:
    import httpx2

    from clarion.client.api import ApiClient
    from clarion.logs import configure
    from clarion.server import open_app
    from clarion.settings import load_settings

    settings = load_settings(target.data)
    configure("warning", settings.log_format)
    secret = secrets.token_urlsafe(32)
    answer: list[T] = []
    failure: ClarionError | None = None
    async with open_app(settings, local_secret=lambda: secret, inbound=False) as app:
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        key = local_bearer(secret, target.tenant)
        async with ApiClient("http://127.0.0.1", key, transport=transport) as api:
            try:
                answer.append(await use(api))
            except ClarionError as error:  # raised within the application's task group, it would arrive wrapped
                failure = error
    if failure is not None:
        raise failure
    return answer[0]
