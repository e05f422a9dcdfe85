"""The writing end of one stream: frames entries, and hands them to the transport in writes of a bounded size.

From the gate's answer to the transport there is no await, so that nothing can change in between. What was handed over
is noted as delivered, and nothing else is: a transport that is gone raises, and ends its stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from clarion.hub.protocols import Framing, Opening, Settling, Sink
from clarion.hub.recorder import Recorder
from clarion.hub.ring import Entry, Parcel
from clarion.model import Outcome, Position, Subscription

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

    __slots__ = ("_framing", "_recorder", "_settling", "_sink", "epoch", "handed", "wire")

    def __init__(self, framing: Framing, sink: Sink, recorder: Recorder) -> None:
        self._framing = framing
        self.wire = framing.name
        self._sink = sink
        self._settling = sink if isinstance(sink, Settling) else None
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
            return self._sink.paused
        except Exception as error:
            raise TransportFailed(type(error).__name__) from error

    async def writable(self) -> None:
        """Return when the transport takes more, or is gone."""
        await self._sink.writable()

    def send_one(self, parcel: Parcel, subscriptions: Sequence[Subscription]) -> bool:
        """Write an event that is admitted, unless the transport pauses; answers whether it took it, which the caller
        notes. For the one event at a time that most of what is pushed is: nothing is made for it but the frame."""
        if self._settling is None:
            try:
                if self._sink.paused:
                    return False
            except Exception as error:
                raise TransportFailed(type(error).__name__) from error
        elif self.paused:
            return False
        data = self._framing.event(parcel, subscriptions, parcel.position(self.epoch))
        try:
            self._sink.write(data)
        except Exception as error:
            raise TransportFailed(type(error).__name__) from error
        self.handed = parcel.event.seq
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
