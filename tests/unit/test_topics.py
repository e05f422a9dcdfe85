"""Topics, and the wildcard tables of both pattern languages."""

from __future__ import annotations

import pytest

from clarion.errors import InvalidPattern, InvalidTopic
from clarion.topics import (
    MAX_PATTERN_LENGTH,
    MAX_SEGMENT_LENGTH,
    MAX_WILDCARDS,
    Language,
    check_topic,
    glob,
    mqtt,
)


@pytest.mark.parametrize(
    "topic",
    ["deal", "deal.won", "A-b_9.c", "a" * MAX_SEGMENT_LENGTH, ".".join(["a" * MAX_SEGMENT_LENGTH] * 16)],
)
def test_a_well_formed_topic_is_returned(topic: str) -> None:
    assert check_topic(topic) == topic


@pytest.mark.parametrize(
    ("topic", "rule"),
    [
        ("", "empty"),
        (".", "segments"),
        ("a..b", "segments"),
        (".a", "segments"),
        ("a.", "segments"),
        (".".join("a" * 17), "segments"),
        ("a" * 65, "segment_length"),
        ("a b", "characters"),
        ("a/b", "characters"),
        ("deal.*", "characters"),
        ("d\u00e9al", "characters"),
        ("deal\n", "characters"),
        ("\u0663", "characters"),
    ],
)
def test_a_malformed_topic_is_refused_by_its_rule(topic: str, rule: str) -> None:
    with pytest.raises(InvalidTopic) as caught:
        check_topic(topic)
    assert (caught.value.field, caught.value.rule) == ("topic", rule)


def test_a_huge_topic_is_not_repeated_in_its_error() -> None:
    with pytest.raises(InvalidTopic) as caught:
        check_topic("a" * 1_000_000)
    assert len(caught.value.message) < 200


GLOBS = [
    ("deal.*", ["deal.won", "deal.a.b"], ["deal", "dealx", "xdeal.won", "deals.won"]),
    ("*", ["deal", "a.b.c"], []),
    ("deal.won", ["deal.won"], ["deal.wonx", "deal", "deal-won"]),
    ("*.updated", ["deal.updated", "a.b.updated"], ["updated", "deal.updated.x"]),
    ("a*a", ["aa", "aba", "a.a"], ["a"]),
    ("deal.?", ["deal.a", "deal.-"], ["deal.", "deal.ab"]),
    ("deal?won", ["deal.won", "deal-won"], ["dealwon"]),
    ("deal.[ab]*", ["deal.a", "deal.bx"], ["deal.c"]),
    ("deal.[!a-c]", ["deal.d"], ["deal.a", "deal.c"]),
    ("*deal*", ["deal", "a.deal.b", "xdealy"], ["dea.l"]),
    ("a.*.b*c", ["a.x.bc", "a.x.y.b.c"], ["a.bc", "a.x.b"]),
    ("**", ["a"], []),
    ("DEAL.*", ["DEAL.x"], ["deal.x"]),
    ("deal.[]a]", ["deal.a"], ["deal.b"]),
]


@pytest.mark.parametrize(("text", "fits", "not_fits"), GLOBS)
def test_globs_match_the_whole_dotted_topic(text: str, fits: list[str], not_fits: list[str]) -> None:
    pattern = glob(text)
    assert [topic for topic in fits + not_fits if pattern.matches(topic)] == fits


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "empty"),
        ("a" * (MAX_PATTERN_LENGTH + 1), "length"),
        ("deal/*", "characters"),
        ("deal *", "characters"),
        ("deal.#", "characters"),
        ("deal.[^a]", "characters"),
        ("deal.[a", "class"),
        ("deal.[]", "class"),
        ("deal.[!]", "class"),
        ("deal.a]", "class"),
        ("!deal.*", "class"),
        ("deal.[z-a]", "class"),
        ("deal.[*]", "class"),
        ("*" * (MAX_WILDCARDS + 1), "wildcards"),
        ("deal..*", "segments"),
        (".*", "segments"),
        ("*.", "segments"),
        ("a..b", "segments"),
        ("a" * 65, "segment_length"),
        (".".join("a" * 17), "segments"),
    ],
)
def test_a_glob_that_could_never_match_is_refused_by_its_rule(text: str, rule: str) -> None:
    with pytest.raises(InvalidPattern) as caught:
        glob(text)
    assert (caught.value.field, caught.value.rule) == ("topic", rule)
    assert caught.value.message.startswith("topic pattern ")


