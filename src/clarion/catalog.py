"""The catalog of topics: what exists, what its events hold, how to filter them.

Built-in topics live in `clarion.catalog_topics`; each tenant may declare more. This module does no I/O: whoever keeps
a tenant's declarations builds one `Declared` of them and hands it to each question. Of several declarations that fit
a topic, the most specific one speaks for it: an exact name (the tenant's before the built-in), else the longest
family, else nothing, and the topic is `custom`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from clarion.catalog_topics import BUILT_IN, CATEGORIES
from clarion.errors import InvalidFilter, InvalidInput, InvalidTopic
from clarion.filters import compile_filter
from clarion.model import TopicDeclaration
from clarion.schemas import Schema
from clarion.topics import Pattern, check_topic, glob

__all__ = [
    "BUILT_IN",
    "CATEGORIES",
    "DEFAULT_CATEGORY",
    "MAX_DESCRIPTION",
    "MAX_FILTER_EXAMPLES",
    "NONE_DECLARED",
    "Catalog",
    "Declared",
    "fields_of",
]

DEFAULT_CATEGORY = "custom"
"""The category of a topic that nothing declares, and of a declaration that names none."""

MAX_DESCRIPTION = 1_000
"""Characters of a description. Stops one tenant's topic from filling a model's context when topics are listed."""

MAX_FILTER_EXAMPLES = 10
"""Filter examples of one topic, for the same reason."""

_FAMILY = ".*"


class Declared:
    """A tenant's declarations, indexed; immutable. Their schemas are compiled when they are first needed."""

    __slots__ = ("_by_pattern", "_schemas")

    def __init__(self, declarations: Iterable[TopicDeclaration] = ()) -> None:
        self._by_pattern = {declaration.pattern: declaration for declaration in declarations}
        self._schemas: dict[str, Schema] = {}

    def __iter__(self) -> Iterator[TopicDeclaration]:
        return iter(self._by_pattern.values())

    def __len__(self) -> int:
        return len(self._by_pattern)

    def get(self, pattern: str) -> TopicDeclaration | None:
        """The declaration of exactly this topic or family."""
        return self._by_pattern.get(pattern)

    def schema_of(self, declaration: TopicDeclaration) -> Schema:
        """The compiled schema of one of these declarations."""
        schema = self._schemas.get(declaration.pattern)
        if schema is None:
            schema = self._schemas[declaration.pattern] = Schema(declaration.schema)
        return schema


NONE_DECLARED = Declared()
"""What a tenant that declared nothing has."""


class Catalog:
    """Answers about topics, from the built-in declarations and those of a tenant."""

    def __init__(self, built_in: Iterable[TopicDeclaration] = BUILT_IN) -> None:
        self._built_in = Declared(built_in)

    def find(self, topic: str, declared: Declared = NONE_DECLARED) -> TopicDeclaration | None:
        """The declaration that speaks for `topic`; None when none fits."""
        return self._find(topic, declared)[0]

    def named(self, pattern: str, declared: Declared = NONE_DECLARED) -> TopicDeclaration | None:
        """The declaration of exactly this topic or family, as `listing` has it; None when there is none."""
        return declared.get(pattern) or self._built_in.get(pattern)

    def category_of(self, topic: str, declared: Declared = NONE_DECLARED) -> str:
        """The category that an event on `topic` is recorded with."""
        found = self._find(topic, declared)[0]
        return DEFAULT_CATEGORY if found is None else found.category

    def listing(self, category: str | None = None, declared: Declared = NONE_DECLARED) -> list[TopicDeclaration]:
        """All declarations, or those of one category, in the order of categories and then of patterns.

        Raises InvalidInput, listing the ten categories, for one that is none of them.
        """
        if category is not None:
            _check_category(category)
        known = {declaration.pattern: declaration for declaration in (*self._built_in, *declared)}
        wanted = [found for found in known.values() if category is None or found.category == category]
        return sorted(wanted, key=lambda found: (CATEGORIES.index(found.category), found.pattern))

    def declared_keys(self, patterns: Iterable[str], declared: Declared = NONE_DECLARED) -> Callable[[str], bool]:
        """Whether the schema of a topic that one of the globs `patterns` can match declares a top-level key.

        A family counts when a topic of it could match: the answer errs towards yes.
        """
        keys: set[str] = set()
        for pattern in map(glob, patterns):
            for declaration in self._reached_by(pattern, declared):
                keys.update(_keys_of(declaration.schema))
        return keys.__contains__

    def unknown(self, patterns: Iterable[str], declared: Declared = NONE_DECLARED) -> dict[str, str | None]:
        """Those of the globs `patterns` that no known topic or family can match, each with the known name that it may
        be a misspelling of. They are allowed all the same: any valid topic can be emitted."""
        names = [declaration.pattern for declaration in (*self._built_in, *declared)]
        missing = [pattern for pattern in patterns if not any(True for _ in self._reached_by(glob(pattern), declared))]
        return {pattern: next(iter(get_close_matches(pattern, names, n=1)), None) for pattern in missing}

    def validate_payload(self, topic: str, payload: Mapping[str, Any], declared: Declared = NONE_DECLARED) -> None:
        """Raises InvalidEvent when the tenant's own declaration speaks for `topic` and `payload` breaks its schema.

        Built-in schemas describe and enforce nothing.
        """
        found, own = self._find(topic, declared)
        if found is not None and own and found.schema:
            declared.schema_of(found).validate(payload)

    def check_declaration(
        self,
        pattern: str,
        category: str | None,
        description: str,
        schema: Mapping[str, Any] | None = None,
        filter_examples: Iterable[Mapping[str, Any]] = (),
    ) -> TopicDeclaration:
        """The declaration that a tenant asks for, once everything about it is known to hold.

        `pattern` is a topic or a family such as `orders.*`, and not a built-in one. Raises InvalidTopic, InvalidInput
        (category, description), InvalidSchema or InvalidFilter (its `field` naming the example).
        """
        category = category or DEFAULT_CATEGORY
        _check_pattern(pattern)
        if self._built_in.get(pattern) is not None:
            raise InvalidTopic(
                f"{pattern} is a built-in topic and cannot be declared again; choose another name, "
                f"such as custom.{pattern}",
                field="topic",
                rule="built_in",
            )
        _check_category(category)
        _check_description(description)
        if schema:
            Schema(schema)
        examples = _checked_examples(filter_examples, frozenset(_keys_of(schema or {})))
        return TopicDeclaration(pattern, category, description.strip(), dict(schema or {}), examples)

    def _find(self, topic: str, declared: Declared) -> tuple[TopicDeclaration | None, bool]:
        """The declaration that speaks for `topic`, and whether it is the tenant's own."""
        name, prefix = topic, topic
        while True:
            if (found := declared.get(name)) is not None:
                return found, True
            if (found := self._built_in.get(name)) is not None:
                return found, False
            prefix, dot, _ = prefix.rpartition(".")
            if not dot:
                return None, False
            name = prefix + _FAMILY

    def _reached_by(self, pattern: Pattern, declared: Declared) -> Iterable[TopicDeclaration]:
        if pattern.literal:
            found = self.find(pattern.text, declared)
            return () if found is None else (found,)
        return [found for found in (*self._built_in, *declared) if _can_match(pattern, found.pattern)]


