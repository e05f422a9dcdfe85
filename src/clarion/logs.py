"""Structured logs: one wide line per thing that happened, through the standard library's logging.

As a library Clarion configures nothing, so nothing is printed unless the application says so; the server calls
`configure`. No payloads, no keys, no personal data go into a line.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from datetime import datetime
from typing import Any

import orjson
import structlog

__all__ = ["configure", "get_logger", "origin", "quiet_library_logs"]

_SHARED: list[structlog.typing.Processor] = [
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


class _Fields(dict[str, Any]):
    """What a line holds; an application's own formatter prints it as `event key=value ...`."""

    def __str__(self) -> str:
        fields = {key: value for key, value in self.items() if key not in ("event", "level", "logger", "timestamp")}
        return " ".join((_plain(str(self.get("event"))), *(f"{key}={_value(value)}" for key, value in fields.items())))


def _wrapped(logger: Any, name: str, fields: MutableMapping[str, Any]) -> Any:
    arguments, options = structlog.stdlib.ProcessorFormatter.wrap_for_formatter(logger, name, fields)
    return (_Fields(arguments[0]),), options


def quiet_library_logs() -> None:
    """As part of an author's server, say nothing below a warning unless that author sets a level for `clarion`."""
    logger = logging.getLogger("clarion")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.WARNING)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose calls take an event name and fields."""
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[structlog.stdlib.filter_by_level, *_SHARED, _wrapped],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    return logger


def origin(error: BaseException | None) -> str:
    """Where `error` was raised, as `file:line`, for a line in the log: its message may hold what must not be there."""
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "unknown"


def _json(event: Any, **_options: Any) -> str:
    return orjson.dumps(event, default=str).decode()


def _text(_logger: Any, _name: str, fields: MutableMapping[str, Any]) -> str:
    """`HH:MM:SS level event key=value ...`, on this machine's clock: short enough for a terminal."""
    at = datetime.fromisoformat(str(fields.pop("timestamp"))).astimezone()
    level, event, trace = fields.pop("level"), fields.pop("event"), fields.pop("exception", None)
    fields.pop("logger", None)
    head = f"{at:%H:%M:%S} {level} {_plain(str(event))}"
    line = " ".join((head, *(f"{key}={_value(value)}" for key, value in fields.items())))
    return line if trace is None else f"{line}\n{trace}"


def _value(value: Any) -> str:
    if isinstance(value, str) and value and value.isprintable() and not any(mark in value for mark in ' "='):
        return value
    return _plain(_json(value))


def _plain(text: str) -> str:
    """Without what would move the cursor: a name or a reason may be anybody's."""
    return "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode("ascii") for mark in text)


def configure(level: str, style: str) -> None:
    """Log to stderr from `level` up, as `json` or as `text` for people, which leaves out the loggers' names."""
    renderer: structlog.typing.Processor
    if style == "json":
        renderer = structlog.processors.JSONRenderer(serializer=_json)
    else:
        renderer = _text
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("clarion").setLevel(level.upper())
