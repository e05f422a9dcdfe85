"""The writing end of one stream: frames entries, and hands them to the transport in writes of a bounded size.

From the gate's answer to the transport there is no await, so that nothing can change in between. What was handed over
is noted as delivered, and nothing else is: a transport that is gone raises, and ends its stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from clarion.hub.attachment import Attachment, Kinds
from clarion.hub.protocols import Direct, Framing, Line, Opening, Settling, Sink
from clarion.hub.recorder import Recorder
from clarion.hub.ring import Entry
from clarion.model import Outcome, Position

__all__ = ["Admit", "Outlet", "TransportFailed"]

WRITE_CHUNK = 64 * 1024
"""Bytes of frames that are joined into one write: a burst leaves in few writes, and the water mark is still asked
between them, so that the transport never holds much more above it. An event whose frames take more goes alone: they
leave together, since only the last of them says how far the stream is, and a client has few subscriptions."""

Admit: TypeAlias = Callable[[Entry], Entry | None]
"""What is left of an entry now that it is to be sent; None when nothing is."""


class TransportFailed(Exception):
    """The transport takes nothing more."""


class Outlet:
    """Where one stream's bytes go. All of it is called on the event loop and never waits.

    Raises TransportFailed when the transport is gone, and whatever a framing raises: either ends the stream.
    """

    __slots__ = ("_direct", "_framing", "_recorder", "_settling", "_sink", "epoch", "handed", "wire")

    def __init__(self, framing: Framing, sink: Sink, recorder: Recorder) -> None:
        self._framing = framing
        self.wire = framing.name
        self._sink = sink
        self._settling = sink if isinstance(sink, Settling) else None
        self._direct = sink if isinstance(sink, Direct) else None
        self._recorder = recorder
        self.epoch = ""
        """Names the positions; empty until the stream begins."""
        self.handed = 0
        """The seq of the last event that was handed over, or that the stream continues after."""

    @property
    def paused(self) -> bool:
        try:
            if self._settling is not None and self._settling.settled is not None:
                self._sink, self._settling = self._settling.settled, None
                self._direct = self._sink if isinstance(self._sink, Direct) else None
            return self._sink.paused
        except Exception as error:
            raise TransportFailed(type(error).__name__) from error

    async def writable(self) -> None:
        """Return when the transport takes more, or is gone."""
        await self._sink.writable()

    @property
    def line(self) -> Line | None:
        """Where to write past the sink, if that can be done now."""
        if self._settling is not None and self.paused:  # looks whether it has settled
            return None
        return None if self._direct is None else self._direct.line

    def direct(self, attachment: Attachment, line: Line | None, kinds: Kinds, *, alone: bool) -> bool:
        """Give an attachment of this stream a line, or take it; answers whether that changed anything."""
        if line is None:
            if attachment.line is None:
                return False
            attachment.line = attachment.kind = None
            self.handed = max(self.handed, attachment.handed)
            return True
        subscription = attachment.subscription
        mark = self._framing.mark(subscription)
        kind = kinds.of(subscription, self._framing, line, self.epoch)
        if attachment.line is line and attachment.kind is kind and attachment.alone is alone:
            return False
        attachment.line, attachment.kind, attachment.mark, attachment.alone = line, kind, mark, alone
        return True

    def send(self, entries: Sequence[Entry], before: bytes = b"", admit: Admit | None = None) -> int:
        """Write entries, `before` in front of them, until the transport pauses; answers how many it took.

        `admit` is asked for each right before it is sent; without it all are admitted already.
        """
        count, sent = len(entries), 0
        while sent < count and not self.paused:
            end = 1 if count == 1 else _chunk_end(entries, sent)
            chunk: Sequence[Entry] = entries if end - sent == count else entries[sent:end]
            if admit is not None:
                chunk = [left for entry in chunk if (left := admit(entry)) is not None]
            self._write(chunk, before)
            before = b""
            sent = end
        return sent

    def opened(self, opening: Opening) -> None:
        """The stream continues after the opening's position."""
        self._hand(self._framing.opened(opening))
        self.handed = opening.position.seq

    def lag_frame(self, subscription_id: str, dropped: int, capacity: int, after: int) -> bytes:
        return self._framing.lagged(subscription_id, dropped, capacity, Position(self.epoch, after))

    def heartbeat(self, seq: int) -> None:
        self._hand(self._framing.heartbeat(Position(self.epoch, seq)))

    def say(self, frames: bytes) -> None:
        """Hand frames over that are no events."""
        self._write((), frames)

    def _write(self, entries: Sequence[Entry], before: bytes) -> None:
        """Hand all frames of `entries`, and what goes before them, to the transport in one write."""
        if not entries and not before:
            return
        framing, epoch, note = self._framing, self.epoch, self._recorder.note
        frames = [framing.event(parcel, those, parcel.position(epoch)) for parcel, those in entries]
        self._hand(b"".join((before, *frames)) if before or len(frames) > 1 else frames[0])
        if entries:
            wire = self.wire
            for parcel, subscriptions in entries:
                note(parcel, wire, Outcome.DELIVERED, subscriptions)
            self.handed = entries[-1].parcel.event.seq

    def _hand(self, data: bytes) -> None:
        try:
            self._sink.write(data)
        except Exception as error:
            raise TransportFailed(type(error).__name__) from error


def _chunk_end(entries: Sequence[Entry], begin: int) -> int:
    """Where the write ends that begins with the entry at `begin`: once it has WRITE_CHUNK bytes, at most twice that
    unless it is one entry's alone."""
    size, end = 0, begin
    while end < len(entries) and size < WRITE_CHUNK:
        parcel, subscriptions = entries[end]
        weight = parcel.size * len(subscriptions)  # about what its frames take: one for each subscription
        if size and weight > WRITE_CHUNK:
            break
        size += weight
        end += 1
    return end
