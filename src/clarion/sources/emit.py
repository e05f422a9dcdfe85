"""emit: the one way into the log. Checks everything first, then appends, and returns when the event is durable."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import field
from itertools import islice
from typing import Any

from clarion.clock import Clock, SystemClock
from clarion.encoding import digest, encode
from clarion.errors import ClarionError, Conflict, InvalidEvent, InvalidInput, InvalidTopic, PayloadTooLarge
from clarion.hub.hub import Hub
from clarion.hub.services import TopicRules, check_subject
from clarion.ids import EventIds, Randomness
from clarion.model import MICROSECONDS, Draft, Position, Principal, normal_subject, parse_time, record
from clarion.stores.protocols import Appended, ConflictingEvent
from clarion.topics import check_topic

__all__ = ["MAX_PAYLOAD_BYTES", "PRIORITIES", "Emission", "Emitter", "Receipt"]

MAX_PAYLOAD_BYTES = 240 * 1024
"""Bytes of a payload as stored. With its envelope an event stays below the 256 KiB that webhooks may carry."""

MAX_FIELD_LENGTH = 256
"""Characters of an id or name in the envelope. Stops the envelope from carrying payloads past their limit."""

MAX_SUBJECTS = 64
"""Data subjects of one event: each is asked about in the ledger."""

MAX_AUDIENCE = 1_000
"""Principals that an event can be limited to."""

MAX_ATTRIBUTE_BYTES = 4 * 1024
"""Bytes of an event's attributes."""

MAX_CLOCK_SKEW = 366 * 86_400 * MICROSECONDS
"""How far ahead `occurred_at` may lie; more is a unit mistaken for another."""

FIRST_MOMENT, LAST_MOMENT = parse_time("0001-01-01"), parse_time("9999-12-31T23:59:59.999999")
"""The times that can be written as ISO 8601: a stored event with another could not be framed, ever."""

STRETCH_BYTES = 256 * 1024
"""Bytes of payloads that are checked before everything else gets a turn: 10 to 20 ms."""

EVENT_BYTES = 256
"""How many bytes the rest of an event counts as."""

PRIORITIES = ("low", "normal", "high", "urgent")

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@record(frozen=True, slots=True)
class Emission:
    """An event as its emitter gives it; times in microseconds. What is None is filled in or left out."""

    topic: str
    payload: Mapping[str, Any]
    event_id: str | None = None
    source: str = "api"
    aggregate_type: str | None = None
    aggregate_id: str | None = None
    actor_id: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    audience: Sequence[str] | None = None
    priority: str = "normal"
    key: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    subjects: Sequence[str] = ()
    occurred_at: int | None = None
    expires_at: int | None = None
    finite: bool = False
    """Payload and attributes are known to hold finite numbers only, as what was decoded from JSON does."""


@record(frozen=True, slots=True)
class Receipt:
    """The event is durable at `position`. `duplicate`: it was already, and this emit changed nothing."""

    event_id: str
    topic: str
    position: Position
    duplicate: bool


