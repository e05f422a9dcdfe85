"""JSON Schemas from what Python says of types: how the arguments and the payload of an event type may be given."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NotRequired, Required, TypeAlias, get_args, get_origin, get_type_hints, is_typeddict

from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, TypeAdapter, create_model
from pydantic_core import SchemaError

from clarion.errors import InvalidSchema

__all__ = ["ANYTHING", "Shape", "document_of", "expected_types", "has_members", "is_record", "parameters_of"]

Shape: TypeAlias = type[Any] | Mapping[str, Any] | None
"""How arguments and payloads may be given: a JSON Schema of an object; a mapping of names to type hints; or a type
with annotations: a TypedDict, a dataclass, a pydantic model or a plain class. None: anything goes."""

ANYTHING: Mapping[str, Any] = {"type": "object"}
"""The schema of what nothing was said about."""

_SCHEMA_KEYS = frozenset(("$schema", "$ref", "$defs", "type", "properties", "allOf", "anyOf", "oneOf"))
_MADE_UP = "Made_up_by_Clarion"
"""The name of models that stand for what has none; it is in no schema."""

_ERRORS = (PydanticUserError, SchemaError, TypeError, NameError)
"""What is raised for types that JSON does not have, and for annotations that name nothing."""


def document_of(shape: Shape, title: str) -> Mapping[str, Any]:
    """The JSON Schema of `shape`. What comes from type hints takes no other members than those it names.

    `title` names it in messages. Raises InvalidSchema.
    """
    if shape is None:
        return ANYTHING
    if isinstance(shape, Mapping) and _is_document(shape):
        return _object_of(shape, title)
    with _written_as_json_schema(title, shape):
        document = TypeAdapter(_adaptable(shape)).json_schema()
    if document.get("type") != "object":
        raise InvalidSchema(
            f"{title} must be an object: give a type with named members, not {getattr(shape, '__name__', shape)}",
            field=title,
            rule="object",
        )
    if document.get("title") == _MADE_UP:
        del document["title"]
    document.setdefault("additionalProperties", False)
    for described in document.get("properties", {}).values():
        if described.get("default", ...) is None and described.get("type", "null") != "null":
            del described["default"]  # a member that may be left out, and is never null
    return document


def has_members(shape: Any) -> bool:
    """Whether it is a type with annotations, and not such as dict or Any."""
    return is_record(shape) or _is_plain(shape)


def is_record(shape: Any) -> bool:
    """Whether it is a class that is made for holding data, and may have methods of its own for that."""
    return inspect.isclass(shape) and (
        is_typeddict(shape) or dataclasses.is_dataclass(shape) or issubclass(shape, BaseModel)
    )


def parameters_of(function: Callable[..., Any]) -> tuple[Shape, Any]:
    """The parameters of a function as a shape, and what it says it returns. Raises InvalidSchema."""
    with _written_as_json_schema("arguments", function):
        hints = get_type_hints(function, include_extras=True)
    members: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints.get(name, Any)
        members[name] = hint if parameter.default is parameter.empty else (hint, parameter.default)
    with _written_as_json_schema("arguments", members):
        return (_model_of(members) if members else None), hints.get("return")


def expected_types(document: Mapping[str, Any], path: str) -> str | None:
    """The types that a member may have, such as "a string or null", when its schema says nothing else.

    `path` is its names, joined by dots. None when there is more to say, or it cannot be told so simply.
    """
    found: Any = document
    for name in path.split(".") if path else ():
        members = found.get("properties") if isinstance(found, Mapping) else None
        found = members.get(name) if isinstance(members, Mapping) else None
    alternatives = found.get("anyOf") if isinstance(found, Mapping) else None
    if not isinstance(alternatives, list):
        return None
    types = [each.get("type") if isinstance(each, Mapping) and len(each) == 1 else None for each in alternatives]
    if not all(isinstance(each, str) for each in types):
        return None
    return " or ".join(_ARTICLES.get(str(each), str(each)) for each in types)


_ARTICLES = {
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "a boolean",
    "object": "an object",
    "array": "an array",
}


def _adaptable(shape: Any) -> Any:
    """What pydantic reads of a shape."""
    if isinstance(shape, Mapping):
        return _model_of(shape)
    if is_typeddict(shape) and sys.version_info < (3, 12):
        return _model_of_typed_dict(shape)  # pydantic reads only those of typing_extensions
    return _model_of(_plain_members(shape)) if _is_plain(shape) else shape


def _is_document(shape: Mapping[str, Any]) -> bool:
    """Whether it is a JSON Schema rather than names with type hints."""
    return not shape or bool(_SCHEMA_KEYS & shape.keys() and not any(inspect.isclass(each) for each in shape.values()))


def _is_plain(shape: Any) -> bool:
    """Whether it is an author's own class that is nothing but its annotations."""
    return (
        inspect.isclass(shape)
        and not is_record(shape)
        and not issubclass(shape, tuple | BaseException | enum.Enum)
        and any(inspect.get_annotations(each) for each in shape.__mro__)
    )


