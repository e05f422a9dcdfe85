"""What wires and the API ask of the hub by name; behind these stand the stores.

Subscriptions are announced to the open streams of their client, consent changes to everything that waits, topic
declarations to the catalog that filters and payloads are checked against. What is stored is announced, also when the
caller goes away in between: a client that hangs up cancels its request.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from clarion.catalog import NONE_DECLARED, Catalog, Declared
from clarion.clock import Clock
from clarion.completion import complete
from clarion.errors import InvalidConsent, InvalidInput, InvalidPattern, NotFound, StoreUnavailable
from clarion.filters import compile_filter
from clarion.gate import Decision, Gate, decide
from clarion.ids import Randomness, new_subscription_id
from clarion.logs import get_logger
from clarion.model import (
    ConsentEntry,
    ConsentState,
    Counters,
    Principal,
    SubjectConsent,
    Subscription,
    TopicDeclaration,
    normal_subject,
)
from clarion.schemas import Schema
from clarion.stores.protocols import Audit, Consents, DeliveryRow, Detach, SubscriptionLimits, Subscriptions, Topics
from clarion.topics import glob

__all__ = [
    "COST_PER_DELIVERY_CENTS",
    "ConsentRequest",
    "ConsentService",
    "DeliveryService",
    "SubscriptionService",
    "TopicRule",
    "TopicRules",
    "TopicService",
    "check_name",
    "check_subject",
    "cost_cents",
]

COST_PER_DELIVERY_CENTS = 0.01
"""What one delivery is estimated to cost (SEEDS section 0: one INSERT and one UPDATE, about 0.01 cent)."""

MAX_RULES = 4_096
"""Topics of a tenant whose rule is remembered. Stops a publisher that makes up topics from filling the memory."""

MAX_PATTERNS = 32
"""Patterns of one subscription. Bounds what one index entry can cost."""

MAX_NAME_LENGTH = 256
"""Characters of a client id, label, purpose, subject or actor. Stops identifiers from carrying payloads."""

MAX_PROOF_LENGTH = 4096
"""Characters of a consent line's proof."""

logger = get_logger("clarion.services")

SUPPRESSION_REASONS = ("bounce", "complaint", "stop", "admin", "legal")


def check_name(value: object, field: str, *, limit: int = MAX_NAME_LENGTH) -> str:
    """`value` when it is 1 to `limit` printable characters; raises InvalidInput naming `field`."""
    if not isinstance(value, str) or not value.strip():
        raise InvalidInput(f"{field} must be a non-empty string", field=field, rule="non-empty")
    if len(value) > limit:
        raise InvalidInput(
            f"{field} has {len(value)} characters; at most {limit} are allowed", field=field, rule="length"
        )
    if not value.isprintable():
        raise InvalidInput(f"{field} must not contain control characters", field=field, rule="printable")
    return value


def check_subject(value: object, field: str = "subject") -> str:
    """A data subject's name as ledger and events keep it (see `normal_subject`); raises InvalidInput naming `field`."""
    return check_name(normal_subject(value, field) if isinstance(value, str) else value, field)


@dataclass(frozen=True, slots=True)
class TopicRule:
    """What a tenant's declarations say of one topic: its category, and the schema that its payloads must keep."""

    category: str
    schema: Schema | None


class TopicRules:
    """The rules of one tenant's declarations as they are, each found once."""

    __slots__ = ("_catalog", "_declared", "_found")

    def __init__(self, catalog: Catalog, declared: Declared) -> None:
        self._catalog = catalog
        self._declared = declared
        self._found: dict[str, TopicRule] = {}

    def found(self, topic: str) -> TopicRule | None:
        """The rule of a topic that was asked for before, which so is a valid one; else None."""
        return self._found.get(topic)

    def of(self, topic: str) -> TopicRule:
        """The rule of a valid topic. Raises StoreUnavailable when the declarations could not be read."""
        speaks = self._catalog.find(topic, self._declared)
        own = speaks is not None and speaks.schema and self._declared.get(speaks.pattern) is speaks
        schema = self._declared.schema_of(speaks) if speaks is not None and own else None
        rule = TopicRule(self._catalog.category_of(topic, self._declared), schema)
        if len(self._found) >= MAX_RULES:
            self._found.clear()
        self._found[topic] = rule
        return rule


