"""The short way from the dispatcher to a transport: one write for all that a batch has for a stream.

Most streams have one subscription, take what they are given, and differ from others with the same patterns and filter
in nothing but an id within each frame. For those the bytes of a batch are laid out once, as pieces between which the id
goes, and a stream costs one `join` and one `write`, however many events there are. Who is not like that, or not just
now, is handed entries instead (`Connection.deliver`).

From the gate's answer to the transport there is no await, so that nothing can change in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from clarion.gate import Gate
from clarion.hub.attachment import Attachment, Kind
from clarion.hub.index import Group
from clarion.hub.outlet import WRITE_CHUNK, TransportFailed
from clarion.hub.recorder import Recorder
from clarion.hub.ring import Entry, Parcel
from clarion.model import Outcome

__all__ = ["Express", "Ride", "Roster", "Run"]

MAX_REMEMBERED = 200_000
"""Ids of subscriptions that are remembered from one run to the next, so that the audit meets the same tuple again.
Bounds the memory that this takes."""

Run: TypeAlias = tuple[Parcel, ...]
"""Events of one tenant that all match the same groups, in the order of the log."""


class Roster:
    """A group's attachments: those with a line that are alone on their connection, or share it, and those without."""

    __slots__ = ("alone", "regular", "sharing")

    def __init__(self, attachments: Sequence[Attachment]) -> None:
        self.alone = tuple(one for one in attachments if one.line is not None and one.alone)
        self.sharing = tuple(one for one in attachments if one.line is not None and not one.alone)
        self.regular = tuple(one for one in attachments if one.line is None)

    @classmethod
    def of(cls, group: Group[Attachment]) -> Roster:
        """Remembered by the group until its attachments change."""
        known: Roster | None = group.memo
        if known is None:
            known = group.memo = cls(list(group.targets))
        return known


class _Layout:
    """A run as streams of one kind get it: the pieces of each write, and what the gate keeps from them."""

    __slots__ = ("admitted", "ends", "failure", "refused", "taken", "wire", "writes")

    def __init__(self, kind: Kind, run: Run, gate: Gate) -> None:
        self.wire = kind.framing.name
        self.admitted: list[Parcel] = []
        self.refused: list[Parcel] = []
        for parcel in run:
            # Nothing of the viewer matters: what has an audience, or is for one subscription, does not come this way.
            refusal = gate.admits(parcel.event, "", kind.purpose) if parcel.guarded else None
            (self.admitted if refusal is None else self.refused).append(parcel)
        self.writes: list[list[bytes]] = []
        """What a stream's mark joins to the bytes of a write, for each write."""
        self.ends: list[int] = []
        """How many of `admitted` have left with each write."""
        self.taken: list[str] = []
        """The subscriptions that took all of it."""
        self.failure: Exception | None = None
        """What the framing raised: it ends the streams of this kind, and nobody else's."""
        try:
            self._frame(kind)
        except Exception as error:
            self.failure = error

    def _frame(self, kind: Kind) -> None:
        halves = [kind.framing.halves(parcel, parcel.position(kind.epoch)) for parcel in self.admitted]
        begin = size = 0
        for end, (before, after) in enumerate(halves, 1):
            size += len(before) + kind.mark_size + len(after)
            if size >= WRITE_CHUNK or end == len(halves):
                self.writes.append(_pieces(halves[begin:end], *kind.line.around(size)))
                self.ends.append(end)
                begin, size = end, 0


def _pieces(halves: Sequence[tuple[bytes, bytes]], opening: bytes, closing: bytes) -> list[bytes]:
    pieces = []
    for before, after in halves:
        pieces.append(opening + before)
        opening = after
    pieces.append(opening + closing)
    return pieces


