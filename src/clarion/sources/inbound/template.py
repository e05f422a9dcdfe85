"""Templates: how fields of a payload become fields of an event's envelope.

A template is text with placeholders, such as `{repository.full_name}` or `order-{order.id}`; `{{` and `}}` stand for
braces. A placeholder is a path of keys, joined by dots, a number choosing from an array. When one cannot be resolved,
because payloads of one provider differ, the whole value is left out; that is never an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clarion.errors import InvalidInput

__all__ = ["Template", "check_path", "value_at"]

_TOKEN = re.compile(r"(?P<escaped>\{\{|\}\})|\{(?P<path>[^{}]*)\}|(?P<text>[^{}]+)|(?P<stray>[{}])")


def check_path(path: str, *, field: str = "path") -> tuple[str, ...]:
    """The keys of a dotted path. Raises InvalidInput naming `field` when one is empty."""
    keys = tuple(path.split("."))
    if not all(key and key == key.strip() for key in keys):
        raise InvalidInput(
            f"{field}: {path!r} is no path; write keys joined by dots, such as repository.full_name",
            field=field,
            rule="path",
        )
    return keys


def value_at(payload: Any, keys: tuple[str, ...]) -> Any:
    """What stands at a path, None when nothing does."""
    found = payload
    for key in keys:
        if isinstance(found, Mapping):
            found = found.get(key)
        elif isinstance(found, list) and key.isascii() and key.isdecimal() and int(key) < len(found):
            found = found[int(key)]
        else:
            return None
    return found


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template: literal texts, and paths as tuples of keys."""

    parts: tuple[str | tuple[str, ...], ...]

    @classmethod
    def parse(cls, text: str, *, field: str = "template") -> Template:
        """Raises InvalidInput naming `field`, and saying what to write, for text that is no template."""
        parts: list[str | tuple[str, ...]] = []
        for token in _TOKEN.finditer(text):
            if token["stray"]:
                raise InvalidInput(
                    f"{field}: the brace at character {token.start() + 1} of {text!r} has no partner; "
                    "write {{ or }} for a brace itself",
                    field=field,
                    rule="template",
                )
            if token["path"] is not None:
                parts.append(check_path(token["path"], field=field))
            else:
                parts.append(token["text"] or token["escaped"][0])
        if not parts:
            raise InvalidInput(f"{field} is empty; leave it out instead", field=field, rule="template")
        return cls(tuple(parts))

    def render(self, payload: Mapping[str, Any]) -> str | None:
        """The value for `payload`; None when a placeholder has no scalar to stand for, or the value is empty."""
        texts = [part if isinstance(part, str) else _scalar(value_at(payload, part)) for part in self.parts]
        if None in texts:
            return None
        return "".join(text for text in texts if text is not None) or None

    def render_all(self, payload: Mapping[str, Any]) -> list[str]:
        """Like `render`, as a list; a template that is one placeholder over an array gives each scalar in it."""
        if len(self.parts) == 1 and isinstance(self.parts[0], tuple):
            found = value_at(payload, self.parts[0])
            if isinstance(found, list):
                return [text for text in map(_scalar, found) if text]
        value = self.render(payload)
        return [] if value is None else [value]


def _scalar(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else None
