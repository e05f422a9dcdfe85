"""The short way from the dispatcher to a transport: one write for all that a batch has for a stream.

Most streams have one subscription, take what they are given, and differ from others with the same patterns and filter
in nothing but an id within each frame. For those the bytes of a batch are laid out once, as pieces between which the id
goes, and a stream costs one `join` and one `write`, however many events there are. Who is not like that, or not just
now, is handed entries instead (`Connection.deliver`).

From the gate's answer to the transport there is no await, so that nothing can change in between.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TypeAlias

from clarion.gate import Gate
from clarion.hub.attachment import Attachment, Kind
from clarion.hub.index import Group
from clarion.hub.outlet import WRITE_CHUNK, TransportFailed
from clarion.hub.recorder import Recorder
from clarion.hub.ring import Entry, Parcel
from clarion.model import Outcome

__all__ = ["Express", "Ride", "Riders", "Roster", "Run"]

MAX_REMEMBERED = 200_000
"""Ids of subscriptions that are remembered from one run to the next, so that the audit meets the same tuple again.
Bounds the memory that this takes."""

Run: TypeAlias = tuple[Parcel, ...]
"""Events of one tenant that all match the same groups, in the order of the log."""

Riders: TypeAlias = dict[Kind, list[Sequence[Attachment]]]
"""Attachments that have a line, each of another connection, by their kind."""


class Roster:
    """A group's attachments: those with a line that are alone on their connection, by kind; those with a line that are
    not alone; and those without a line."""

    __slots__ = ("alone", "regular", "sharing", "size")

    def __init__(self, attachments: Sequence[Attachment]) -> None:
        self.size = len(attachments)
        self.regular = tuple(one for one in attachments if one.line is None)
        self.sharing = tuple(one for one in attachments if one.line is not None and not one.alone)
        self.alone: dict[Kind, list[Attachment]] = {}
        for one in attachments:
            if one.line is not None and one.alone and one.kind is not None:
                self.alone.setdefault(one.kind, []).append(one)

    @classmethod
    def of(cls, group: Group[Attachment]) -> Roster:
        """Remembered by the group until its attachments change."""
        known: Roster | None = group.memo
        if known is None:
            known = group.memo = cls(list(group.targets))
        return known


class _Frames:
    """Events as streams of one kind get them: the pieces of each write, between which a stream's mark goes."""

    __slots__ = ("_halves", "_kind", "_sized", "ends")

    def __init__(self, kind: Kind, parcels: Sequence[Parcel]) -> None:
        """Raises what the framing raises."""
        self._kind = kind
        self._halves = [kind.framing.halves(parcel, parcel.position(kind.epoch)) for parcel in parcels]
        self._sized: dict[int, list[list[bytes]]] = {}
        self.ends: list[int] = []
        """How many of the events have left with each write."""
        size = 0
        for end, (before, after) in enumerate(self._halves):
            weight = len(before) + len(after)
            if size and size + weight > WRITE_CHUNK:
                self.ends.append(end)
                size = 0
            size += weight
        if self._halves:
            self.ends.append(len(self._halves))

    def pieces(self, mark_size: int) -> list[list[bytes]]:
        """For marks of that many bytes."""
        known = self._sized.get(mark_size)
        if known is None:
            begins = (0, *self.ends)
            known = self._sized[mark_size] = [
                self._joined(self._halves[begin:end], mark_size) for begin, end in zip(begins, self.ends, strict=False)
            ]
        return known

    def _joined(self, halves: Sequence[tuple[bytes, bytes]], mark_size: int) -> list[bytes]:
        size = sum(len(before) + mark_size + len(after) for before, after in halves)
        opening, closing = self._kind.around(size)
        pieces = []
        for before, after in halves:
            pieces.append(opening + before)
            opening = after
        pieces.append(opening + closing)
        return pieces


