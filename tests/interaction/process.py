"""A real `clarion serve` in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from clarion.local import local_bearer
from interaction.serving import TENANT, authorization

PATIENCE = 30.0
"""Seconds for a start or a stop."""


@dataclass(frozen=True)
class Served:
    """A server process, seen as its operator sees it."""

    url: str
    secret: str
    process: subprocess.Popen[str]

    def operator(self, tenant: str = TENANT) -> str:
        return local_bearer(self.secret, tenant)

    def http(self, bearer: str | None = None) -> httpx2.AsyncClient:
        limits = httpx2.Limits(max_connections=None)
        return httpx2.AsyncClient(base_url=self.url, headers=authorization(bearer), limits=limits, timeout=30)

    def stop(self) -> int:
        """Stop as an operator does; answers the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@contextmanager
def served(data: Path, *arguments: str) -> Iterator[Served]:
    """`clarion serve` on a free port, taking connections when the block begins, gone when it ends."""
    environment = {**os.environ, "CLARION_LOG_FORMAT": "json"}
    command = [sys.executable, "-m", "clarion", "serve", "--data", str(data), "--port", "0", *arguments]
    log = data.parent / f"{data.name}.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True)
    try:
        endpoint = _endpoint(data, process, log)
        yield Served(endpoint["url"], endpoint["secret"], process)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _endpoint(data: Path, process: subprocess.Popen[str], log: Path) -> dict[str, str]:
    """What the process left once it listened: an operating system tells nobody, so the file is looked for."""
    for _ in range(int(PATIENCE / 0.05)):
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            pass
        else:
            raise AssertionError(f"clarion serve ended with {process.returncode}: {log.read_text()}")
        if (data / "endpoint.json").exists() and '"listening"' in log.read_text():
            found: dict[str, str] = json.loads((data / "endpoint.json").read_text())
            return found
    raise AssertionError(f"clarion serve did not start: {log.read_text()}")
