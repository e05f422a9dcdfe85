"""Servers to measure: Clarion in a process of its own on a directory of its own, and the raw peer."""

from __future__ import annotations

import asyncio
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clarion.auth.keys import mint
from clarion.composition import open_backend
from clarion.model import ApiKey, Role, Subscription

__all__ = ["RAW", "TENANT", "Server", "clarion", "raw", "subscription_id"]

TENANT = "bench"
SUBJECT = "agent"
RAW = Path(__file__).with_name("raw_server.py")

_SERVE = """
import sys
from pathlib import Path
from clarion.server import run
from clarion.settings import load_settings
run(load_settings(Path(sys.argv[1]), port=0), lambda url: print(url.rsplit(":", 1)[1], flush=True))
"""
"""What `clarion serve` does, with any free port."""


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
        await _store(backend.keys.add, row)
        wanted = [
            Subscription(
                subscription_id(n), TENANT, SUBJECT, f"c{n}", ("deal.*",), {"amount_gte": 1000}, None, None, now, now
            )
            for n in range(streams)
        ]
        await asyncio.gather(*(backend.subscriptions.put(one, limit=1_000_000) for one in wanted))
        return key


async def _store(add: object, row: ApiKey) -> None:
    await add(row)  # type: ignore[operator]


@contextmanager
def clarion(streams: int = 0) -> Iterator[Server]:
    """A Clarion server on a new directory, with FULL durability, for `streams` clients."""
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory)
        key = asyncio.run(_prepare(data, streams))
        with (data / "server.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, directory], stdout=subprocess.PIPE, stderr=log, text=True
            )
            with _up(process) as port:
                yield Server(port, process.pid, key, data)


@contextmanager
def raw() -> Iterator[Server]:
    """The raw peer: the same requests, answered by bare uvloop transports, nothing stored or checked."""
    with tempfile.TemporaryDirectory() as directory:
        process = subprocess.Popen([sys.executable, str(RAW)], stdout=subprocess.PIPE, text=True)
        with _up(process) as port:
            yield Server(port, process.pid, "none", Path(directory))


@contextmanager
def _up(process: subprocess.Popen[str]) -> Iterator[int]:
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line.strip().isdigit():
            raise RuntimeError("the server did not start")
        yield int(line)
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()