class _NoRules(TopicRules):
    """The declarations cannot be read: whatever depends on them fails, and nothing before that."""

    __slots__ = ("_error",)

    def __init__(self, catalog: Catalog, error: StoreUnavailable) -> None:
        super().__init__(catalog, NONE_DECLARED)
        self._error = error

    def of(self, topic: str) -> TopicRule:
        raise self._error


class TopicService:
    """The catalog as one tenant sees it."""

    def __init__(self, store: Topics, catalog: Catalog, *, limit: int) -> None:
        self._store = store
        self._catalog = catalog
        self._limit = limit
        self._declared: dict[str, Declared] = {}
        self._rules: dict[str, TopicRules] = {}
        self._changes = 0
        self._watchers: dict[str, dict[object, Callable[[], None]]] = {}

    async def declared(self, tenant: str) -> Declared:
        """The tenant's own declarations; kept in memory, since this process alone changes them."""
        known = self._declared.get(tenant)
        while known is None:
            changes = self._changes
            known = Declared(await self._store.of_tenant(tenant))
            if changes == self._changes:  # else a declaration came while this was read: it may be old
                self._declared[tenant] = known
            else:
                known = self._declared.get(tenant)
        return known

    async def declare(
        self,
        tenant: str,
        pattern: str,
        *,
        category: str | None,
        description: str,
        schema: Mapping[str, Any],
        filter_examples: Sequence[Mapping[str, Any]],
    ) -> TopicDeclaration:
        """Check and store a declaration. Raises InvalidTopic, InvalidSchema, InvalidFilter, LimitExceeded."""
        declaration = self._catalog.check_declaration(pattern, category, description, schema, filter_examples)
        await complete(self._put(tenant, declaration))
        return declaration

    async def _put(self, tenant: str, declaration: TopicDeclaration) -> None:
        try:
            await self._store.put(tenant, declaration, limit=self._limit)
        finally:  # also after an error: a commit may have happened whose success could not be told
            self._changes += 1
            self._declared.pop(tenant, None)
            self._rules.pop(tenant, None)
        for changed in list(self._watchers.get(tenant, {}).values()):
            changed()

    def watch(self, tenant: str, changed: Callable[[], None]) -> Detach:
        """Call `changed` after each declaration of the tenant, until the answer is called."""
        token = object()
        self._watchers.setdefault(tenant, {})[token] = changed

        def detach() -> None:
            watchers = self._watchers.get(tenant, {})
            watchers.pop(token, None)
            if not watchers:
                self._watchers.pop(tenant, None)

        return detach

    async def named(self, tenant: str, pattern: str) -> TopicDeclaration | None:
        """The declaration of exactly this topic or family; None when there is none."""
        return self._catalog.named(pattern, await self.declared(tenant))

    async def listing(self, tenant: str, category: str | None) -> list[TopicDeclaration]:
        """The catalog, or one category of it. Raises InvalidInput that lists the categories."""
        return self._catalog.listing(category, await self.declared(tenant))

    def known_rules(self, tenant: str) -> TopicRules | None:
        """What `rules` answers, when nothing must be read for it."""
        return self._rules.get(tenant)

    async def rules(self, tenant: str) -> TopicRules:
        """The tenant's rules as they are now. When they cannot be read, it is `TopicRules.of` that says so."""
        try:
            declared = await self.declared(tenant)
        except StoreUnavailable as error:
            return _NoRules(self._catalog, error)
        rules = self._rules.get(tenant)
        if rules is None:
            rules = TopicRules(self._catalog, declared)
            if self._declared.get(tenant) is declared:
                self._rules[tenant] = rules
        return rules

    async def unknown(self, tenant: str, patterns: Sequence[str]) -> dict[str, str | None]:
        """The patterns that no known topic can match, each with the name that may have been meant."""
        return self._catalog.unknown(patterns, await self.declared(tenant))

    async def declared_keys(self, tenant: str, patterns: Sequence[str]) -> Callable[[str], bool]:
        return self._catalog.declared_keys(patterns, await self.declared(tenant))


class Streams(Protocol):
    """The open streams, as the services announce changes to them."""

    def subscribed(self, subscription: Subscription, *, since: int | None) -> None: ...

    def unsubscribed(self, subscription: Subscription) -> None: ...

    async def consent_changed(self, tenant: str, subject: str) -> None: ...

    async def head(self, tenant: str) -> int: ...


