"""Templates: what renders, what is left out, what is refused when it is read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clarion.errors import InvalidInput
from clarion.sources.inbound.template import Template

PAYLOAD: dict[str, Any] = {
    "id": 7,
    "ratio": 0.5,
    "paid": True,
    "empty": "",
    "nothing": None,
    "order": {"id": "o1", "lines": [{"sku": "a"}, {"sku": "b"}]},
    "people": ["ann", "bob", None, {"x": 1}, ""],
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("order", "order"),
        ("{order.id}", "o1"),
        ("order-{order.id}/{id}", "order-o1/7"),
        ("{order.lines.1.sku}", "b"),
        ("{ratio} {paid}", "0.5 true"),
        ("{{{id}}}", "{7}"),
        ("{{id}}", "{id}"),
    ],
)
def test_placeholders_are_replaced(text: str, value: str) -> None:
    assert Template.parse(text).render(PAYLOAD) == value


@pytest.mark.parametrize(
    "text",
    [
        *("{missing}", "{order}", "{order.lines}", "{nothing}", "{order.id.more}", "{order.lines.2.sku}"),
        *("{order.lines.-1.sku}", "{order.lines.x}", "x-{missing}", "{id}-{missing}", "{empty}"),
    ],
)
def test_a_value_with_a_placeholder_that_cannot_be_resolved_is_left_out(text: str) -> None:
    assert Template.parse(text).render(PAYLOAD) is None
    assert text == "{order.lines}" or Template.parse(text).render_all(PAYLOAD) == []


def test_a_placeholder_over_an_array_gives_each_of_its_scalars() -> None:
    assert Template.parse("{people}").render_all(PAYLOAD) == ["ann", "bob"]
    assert Template.parse("x-{people}").render_all(PAYLOAD) == []
    assert Template.parse("{order.id}").render_all(PAYLOAD) == ["o1"]


@pytest.mark.parametrize("text", ["", "{", "}", "{a", "a}", "{}", "{a..b}", "{a.}", "{ a }", "{a{b}}"])
def test_what_is_no_template_is_refused_when_it_is_read(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Template.parse(text, field="actor_id")
    assert caught.value.field == "actor_id"
    assert caught.value.message.startswith("actor_id")


@given(st.text(min_size=1))
def test_text_with_doubled_braces_renders_as_itself(text: str) -> None:
    assert Template.parse(text.replace("{", "{{").replace("}", "}}")).render({}) == text