def fields_of(declaration: TopicDeclaration) -> dict[str, str]:
    """The top-level fields that a declaration's schema names, with their JSON types (`any` when it names none)."""
    properties = declaration.schema.get("properties")
    if not isinstance(properties, Mapping):
        return {}
    return {name: _type_of(schema) for name, schema in properties.items()}


def _type_of(schema: object) -> str:
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    return "|".join(map(str, kind)) if isinstance(kind, list) else str(kind or "any")


def _can_match(pattern: Pattern, declared: str) -> bool:
    """Whether a glob with wildcards could match a declared topic, or a topic of a declared family."""
    if not declared.endswith(_FAMILY):
        return pattern.matches(declared)
    family = declared.removesuffix("*")
    return family.startswith(pattern.prefix) or pattern.prefix.startswith(family)


def _keys_of(schema: Mapping[str, Any]) -> Iterable[str]:
    properties = schema.get("properties")
    return properties.keys() if isinstance(properties, Mapping) else ()


def _check_pattern(pattern: str) -> None:
    # A family is valid when a shortest topic of it is.
    topic = pattern.removesuffix("*") + "x" if pattern.endswith(_FAMILY) else pattern
    try:
        check_topic(topic)
    except InvalidTopic as error:
        if "*" not in pattern:
            raise
        raise InvalidTopic(
            f"this is no family of topics, which is a topic and then .* as in orders.*: {error.message}",
            field="topic",
            rule="family",
        ) from None


def _check_category(category: str) -> None:
    if category not in CATEGORIES:
        raise InvalidInput(
            f"there is no such category; the categories are {', '.join(CATEGORIES)}", field="category", rule="category"
        )


def _check_description(description: str) -> None:
    if not description.strip():
        raise InvalidInput("say in a sentence what the topic's events mean", field="description", rule="required")
    if len(description) > MAX_DESCRIPTION:
        raise InvalidInput(
            f"the description has {len(description)} characters; at most {MAX_DESCRIPTION} are allowed",
            field="description",
            rule="length",
        )


def _checked_examples(examples: Iterable[Mapping[str, Any]], keys: frozenset[str]) -> tuple[Mapping[str, Any], ...]:
    checked = tuple(examples)
    if len(checked) > MAX_FILTER_EXAMPLES:
        raise InvalidInput(
            f"there are {len(checked)} filter examples; at most {MAX_FILTER_EXAMPLES} are allowed",
            field="filter_examples",
            rule="count",
        )
    for index, example in enumerate(checked):
        try:
            compile_filter(example, declared=keys.__contains__)
        except InvalidFilter as error:
            raise InvalidFilter(
                f"filter example {index} is not valid: {error.message}",
                field=f"filter_examples.{index}{(error.field or '').removeprefix('filter')}",
                rule=error.rule,
            ) from None
    return checked
