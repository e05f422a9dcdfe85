"""The short way from the dispatcher to a transport: one write for all that a batch has for a stream.

Most streams have one subscription, take what they are given, and differ from others with the same patterns and filter
in nothing but an id within each frame. For those the bytes of a batch are laid out once, as pieces between which the id
goes, and a stream costs one `join` and one `write`, however many events there are. Who is not like that, or not just
now, is handed entries instead (`Connection.deliver`).

From the gate's answer to the transport there is no await, so that nothing can change in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from clarion.gate import Gate
from clarion.hub.attachment import Attachment, Kind
from clarion.hub.index import Group
from clarion.hub.outlet import WRITE_CHUNK, TransportFailed
from clarion.hub.recorder import Recorder
from clarion.hub.ring import Entry, Parcel
from clarion.model import Outcome

__all__ = ["Express", "Roster", "Run"]

MAX_KNOWN_IDS = 64
"""Sets of subscriptions that are remembered from one run to the next."""

Run: TypeAlias = tuple[Parcel, ...]
"""Events of one tenant that all match the same groups, in the order of the log."""


class Roster:
    """A group's attachments that have a line, and the others."""

    __slots__ = ("express", "regular")

    def __init__(self, attachments: Sequence[Attachment]) -> None:
        self.express = tuple(one for one in attachments if one.line is not None)
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

    __slots__ = ("admitted", "ends", "refused", "taken", "writes")

    def __init__(self, kind: Kind, run: Run, gate: Gate) -> None:
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


class Express:
    """One per dispatcher. All of it is called within the tick in which the dispatcher asked the index."""

    def __init__(self, gate: Gate, recorder: Recorder) -> None:
        self._gate = gate
        self._recorder = recorder
        self._ids: dict[tuple[str, str, int], tuple[str, ...]] = {}

    def send(self, run: Run, rosters: Iterable[Roster]) -> int:
        """Hand a run over to all that have a line; answers how many."""
        layouts: dict[Kind, _Layout] = {}
        apart: list[tuple[Attachment, int]] = []
        broken: list[tuple[Attachment, Exception]] = []
        first, last = run[0].event.seq, run[-1].event.seq
        known: Kind | None = None
        writes: list[list[bytes]] = []
        taken: list[str] = []
        streams = 0
        for roster in rosters:
            streams += len(roster.express)
            for attachment in roster.express:
                line, kind = attachment.line, attachment.kind
                if kind is not known:
                    layout = self._layout(layouts, kind, run)
                    known, writes, taken = kind, layout.writes, layout.taken
                if line is None or attachment.since >= first:
                    apart.append((attachment, 0))
                    continue
                transport, flow, done = line.transport, line.flow, 0
                try:
                    for pieces in writes:
                        if flow.write_paused:
                            apart.append((attachment, done))
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
        for kind, layout in layouts.items():
            self._note(kind, layout)
        for attachment, done in apart:
            self._carry_on(attachment, run, layouts, done)
        for attachment, cause in broken:
            failed = TransportFailed(type(cause).__name__)
            failed.__cause__ = cause
            attachment.connection.fail(failed)
        return streams

    def _layout(self, layouts: dict[Kind, _Layout], kind: Kind | None, run: Run) -> _Layout:
        if kind is None:
            raise RuntimeError("an attachment without a kind has no line")
        layout = layouts.get(kind)
        if layout is None:
            layout = layouts[kind] = _Layout(kind, run, self._gate)
        return layout

    def _note(self, kind: Kind, layout: _Layout) -> None:
        """Note what became of the run for those that took all of it."""
        if not layout.taken:
            return
        wire, note = kind.framing.name, self._recorder.note_ids
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
        if len(self._ids) >= MAX_KNOWN_IDS:
            self._ids.clear()
        self._ids[name] = found
        return found

    def _carry_on(self, attachment: Attachment, run: Run, layouts: dict[Kind, _Layout], done: int) -> None:
        """Hand the rest over as entries, after `done` writes: the transport is paused, or it has some of it already."""
        layout = self._layout(layouts, attachment.kind, run)
        connection, ids, note = attachment.connection, (attachment.id,), self._recorder.note_ids
        upto = layout.ends[done - 1] if done else 0
        for parcel in layout.admitted[:upto]:
            note(parcel, connection.wire, Outcome.DELIVERED, ids)
            attachment.handed = parcel.event.seq
        for parcel in layout.refused:
            if parcel.event.seq > attachment.since:
                note(parcel, connection.wire, Outcome.REFUSED, ids)
        subscription, since = attachment.subscription, attachment.since
        rest = [Entry(parcel, [subscription]) for parcel in layout.admitted[upto:] if parcel.event.seq > since]
        if rest:
            connection.deliver(rest)