class Emitter:
    """Emits into one hub, for whoever the caller says that it is."""

    def __init__(
        self,
        hub: Hub,
        *,
        clock: Clock | None = None,
        randomness: Randomness = secrets.token_bytes,
        max_payload_bytes: int = MAX_PAYLOAD_BYTES,
    ) -> None:
        self._hub = hub
        self._clock = clock or SystemClock()
        self._new_id = EventIds(randomness)
        self._max_payload = min(max_payload_bytes, MAX_PAYLOAD_BYTES)

    def check_credential(self, credential: str) -> None:
        """Raises Forbidden when it was revoked since its request came in: see `Hub.check_credential`."""
        self._hub.check_credential(credential)

    async def emit(self, principal: Principal, emission: Emission) -> Receipt:
        """Append one event to the principal's tenant.

        Raises InvalidTopic, InvalidEvent, PayloadTooLarge, Conflict (the id is taken by other content) or
        StoreUnavailable; after any of them nothing was stored.
        """
        topics = self._hub.topics
        rules = topics.known_rules(principal.tenant) or await topics.rules(principal.tenant)
        draft = self._draft(principal, emission, rules, self._clock.now())
        (appended,) = await self._hub.append((draft,))
        outcome = _receipt(draft, appended)
        if isinstance(outcome, ClarionError):
            raise outcome
        return outcome

    async def emit_many(self, principal: Principal, emissions: Sequence[Emission]) -> list[Receipt | ClarionError]:
        """Append those that are valid in one transaction; answers stand in the order of `emissions`.

        Raises StoreUnavailable, and then none was stored.
        """
        drafted = await self._drafts(principal, emissions)
        drafts = [draft for draft in drafted if isinstance(draft, Draft)]
        appended = iter(await self._hub.append(drafts) if drafts else ())
        return [_receipt(one, next(appended)) if isinstance(one, Draft) else one for one in drafted]

    async def _drafts(self, principal: Principal, emissions: Sequence[Emission]) -> list[Draft | ClarionError]:
        """The draft of each emission, by the rules that hold when this returns, or why there is none."""
        topics, tenant, count = self._hub.topics, principal.tenant, len(emissions)
        drafted: list[Draft | ClarionError] = []
        checked: dict[range, TopicRules] = {}
        """By which rules the drafts are made that stand there."""
        while True:
            rules = topics.known_rules(tenant) or await topics.rules(tenant)
            stale = [span for span, by in checked.items() if by is not rules]  # a topic was declared meanwhile
            if stale:
                span = stale.pop()
                self._draft_again(principal, emissions, drafted, span, rules)
            else:
                span = self._draft_more(principal, emissions, drafted, rules)
            if any(isinstance(drafted[place], Draft) for place in span):
                checked[span] = rules
            else:
                checked.pop(span, None)
            if not stale and len(drafted) == count:
                return drafted
            await asyncio.sleep(0)

    def _draft_more(
        self,
        principal: Principal,
        emissions: Sequence[Emission],
        drafted: list[Draft | ClarionError],
        rules: TopicRules,
    ) -> range:
        """Draft what comes next, as much as one turn may take; answers where it stands."""
        begin, stretch, now = len(drafted), 0, self._clock.now()
        for emission in islice(emissions, begin, None):
            try:
                draft = self._draft(principal, emission, rules, now)
                drafted.append(draft)
                stretch += EVENT_BYTES + len(draft.payload_json)
            except ClarionError as error:
                drafted.append(error)
                stretch += STRETCH_BYTES // 8  # its size is not known: it may have been refused for that
            if stretch > STRETCH_BYTES:
                break
        return range(begin, len(drafted))

    def _draft_again(
        self,
        principal: Principal,
        emissions: Sequence[Emission],
        drafted: list[Draft | ClarionError],
        span: range,
        rules: TopicRules,
    ) -> None:
        now = self._clock.now()
        for place in span:
            if isinstance(drafted[place], Draft):
                try:
                    drafted[place] = self._draft(principal, emissions[place], rules, now)
                except ClarionError as error:
                    drafted[place] = error

    def _draft(self, principal: Principal, emission: Emission, rules: TopicRules, now: int) -> Draft:
        """The draft of an emission, once everything about it is known to hold. Nothing is waited for in here."""
        topic = emission.topic
        if not isinstance(topic, str):
            raise InvalidTopic("topic must be a string", field="topic", rule="string")
        rule = rules.found(topic)
        if rule is None:
            check_topic(topic)
        payload = emission.payload
        if not isinstance(payload, dict):
            raise InvalidEvent("payload must be a JSON object", field="payload", rule="object")
        payload_json = _encode(payload, "payload", emission.finite)
        if len(payload_json) > self._max_payload:
            raise self._too_large(payload_json)
        _check_envelope(emission, now)
        if rule is None:
            rule = rules.of(topic)
        if rule.schema is not None:
            rule.schema.validate(payload)
        audience, subjects, occurred_at = emission.audience, emission.subjects, emission.occurred_at
        return Draft(
            principal.tenant,
            emission.source,
            emission.event_id or self._new_id(now),
            topic,
            rule.category,
            payload_json,
            _digest([
                topic, payload, emission.aggregate_type, emission.aggregate_id, emission.actor_id,
                emission.correlation_id, emission.causation_id, audience, emission.priority, emission.key,
                emission.attributes, subjects, occurred_at, emission.expires_at,
            ]),
            now,
            now if occurred_at is None else occurred_at,
            principal.subject,
            emission.aggregate_type,
            emission.aggregate_id,
            emission.actor_id,
            emission.correlation_id,
            emission.causation_id,
            None if audience is None else tuple(audience),
            emission.priority,
            emission.key,
            emission.attributes,
            tuple(dict.fromkeys(normal_subject(one) for one in subjects)) if subjects else (),
            emission.expires_at,
        )  # fmt: skip

    def _too_large(self, payload_json: bytes) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"the payload has {len(payload_json)} bytes as stored; at most {self._max_payload} are allowed. "
            "Store the rest elsewhere and put a link into the payload",
            field="payload",
            details={"limit": "payload_bytes", "max": self._max_payload},
        )


def _encode(value: Mapping[str, Any], field: str, finite: bool) -> bytes:
    try:
        return encode(value, field=field, finite=finite)
    except InvalidInput as error:
        raise InvalidEvent(error.message, field=error.field, rule=error.rule) from None


