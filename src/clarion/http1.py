"""uvicorn's HTTP/1.1 protocol, with the bounds that it leaves open.

Whoever connects needs no key until the request's head is there, so that much must be cheap: its size and its time are
bounded here. Bodies are bounded where they are read (`clarion.api.http`), and by the SDK on `/mcp`.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["HEAD_SECONDS", "MAX_HEAD_BYTES", "BoundedProtocol"]

MAX_HEAD_BYTES = 64 * 1024
"""Bytes of a request's line and headers. Stops a caller without a key from filling the memory with them."""

HEAD_SECONDS = 10.0
"""Seconds from connecting, or from a further request's first byte, until its head is there. Stops connections that
say nothing, or one byte at a time, from using up the files that a process may open."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Its head is counted in what was read, so it may exceed the bound by one read of the socket."""

    _head: int | None = 0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Blanks around a value are no part of it (RFC 9110, section 5.5); the parser leaves those at its end."""
        super().on_header(name, value.rstrip(b" \t"))

    def on_headers_complete(self) -> None:
        self._head_is_there()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head is not None:
            self._head += len(data)
            if self._head > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("The request's headers are too large.")

    def _expect_head(self) -> None:
        self._head_is_there()
        self._head = 0
        self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _head_is_there(self) -> None:
        self._head = None
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
