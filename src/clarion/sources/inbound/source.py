"""A configured inbound source: provider, tenant and template, read from configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from pydantic import Field, TypeAdapter, ValidationError

from clarion.errors import InvalidInput
from clarion.sources.inbound.configuration import EnvelopeTemplate, Environment
from clarion.sources.inbound.github import GitHub, GitHubConfiguration
from clarion.sources.inbound.hmac_signature import HMACConfiguration, HMACSigned
from clarion.sources.inbound.protocol import Headers, Provider
from clarion.sources.inbound.standard_webhooks import StandardWebhooks, StandardWebhooksConfiguration
from clarion.sources.inbound.template import Template

__all__ = [
    "InboundConfiguration",
    "InboundEvent",
    "InboundSource",
    "build_provider",
    "build_source",
    "read_configuration",
    "read_sources",
]

InboundConfiguration: TypeAlias = Annotated[
    GitHubConfiguration | StandardWebhooksConfiguration | HMACConfiguration, Field(discriminator="kind")
]
"""The configuration of one source; `kind` chooses: github, standard-webhooks, hmac."""

_ADAPTER: TypeAdapter[InboundConfiguration] = TypeAdapter(InboundConfiguration)


@dataclass(frozen=True, slots=True)
class InboundEvent:
    """What to emit for one verified delivery. `occurred_at` is in microseconds, None when nobody said.

    A delivery that is sent again gives an equal event with the same `event_id`.
    """

    tenant: str
    source: str
    topic: str
    payload: Mapping[str, Any]
    event_id: str
    aggregate_type: str | None
    aggregate_id: str | None
    actor_id: str | None
    correlation_id: str | None
    subjects: tuple[str, ...]
    occurred_at: int | None
    attributes: Mapping[str, Any]


class _Envelope:
    """The parsed templates of one source."""

    def __init__(self, template: EnvelopeTemplate) -> None:
        names = ("aggregate_type", "aggregate_id", "actor_id", "correlation_id")
        texts = {name: getattr(template, name) for name in names}
        self._fields = {name: Template.parse(text, field=name) for name, text in texts.items() if text is not None}
        self._subjects = [Template.parse(text, field="subjects") for text in template.subjects]

    def fields(self, payload: Mapping[str, Any]) -> dict[str, str | None]:
        found: dict[str, str | None] = dict.fromkeys(("aggregate_type", "aggregate_id", "actor_id", "correlation_id"))
        found |= {name: template.render(payload) for name, template in self._fields.items()}
        if "aggregate_id" in self._fields and found["aggregate_id"] is None:
            found["aggregate_type"] = None
        return found

    def subjects(self, payload: Mapping[str, Any]) -> tuple[str, ...]:
        found = [subject for template in self._subjects for subject in template.render_all(payload)]
        return tuple(dict.fromkeys(found))


class InboundSource:
    """One source of verified webhooks; `tenant` owns every event of it."""

    def __init__(self, name: str, tenant: str, provider: Provider, template: EnvelopeTemplate) -> None:
        self.name = name
        self.tenant = tenant
        self._provider = provider
        self._envelope = _Envelope(template)

    def receive(self, headers: Mapping[str, str], body: bytes, now: int) -> InboundEvent:
        """The event in a delivery: its raw `body`, with its headers under names in any case.

        Raises Unauthenticated before anything is parsed, MalformedJSON, InvalidTopic or InvalidEvent. `now`:
        microseconds.
        """
        lowered: Headers = {name.lower(): headers[name] for name in headers}
        self._provider.verify(lowered, body, now)
        message = self._provider.describe(lowered, body)
        envelope = self._envelope.fields(message.payload)
        return InboundEvent(
            tenant=self.tenant,
            source=self.name,
            topic=message.topic,
            payload=message.payload,
            event_id=message.event_id,
            aggregate_type=envelope["aggregate_type"],
            aggregate_id=envelope["aggregate_id"],
            actor_id=envelope["actor_id"],
            correlation_id=envelope["correlation_id"],
            subjects=self._envelope.subjects(message.payload),
            occurred_at=message.occurred_at,
            attributes=message.attributes,
        )


def build_provider(configuration: InboundConfiguration, environment: Environment) -> Provider:
    """The provider that a configuration asks for. Raises InvalidInput when a secret is missing or unusable."""
    match configuration:
        case GitHubConfiguration():
            return GitHub.of(configuration, environment)
        case StandardWebhooksConfiguration():
            return StandardWebhooks.of(configuration, environment)
        case HMACConfiguration():
            return HMACSigned.of(configuration, environment)


def build_source(configuration: InboundConfiguration, environment: Environment) -> InboundSource:
    """The source that a configuration asks for. Raises InvalidInput as `build_provider` does."""
    provider = build_provider(configuration, environment)
    return InboundSource(configuration.name, configuration.tenant, provider, configuration.template)


def read_configuration(data: Any, *, label: str = "inbound source") -> InboundConfiguration:
    """The configuration in plain `data`. Raises InvalidInput naming each field that is wrong, and no value."""
    try:
        return _ADAPTER.validate_python(data)
    except ValidationError as error:
        if isinstance(data, Mapping) and isinstance(data.get("name"), str):
            label = f"{label} {data['name']}"
        problems = [_problem(dict(found)) for found in error.errors(include_url=False, include_input=False)]
        raise InvalidInput(f"{label}: {'; '.join(problems)}", field="inbound", rule="configuration") from None


def read_sources(data: Iterable[Any], environment: Environment) -> dict[str, InboundSource]:
    """The sources of a server by name. Raises InvalidInput for the first that is wrong, and for a name used twice."""
    sources: dict[str, InboundSource] = {}
    for number, item in enumerate(data, start=1):
        configuration = read_configuration(item, label=f"inbound source {number}")
        if configuration.name in sources:
            raise InvalidInput(
                f"inbound source {number}: the name {configuration.name} is taken by another source",
                field="inbound",
                rule="unique",
            )
        sources[configuration.name] = build_source(configuration, environment)
    return sources


_MESSAGES = {
    "extra_forbidden": "there is no such field",
    "missing": "is required",
    "model_type": "must be an object of fields",
    "model_attributes_type": "must be an object of fields",
    "string_pattern_mismatch": "use 1 to 64 characters of A-Z a-z 0-9 _ -",
    "tuple_type": "must be a list",
    "union_tag_invalid": "kind must be github, standard-webhooks or hmac",
    "union_tag_not_found": "kind is required: github, standard-webhooks or hmac",
}
"""What is said instead of pydantic's own words, which speak of Python."""


def _problem(found: dict[str, Any]) -> str:
    # The first element of a place is the kind, which the union put there.
    place = ".".join(map(str, found["loc"][1:]))
    message = _MESSAGES.get(found["type"]) or found["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