class SubscriptionService:
    """Standing subscriptions of (tenant, principal, client). An id of anyone else is "not found"."""

    def __init__(
        self,
        store: Subscriptions,
        topics: TopicService,
        streams: Streams,
        clock: Clock,
        randomness: Randomness,
        *,
        limits: SubscriptionLimits,
    ) -> None:
        self._store = store
        self._topics = topics
        self._streams = streams
        self._clock = clock
        self._randomness = randomness
        self._limits = limits

    async def subscribe(
        self,
        principal: Principal,
        client_id: str,
        topics: Sequence[str],
        filter: Mapping[str, Any] | None = None,
        *,
        label: str | None = None,
        purpose: str | None = None,
    ) -> Subscription:
        """Idempotent on (client, set of topics, filter); label and purpose update in place.

        Everything is checked before anything is stored. Raises InvalidPattern, InvalidFilter, InvalidInput,
        LimitExceeded. Open streams of the client deliver what is emitted from now on.
        """
        check_name(client_id, "client_id")
        if label is not None:
            check_name(label, "client_label")
        if purpose is not None:
            check_name(purpose, "consent_purpose")
        patterns = _patterns(topics)
        wanted = dict(filter or {})
        compile_filter(wanted, await self._topics.declared_keys(principal.tenant, patterns))
        now = self._clock.now()
        head = await self._streams.head(principal.tenant)
        wish = Subscription(
            id=new_subscription_id(self._randomness),
            tenant=principal.tenant,
            subject=principal.subject,
            client_id=client_id,
            topics=patterns,
            filter=wanted,
            label=label,
            purpose=purpose,
            created_at=now,
            updated_at=now,
        )
        return await complete(self._put(wish, head))

    async def _put(self, wish: Subscription, head: int) -> Subscription:
        subscription, activated = await self._store.put(wish, limits=self._limits)
        self._streams.subscribed(subscription, since=head if activated else None)
        return subscription

    async def unsubscribe(self, principal: Principal, subscription_id: str) -> Subscription:
        """Soft-delete; nothing more is pushed once this returns. Raises NotFound, also for one that was deleted so long
        ago that more than the limit of deleted ones came after it."""
        return await complete(self._delete(principal, subscription_id))

    async def _delete(self, principal: Principal, subscription_id: str) -> Subscription:
        found = await self._store.delete(
            principal.tenant, principal.subject, subscription_id, self._clock.now(), limits=self._limits
        )
        if found is None:
            raise NotFound(f"no subscription {subscription_id!r}; list_subscriptions shows yours")
        self._streams.unsubscribed(found)
        return found

    async def of_client(
        self, principal: Principal, client_id: str, *, include_deleted: bool = False
    ) -> list[Subscription]:
        check_name(client_id, "client_id")
        return await self._store.of_client(
            principal.tenant, principal.subject, client_id, include_deleted=include_deleted
        )

    async def of_tenant(
        self, tenant: str, *, include_deleted: bool, limit: int, after_id: str | None
    ) -> list[Subscription]:
        """For administration."""
        return await self._store.of_tenant(tenant, include_deleted=include_deleted, limit=limit, after_id=after_id)

    async def count(self, tenant: str) -> tuple[int, int]:
        """Active and deleted."""
        return await self._store.count(tenant)


def _patterns(topics: Sequence[str]) -> tuple[str, ...]:
    if isinstance(topics, str) or not topics:
        raise InvalidPattern(
            'topic must be a non-empty list of patterns, such as ["deal.*"]', field="topic", rule="list"
        )
    if len(topics) > MAX_PATTERNS:
        raise InvalidPattern(
            f"topic lists {len(topics)} patterns; at most {MAX_PATTERNS} are allowed", field="topic", rule="count"
        )
    return tuple(dict.fromkeys(glob(pattern).text for pattern in topics))


@dataclass(frozen=True, slots=True)
class ConsentRequest:
    """A line for the ledger, as asked for."""

    subject: str
    state: str
    purpose: str | None = None
    reason: str | None = None
    actor: str | None = None
    proof: str | None = None
    expires_at: int | None = None


