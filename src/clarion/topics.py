"""Topics and the one matcher for two pattern languages over them.

A stored topic is 1 to 16 segments of `[A-Za-z0-9_-]{1,64}` joined by dots. `glob` reads the side channel's patterns
(`deal.*`), `mqtt` those of the topic wire (`build/+/done`); both give a `Pattern` over stored topics. A pattern that
could never match a topic is refused: its owner would wait for ever without knowing why.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import translate
from functools import lru_cache
from typing import NoReturn

from clarion.errors import InvalidPattern, InvalidTopic

__all__ = [
    "MAX_MQTT_SEGMENTS",
    "MAX_PATTERN_LENGTH",
    "MAX_SEGMENTS",
    "MAX_SEGMENT_LENGTH",
    "MAX_WILDCARDS",
    "Language",
    "Pattern",
    "check_topic",
    "glob",
    "mqtt",
]

MAX_SEGMENTS = 16
"""Segments of a topic. Stops topics that cost more to keep and to match than the event is worth."""

MAX_SEGMENT_LENGTH = 64
"""Characters of a segment. Stops payload smuggled into topics, which are indexed, cached and shown to operators."""

MAX_PATTERN_LENGTH = 256
"""Characters of a pattern. Stops large patterns, kept and compiled for as long as their subscription lives."""

MAX_WILDCARDS = 8
"""`*` in one glob. Stops matching that tries the stars' positions against each other on every event."""

MAX_MQTT_SEGMENTS = 8
"""Segments of a slash pattern, the topic wire's own limit. Stops the same for `+`."""

_CACHED_PATTERNS = 4096  # bounds what patterns that were only tried leave behind; live ones are held by their users

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
_SEGMENT_TEXT = rf"[A-Za-z0-9_-]{{1,{MAX_SEGMENT_LENGTH}}}"
_SEGMENT = re.compile(rf"{_SEGMENT_TEXT}\Z")
_TOPIC = re.compile(rf"{_SEGMENT_TEXT}(?:\.{_SEGMENT_TEXT}){{0,{MAX_SEGMENTS - 1}}}\Z")
_NOT_IN_TOPIC = re.compile(r"[^A-Za-z0-9_.-]")
_NOT_IN_GLOB = re.compile(r"[^A-Za-z0-9_.*?\[\]!-]")
_CLASS = re.compile(r"\[!?+\]?+[^\]]*\]")  # as fnmatch sees it: a `]` right after `[` or `[!` is a member
_MAGIC = re.compile(r"[*?]|" + _CLASS.pattern)


