"""Configuration of inbound sources: what is wrong is named, and no secret is repeated."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

from clarion.errors import InvalidInput
from clarion.sources.inbound import build_source, read_configuration, read_sources

GITHUB: dict[str, Any] = {"kind": "github", "name": "hub", "tenant": "acme", "secret": "hush-hush"}
HMAC: dict[str, Any] = {**GITHUB, "kind": "hmac", "header": "X-Sig", "topic": "a.b"}
STANDARD: dict[str, Any] = {**GITHUB, "kind": "standard-webhooks"}


def refusal(data: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        read_configuration(data)
    text = "".join(traceback.format_exception(caught.value))
    assert "hush-hush" not in text
    return caught.value.message


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        ({**GITHUB, "colour": "red"}, "inbound source hub: colour: there is no such field"),
        ({**GITHUB, "template": {"actr_id": "x"}}, "template.actr_id: there is no such field"),
        ({**GITHUB, "template": {"actor_id": "{a"}}, "template.actor_id: the brace at character 1"),
        ({**GITHUB, "template": {"subjects": ["ok", "{}"]}}, "template.subjects.1: "),
        ({**GITHUB, "template": {"subjects": "{a}"}}, "template.subjects: "),
        ({**GITHUB, "name": "a/b"}, "name: use 1 to 64 characters"),
        ({**GITHUB, "name": "a\n"}, "name: "),
        ({**GITHUB, "name": "api"}, "name: api is the source of what publishers emit; choose another"),
        ({**GITHUB, "tenant": ""}, "tenant: "),
        ({"kind": "github", "name": "hub", "secret": "hush-hush"}, "tenant: is required"),
        ({"kind": "github", "name": "hub", "tenant": "acme"}, "a secret is needed"),
        ({**GITHUB, "secret": {"value": "hush-hush"}}, "secret: must be a list"),
        ({**GITHUB, "kind": "gitlab"}, "kind must be github, standard-webhooks or hmac"),
        ({"name": "hub"}, "kind is required"),
        ({**STANDARD, "topic_prefix": "a..b"}, "topic_prefix: "),
        ({**STANDARD, "payload": "all"}, "payload: "),
        ({**HMAC, "digest": "md5"}, "digest: "),
        ({**HMAC, "header": "X Sig"}, "header: "),
        ({**HMAC, "topic": "a b"}, "topic: "),
        ({**HMAC, "topic": None}, "give either topic or topic_field"),
        ({**HMAC, "topic_field": "x"}, "give either topic or topic_field"),
        ({**HMAC, "topic_prefix": "x"}, "topic_prefix goes with topic_field"),
        ({**HMAC, "event_id_field": "a..b"}, "event_id_field: "),
        ({**HMAC, "event_id_field": "a", "event_id_header": "X-Id"}, "not both"),
        ([], "inbound source: must be an object of fields"),
        (None, "inbound source: must be an object of fields"),
        ({**GITHUB, "template": 5}, "template: must be an object of fields"),
    ],
)
def test_what_is_wrong_is_named(data: Any, hint: str) -> None:
    assert hint in refusal(data)


def test_every_problem_is_named_at_once() -> None:
    message = refusal({**HMAC, "digest": "md5", "colour": "red"})
    assert "digest" in message
    assert "colour" in message


@pytest.mark.parametrize("data", [GITHUB, HMAC, {**STANDARD, "secret": "aHVzaC1odXNo"}])
def test_a_secret_shows_in_no_representation(data: dict[str, Any]) -> None:
    configuration = read_configuration(data)
    assert data["secret"] not in repr(configuration)
    assert data["secret"] not in configuration.model_dump_json()


def test_a_secret_may_come_from_the_environment() -> None:
    data = {"kind": "github", "name": "hub", "tenant": "acme", "secret_env": "HUB_SECRET"}
    assert build_source(read_configuration(data), {"HUB_SECRET": "x"}).tenant == "acme"
    with pytest.raises(InvalidInput, match="HUB_SECRET is not set"):
        build_source(read_configuration(data), {})
    with pytest.raises(InvalidInput, match="empty"):
        build_source(read_configuration(data), {"HUB_SECRET": ""})


@pytest.mark.parametrize("secret", ["", ["good", ""]])
def test_an_empty_secret_is_refused(secret: Any) -> None:
    with pytest.raises(InvalidInput, match="empty"):
        build_source(read_configuration({**GITHUB, "secret": secret}), {})


def test_sources_are_read_by_name() -> None:
    sources = read_sources([GITHUB, {**HMAC, "name": "shop"}], {})
    assert list(sources) == ["hub", "shop"]
    assert sources["shop"].name == "shop"


def test_a_name_used_twice_is_refused() -> None:
    with pytest.raises(InvalidInput, match="inbound source 2: the name hub is taken"):
        read_sources([GITHUB, HMAC], {})


def test_a_source_without_a_name_is_told_by_its_number() -> None:
    nameless = {key: value for key, value in GITHUB.items() if key != "name"}
    with pytest.raises(InvalidInput, match="inbound source 2: name: is required"):
        read_sources([GITHUB, nameless], {})