class Ride:
    """A run for its riders, with what the gate says of it: nothing is handed over yet, and nothing is framed."""

    __slots__ = ("admitted", "refused", "riders", "run", "streams")

    def __init__(self, run: Run, riders: Riders, gate: Gate) -> None:
        """Raises what the gate raises."""
        self.run = run
        self.riders = riders
        self.streams = sum(len(some) for each in riders.values() for some in each)
        self.admitted: dict[str | None, list[Parcel]] = {}
        self.refused: dict[str | None, list[Parcel]] = {}
        for purpose in {kind.purpose for kind in riders}:
            admitted: list[Parcel] = []
            refused: list[Parcel] = []
            for parcel in run:
                # Nothing of the viewer matters: what has an audience, or is for one subscription, goes another way.
                refusal = gate.admits(parcel.event, "", purpose) if parcel.guarded else None
                (admitted if refusal is None else refused).append(parcel)
            self.admitted[purpose], self.refused[purpose] = admitted, refused


class Express:
    """One per dispatcher. All of it is called within the tick in which the dispatcher asked the index."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._ids: dict[tuple[str, str, int], tuple[str, ...]] = {}
        self._remembered = 0

    def send(self, ride: Ride) -> None:
        """Hand a run over to all of its riders, one kind after the other: so only one is framed at a time."""
        for kind, riders in ride.riders.items():
            self._send(kind, riders, ride)

    def _send(self, kind: Kind, riders: Iterable[Sequence[Attachment]], ride: Ride) -> None:
        admitted, refused = ride.admitted[kind.purpose], ride.refused[kind.purpose]
        first, last = ride.run[0].event.seq, ride.run[-1].event.seq
        try:
            frames = _Frames(kind, admitted)
        except Exception as error:  # it ends the streams of this kind, and nobody else's
            for attachment in chain.from_iterable(riders):
                attachment.connection.fail(error)
            return
        size = -1
        writes: list[list[bytes]] = []
        taken: list[str] = []
        apart: list[tuple[Attachment, int, Exception | None]] = []
        for attachment in chain.from_iterable(riders):
            line, mark = attachment.line, attachment.mark
            if line is None or attachment.since >= first:
                apart.append((attachment, 0, None))
                continue
            if len(mark) != size:
                size = len(mark)
                writes = frames.pieces(size)
            transport, flow, done = line.transport, line.flow, 0
            try:
                for pieces in writes:
                    if flow.write_paused:
                        apart.append((attachment, done, None))
                        break
                    if transport.is_closing():
                        raise ConnectionResetError("the connection is gone")
                    transport.write(mark.join(pieces))
                    done += 1
                else:
                    attachment.handed = last
                    taken.append(attachment.id)
            except Exception as error:
                apart.append((attachment, done, error))
        if taken:
            ids = self._same(kind.wire, taken)
            self._note(kind.wire, admitted, Outcome.DELIVERED, ids)
            self._note(kind.wire, refused, Outcome.REFUSED, ids)
        for attachment, done, cause in apart:
            upto = frames.ends[done - 1] if done else 0
            self._carry_on(attachment, ride, upto, cause)

    def _note(self, wire: str, parcels: Iterable[Parcel], outcome: Outcome, ids: Sequence[str]) -> None:
        for parcel in parcels:
            self._recorder.note_ids(parcel, wire, outcome, ids)

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

    def _carry_on(self, attachment: Attachment, ride: Ride, upto: int, cause: Exception | None) -> None:
        """Note the `upto` events that were written, and hand the rest over as entries: the transport is paused, or the
        stream has some of it already. With a `cause` the connection is gone, and the stream ends."""
        connection, subscription, since = attachment.connection, attachment.subscription, attachment.since
        admitted, refused = ride.admitted[subscription.purpose], ride.refused[subscription.purpose]
        ids, wire = (attachment.id,), connection.wire
        self._note(wire, admitted[:upto], Outcome.DELIVERED, ids)
        if upto:
            attachment.handed = admitted[upto - 1].event.seq
        if cause is not None:
            failed = TransportFailed(type(cause).__name__)
            failed.__cause__ = cause
            connection.fail(failed)
            return
        self._note(wire, (parcel for parcel in refused if parcel.event.seq > since), Outcome.REFUSED, ids)
        rest = [Entry(parcel, [subscription]) for parcel in admitted[upto:] if parcel.event.seq > since]
        if rest:
            connection.deliver(rest)
