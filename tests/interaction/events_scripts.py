"""Scripts for the server in `events_peer`, and that server in a process of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["ENVIRONMENT", "PATIENCE", "PEER", "WAIT", "active", "error", "event", "peer"]

PATIENCE = 30.0
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
PEER = ("-m", "interaction.events_peer")


@contextmanager
def peer(port: int = 0, *options: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The scripted server over HTTP, taking connections when the block begins."""
    if not port:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    process = subprocess.Popen((sys.executable, *PEER, str(port), *options), env=ENVIRONMENT)
    try:
        for _ in range(int(PATIENCE / 0.05)):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                with suppress(subprocess.TimeoutExpired):
                    raise AssertionError(f"the peer ended with {process.wait(0.05)}") from None
        yield port, process
    finally:
        process.kill()
        process.wait()


def active(cursor: str | None, truncated: bool = False) -> dict[str, Any]:
    return {"note": "active", "params": {"cursor": cursor, "truncated": truncated}}


def event(number: int, cursor: bool = True) -> dict[str, Any]:
    params = {"eventId": f"e{number}", "name": "both", "timestamp": "2026-01-01T00:00:00Z", "data": {"n": number}}
    return {"note": "event", "params": {**params, **({"cursor": f"c{number}"} if cursor else {})}}


def error(note: str, code: int, data: dict[str, Any]) -> dict[str, Any]:
    return {"note": note, "params": {"error": {"code": code, "message": "so it is", "data": data}}}


WAIT = {"wait": True}
