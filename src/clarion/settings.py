"""Settings of the server: arguments, then `CLARION_*` variables, then `clarion.toml` in the data directory.

`clarion settings` prints this list from the fields' own metadata. What is wrong with a value is said in this module's
words, with the setting's name and where the value came from, and never with the value: it may be a secret.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from clarion.errors import InvalidInput

__all__ = [
    "CONFIG_FILE",
    "DEFAULT_DATA",
    "PREFIX",
    "ReadSettings",
    "Settings",
    "load_settings",
    "read_settings",
    "unknown_variables",
]

CONFIG_FILE = "clarion.toml"
DEFAULT_DATA = Path("clarion-data")
PREFIX = "CLARION_"

_COMMAND_LINE_VARIABLES = ("CLARION_KEY", "CLARION_URL")
"""Variables of this program that are no settings of the server."""

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[^/?#@:\[\]\s*]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?\Z")
_HOST = re.compile(r"(?:[^/?#@:\[\]\s*]+|\[[0-9a-f:.]+\])\Z")

Names = Annotated[tuple[str, ...], NoDecode]
"""A list of texts, which a variable may also give as plain text with commas."""


class Settings(BaseSettings):
    """Everything that `clarion serve` can be told. Defaults are safe on a machine of one's own."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__", frozen=True, extra="forbid")

    data: Path = Field(DEFAULT_DATA, description="Directory of the databases, the lock and clarion.toml.")
    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(8787, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    synchronous: Literal["FULL", "NORMAL"] = Field(
        "FULL",
        description="SQLite's durability: FULL survives a power cut; NORMAL survives a crash of the process only.",
    )
    busy_timeout: float = Field(
        2.0, gt=0, allow_inf_nan=False, description="Seconds to wait for a locked database before answering 503."
    )
    retention_days: float = Field(7.0, gt=0, allow_inf_nan=False, description="Days that events are kept.")
    retention_mb: int | None = Field(
        None, gt=0, description="Megabytes that the events of all tenants together may take; none: no limit."
    )
    audit_retention_days: float = Field(
        30.0, gt=0, allow_inf_nan=False, description="Days that delivery rows are kept; counters stay."
    )
    max_payload_bytes: int = Field(
        240 * 1024, gt=0, le=240 * 1024, description="Bytes of one event's payload as stored."
    )
    max_subscriptions: int = Field(100_000, gt=0, description="Active subscriptions per tenant.")
    max_subscriptions_per_client: int = Field(
        256, gt=0, description="Active subscriptions per client of a principal; an event has a frame for each."
    )
    max_connections: int = Field(20_000, gt=0, description="Open streams per tenant.")
    max_connections_per_principal: int = Field(10_000, gt=0, description="Open streams per principal.")
    max_declared_topics: int = Field(1_000, gt=0, description="Topics that a tenant may declare.")
    ring_budget_mb: int = Field(64, gt=0, description="Megabytes of events that stalled readers may hold in memory.")
    allowed_origins: Names = Field(
        (), description="Origins that browsers may call from, such as https://app.example.com; none by default."
    )
    allowed_hosts: Names = Field(
        (),
        description=(
            "Host names that requests may name, without port, beside loopback; needed once host is not loopback. "
            "Stops other sites from reaching this server through a rebound name."
        ),
    )
    metrics_public: bool = Field(
        False, description="Answer /metrics, which counts all tenants together, to other machines too."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["json", "text"] = Field("text", description="json: one object a line, for machines.")
    inbound: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description="Inbound webhook sources by name, with kind, tenant and secret (docs/how-to/inbound-webhooks.md).",
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings

    @field_validator("allowed_origins", "allowed_hosts", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        """A text is one entry, several between commas, or a JSON list."""
        if not isinstance(value, str):
            return value
        if not value.lstrip().startswith("["):
            return tuple(entry.strip() for entry in value.split(",") if entry.strip())
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError("must be a list") from None

    @field_validator("retention_mb", mode="before")
    @classmethod
    def _as_no_limit(cls, value: Any) -> Any:
        return None if value == "none" else value

    @field_validator("allowed_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Browsers write an origin in lower case and without a path, so nothing else could ever match."""
        entries = tuple(entry.lower() for entry in value)
        if not all(_ORIGIN.match(entry) for entry in entries):
            raise ValueError("must hold origins as scheme://host[:port], without a path or *")
        return entries

    @field_validator("allowed_hosts")
    @classmethod
    def _check_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        entries = tuple(entry.lower() for entry in value)
        if not all(_HOST.match(entry) for entry in entries):
            raise ValueError("must hold host names without scheme, port, path or *")
        return entries


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """The settings, and for each that was given where its value came from: an argument, a variable or clarion.toml."""

    settings: Settings
    origins: Mapping[str, str]


def load_settings(data: Path, **given: Any) -> Settings:
    """The settings for a data directory; `given` beats the environment, which beats the directory's clarion.toml.

    Raises InvalidInput naming the setting and what is wrong with it.
    """
    return read_settings(data, **given).settings


def read_settings(data: Path, **given: Any) -> ReadSettings:
    """As `load_settings`, with where each value came from."""
    arguments = {name: value for name, value in given.items() if value is not None}
    variables = _variables()
    variables.pop("data", None)  # whoever calls has looked at it
    file = _file(data)
    layers = {CONFIG_FILE: file, PREFIX: variables, "--": arguments}
    origins: dict[str, str] = {}
    merged: dict[str, Any] = {}
    for layer, values in layers.items():
        for name, value in values.items():
            origins[name] = {PREFIX: f"{PREFIX}{name.upper()}", "--": f"--{name.replace('_', '-')}"}.get(layer, layer)
            merged[name] = _over(merged.get(name), value)
    try:
        settings = Settings(**{**merged, "data": data})
    except ValidationError as error:
        raise _refusal(error, origins) from None
    return ReadSettings(settings, origins)


def unknown_variables(settings: Settings, environment: Mapping[str, str] = os.environ) -> dict[str, str | None]:
    """`CLARION_*` variables that nothing reads, each with the known one that was perhaps meant."""
    known = {*(f"{PREFIX}{name.upper()}" for name in Settings.model_fields), *_COMMAND_LINE_VARIABLES}
    for source in settings.inbound.values():
        named = source.get("secret_env", ())
        known.update(map(str.upper, [named] if isinstance(named, str) else map(str, named)))
    found: dict[str, str | None] = {}
    for name in sorted(environment):
        upper = name.upper()
        if upper.startswith(PREFIX) and upper not in known and not upper.startswith(f"{PREFIX}INBOUND__"):
            names = [one.removeprefix(PREFIX) for one in sorted(known) if one.startswith(PREFIX)]
            close = get_close_matches(upper.removeprefix(PREFIX), names, 1)
            found[name] = f"{PREFIX}{close[0]}" if close else None
    return found


def _variables() -> dict[str, Any]:
    try:
        return EnvSettingsSource(Settings)()
    except SettingsError:  # the one setting whose variable must be JSON
        example = '{"gh": {"kind": "github", "tenant": "default", "secret_env": "GH_SECRET"}}'
        raise InvalidInput(
            f"inbound must be a JSON object, such as '{example}' (from {PREFIX}INBOUND)",
            field="inbound",
            rule="setting",
        ) from None


def _file(data: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads((data / CONFIG_FILE).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        if not os.access(data, os.X_OK):  # as its owner would say it
            raise InvalidInput(
                f"the data directory {data} cannot be used: {error.strerror}", field="data", rule="writable"
            ) from None
        raise InvalidInput(
            f"{data.absolute() / CONFIG_FILE} cannot be read: {error.strerror}", field=CONFIG_FILE, rule="readable"
        ) from None
    except ValueError as error:
        raise InvalidInput(f"{CONFIG_FILE}: {error}", field=CONFIG_FILE, rule="toml") from None
    for name in found:
        if name not in Settings.model_fields:
            close = get_close_matches(name, Settings.model_fields, 1)
            advice = f"did you mean {close[0]}?" if close else "`clarion settings` lists them"
            raise InvalidInput(f"{CONFIG_FILE}: there is no setting {name}; {advice}", field=name, rule="setting")
    if "data" in found:
        raise InvalidInput(
            f"{CONFIG_FILE}: data cannot be set here, the file lies in that directory; use --data or CLARION_DATA",
            field="data", rule="setting",
        )  # fmt: skip
    return found


def _over(below: Any, above: Any) -> Any:
    """`above`, except that tables are joined: a secret may come from a variable and the rest from the file."""
    if isinstance(below, dict) and isinstance(above, dict):
        return {**below, **{name: _over(below.get(name), value) for name, value in above.items()}}
    return above


_RULES = {
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than_equal": "must be at most {le:g}",
    "finite_number": "must be a number that is not infinite",
    "literal_error": "must be {expected}",
    "string_type": "must be a text",
    "string_too_short": "must not be empty",
    "dict_type": "must be a table",
}


def _refusal(error: ValidationError, origins: Mapping[str, str]) -> InvalidInput:
    """The first thing that is wrong, in our words."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = [str(part) for part in first["loc"]]
    name, kind, context = place[0], first["type"], first.get("ctx", {})
    if kind == "value_error":
        rule = str(context["error"])
    elif isinstance(Settings.model_fields[name].default, tuple):
        rule = "must be a list of texts"
    elif kind in _RULES:
        rule = _RULES[kind].format(**context).replace("'", "")
    elif kind.startswith("int"):
        rule = "must be a whole number"
    elif kind.startswith("bool"):
        rule = "must be true or false"
    elif kind.startswith("float"):
        rule = "must be a number"
    else:
        rule = "is not valid"
    origin = f" (from {origins[name]})" if name in origins else ""
    field = "inbound." + ".".join(place[1:]) if name == "inbound" and len(place) > 1 else name
    return InvalidInput(f"{field} {rule}{_example(name, kind)}{origin}", field=name, rule="setting")


_EXAMPLES = {
    "allowed_origins": """https://app.example.com or '["https://app.example.com"]'""",
    "allowed_hosts": """clarion.example.com or '["clarion.example.com"]'""",
    "retention_mb": "500, or none",
}


def _example(name: str, kind: str) -> str:
    """A value that is right, unless the rule itself names all of them."""
    if kind in (
        "literal_error",
        "greater_than",
        "greater_than_equal",
        "less_than_equal",
        "dict_type",
    ) or kind.startswith("bool"):
        return ""
    default = Settings.model_fields[name].default
    shown = _EXAMPLES.get(name) or (default if isinstance(default, str | int | float) else None)
    return "" if shown is None else f", such as {shown}"
