"""What the dispatcher's index holds: a subscription on a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeAlias
from weakref import WeakValueDictionary

from clarion.filters import compile_filter
from clarion.gate import Gate, Refusal, is_for
from clarion.hub.index import TopicIndex
from clarion.hub.protocols import Framing, Line
from clarion.hub.ring import Entry, Parcel
from clarion.model import Event, Subscription
from clarion.topics import glob

__all__ = ["Addressee", "Answers", "Attachment", "Kind", "Kinds", "Matcher", "Switchboard", "add_to", "asked"]

Answers: TypeAlias = dict[tuple[Parcel, str, str | None], Refusal | None]
"""What the gate said of (event, principal's subject, purpose) in this very tick: many streams ask the same."""


class Addressee(Protocol):
    """An open stream, as the dispatcher knows it."""

    @property
    def tenant(self) -> str: ...

    wire: str

    def deliver(self, entries: list[Entry]) -> None:
        """Take what was admitted in this very tick."""
        ...

    def overtaken(self, floor: int) -> None:
        """Retention let go of events up to `floor` before they were dispatched."""
        ...

    def fail(self, error: BaseException | None) -> None:
        """End for something that went wrong with it."""
        ...

    def ask(self, parcel: Parcel, subscription: Subscription, answers: Answers | None = None) -> Refusal | None:
        """What the gate says of the event for this subscription of the stream's viewer."""
        ...


class Kind:
    """What makes the writes of many attachments the same but for their mark; one object for each of them."""

    __slots__ = ("__weakref__", "around", "epoch", "framing", "purpose", "wire")

    def __init__(
        self, framing: Framing, around: Callable[[int], tuple[bytes, bytes]], epoch: str, purpose: str | None
    ) -> None:
        self.framing = framing
        self.around = around
        self.epoch = epoch
        self.purpose = purpose
        self.wire = framing.name


class Kinds:
    """The kinds that attachments are of right now."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: WeakValueDictionary[tuple[object, ...], Kind] = WeakValueDictionary()

    def of(self, subscription: Subscription, framing: Framing, line: Line, epoch: str) -> Kind:
        purpose = subscription.purpose
        key = (subscription.tenant, framing.kind, line.kind, epoch, purpose)
        kind = self._known.get(key)
        if kind is None:
            kind = self._known[key] = Kind(framing, line.around, epoch, purpose)
        return kind


class Attachment:
    """A subscription on a connection, as the dispatcher's index knows it. `since`: later events are its own.

    While it has a `line`, nothing stands between an event and the connection's transport, and the dispatcher writes
    there by itself (`hub/express.py`): frames of its `kind` differ in nothing but the `mark`. `handed` is the seq of
    the last event that it wrote. `alone`: the connection has no other, so that an event comes to it once at most.
    """

    __slots__ = ("alone", "connection", "handed", "id", "kind", "line", "mark", "since", "subscription")

    def __init__(self, connection: Addressee, subscription: Subscription, since: int) -> None:
        self.connection = connection
        self.subscription = subscription
        self.since = since
        self.id = subscription.id
        self.line: Line | None = None
        self.kind: Kind | None = None
        self.mark = b""
        self.alone = True
        self.handed = 0


class Switchboard(Protocol):
    """What a connection needs of the dispatcher: to join and leave its index, and to know where it stands."""

    def add(self, attachment: Attachment) -> None: ...

    def remove(self, attachment: Attachment) -> None: ...

    def changed(self, attachment: Attachment) -> None:
        """It has a line now, or none any more, or is no longer as alone as it was."""
        ...

    def position(self, tenant: str) -> int | None:
        """The seq of the tenant's last event that was dispatched; None when none was since the start."""
        ...


def asked(
    gate: Gate, parcel: Parcel, subject: str, subscription: Subscription, answers: Answers | None = None
) -> Refusal | None:
    """What the gate says of the event for a subscription of the principal with `subject`."""
    if not is_for(parcel.event, subscription):
        return Refusal.AUDIENCE
    if answers is None:
        return gate.admits(parcel.event, subject, subscription.purpose)
    key = (parcel, subject, subscription.purpose)
    if key not in answers:
        answers[key] = gate.admits(parcel.event, subject, subscription.purpose)
    return answers[key]


def add_to(index: TopicIndex[Attachment], attachments: Iterable[Attachment]) -> None:
    """Put attachments into an index under their subscriptions' patterns and filters."""
    for attachment in attachments:
        subscription = attachment.subscription
        # What was accepted at subscribe stays accepted: the schema that declared a key may have gone since.
        compiled = compile_filter(subscription.filter, lambda _key: True)
        index.add(attachment, [glob(pattern) for pattern in subscription.topics], compiled)


class Matcher:
    """Finds what a few attachments match in pages of the log."""

    __slots__ = ("_index",)

    def __init__(self, attachments: Iterable[Attachment]) -> None:
        self._index: TopicIndex[Attachment] = TopicIndex()
        add_to(self._index, attachments)

    def matching(self, events: Sequence[Event]) -> list[Entry]:
        """An entry for each event that one of them matches and that came after it began."""
        found = []
        for event in events:
            matched = [one.subscription for one in self._index.match(event) if event.seq > one.since]
            event.forget()
            if matched:
                found.append(Entry(Parcel(event), matched))
        return found
