"""The gate: the only "may this subscriber see this event?".

It is asked by the dispatcher and again whenever a frame that waited is about to be handed to a transport, and on
replay (SEEDS section 0, "Consent"). Answers come from memory, without waiting: `learn` reads the ledger's states
beforehand, `knows` tells whether that is needed. Every change of a tenant's ledger moves its `generation`, so that what
was admitted in the current generation need not be asked again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from clarion.clock import Clock
from clarion.model import ConsentState, Event, PurposeConsent, SubjectConsent, Subscription
from clarion.stores.protocols import Consents

__all__ = ["MAX_KNOWN_SUBJECTS", "TARGET", "Decision", "Gate", "Refusal", "decide", "is_for", "is_personal"]

MAX_KNOWN_SUBJECTS = 200_000
"""Subjects whose consent is kept in memory; the least recently learned go first. Stops a flood of subjects from
filling the memory."""

TARGET = "clarion.subscription_id"
"""The attribute of an event that is for one subscription alone."""

_UNKNOWN = SubjectConsent()


class Refusal(StrEnum):
    """Why an event is not shown to a subscriber."""

    AUDIENCE = "audience"
    EXPIRED = "expired"
    CONSENT = "consent"


@dataclass(frozen=True, slots=True)
class Decision:
    """What the ledger says: `state` is granted, withdrawn, pending, expired or unknown; `reason` one sentence."""

    allowed: bool
    reason: str
    state: str
    suppressed_by: str | None = None


def _state_of(line: PurposeConsent | None, now: int) -> str:
    if line is None:
        return "unknown"
    if line.expires_at is not None and line.expires_at <= now:
        return "expired"
    return line.state.value


def decide(consent: SubjectConsent, purpose: str | None, now: int) -> Decision:
    """May data of a subject with `consent` go to a subscription with `purpose` (None: no purpose named)?

    A suppression blocks everything. Without a purpose only a general withdrawal blocks. With one, only a grant for
    that very purpose passes; a general grant is no grant for a purpose. That a general withdrawal takes grants back
    is in `consent` already (see SubjectConsent).
    """
    general = consent.purposes.get(None)
    withdrawn = general is not None and general.state is ConsentState.WITHDRAWN
    state = _state_of(consent.purposes.get(purpose, general if withdrawn else None), now)
    if consent.suppressed_by is not None:
        return Decision(False, f"the subject is suppressed ({consent.suppressed_by})", state, consent.suppressed_by)
    if purpose is None:
        if withdrawn:
            return Decision(False, "the subject withdrew consent", state)
        return Decision(True, "no withdrawal is recorded", state)
    if state == ConsentState.GRANTED:
        return Decision(True, f"consent for {purpose} is granted", state)
    return Decision(False, f"consent for {purpose} is {state}, and only a grant for it passes", state)


def is_for(event: Event, subscription: Subscription) -> bool:
    """Is it for everyone who matches, or for this very subscription?"""
    attributes = event.attributes
    return not attributes or attributes.get(TARGET, subscription.id) == subscription.id


def is_personal(event: Event) -> bool:
    """Does it matter who asks, beside the purpose of the subscription?"""
    return event.audience is not None or (bool(event.attributes) and TARGET in event.attributes)


class Gate:
    """Asks the ledger on behalf of everything that sends. One per process and store."""

    def __init__(self, consents: Consents, clock: Clock, *, max_known: int = MAX_KNOWN_SUBJECTS) -> None:
        self._consents = consents
        self._clock = clock
        self._max_known = max_known
        self._known: OrderedDict[tuple[str, str], SubjectConsent] = OrderedDict()
        self._generations: dict[str, int] = {}
        self._overtaken: dict[object, set[tuple[str, str]]] = {}

    def generation(self, tenant: str) -> int:
        """Moves with every change of the tenant's ledger."""
        return self._generations.get(tenant, 0)

    def changed(self, tenant: str, subject: str) -> None:
        """The ledger has a new line: forget what was known of the subject and begin a new generation."""
        self._generations[tenant] = self.generation(tenant) + 1
        self._known.pop((tenant, subject), None)
        for overtaken in self._overtaken.values():
            overtaken.add((tenant, subject))

    def knows(self, events: Iterable[Event]) -> bool:
        """Can `admits` be answered for all of `events` without learning first?"""
        known = self._known
        return all((event.tenant, subject) in known for event in events for subject in event.subjects)

    async def learn(self, events: Iterable[Event]) -> None:
        """Read what the ledger says of the subjects of `events`, until `knows` holds for them.

        Raises StoreUnavailable when the ledger cannot be read: then nothing may be sent.
        """
        wanted = [(event.tenant, subject) for event in events for subject in event.subjects]
        while missing := [key for key in wanted if key not in self._known]:
            by_tenant: dict[str, set[str]] = {}
            for tenant, subject in missing:
                by_tenant.setdefault(tenant, set()).add(subject)
            for tenant, subjects in by_tenant.items():
                await self._read(tenant, subjects)
            while len(self._known) > max(self._max_known, len(wanted)):
                self._known.popitem(last=False)

    async def _read(self, tenant: str, subjects: set[str]) -> None:
        """Read these subjects' states, and believe them but for those whose ledger moved meanwhile."""
        reading, overtaken = object(), set[tuple[str, str]]()
        self._overtaken[reading] = overtaken
        try:
            states = await self._consents.states(tenant, subjects)
        finally:
            del self._overtaken[reading]
        for subject in subjects:
            if (tenant, subject) not in overtaken:
                self._known[tenant, subject] = states.get(subject, _UNKNOWN)

    def admits(self, event: Event, subject: str, purpose: str | None) -> Refusal | None:
        """None when the principal with `subject` may see `event` under `purpose`; else why not.

        A subject of whom nothing was learned refuses: the gate fails closed.
        """
        if event.audience is not None and subject not in event.audience:
            return Refusal.AUDIENCE
        if event.expires_at is None and not event.subjects:
            return None
        now = self._clock.now()
        if event.expires_at is not None and event.expires_at <= now:
            return Refusal.EXPIRED
        for name in event.subjects:
            consent = self._known.get((event.tenant, name))
            if consent is None or not decide(consent, purpose, now).allowed:
                return Refusal.CONSENT
        return None
