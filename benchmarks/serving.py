"""Servers to measure: Clarion in a process of its own on a directory of its own, and the raw peer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clarion.auth.keys import mint
from clarion.composition import open_backend
from clarion.model import Role, Subscription
from clarion.stores.protocols import SubscriptionLimits

__all__ = ["EVENTS", "RAW", "TENANT", "Server", "clarion", "mcp", "raw", "subscription_id"]

TENANT = "bench"
SUBJECT = "agent"
RAW = Path(__file__).with_name("raw_server.py")
EVENTS = Path(__file__).with_name("events_server.py")

MAX_STREAMS = 20_000
"""Streams that the one principal may open, whatever the limit of others."""

START_SECONDS = 20.0
"""How long a server may take until it answers."""


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


def subscription_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


async def _prepare(data: Path, streams: int) -> str:
    """A key, and for each stream a client `c<n>` with one subscription to `deal.*`."""
    async with open_backend(f"sqlite:{data}") as backend:
        now = time.time_ns() // 1000
        key, row = mint(TENANT, SUBJECT, Role.ADMIN, ("admin",), at=now, randomness=secrets.token_bytes)
        await backend.keys.add(row)
        wanted = [
            Subscription(
                subscription_id(n), TENANT, SUBJECT, f"c{n}", ("deal.*",), {"amount_gte": 1000}, None, None, now, now
            )
            for n in range(streams)
        ]
        await asyncio.gather(*(backend.subscriptions.put(one, limits=SubscriptionLimits(1_000_000)) for one in wanted))
        return key


@contextmanager
def clarion(streams: int = 0) -> Iterator[Server]:
    """A Clarion server on a new directory, with FULL durability, for `streams` clients."""
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory)
        key = asyncio.run(_prepare(data, streams))
        with (data / "server.log").open("wb") as log:
            command = [sys.executable, "-m", "clarion", "serve", "--port", "0", "--data", directory]
            environment = {**os.environ, "CLARION_MAX_CONNECTIONS_PER_PRINCIPAL": str(MAX_STREAMS)}
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            with _stopped(process):
                yield Server(_announced(data, process), process.pid, key, data)


@contextmanager
def raw() -> Iterator[Server]:
    """The raw peer: the same requests, answered by bare uvloop transports, nothing stored or checked."""
    with tempfile.TemporaryDirectory() as directory:
        process = subprocess.Popen([sys.executable, str(RAW)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        with _stopped(process), process.stdout as output:
            yield Server(int(output.readline()), process.pid, "none", Path(directory))


@contextmanager
def mcp(kind: str, *, sqlite: bool = False) -> Iterator[Server]:
    """An MCP server of a kind that `events_server.py` knows; its events are in memory unless `sqlite`."""
    with tempfile.TemporaryDirectory() as directory, (Path(directory) / "server.log").open("wb") as log:
        store = [str(Path(directory) / "events.db")] if sqlite else []
        command = [sys.executable, str(EVENTS), kind, *store]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout is not None
        with _stopped(process), process.stdout as output:
            port = output.readline()
            if not port:
                raise RuntimeError(f"the server did not start: {(Path(directory) / 'server.log').read_text()}")
            yield Server(int(port), process.pid, "none", Path(directory))


@contextmanager
def _stopped(process: subprocess.Popen[Any]) -> Iterator[None]:
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