@pytest.mark.parametrize("text", ["a" * 64 + "." + "a" * 64 + ".*", "*" * MAX_WILDCARDS])
def test_a_glob_at_a_limit_is_accepted(text: str) -> None:
    assert glob(text).text == text


SLASHES = [
    ("build/#", ["build", "build.a", "build.a.b"], ["buildx", "builds.a", "x.build"]),
    ("#", ["a", "a.b.c.d.e.f.g.h.i.j"], []),
    ("+", ["a"], ["a.b"]),
    ("a/+/c", ["a.b.c"], ["a.c", "a.b.b.c", "a.b.cx"]),
    ("a/+", ["a.b"], ["a", "a.b.c"]),
    ("+/b", ["a.b"], ["b", "a.a.b"]),
    ("+/+", ["a.b"], ["a", "a.b.c"]),
    ("a/b", ["a.b"], ["a.bx", "a"]),
    ("a/+/#", ["a.b", "a.b.c"], ["a"]),
    ("+/#", ["a", "a.b"], []),
    ("a-b/+", ["a-b.c"], ["axb.c"]),
    ("a/b/c/d/e/f/g/h", ["a.b.c.d.e.f.g.h"], ["a.b.c.d.e.f.g"]),
]


@pytest.mark.parametrize(("text", "fits", "not_fits"), SLASHES)
def test_slash_patterns_match_stored_topics(text: str, fits: list[str], not_fits: list[str]) -> None:
    pattern = mqtt(text)
    assert [topic for topic in fits + not_fits if pattern.matches(topic)] == fits


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "empty"),
        ("/", "segments"),
        ("a//b", "segments"),
        ("/a", "segments"),
        ("a/", "segments"),
        ("a/b/c/d/e/f/g/h/i", "segments"),
        ("a/b+", "wildcards"),
        ("a/#b", "wildcards"),
        ("#/a", "wildcards"),
        ("a/#/b", "wildcards"),
        ("a/b.c", "characters"),
        ("a/*", "characters"),
        ("a/b c", "characters"),
        ("a/" + "b" * 65, "segment_length"),
        ("a/" * 200 + "a", "length"),
    ],
)
def test_a_malformed_slash_pattern_is_refused_by_its_rule(text: str, rule: str) -> None:
    with pytest.raises(InvalidPattern) as caught:
        mqtt(text)
    assert (caught.value.field, caught.value.rule) == ("topic", rule)


@pytest.mark.parametrize(
    ("pattern", "prefix", "suffix", "literal"),
    [
        (glob("deal.*"), "deal.", "", False),
        (glob("*.updated"), "", ".updated", False),
        (glob("deal.*.x[ab].done"), "deal.", ".done", False),
        (glob("deal.?"), "deal.", "", False),
        (glob("deal.[ab]"), "deal.", "", False),
        (glob("deal.won"), "deal.won", "deal.won", True),
        (mqtt("a/b"), "a.b", "a.b", True),
        (mqtt("build/#"), "build", "", False),
        (mqtt("#"), "", "", False),
        (mqtt("a/+/c"), "a.", ".c", False),
        (mqtt("+/b/+/c/d"), "", ".c.d", False),
        (mqtt("a/+/c/#"), "a.", "", False),
        (mqtt("+"), "", "", False),
    ],
)
def test_the_literal_ends_are_spelled_as_stored(pattern, prefix: str, suffix: str, literal: bool) -> None:
    assert (pattern.prefix, pattern.suffix, pattern.literal) == (prefix, suffix, literal)


def test_patterns_are_equal_by_language_and_text_and_compiled_once() -> None:
    assert glob("deal.won") is glob("deal.won")
    assert glob("deal") != mqtt("deal")
    assert (glob("deal").language, mqtt("deal").language) == (Language.GLOB, Language.MQTT)


def test_stars_are_not_tried_against_each_other() -> None:
    pattern = glob("a*" * MAX_WILDCARDS + "b")
    assert not pattern.matches("a" * 64 + ".a" * 15)
    assert pattern.matches("a" * 64 + ".b")