def _digest(content: list[Any]) -> bytes:
    try:
        return digest(content)
    except TypeError:  # each part could be written by itself: what is too much is the nesting of all
        raise InvalidEvent("payload and attributes nest too deeply", field="payload", rule="json") from None


def _receipt(draft: Draft, outcome: Appended | ConflictingEvent) -> Receipt | ClarionError:
    if isinstance(outcome, ConflictingEvent):
        return Conflict(
            f"event id {draft.event_id!r} of source {draft.source!r} was already recorded with other content; "
            "send the same content again, or choose a new id",
            field="event_id",
            details={"event_id": draft.event_id, "seq": outcome.seq},
        )
    return Receipt(draft.event_id, draft.topic, Position(outcome.epoch, outcome.seq), outcome.duplicate)


def _check_envelope(emission: Emission, now: int) -> None:
    for value in (
        emission.source, emission.event_id, emission.aggregate_type, emission.aggregate_id, emission.actor_id,
        emission.correlation_id, emission.causation_id, emission.key,
    ):  # fmt: skip
        if value is not None and (
            type(value) is not str
            or not 0 < len(value) <= MAX_FIELD_LENGTH
            or not value.isascii()
            or not value.isprintable()
        ):  # nearly all are printable ASCII, which is settled by this
            _check_names(emission)
            break
    if emission.subjects != ():
        _check_subjects(emission.subjects)
    if emission.audience is not None:
        _check_texts(emission.audience, "audience", MAX_AUDIENCE)
    if emission.priority not in PRIORITIES:
        raise InvalidEvent(f"priority must be one of {', '.join(PRIORITIES)}", field="priority", rule="enum")
    if not isinstance(emission.attributes, dict):
        raise InvalidEvent("attributes must be a JSON object", field="attributes", rule="object")
    if emission.attributes:
        size = len(_encode(emission.attributes, "attributes", emission.finite))
        if size > MAX_ATTRIBUTE_BYTES:
            raise InvalidEvent(
                f"attributes have {size} bytes; at most {MAX_ATTRIBUTE_BYTES} are allowed", field="attributes",
                rule="length",
            )  # fmt: skip
    if emission.occurred_at is not None or emission.expires_at is not None:
        _check_moments(emission, now)


def _check_moments(emission: Emission, now: int) -> None:
    _check_moment(emission.occurred_at, "occurred_at")
    _check_moment(emission.expires_at, "expires_at")
    if emission.occurred_at is not None and emission.occurred_at > now + MAX_CLOCK_SKEW:
        raise InvalidEvent("occurred_at lies more than a year ahead", field="occurred_at", rule="future")
    if emission.expires_at is not None and emission.expires_at <= now and emission.event_id is None:
        # With an id it may be a retry of what was stored in time; if it is not, the gate lets nobody have it.
        raise InvalidEvent("expires_at lies in the past", field="expires_at", rule="future")


def _check_names(emission: Emission) -> None:
    for name in (
        "event_id", "source", "aggregate_type", "aggregate_id", "actor_id", "correlation_id", "causation_id", "key",
    ):  # fmt: skip
        value = getattr(emission, name)
        if value is not None:
            _check_text(value, name)


def _check_subjects(subjects: Sequence[str]) -> None:
    _check_texts(subjects, "subjects", MAX_SUBJECTS)
    for subject in subjects:
        try:
            check_subject(subject, "subjects")  # what the ledger does not take could never be withdrawn
        except InvalidInput as error:
            raise InvalidEvent(error.message, field="subjects", rule=error.rule) from None


def _check_moment(value: object, field: str) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise InvalidEvent(
            f"{field} must be an integer, in microseconds since 1970 in UTC", field=field, rule="integer"
        )
    if not FIRST_MOMENT <= value <= LAST_MOMENT:
        raise InvalidEvent(f"{field} lies outside of the years 1 to 9999", field=field, rule="range")


def _check_text(value: object, field: str) -> None:
    if not isinstance(value, str) or not value:
        raise InvalidEvent(f"{field} must be a non-empty string", field=field, rule="non-empty")
    if len(value) > MAX_FIELD_LENGTH:
        raise InvalidEvent(
            f"{field} has {len(value)} characters; at most {MAX_FIELD_LENGTH} are allowed", field=field, rule="length"
        )
    if _UNPRINTABLE.search(value):
        raise InvalidEvent(f"{field} must not contain control characters", field=field, rule="printable")


def _check_texts(values: object, field: str, limit: int) -> None:
    if isinstance(values, str) or not isinstance(values, list | tuple):
        raise InvalidEvent(f"{field} must be a list of strings", field=field, rule="list")
    if len(values) > limit:
        raise InvalidEvent(f"{field} lists {len(values)}; at most {limit} are allowed", field=field, rule="count")
    for value in values:
        _check_text(value, field)