class ConsentService:
    """The ledger. `record` returns once nothing that waits in this process can be sent against the new line."""

    def __init__(self, store: Consents, gate: Gate, streams: Streams, clock: Clock) -> None:
        self._store = store
        self._gate = gate
        self._streams = streams
        self._clock = clock

    async def record(self, tenant: str, request: ConsentRequest) -> ConsentEntry:
        """Append a line, then gate anew all that waits. Raises InvalidConsent, StoreUnavailable."""
        return await complete(self._append(_consent_entry(tenant, request, self._clock.now())))

    async def _append(self, entry: ConsentEntry) -> ConsentEntry:
        try:
            stored = await self._store.append(entry)
        finally:  # also after an error: a commit may have happened whose success could not be told
            self._gate.changed(entry.tenant, entry.subject)
        try:
            await self._streams.consent_changed(entry.tenant, entry.subject)
        except StoreUnavailable as error:
            # The line is stored. The gate has forgotten the subject, and all that waits asks it before it is sent.
            logger.warning("regating_put_off", reason=error.message)
        return stored

    async def check(self, tenant: str, subject: str, purpose: str | None) -> Decision:
        """What the gate would say of data of `subject` for a subscription with `purpose`."""
        subject = check_subject(subject)
        if purpose is not None:
            check_name(purpose, "purpose")
        states = await self._store.states(tenant, [subject])
        return decide(states.get(subject, SubjectConsent()), purpose, self._clock.now())

    async def history(self, tenant: str, subject: str, *, limit: int) -> list[ConsentEntry]:
        return await self._store.history(tenant, check_subject(subject), limit=limit)


def _consent_entry(tenant: str, request: ConsentRequest, now: int) -> ConsentEntry:
    try:
        state = ConsentState(request.state)
    except ValueError:
        known = ", ".join(ConsentState)
        raise InvalidConsent(f"state must be one of {known}", field="state", rule="enum") from None
    subject = check_subject(request.subject)
    for field, limit in (("purpose", MAX_NAME_LENGTH), ("reason", MAX_NAME_LENGTH), ("actor", MAX_NAME_LENGTH),
                         ("proof", MAX_PROOF_LENGTH)):  # fmt: skip
        if getattr(request, field) is not None:
            check_name(getattr(request, field), field, limit=limit)
    reason = request.reason
    if state in (ConsentState.SUPPRESSED, ConsentState.RELEASED):
        if request.purpose is not None:
            raise InvalidConsent(
                f"a {state} line concerns every purpose; leave purpose out", field="purpose", rule="suppression"
            )
        if state is ConsentState.SUPPRESSED:
            reason = reason or "admin"
            if reason not in SUPPRESSION_REASONS:
                known = ", ".join(SUPPRESSION_REASONS)
                raise InvalidConsent(f"the reason of a suppression is one of {known}", field="reason", rule="enum")
    if request.expires_at is not None:
        if state not in (ConsentState.GRANTED, ConsentState.PENDING):
            raise InvalidConsent(
                "expires_at goes with granted or pending; a withdrawal or suppression lasts until it is lifted",
                field="expires_at",
                rule="state",
            )
        if request.expires_at <= now:
            raise InvalidConsent("expires_at lies in the past", field="expires_at", rule="future")
    return ConsentEntry(
        tenant=tenant,
        subject=subject,
        state=state,
        recorded_at=now,
        purpose=request.purpose,
        reason=reason,
        actor=request.actor,
        proof=request.proof,
        expires_at=request.expires_at,
    )


class DeliveryService:
    """What was delivered, dropped and refused, as counters and as rows."""

    def __init__(self, audit: Audit) -> None:
        self._audit = audit

    async def counters(self, tenant: str, subscription_ids: Collection[str]) -> Mapping[str, Counters]:
        return await self._audit.counters(tenant, subscription_ids)

    async def totals(self, tenant: str) -> Counters:
        return await self._audit.totals(tenant)

    async def rows(self, tenant: str, *, subscription_id: str | None = None, limit: int) -> list[DeliveryRow]:
        """Newest first, everything until now included."""
        await self._audit.flush()
        return await self._audit.rows(tenant, subscription_id=subscription_id, limit=limit)


def cost_cents(deliveries: int) -> float:
    """The estimated cost of so many deliveries, in cents."""
    return round(deliveries * COST_PER_DELIVERY_CENTS, 4)