def _plain_members(shape: type[Any]) -> dict[str, Any]:
    """The annotations of a plain class; those that have a value may be left out."""
    hints = get_type_hints(shape, include_extras=True)
    given = {name: getattr(shape, name) for name in hints if isinstance(getattr(shape, name, ...), _Value)}
    return {name: (hint, given[name]) if name in given else hint for name, hint in hints.items()}


_Value = str | int | float | None  # bool is an int


@contextmanager
def _written_as_json_schema(title: str, shape: Any) -> Iterator[None]:
    try:
        yield
    except _ERRORS as error:
        wrong = _unwritable(shape)
        of = getattr(shape, "__name__", None)
        name = ", ".join(f"{of}.{each}" if of else each for each in wrong) or of or ", ".join(map(str, shape))
        raise InvalidSchema(
            f"{title}: {name} cannot be written as JSON Schema ({type(error).__name__}); use types that JSON has, or "
            "give the schema itself",
            field=title,
            rule="types",
        ) from None


def _unwritable(shape: Any) -> list[str]:
    """The names of the members that are to blame, where that can be told."""
    try:
        members = shape if isinstance(shape, Mapping) else get_type_hints(shape, include_extras=True)
    except _ERRORS:
        return []
    return [name for name, hint in members.items() if name != "return" and not _writable(hint)]


def _writable(hint: Any) -> bool:
    try:
        TypeAdapter(_adaptable({"member": hint})).json_schema()
    except _ERRORS:
        return False
    return True


def _object_of(document: Mapping[str, Any], title: str) -> Mapping[str, Any]:
    if "type" not in document:
        return dict(document) if "$ref" in document else {"type": "object", **document}
    if document["type"] != "object":
        raise InvalidSchema(
            f'{title} must be an object: its schema has to say "type": "object"', field=title, rule="object"
        )
    return dict(document)


def _model_of(members: Mapping[str, Any]) -> type[BaseModel]:
    """A model whose members are `members`, each a type or a type and its default; those whose type admits None may be
    left out."""
    fields: dict[str, tuple[Any, Any]] = {}
    for name, hint in members.items():
        optional = type(None) in getattr(hint, "__args__", ())
        fields[name] = hint if isinstance(hint, tuple) else (hint, None if optional else ...)
    return _model(_MADE_UP, None, fields)


def _model_of_typed_dict(shape: Any) -> type[BaseModel]:
    fields: dict[str, tuple[Any, Any]] = {}
    for name, hint in get_type_hints(shape, include_extras=True).items():
        optional = name in shape.__optional_keys__
        if get_origin(hint) in (Required, NotRequired):  # which a class with postponed annotations does not notice
            optional = get_origin(hint) is NotRequired
            (hint,) = get_args(hint)
        fields[name] = (hint, None if optional else ...)
    return _model(shape.__name__, shape.__doc__, fields)


def _model(name: str, doc: str | None, fields: Mapping[str, tuple[Any, Any]]) -> type[BaseModel]:
    """Members go by their aliases: a model's own attributes may not be called `_id`, `schema` or `copy`."""
    attributes: dict[str, Any] = {
        f"member_{number}": (hint, Field(default, alias=alias))
        for number, (alias, (hint, default)) in enumerate(fields.items())
    }
    model: type[BaseModel] = create_model(name, __config__=ConfigDict(extra="forbid"), __doc__=doc, **attributes)
    return model