class Language(StrEnum):
    """Which language a pattern is written in."""

    GLOB = "glob"
    MQTT = "mqtt"


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled topic pattern; two are equal when language and text are.

    Every topic that it matches begins with `prefix` and ends with `suffix`. They are the literal text before the first
    wildcard and after the last, as stored topics spell it; both are the one topic that a `literal` pattern matches.
    """

    text: str
    language: Language
    prefix: str = field(compare=False)
    suffix: str = field(compare=False)
    literal: bool = field(compare=False)
    _match: Callable[[str], object] = field(compare=False, repr=False)

    def matches(self, topic: str) -> bool:
        """Whether the whole of `topic`, a stored topic, fits."""
        return bool(self._match(topic))


def check_topic(topic: str) -> str:
    """`topic` itself. Raises InvalidTopic saying which rule it breaks."""
    if _TOPIC.match(topic) is None:
        rule, message = _broken_rule(topic)
        raise InvalidTopic(f"topic {_shown(topic)} {message}", field="topic", rule=rule)
    return topic


@lru_cache(maxsize=_CACHED_PATTERNS)
def glob(pattern: str) -> Pattern:
    """The glob `pattern` over the whole dotted topic, read as `fnmatch.fnmatchcase` does; a `*` also crosses dots.

    `deal.*` matches `deal.won` and `deal.a.b`, not `deal`. Raises InvalidPattern.
    """
    _check_length(pattern)
    found = _NOT_IN_GLOB.search(pattern)
    if found is not None:
        _refuse(
            pattern, "characters", f"holds {found[0]!r}, which no topic can hold; use A-Z a-z 0-9 _ - . and * ? [ ]"
        )
    if pattern.count("*") > MAX_WILDCARDS:
        _refuse(pattern, "wildcards", f"has more than {MAX_WILDCARDS} `*`; use fewer, or several patterns")
    _check_classes(pattern)
    magic = list(_MAGIC.finditer(pattern))
    if not magic:
        return _literal(pattern, Language.GLOB, pattern)
    prefix, suffix = pattern[: magic[0].start()], pattern[magic[-1].end() :]
    if prefix + "*" + suffix == pattern:  # the common shape needs no regular expression, which is slow to compile
        match: Callable[[str], object] = _between(prefix, suffix)
    else:
        match = re.compile(translate(pattern)).match
    return Pattern(pattern, Language.GLOB, prefix, suffix, False, match)


@lru_cache(maxsize=_CACHED_PATTERNS)
def mqtt(pattern: str) -> Pattern:
    """The slash pattern `pattern`: `+` is one segment, `#` (last only) zero or more, all else is itself.

    `build/#` matches the stored topics `build` and `build.a.b`, `#` every topic. Raises InvalidPattern.
    """
    _check_length(pattern)
    segments = pattern.split("/")
    if len(segments) > MAX_MQTT_SEGMENTS:
        _refuse(pattern, "segments", f"has more than {MAX_MQTT_SEGMENTS} segments; end it with `#` earlier")
    for number, segment in enumerate(segments, 1):
        _check_segment(pattern, segment, last=number == len(segments))
    *parents, last = segments
    if last != "#":
        parents = segments
    if "+" not in parents:
        topic = ".".join(parents)
        return _subtree(pattern, topic) if last == "#" else _literal(pattern, Language.MQTT, topic)
    expression = r"\.".join("[^.]+" if segment == "+" else re.escape(segment) for segment in parents)
    match = re.compile(expression + (r"(?:\..+)?" if last == "#" else "") + r"\Z").match
    prefix = "".join(segment + "." for segment in segments[: segments.index("+")])
    after = segments[len(segments) - segments[::-1].index("+") :]
    suffix = "" if last == "#" else "".join("." + segment for segment in after)
    return Pattern(pattern, Language.MQTT, prefix, suffix, False, match)


def _literal(text: str, language: Language, topic: str) -> Pattern:
    if _TOPIC.match(topic) is None:
        rule, message = _broken_rule(topic)
        _refuse(text, rule, message)
    return Pattern(text, language, topic, topic, True, topic.__eq__)


def _subtree(text: str, root: str) -> Pattern:
    """The slash pattern `root/#`, or `#` when `root` is empty."""
    below = f"{root}."

    def match(topic: str) -> bool:
        return not root or topic == root or topic.startswith(below)

    return Pattern(text, Language.MQTT, root, "", False, match)


def _between(prefix: str, suffix: str) -> Callable[[str], bool]:
    """`prefix*suffix`, where the two may not overlap in the topic."""
    size = len(prefix) + len(suffix)

    def match(topic: str) -> bool:
        return len(topic) >= size and topic.startswith(prefix) and topic.endswith(suffix)

    return match


def _check_length(pattern: str) -> None:
    if not pattern:
        _refuse(pattern, "empty", "is empty; give a topic or a pattern")
    if len(pattern) > MAX_PATTERN_LENGTH:
        _refuse(pattern, "length", f"is longer than {MAX_PATTERN_LENGTH} characters; use a wildcard for a part of it")


def _check_classes(pattern: str) -> None:
    """Refuse what fnmatch takes but no topic can match: half a class, an empty one, `!` or a dot out of place."""
    outside = _CLASS.sub("?", pattern)
    if "[" in outside:
        _refuse(pattern, "class", "has a `[` without its `]`; close the class, as in deal.[a-c]*")
    if "]" in outside or "!" in outside:
        _refuse(pattern, "class", "has a `]` or `!` outside of a class, which no topic can hold; write [!a] for not a")
    for found in _CLASS.findall(pattern):
        one = re.compile(translate(found))
        if not any(map(one.match, _ALPHABET + ".")):
            _refuse(pattern, "class", f"has the class {found}, which no character of a topic fits")
    if outside.startswith(".") or outside.endswith(".") or ".." in outside:
        _refuse(pattern, "segments", "has an empty segment, which no topic has; take the extra dot away")


def _check_segment(pattern: str, segment: str, *, last: bool) -> None:
    if segment == "+" or (segment == "#" and last):
        return
    if not segment:
        _refuse(pattern, "segments", "has an empty segment; take the extra slash away")
    if "+" in segment or "#" in segment:
        _refuse(pattern, "wildcards", "needs `+` alone in its segment and `#` alone in the last one")
    if "." in segment:
        _refuse(pattern, "characters", "has a dot; separate segments by slashes")
    if _SEGMENT.match(segment) is None:
        rule, message = _broken_rule(segment)
        _refuse(pattern, rule, message)


def _broken_rule(topic: str) -> tuple[str, str]:
    """The first rule that `topic`, which is no topic, breaks, and what to say of it."""
    if not topic:
        return "empty", "is empty; name it, as in deal.won"
    found = _NOT_IN_TOPIC.search(topic)
    if found is not None:
        return "characters", f"holds {found[0]!r}; use A-Z a-z 0-9 _ - and dots between segments"
    segments = topic.split(".")
    if "" in segments:
        return "segments", "has an empty segment; take the extra dot away"
    if len(segments) > MAX_SEGMENTS:
        return "segments", f"has {len(segments)} segments; use at most {MAX_SEGMENTS}"
    return "segment_length", f"has a segment longer than {MAX_SEGMENT_LENGTH} characters; shorten it"


def _refuse(pattern: str, rule: str, message: str) -> NoReturn:
    raise InvalidPattern(f"topic pattern {_shown(pattern)} {message}", field="topic", rule=rule)


def _shown(text: str) -> str:
    """`text` as messages quote it: an error must not carry a megabyte back."""
    return repr(text) if len(text) <= MAX_PATTERN_LENGTH else repr(text[:32]) + "..."
