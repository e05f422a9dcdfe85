"""What the dispatcher's index holds: a subscription on a stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeAlias

from clarion.filters import compile_filter
from clarion.gate import Gate, Refusal, is_for
from clarion.hub.index import TopicIndex
from clarion.hub.ring import Entry, Parcel
from clarion.model import Event, Subscription
from clarion.topics import glob

__all__ = ["Addressee", "Answers", "Attachment", "Matcher", "Switchboard", "add_to", "asked"]

Answers: TypeAlias = dict[tuple[Parcel, str, str | None], Refusal | None]
"""What the gate said of (event, principal's subject, purpose) in this very tick: many streams ask the same."""


class Addressee(Protocol):
    """An open stream, as the dispatcher knows it."""

    @property
    def tenant(self) -> str: ...

    wire: str
    is_sole: bool
    """It has one subscription, so an event comes to it once at most."""

    def take(self, parcel: Parcel, subscriptions: Sequence[Subscription]) -> bool:
        """Take one event that was admitted in this very tick, if nothing is in its way; the caller notes it then."""
        ...

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


class Attachment:
    """A subscription on a connection, as the dispatcher's index knows it. `since`: later events are its own."""

    __slots__ = ("alone", "connection", "id", "since", "subscription")

    def __init__(self, connection: Addressee, subscription: Subscription, since: int) -> None:
        self.connection = connection
        self.since = since
        self.id = subscription.id
        self.become(subscription)

    def become(self, subscription: Subscription) -> None:
        """The same subscription with another label or purpose."""
        self.subscription = subscription
        self.alone = (subscription,)


class Switchboard(Protocol):
    """What a connection needs of the dispatcher: to join and leave its index, and to know where it stands."""

    def add(self, attachment: Attachment) -> None: ...

    def remove(self, attachment: Attachment) -> None: ...

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
