"""`load.c` in Python, for machines without a compiler: the same arguments, the same answer, about a tenth of its speed.

It takes processor time from the server that it measures, so its numbers are only good for comparing with its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
import time
from pathlib import Path

STAMPED = b'"sent_ns":"'
DIGITS = 19
OPENED = (
    b"subscription.open", b"notifications/events/active", b"notifications/subscriptions/acknowledged", b"\n: hi\n",
)  # fmt: skip
OPENING = 128


def load(path: str) -> list[bytearray]:
    data = b"" if path == "-" else Path(path).read_bytes()
    found = []
    while data:
        (size,) = struct.unpack_from("=I", data)
        found.append(bytearray(data[4 : 4 + size]))
        data = data[4 + size :]
    return found


class Load:
    """One run: what was sent and read so far."""

    def __init__(self, arguments: list[str]) -> None:
        port, self.mode, streams, requests, posters, rate, frames, warmup, timeout, *rest = arguments
        answers, mark, pid = rest
        self.port, self.posters, self.rate = int(port), int(posters), float(rate)
        self.frames_each, self.warmup, self.timeout = int(frames), int(warmup), float(timeout)
        self.answers, self.pid, self.server_began = int(answers), int(pid), 0.0
        self.marker, self.digits = (STAMPED, DIGITS) if mark == "-" else (mark.encode(), 0)
        self.streams, self.requests = load(streams), load(requests)
        self.started = self.first_due = self.last_frame = self.last_answer = 0
        self.sent = self.answered = self.refused = self.frames = self.counted = self.bytes = 0
        self.frame_latency: list[int] = []
        self.answer_latency: list[int] = []
        self.rounds: list[int] = []
        self.read = asyncio.Event()
        self.opening = 0.0

    async def run(self) -> None:
        began = time.monotonic()
        readers: list[asyncio.Task[None]] = []
        slots = asyncio.Semaphore(OPENING)
        opened = [asyncio.Event() for _ in self.streams]
        for request, one in zip(self.streams, opened, strict=True):
            await slots.acquire()
            one_reader = asyncio.create_task(self.read_stream(bytes(request), one, slots))
            readers.append(one_reader)
        for one in opened:
            await one.wait()
        self.opening = time.monotonic() - began
        if self.mode == "hold":
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.read)
        else:
            timed_out = False
            try:
                async with asyncio.timeout(self.timeout):
                    await self.load()
            except TimeoutError:
                timed_out = True
            self.report(timed_out)
        for reader in readers:
            reader.cancel()

    async def read_stream(self, request: bytes, opened: asyncio.Event, slots: asyncio.Semaphore) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        rest = b""
        while data := await reader.read(256 * 1024):
            self.bytes += len(data)
            data = rest + data
            if not opened.is_set() and any(one in data for one in OPENED):
                opened.set()
                slots.release()
            rest = self.count(data)
            self.read.set()

    def count(self, data: bytes) -> bytes:
        """Count the frames in `data`; answers what may be the beginning of the next marker."""
        now, at = time.monotonic_ns(), 0
        while (found := data.find(self.marker, at)) >= 0:
            begin, end = found + len(self.marker), found + len(self.marker) + self.digits
            if end > len(data):
                return data[found:]
            self.frames += 1
            if self.started:
                self.counted += 1
                self.last_frame = now
                if self.digits and (sent := int(data[begin:end])) >= self.started:
                    self.frame_latency.append(now - sent)
            at = end
        return data[max(at, len(data) - len(self.marker) + 1) :]

    async def load(self) -> None:
        self.first_due = time.monotonic_ns() + 10_000_000
        posters = [await asyncio.open_connection("127.0.0.1", self.port) for _ in range(self.posters)]
        group = 1 if self.mode == "pingpong" else len(self.requests)
        while self.sent < len(self.requests):
            upto = min(self.sent + group, len(self.requests))
            began, counts = time.monotonic_ns(), upto > self.warmup
            async with asyncio.TaskGroup() as tasks:
                for reader, writer in posters:
                    tasks.create_task(self.post(reader, writer, upto))
            while self.frames < self.frames_each * upto:
                self.read.clear()
                await self.read.wait()
            if counts:
                self.rounds.append(max(self.last_frame, self.last_answer) - began)

    async def post(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, upto: int) -> None:
        """Send what no other poster has sent, up to the request `upto`."""
        while self.sent < upto:
            number = self.sent
            self.sent += 1
            at = time.monotonic_ns()
            if self.mode == "paced":
                at = self.first_due + int(number * 1e9 / self.rate)
                await asyncio.sleep(max(0, at - time.monotonic_ns()) / 1e9)
            if number == self.warmup:
                self.started, self.bytes, self.server_began = at, 0, self.server_seconds()
            request = self.requests[number]
            stamp = request.find(STAMPED)
            if stamp >= 0:
                request[stamp + len(STAMPED) : stamp + len(STAMPED) + DIGITS] = b"%019d" % at
            writer.write(request)
            for _ in range(self.answers):
                await self.read_answer(reader)
            self.answered += 1
            self.last_answer = time.monotonic_ns()
            if number >= self.warmup:
                self.answer_latency.append(self.last_answer - at)

    async def read_answer(self, reader: asyncio.StreamReader) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head[9:10] != b"2":
            self.refused += 1
            print(head.decode("latin-1"), file=sys.stderr)
        length = head.lower().partition(b"\r\ncontent-length:")[2].split(b"\r\n", 1)[0]
        await (reader.readexactly(int(length)) if length else reader.readuntil(b"\r\n0\r\n\r\n"))

    def server_seconds(self) -> float:
        """Processor time that the server has used, all of its threads together; 0 where that cannot be asked."""
        stat = Path(f"/proc/{self.pid}/stat")
        if not self.pid or not stat.exists():
            return 0.0
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def report(self, timed_out: bool) -> None:
        seconds = (max(self.last_frame, self.last_answer) - self.started) / 1e9
        found = {
            "streams": len(self.streams), "open_s": self.opening, "requests": self.answered - self.warmup,
            "refused": self.refused, "seconds": seconds, "frames": self.counted, "bytes": self.bytes,
            "server_s": self.server_seconds() - self.server_began, "timed_out": timed_out,
            "answer_us": spread(self.answer_latency), "frame_us": spread(self.frame_latency),
            "round_us": spread(self.rounds) if self.mode == "pingpong" else None,
        }  # fmt: skip
        print(json.dumps(found))


def spread(samples: list[int]) -> dict[str, float] | None:
    if not samples:
        return None
    samples.sort()
    p50, p99 = samples[len(samples) // 2], samples[len(samples) * 99 // 100]
    return {"p50": p50 / 1e3, "p99": p99 / 1e3, "max": samples[-1] / 1e3}


async def main() -> None:
    await Load(sys.argv[1:]).run()


if __name__ == "__main__":
    asyncio.run(main())
