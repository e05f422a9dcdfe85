"""`clarion topics`: the catalog, a line a topic, or one topic with what its events hold."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from clarion.cli.terminal import columns, emphasis, note, print_json, printable
from clarion.encoding import encode
from clarion.errors import NotFound
from clarion.topics import check_topic, glob

__all__ = ["find_topics", "show_topics"]

Row = Mapping[str, Any]

MAX_DEPTH = 8
"""Objects within objects that are shown of a schema, which a tenant wrote."""


def show_topics(topics: Sequence[Row], wanted: str | None, *, as_json: bool) -> None:
    """All of `topics`, or those that `wanted` names, a topic or a pattern. Raises NotFound, InvalidPattern."""
    found = topics if wanted is None else find_topics(topics, wanted)
    if as_json:
        print_json(found)
    elif wanted is None:
        _show_lines(found)
        note("`clarion topics TOPIC` shows the fields of one, and filters to try")
    else:
        for number, topic in enumerate(found):
            if number:
                print()
            _show_topic(topic)


def find_topics(topics: Sequence[Row], wanted: str) -> Sequence[Row]:
    """The rows that `wanted` matches; of a topic that none names, the closest family. Raises NotFound."""
    pattern = glob(wanted)
    matching = [topic for topic in topics if topic["topic"] == wanted or pattern.matches(topic["topic"])]
    if matching:
        return matching
    if pattern.literal:
        check_topic(wanted)
        families = [topic for topic in topics if "*" in topic["topic"] and glob(topic["topic"]).matches(wanted)]
        if families:
            return [max(families, key=lambda topic: len(topic["topic"]))]
    close = get_close_matches(wanted, [topic["topic"] for topic in topics], 1)
    advice = f"; did you mean {close[0]}?" if close else ""
    raise NotFound(f"no known topic matches {wanted!r}{advice}")


def _show_lines(topics: Sequence[Row]) -> None:
    widest = max((len(topic["topic"]) for topic in topics), default=0)
    for topic in topics:
        meaning = printable(topic["description"])
        room = columns() - widest - 2
        if len(meaning) > room:
            meaning = meaning[: max(room - 1, 0)].rstrip() + "…"
        print(f"{printable(topic['topic']).ljust(widest)}  {meaning}".rstrip())


def _show_topic(topic: Row) -> None:
    import sys

    print(f"{emphasis(printable(topic['topic']), '1', sys.stdout)}  ({topic['category']})")
    _wrap(topic["description"], "  ")
    fields = list(_fields(topic["payload_schema"]))
    if fields:
        names = max(len(name) for name, _, _ in fields)
        types = max(len(kind) for _, kind, _ in fields)
        print("  fields")
        for name, kind, meaning in fields:
            _wrap(meaning, f"    {printable(name).ljust(names)}  {printable(kind).ljust(types)}  ")
    if topic["filter_examples"]:
        print("  filters to try")
        for example in topic["filter_examples"]:
            print(f"    {printable(encode(example).decode())}")


def _wrap(text: str, head: str) -> None:
    """`text` in the terminal's width, behind `head` on its first line and beneath it on the others."""
    width = max(columns(), len(head) + 20)
    lines = textwrap.wrap(printable(text), width - len(head)) or [""]
    print(f"{head}{lines[0]}".rstrip())
    for line in lines[1:]:
        print(" " * len(head) + line)


def _fields(schema: Row, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, str, str]]:
    """Name, type and meaning of every declared field, those of objects with the dots that filters use."""
    properties = schema.get("properties")
    if not isinstance(properties, Mapping) or depth == MAX_DEPTH:
        return
    for name, described in properties.items():
        field = described if isinstance(described, Mapping) else {}
        meaning = str(field.get("description", ""))
        examples = field.get("enum") or field.get("examples")
        if isinstance(examples, list) and examples:
            meaning = f"{meaning} E.g. {', '.join(map(_word, examples))}.".lstrip()
        yield f"{prefix}{name}", _kind(field), meaning
        yield from _fields(field, f"{prefix}{name}.", depth + 1)


def _kind(field: Row) -> str:
    kind = field.get("type", "any")
    if kind == "array" and isinstance(field.get("items"), Mapping):
        return f"list of {_kind(field['items'])}"
    return " or ".join(map(str, kind)) if isinstance(kind, list) else str(kind)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
