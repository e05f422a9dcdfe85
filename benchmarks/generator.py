"""The load generator, as a process of its own: `load.c`, compiled here, or its slower Python twin."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving import Server

__all__ = ["PLACEHOLDER", "STAMPED", "Generator", "generator", "get", "post"]

PLACEHOLDER = "0" * 19
"""Value of the payload's `sent_ns`, which the generator overwrites."""

STAMPED = "-"
"""The marker of frames that carry `sent_ns`."""

TIMEOUT = 60.0

SHORT_ROUNDS = 2


def get(server: Server, path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {server.key}\r\n\r\n".encode()


def post(server: Server, body: bytes, kind: str = "application/json") -> bytes:
    head = (
        f"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {server.key}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


@dataclass(frozen=True, slots=True)
class Generator:
    """How to run the generator, and a directory for what it reads."""

    command: tuple[str, ...]
    directory: Path
    native: bool
    short: bool = False
    core: int | None = None
    """The processor that it is held to; any, if none."""

    def rounds(self, full: int) -> int:
        """How many rounds to make of a measurement that has `full` of them: fewer in a short run."""
        return min(full, SHORT_ROUNDS) if self.short else full

    def throughput(self, server: Server, requests: Sequence[bytes], *, posters: int, warmup: int = 0) -> dict[str, Any]:
        """Send `requests` on `posters` connections as fast as they are answered."""
        return self._run(server, "throughput", [], requests, posters, warmup=warmup)

    def paced(
        self, server: Server, streams: Sequence[bytes], requests: Sequence[bytes], *, rate: float, warmup: int
    ) -> dict[str, Any]:
        """Send `rate` requests a second; every stream gets a frame of each."""
        return self._run(server, "paced", streams, requests, 8, rate=rate, frames=len(streams), warmup=warmup)

    def pingpong(
        self, server: Server, streams: Sequence[bytes], requests: Sequence[bytes], *, frames: int, warmup: int,
        readers: int | None = None, answers: int = 1, marker: str = STAMPED,
    ) -> dict[str, Any]:  # fmt: skip
        """Send one request when every stream (or `readers` of them) has read the `frames` frames of the one before.

        A request may be several for one connection, with as many `answers`. Frames are known by `marker`.
        """
        total = frames * (len(streams) if readers is None else readers)
        return self._run(
            server, "pingpong", streams, requests, 1, frames=total, warmup=warmup, answers=answers, marker=marker
        )  # fmt: skip

    @contextmanager
    def held(self, server: Server, streams: Sequence[bytes]) -> Iterator[None]:
        """Keep streams open until the block ends."""
        command = self._command(server, "hold", streams, [], 0, (0, 0, 0), 1, STAMPED)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            self._place(process.pid)
            try:
                if process.stdout.readline() != b"ready\n":
                    raise RuntimeError("the load generator could not open its streams")
                yield
            finally:
                process.stdin.close()

    def _run(
        self, server: Server, mode: str, streams: Sequence[bytes], requests: Sequence[bytes], posters: int,
        *, rate: float = 0, frames: int = 0, warmup: int = 0, answers: int = 1, marker: str = STAMPED,
    ) -> dict[str, Any]:  # fmt: skip
        command = self._command(server, mode, streams, requests, posters, (rate, frames, warmup), answers, marker)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            self._place(process.pid)
            output, errors = process.communicate(timeout=TIMEOUT + 10)
        if process.returncode:
            raise RuntimeError(errors.strip())
        found: dict[str, Any] = json.loads(output)
        if found["refused"] or found["timed_out"]:
            raise RuntimeError(f"the load was not served: {found} {errors.strip()}")
        return found

    def _place(self, pid: int) -> None:
        if self.core is not None:
            os.sched_setaffinity(pid, {self.core})

    def _command(
        self, server: Server, mode: str, streams: Sequence[bytes], requests: Sequence[bytes], posters: int,
        counts: tuple[float, int, int], answers: int, marker: str,
    ) -> list[str]:  # fmt: skip
        arguments = [self._file("streams", streams), self._file("requests", requests)]
        numbers = [str(one) for one in (posters, *counts, TIMEOUT, answers, marker, server.pid)]
        return [*self.command, str(server.port), mode, *arguments, *numbers]

    def _file(self, name: str, messages: Sequence[bytes]) -> str:
        if not messages:
            return "-"
        file = self.directory / name
        file.write_bytes(b"".join(struct.pack("=I", len(one)) + one for one in messages))
        return str(file)


@contextmanager
def generator(*, short: bool = False, core: int | None = None) -> Iterator[Generator]:
    """The compiled generator, or the Python one where there is no compiler or no epoll."""
    with tempfile.TemporaryDirectory() as directory:
        binary = Path(directory) / "load"
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        source = Path(__file__).with_name("load.c")
        native = bool(compiler) and sys.platform == "linux"
        if compiler and native:
            subprocess.run([compiler, "-O2", "-o", str(binary), str(source)], check=True)
        command = (str(binary),) if native else (sys.executable, str(source.with_name("load_python.py")))
        yield Generator(command, Path(directory), native, short, core)
