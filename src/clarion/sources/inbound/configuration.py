"""What the configuration of every inbound source has, whatever its kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from clarion.errors import ClarionError, InvalidInput
from clarion.sources.inbound.template import Template, check_path
from clarion.topics import check_topic

__all__ = [
    "EnvelopeTemplate",
    "Environment",
    "HeaderName",
    "PathText",
    "SourceConfiguration",
    "TemplateText",
    "TopicText",
    "secrets_of",
]

DEFAULT_SOURCE = "api"
"""The source of events that publishers emit (see `clarion.sources.emit`)."""

Environment: TypeAlias = Mapping[str, str]
"""Environment variables, injected."""

_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}\Z")


def _checked(check: Callable[[str], Any]) -> AfterValidator:
    """A validator that keeps the text and turns our error into one that pydantic places."""

    def validate(text: str) -> str:
        try:
            check(text)
        except ClarionError as error:
            raise ValueError(error.message.removeprefix(f"{error.field}: ")) from None
        return text

    return AfterValidator(validate)


def _header(text: str) -> None:
    if _HEADER.match(text) is None:
        raise InvalidInput(f"{text!r} is no header name")


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str | SecretStr) else value


TemplateText: TypeAlias = Annotated[str, _checked(Template.parse)]
PathText: TypeAlias = Annotated[str, _checked(check_path)]
TopicText: TypeAlias = Annotated[str, _checked(check_topic)]
HeaderName: TypeAlias = Annotated[str, _checked(_header)]


class EnvelopeTemplate(BaseModel):
    """Where an event's envelope comes from: templates over the payload (see `template`). None leaves a field out.

    `aggregate_type` and `aggregate_id` name one thing together: when the id cannot be had, both are left out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    aggregate_type: TemplateText | None = None
    aggregate_id: TemplateText | None = None
    actor_id: TemplateText | None = None
    correlation_id: TemplateText | None = None
    subjects: tuple[TemplateText, ...] = Field(
        default=(), description="The people whose data an event holds; a placeholder over an array gives each of them."
    )


class SourceConfiguration(BaseModel):
    """One inbound source. Several secrets are accepted side by side, so that one can be rotated."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$", description="Part of the URL, and the event's source.")
    tenant: str = Field(min_length=1, description="The tenant that the events belong to.")
    secret: Annotated[tuple[SecretStr, ...], BeforeValidator(_several)] = Field(
        default=(), description="The signing secret, or a list of them."
    )
    secret_env: Annotated[tuple[str, ...], BeforeValidator(_several)] = Field(
        default=(), description="Names of environment variables that hold signing secrets."
    )
    template: EnvelopeTemplate = EnvelopeTemplate()

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, name: str) -> str:
        if name == DEFAULT_SOURCE:  # events would share their ids with those of publishers
            raise ValueError(f"{name} is the source of what publishers emit; choose another name")
        return name

    @model_validator(mode="after")
    def _has_secret(self) -> SourceConfiguration:
        if not self.secret and not self.secret_env:
            raise ValueError("a secret is needed: give secret, or secret_env with the name of an environment variable")
        return self


def secrets_of(configuration: SourceConfiguration, environment: Environment) -> list[str]:
    """The source's secrets. Raises InvalidInput for a variable that is not set, and for an empty secret."""
    found = [secret.get_secret_value() for secret in configuration.secret]
    for name in configuration.secret_env:
        if name not in environment:
            raise InvalidInput(
                f"inbound source {configuration.name}: the environment variable {name} is not set",
                field="secret_env",
                rule="required",
            )
        found.append(environment[name])
    if not all(found):
        # Anybody can sign with an empty key.
        raise InvalidInput(f"inbound source {configuration.name}: a secret is empty", field="secret", rule="empty")
    return found