class Ride:
    """A run that is laid out for attachments with a line, each of another connection: nothing is handed over yet."""

    __slots__ = ("layouts", "riders", "run")

    def __init__(self, run: Run, riders: Sequence[Attachment], gate: Gate) -> None:
        """Raises what the gate raises."""
        self.run = run
        self.riders = riders
        self.layouts: dict[Kind | None, _Layout] = {}
        for kind in {attachment.kind for attachment in riders}:
            if kind is None:
                raise RuntimeError("an attachment with a line has a kind")
            self.layouts[kind] = _Layout(kind, run, gate)


class Express:
    """One per dispatcher. All of it is called within the tick in which the dispatcher asked the index."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._ids: dict[tuple[str, str, int], tuple[str, ...]] = {}
        self._remembered = 0

    def send(self, ride: Ride) -> None:
        """Hand a run over to all of its riders."""
        layouts, run = ride.layouts, ride.run
        apart: list[tuple[Attachment, _Layout, int]] = []
        broken: list[tuple[Attachment, Exception]] = []
        first, last = run[0].event.seq, run[-1].event.seq
        known: Kind | None = None
        layout: _Layout | None = None
        writes: list[list[bytes]] = []
        taken: list[str] = []
        for attachment in ride.riders:
            line, kind = attachment.line, attachment.kind
            if layout is None or kind is not known:
                known, layout = kind, layouts[kind]
                writes, taken = layout.writes, layout.taken
            if line is None or attachment.since >= first or layout.failure is not None:
                apart.append((attachment, layout, 0))
                continue
            transport, flow, done = line.transport, line.flow, 0
            try:
                for pieces in writes:
                    if flow.write_paused:
                        apart.append((attachment, layout, done))
                        break
                    if transport.is_closing():
                        raise ConnectionResetError("the connection is gone")
                    transport.write(attachment.mark.join(pieces))
                    done += 1
                else:
                    attachment.handed = last
                    taken.append(attachment.id)
            except Exception as error:
                broken.append((attachment, error))
        for layout in layouts.values():
            self._note(layout)
        for attachment, layout, done in apart:
            self._carry_on(attachment, layout, done)
        for attachment, cause in broken:
            failed = TransportFailed(type(cause).__name__)
            failed.__cause__ = cause
            attachment.connection.fail(failed)

    def _note(self, layout: _Layout) -> None:
        """Note what became of the run for those that took all of it."""
        if not layout.taken:
            return
        wire, note = layout.wire, self._recorder.note_ids
        ids = self._same(wire, layout.taken)
        for parcel in layout.admitted:
            note(parcel, wire, Outcome.DELIVERED, ids)
        for parcel in layout.refused:
            note(parcel, wire, Outcome.REFUSED, ids)

    def _same(self, wire: str, ids: list[str]) -> tuple[str, ...]:
        """The tuple of an earlier run, if it was of these: the audit then meets it again."""
        found, name = tuple(ids), (wire, ids[0], len(ids))
        known = self._ids.get(name)
        if known == found:
            return known
        self._remembered += len(found) - (0 if known is None else len(known))
        if self._remembered > MAX_REMEMBERED:
            self._ids.clear()
            self._remembered = len(found)
        self._ids[name] = found
        return found

    def _carry_on(self, attachment: Attachment, layout: _Layout, done: int) -> None:
        """Hand the rest over as entries, after `done` writes: the transport is paused, or it has some of it already."""
        connection, ids, note = attachment.connection, (attachment.id,), self._recorder.note_ids
        if layout.failure is not None:
            connection.fail(layout.failure)
            return
        upto = layout.ends[done - 1] if done else 0
        for parcel in layout.admitted[:upto]:
            note(parcel, connection.wire, Outcome.DELIVERED, ids)
            attachment.handed = parcel.event.seq
        subscription, since = attachment.subscription, attachment.since
        for parcel in layout.refused:
            if parcel.event.seq > since:
                note(parcel, connection.wire, Outcome.REFUSED, ids)
        rest = [Entry(parcel, [subscription]) for parcel in layout.admitted[upto:] if parcel.event.seq > since]
        if rest:
            connection.deliver(rest)
