"""Is one JSON Schema an additive change of another? (SEP-3415, "Schema evolution")

It looks at what the SEP names: members that go, are renamed, retyped or newly required, enums and bounds that become
narrower. What it cannot compare, such as alternatives that changed, counts as a breaking change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["breaks_arguments", "breaks_payload"]

_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_EXACT = ("pattern", "format", "const", "multipleOf", "allOf", "anyOf", "oneOf", "not", "if", "$ref", "$defs",
          "propertyNames", "patternProperties", "prefixItems", "uniqueItems", "dependentRequired")  # fmt: skip


def breaks_arguments(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """May arguments that were accepted be refused now?"""
    if set(new.get("required", ())) - set(old.get("required", ())):
        return True
    if new.get("additionalProperties") is False and old.get("additionalProperties") is not False:
        return True
    return _narrower(old, new) or _members_break(old, new, breaks_arguments)


def breaks_payload(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """May a receiver miss, or misread, what it was told of? New optional members and wider enums are no break."""
    if set(old.get("required", ())) - set(new.get("required", ())):
        return True
    return _narrower(old, new) or _members_break(old, new, breaks_payload)


def _members_break(old: Mapping[str, Any], new: Mapping[str, Any], breaks: Any) -> bool:
    before, after = old.get("properties", {}), new.get("properties", {})
    if before.keys() - after.keys():
        return True
    if any(_differs(before[name], after[name], breaks) for name in before):
        return True
    return ("items" in old or "items" in new) and _differs(old.get("items", {}), new.get("items", {}), breaks)


def _differs(old: Any, new: Any, breaks: Any) -> bool:
    if old == new:
        return False
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return bool(breaks(old, new))
    return bool(old != new)


def _narrower(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    types_before, types_after = _types(old), _types(new)
    if types_before != types_after and (types_after is None or types_before is None or types_before - types_after):
        return types_after is not None
    if "enum" in new and ("enum" not in old or any(value not in new["enum"] for value in old["enum"])):
        return True
    if any(key in new and (key not in old or new[key] < old[key]) for key in _UPPER):
        return True
    if any(key in new and (key not in old or new[key] > old[key]) for key in _LOWER):
        return True
    return any(key in new and new[key] != old.get(key) for key in _EXACT)


def _types(schema: Mapping[str, Any]) -> set[str] | None:
    """The types that it allows; None for any. A number may be an integer."""
    kind = schema.get("type")
    if kind is None:
        return None
    kinds = {kind} if isinstance(kind, str) else set(kind)
    return kinds | {"integer"} if "number" in kinds else kinds
