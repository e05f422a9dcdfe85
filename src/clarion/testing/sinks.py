"""A transport that a test holds in its hand."""

from __future__ import annotations

import asyncio

from clarion.hub.protocols import Flow, Line, Transport

__all__ = ["FakeSink"]


class FakeSink:
    """A `clarion.hub.protocols.Sink` that keeps what is written to it; a test pauses and resumes it.

    `room`: how many more writes it takes before it pauses by itself, as a transport does at its high water mark; None
    is any number. `fail`: the next write raises it, as a broken transport's would. `direct`: it may be written to by
    the dispatcher itself (`Line`), as a server's transport may within a response that has begun.
    """

    kind = "fake"

    def __init__(self, *, room: int | None = None, direct: bool = True) -> None:
        self.writes: list[bytes] = []
        self.room = room
        self.fail: Exception | None = None
        self.closing = False
        self.line: Line | None = self if direct else None
        self._paused = False
        self._writable = asyncio.Event()
        self._writable.set()

    @property
    def paused(self) -> bool:
        return self._paused

    @property
    def write_paused(self) -> bool:
        return self._paused

    @property
    def flow(self) -> Flow:
        return self

    @property
    def transport(self) -> Transport:
        return self

    def is_closing(self) -> bool:
        return self.closing

    def around(self, _size: int) -> tuple[bytes, bytes]:
        return b"", b""

    @property
    def data(self) -> bytes:
        """Everything that was written."""
        return b"".join(self.writes)

    def pause(self) -> None:
        """Take nothing from now on."""
        self._paused = True
        self._writable.clear()

    def resume(self, room: int | None = None) -> None:
        """Take writes again, `room` of them when given."""
        self.room = room
        self._paused = False
        self._writable.set()

    def write(self, data: bytes) -> None:
        if self._paused:
            raise RuntimeError("written to while paused")
        if self.fail is not None:
            raise self.fail
        self.writes.append(data)
        if self.room is not None:
            self.room -= 1
            if self.room <= 0:
                self.pause()

    async def writable(self) -> None:
        await self._writable.wait()
