"""Settings of the server: arguments, then `CLARION_*` variables, then `clarion.toml` in the data directory.

`clarion settings` prints this list from the fields' own metadata.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from clarion.errors import InvalidInput

__all__ = ["CONFIG_FILE", "DEFAULT_DATA", "Settings", "load_settings"]

CONFIG_FILE = "clarion.toml"
DEFAULT_DATA = Path("clarion-data")


class Settings(BaseSettings):
    """Everything that `clarion serve` can be told. Defaults are safe on a machine of one's own."""

    model_config = SettingsConfigDict(env_prefix="CLARION_", env_nested_delimiter="__", frozen=True, extra="forbid")

    data: Path = Field(DEFAULT_DATA, description="Directory of the databases, the lock and clarion.toml.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8787, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    synchronous: Literal["FULL", "NORMAL"] = Field(
        "FULL",
        description="SQLite's durability: FULL survives a power cut; NORMAL survives a crash of the process only.",
    )
    busy_timeout: float = Field(2.0, gt=0, description="Seconds to wait for a locked database before answering 503.")
    retention_days: float = Field(7.0, gt=0, description="Days that events are kept.")
    retention_mb: int | None = Field(None, gt=0, description="Megabytes the event database may take; none: no limit.")
    audit_retention_days: float = Field(30.0, gt=0, description="Days that delivery rows are kept; counters stay.")
    max_payload_bytes: int = Field(
        240 * 1024, gt=0, le=240 * 1024, description="Bytes of one event's payload as stored."
    )
    max_subscriptions: int = Field(100_000, gt=0, description="Active subscriptions per tenant.")
    max_connections: int = Field(20_000, gt=0, description="Open streams per tenant.")
    max_declared_topics: int = Field(1_000, gt=0, description="Topics that a tenant may declare.")
    ring_budget_mb: int = Field(64, gt=0, description="Megabytes of events that stalled readers may hold in memory.")
    allowed_origins: tuple[str, ...] = Field(
        (), description="Origins that browsers may call from, such as https://app.example.com; none by default."
    )
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description=(
            "Host names that requests may name, without port, beside loopback; needed once host is not loopback. "
            "Stops other sites from reaching this server through a rebound name."
        ),
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


def load_settings(data: Path, **given: Any) -> Settings:
    """The settings for a data directory; `given` beats the environment, which beats the directory's clarion.toml.

    Raises InvalidInput naming the setting and what is wrong with it.
    """
    file = data / CONFIG_FILE

    class _Layered(Settings):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *sources: Any, **named: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            layers = (named["init_settings"], named["env_settings"])
            return (*layers, TomlConfigSettingsSource(settings_cls, file)) if file.is_file() else layers

    try:
        layered = _Layered(data=data, **{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InvalidInput(f"setting {name}: {first['msg']}", field=name, rule="setting") from None
    except ValueError as error:
        raise InvalidInput(f"{CONFIG_FILE}: {error}", field=CONFIG_FILE, rule="toml") from None
    return Settings.model_construct(**{name: getattr(layered, name) for name in Settings.model_fields})
