"""Servers to measure: Clarion in a process of its own on a directory of its own, and the raw peer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import secrets
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clarion.auth.keys import mint
from clarion.composition import open_backend
from clarion.encoding import encode
from clarion.model import Role, Subscription
from clarion.stores.identity import identity_of
from clarion.stores.sqlite.statements import queries

__all__ = [
    "EVENTS",
    "RAW",
    "START_SECONDS",
    "TENANT",
    "PeerMissing",
    "Server",
    "clarion",
    "file_limit",
    "mcp",
    "raw",
    "stopped",
    "subscription",
]  # fmt: skip

TENANT = "bench"
SUBJECT = "agent"
RAW = Path(__file__).with_name("raw_server.py")
EVENTS = Path(__file__).with_name("events_server.py")

MAX_STREAMS = 20_000
"""Streams that the one principal may open, whatever the limit of others."""

MAX_FILES = 20_000
"""More than any benchmark opens. nginx takes memory for as many connections as it is told of."""

START_SECONDS = 20.0
"""How long a server may take until it answers."""


class PeerMissing(Exception):
    """A peer is not installed; says what installs it."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that is up: its port on 127.0.0.1, its process, and a key for it."""

    port: int
    pid: int
    key: str
    data: Path

    def resident(self) -> int:
        """Bytes of memory in use."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("this system does not tell how much memory a process uses")

    def cpu_seconds(self) -> float:
        """Processor time used so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100


def file_limit() -> int:
    """How many files a process may open, `MAX_FILES` at most; from now on those that this one starts may, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    return wanted


def subscription(number: int, client: int, topic: str, filter: dict[str, object]) -> Subscription:
    """A subscription of the client `c<client>`."""
    now = time.time_ns() // 1000
    identity = f"00000000-0000-4000-8000-{number:012d}"
    return Subscription(identity, TENANT, SUBJECT, f"c{client}", (topic,), filter, None, None, now, now)


async def _prepare(data: Path) -> str:
    """A store, and a key for it."""
    async with open_backend(f"sqlite:{data}") as backend:
        at = time.time_ns() // 1000
        key, row = mint(TENANT, SUBJECT, Role.ADMIN, ("admin",), at=at, randomness=secrets.token_bytes)
        await backend.keys.add(row)
        return key


def _store(data: Path, subscriptions: Iterable[Subscription]) -> None:
    """Put them where the server will find them, by one statement: through the port, 100,000 would take a minute."""
    rows = [
        (
            one.id, one.tenant, one.subject, one.client_id, encode(one.topics).decode(),
            encode(dict(one.filter)).decode(), one.label, one.purpose, one.created_at, one.updated_at, None,
            identity_of(one),
        )
        for one in subscriptions
    ]  # fmt: skip
    with contextlib.closing(sqlite3.connect(data / "clarion.db")) as connection, connection:
        connection.executemany(queries("subscriptions")["insert"], rows)


@contextmanager
def clarion(streams: int = 0, *, subscriptions: Sequence[Subscription] = ()) -> Iterator[Server]:
    """A Clarion server on a new directory, with FULL durability, and `subscriptions`, or one to `deal.*` of each of the
    clients `c0` to `c<streams - 1>`.
    """
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory)
        key = asyncio.run(_prepare(data))
        _store(data, subscriptions or [subscription(n, n, "deal.*", {"amount_gte": 1000}) for n in range(streams)])
        with (data / "server.log").open("wb") as log:
            command = [sys.executable, "-m", "clarion", "serve", "--port", "0", "--data", directory]
            environment = {**os.environ, "CLARION_MAX_CONNECTIONS_PER_PRINCIPAL": str(MAX_STREAMS)}
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            with stopped(process):
                yield Server(_announced(data, process), process.pid, key, data)


@contextmanager
def raw() -> Iterator[Server]:
    """The raw peer: the same requests, answered by bare uvloop transports, nothing stored or checked."""
    with tempfile.TemporaryDirectory() as directory:
        process = subprocess.Popen([sys.executable, str(RAW)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        with stopped(process), process.stdout as output:
            yield Server(int(output.readline()), process.pid, "none", Path(directory))


@contextmanager
def mcp(kind: str, *, sqlite: bool = False, counted: bool = False) -> Iterator[Server]:
    """An MCP server of a kind that `events_server.py` knows; its events are in memory unless `sqlite`.

    `counted`: it counts what SQLite is asked, which slows it.
    """
    with tempfile.TemporaryDirectory() as directory, (Path(directory) / "server.log").open("wb") as log:
        store = [str(Path(directory) / "events.db")] if sqlite else []
        command = [sys.executable, str(EVENTS), kind, *store, *(["count"] if counted else [])]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout is not None
        with stopped(process), process.stdout as output:
            port = output.readline()
            if not port:
                raise RuntimeError(f"the server did not start: {(Path(directory) / 'server.log').read_text()}")
            yield Server(int(port), process.pid, "none", Path(directory))


@contextmanager
def stopped(process: subprocess.Popen[Any]) -> Iterator[None]:
    """Stop the process when the block ends."""
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def _announced(data: Path, process: subprocess.Popen[Any]) -> int:
    """The port that the server leaves word of in its data directory."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            return int(json.loads((data / "endpoint.json").read_text())["url"].rpartition(":")[2])
        time.sleep(0.02)
    raise RuntimeError(f"the server did not start: {(data / 'server.log').read_text()}")
