"""The load generator, as a process of its own: `load.c`, compiled here, or its slower Python twin."""

from __future__ import annotations

import json
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

__all__ = ["PLACEHOLDER", "Generator", "generator", "get", "post"]

PLACEHOLDER = "0" * 19
"""Value of the payload's `sent_ns`, which the generator overwrites."""

TIMEOUT = 60.0


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

    def throughput(self, server: Server, requests: Sequence[bytes], *, posters: int, warmup: int = 0) -> dict[str, Any]:
        """Send `requests` on `posters` connections as fast as they are answered."""
        return self._run(server, "throughput", [], requests, posters, warmup=warmup)

    def paced(
        self, server: Server, streams: Sequence[bytes], requests: Sequence[bytes], *, rate: float, warmup: int
    ) -> dict[str, Any]:
        """Send `rate` requests a second; every stream gets a frame of each."""
        return self._run(server, "paced", streams, requests, 8, rate=rate, frames=1, warmup=warmup)

    def pingpong(
        self, server: Server, streams: Sequence[bytes], requests: Sequence[bytes], *, frames: int, warmup: int
    ) -> dict[str, Any]:
        """Send one request when every stream has read the `frames` frames of the one before."""
        return self._run(server, "pingpong", streams, requests, 1, frames=frames, warmup=warmup)

    @contextmanager
    def held(self, server: Server, streams: Sequence[bytes]) -> Iterator[None]:
        """Keep streams open until the block ends."""
        command = self._command(server, "hold", streams, [], 0, 0, 0, 0)
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                if process.stdout.readline() != b"ready\n":
                    raise RuntimeError("the load generator could not open its streams")
                yield
            finally:
                process.stdin.close()

    def _run(
        self, server: Server, mode: str, streams: Sequence[bytes], requests: Sequence[bytes], posters: int,
        *, rate: float = 0, frames: int = 0, warmup: int = 0,
    ) -> dict[str, Any]:  # fmt: skip
        command = self._command(server, mode, streams, requests, posters, rate, frames, warmup)
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT + 10, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
        found: dict[str, Any] = json.loads(done.stdout)
        if found["refused"] or found["timed_out"]:
            raise RuntimeError(f"the load was not served: {found} {done.stderr.strip()}")
        return found

    def _command(
        self, server: Server, mode: str, streams: Sequence[bytes], requests: Sequence[bytes], posters: int,
        rate: float, frames: int, warmup: int,
    ) -> list[str]:  # fmt: skip
        arguments = [self._file("streams", streams), self._file("requests", requests)]
        numbers = [str(one) for one in (posters, rate, frames, warmup, TIMEOUT)]
        return [*self.command, str(server.port), mode, *arguments, *numbers]

    def _file(self, name: str, messages: Sequence[bytes]) -> str:
        if not messages:
            return "-"
        file = self.directory / name
        file.write_bytes(b"".join(struct.pack("=I", len(one)) + one for one in messages))
        return str(file)


@contextmanager
def generator() -> Iterator[Generator]:
    """The compiled generator, or the Python one where there is no compiler or no epoll."""
    with tempfile.TemporaryDirectory() as directory:
        binary = Path(directory) / "load"
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        source = Path(__file__).with_name("load.c")
        native = bool(compiler) and sys.platform == "linux"
        if compiler and native:
            subprocess.run([compiler, "-O2", "-o", str(binary), str(source)], check=True)
        command = (str(binary),) if native else (sys.executable, str(source.with_name("load_python.py")))
        yield Generator(command, Path(directory), native)
