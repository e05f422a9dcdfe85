"""What an author declares: every shape of a schema, classes and functions, and errors that say what to do."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, NotRequired, Required, TypedDict

import pytest
from pydantic import BaseModel, Field, computed_field, field_validator

from clarion.errors import InvalidEvent, InvalidInput, InvalidSchema
from clarion.events.declared import Shape, declare, document_of
from clarion.schemas import Schema
from clarion.wires.mcp_events.protocol import Mode

NAME = "ticket.updated"


class Total(TypedDict):
    id: str
    by: NotRequired[str]


class Partial(TypedDict, total=False):
    id: Required[str]
    by: str


class Inherited(Total, total=False):
    more: int


@dataclass
class Data:
    id: str
    by: str = "nobody"
    tags: list[str] = field(default_factory=list)


class Inner(BaseModel):
    n: int


class Model(BaseModel):
    id: str
    by: str | None = None
    inner: Inner | None = None


class Plain:
    id: str
    by: str | None = None


def fits(document: Mapping[str, Any], value: dict[str, Any]) -> bool:
    try:
        Schema(document, field="x").validate(value, field="x")
    except InvalidEvent:
        return False
    return True


@pytest.mark.parametrize(
    "shape",
    [Total, Partial, Inherited, Data, Model, {"id": str, "by": str | None}],
    ids=lambda shape: getattr(shape, "__name__", "mapping"),
)
def test_members_that_may_be_left_out_are_known_in_each_shape(shape: Shape) -> None:
    document = document_of(shape, "ticket payload")
    assert document["required"] == ["id"]
    assert fits(document, {"id": "1"})
    assert fits(document, {"id": "1", "by": "me"})
    assert not fits(document, {"by": "me"})
    assert not fits(document, {"id": "1", "unknown": 1})
    assert not fits(document, {"id": 1})


@pytest.mark.parametrize("shape", [Total, Partial, {"id": str, "by": str | None}], ids=["total", "partial", "mapping"])
def test_no_member_has_a_default_that_its_type_refuses(shape: Shape) -> None:
    described = document_of(shape, "ticket payload")["properties"]["by"]
    assert "default" not in described or described["default"] is None
    assert ("default" in described) <= fits({"type": "object", "properties": {"by": described}}, {"by": None})


def test_nested_types_and_descriptions_come_along() -> None:
    document = document_of(
        {"all": list[Inner], "kind": Annotated[Literal["a", "b"], Field(description="A kind.")]}, "x"
    )
    assert fits(document, {"all": [{"n": 1}], "kind": "a"})
    assert not fits(document, {"all": [{"n": "1"}], "kind": "a"})
    assert not fits(document, {"all": [], "kind": "c"})
    assert document["properties"]["kind"]["description"] == "A kind."


@pytest.mark.parametrize(
    ("shape", "document"),
    [
        (None, {"type": "object"}),
        ({}, {"type": "object"}),
        ({"type": "object"}, {"type": "object"}),
        ({"properties": {"a": {}}}, {"type": "object", "properties": {"a": {}}}),
        ({"anyOf": [{"required": ["a"]}]}, {"type": "object", "anyOf": [{"required": ["a"]}]}),
    ],
    ids=str,
)
def test_a_json_schema_is_taken_as_it_is(shape: Shape, document: Mapping[str, Any]) -> None:
    assert document_of(shape, "ticket payload") == document


def test_members_named_like_keywords_of_json_schema_are_members_when_they_have_types() -> None:
    document = document_of({"type": str, "properties": int}, "ticket payload")
    assert document["properties"].keys() == {"type", "properties"}


Named = TypedDict("Named", {"_id": str, "schema": int, "from": NotRequired[str]})


@pytest.mark.parametrize(
    "shape", [{"_id": str, "schema": int, "from": str | None}, Named], ids=["mapping", "TypedDict"]
)
def test_a_member_may_have_any_name(shape: Shape) -> None:
    document = document_of(shape, "ticket payload")
    assert document["properties"].keys() == {"_id", "schema", "from"}
    assert sorted(document["required"]) == ["_id", "schema"]


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        (int, "must be an object"),
        (list[str], "must be an object"),
        ({"type": "array"}, "must be an object"),
        ({"type": ["object", "null"]}, "must be an object"),
        ({"lock": Data, "what": NotImplementedError}, "cannot be written as JSON Schema"),
        ({"status": {"type": "string"}}, "cannot be written as JSON Schema"),
        ({"f": open}, "cannot be written as JSON Schema"),
    ],
    ids=str,
)
def test_what_is_no_object_of_json_is_refused_by_name(shape: Any, says: str) -> None:
    with pytest.raises(InvalidSchema, match=says) as caught:
        document_of(shape, "ticket payload")
    assert caught.value.field == "ticket payload"
    assert "ticket payload" in caught.value.message


def test_annotations_that_name_nothing_are_refused() -> None:
    class Broken:
        a: Missing  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(InvalidSchema, match="cannot be written as JSON Schema"):
        declare(NAME, Broken)


def test_a_schema_that_no_json_schema_is_refused_by_its_place() -> None:
    with pytest.raises(InvalidSchema) as caught:
        declare(NAME, arguments={"type": "object", "properties": {"a": {"type": "text"}}})
    assert (caught.value.field or "").startswith("arguments")


# -- classes and functions -------------------------------------------------------------------------------------------


class WithEverything:
    """A ticket changed.

    It is said in full.
    """

    id: str

    class Arguments(TypedDict, total=False):
        status: str

    @staticmethod
    def match(ctx: Any, event: Any, arguments: Any) -> bool:
        return True

    @staticmethod
    def authorize(principal: Any, event: Any, arguments: Any) -> bool:
        return True


def test_a_class_gives_payload_arguments_hooks_and_description() -> None:
    declared = declare(NAME, WithEverything)
    assert declared.descriptor.description == "A ticket changed.\n\nIt is said in full."
    assert declared.descriptor.payload_schema["properties"].keys() == {"id"}
    assert declared.descriptor.input_schema["properties"].keys() == {"status"}
    assert declared.hooks.match is WithEverything.match
    assert declared.hooks.authorize is WithEverything.authorize
    assert declared.hooks.transform is None
    assert declared.check is None


def test_what_is_said_beside_wins_over_the_class() -> None:
    def other(ctx: Any, event: Any, arguments: Any) -> bool:
        return False

    declared = declare(
        NAME, WithEverything, description="Other.", arguments={"n": int}, payload={"m": int}, hooks={"match": other}
    )
    assert declared.descriptor.description == "Other."
    assert declared.descriptor.input_schema["properties"].keys() == {"n"}
    assert declared.descriptor.payload_schema["properties"].keys() == {"m"}
    assert declared.hooks.match is other


@pytest.mark.parametrize("target", [Data, Model, Total], ids=lambda target: target.__name__)
def test_a_docstring_that_nobody_wrote_is_no_description(target: type) -> None:
    assert declare(NAME, target).descriptor.description == ""


def test_a_class_without_annotations_holds_hooks_alone() -> None:
    class Hooks:
        @staticmethod
        def match(ctx: Any, event: Any, arguments: Any) -> bool:
            return True

    declared = declare(NAME, Hooks)
    assert declared.descriptor.payload_schema == {"type": "object"}
    assert declared.hooks.match is Hooks.match


def test_a_class_may_hold_its_check() -> None:
    class Checked:
        n: int

        @staticmethod
        async def check(ctx: Any, arguments: Any, cursor: Any) -> Any:
            return [], "c"

    assert declare(NAME, Checked).check is Checked.check


def test_a_function_is_the_check_and_its_docstring_the_description() -> None:
    def check(ctx: Any, arguments: Any, cursor: Any) -> Any:
        """Letters of a mailbox."""
        return [], "c"

    declared = declare(NAME, check, interval=2.5, shared=True)
    assert declared.check is check
    assert declared.descriptor.description == "Letters of a mailbox."
    assert (declared.interval, declared.shared) == (2.5, True)


def test_a_check_may_say_its_arguments_by_a_type_and_leave_parameters_unused() -> None:
    async def check(_ctx: Any, arguments: Total, cursor: Any) -> Any:
        return [], "c"

    assert declare(NAME, check).descriptor.input_schema["required"] == ["id"]
    unused = declare(NAME, lambda _ctx, _arguments, _cursor: ([], "c"))
    assert unused.check is not None
    assert unused.descriptor.input_schema == {"type": "object"}


def test_a_check_may_be_any_callable() -> None:
    def check(box: str, ctx: Any, arguments: Missing, cursor: Any) -> Any:  # type: ignore[name-defined]  # noqa: F821
        return [], box

    class Checker:
        async def __call__(self, ctx: Any, arguments: Any, cursor: Any) -> Any:
            return [], "c"

    for target in (functools.partial(check, "inbox"), Checker()):
        assert declare(NAME, target).check is target


@pytest.mark.parametrize(
    "target",
    [
        lambda ctx, cursor: ([], "c"),
        lambda ctx, arguments, since: ([], "c"),
        lambda ctx, arguments, cursor, more: ([], "c"),
    ],
    ids=["two", "another name", "four"],
)
def test_a_check_that_cannot_be_called_as_one_is_refused(target: Any) -> None:
    with pytest.raises(InvalidInput, match="ctx, arguments and cursor") as caught:
        declare(NAME, target)
    assert caught.value.field == "check"


def test_any_other_function_declares_arguments_payload_and_description() -> None:
    def updated(status: Literal["open", "closed"], limit: int = 5) -> Data:
        """A ticket changed."""
        raise AssertionError("it is never called")

    declared = declare(NAME, updated)
    assert declared.check is None
    assert declared.descriptor.description == "A ticket changed."
    assert declared.descriptor.input_schema["required"] == ["status"]
    assert declared.descriptor.input_schema["properties"]["limit"]["default"] == 5
    assert declared.descriptor.payload_schema["required"] == ["id"]


def test_a_function_whose_hints_name_nothing_or_no_json_is_refused() -> None:
    def missing(status: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    def opaque(status: NotImplementedError) -> None: ...

    for target in (missing, opaque):
        with pytest.raises(InvalidSchema, match="cannot be written as JSON Schema"):
            declare(NAME, target)


@pytest.mark.parametrize("target", [7, "check", object()])
def test_what_is_neither_class_nor_function_is_refused(target: Any) -> None:
    with pytest.raises(InvalidInput, match="class or a function"):
        declare(NAME, target)


@pytest.mark.parametrize(
    ("options", "delivery"),
    [
        ({}, (Mode.POLL, Mode.PUSH)),
        ({"delivery": ["push"]}, (Mode.PUSH,)),
        ({"delivery": ["push", "poll", "push"]}, (Mode.PUSH, Mode.POLL)),
        ({"replay": False}, (Mode.PUSH,)),
        ({"replay": False, "delivery": ["push"]}, (Mode.PUSH,)),
    ],
    ids=str,
)
def test_delivery_follows_from_what_can_be_done(options: dict[str, Any], delivery: tuple[Mode, ...]) -> None:
    assert declare(NAME, **options).descriptor.delivery == delivery


def test_a_check_can_be_polled_whatever_replay_says() -> None:
    declared = declare(NAME, lambda ctx, arguments, cursor: ([], "c"), replay=False)
    assert declared.descriptor.delivery == (Mode.POLL, Mode.PUSH)


def checking(ctx: Any, arguments: Any, cursor: Any) -> Any:
    return [], "c"


@pytest.mark.parametrize("interval", [0, -1, float("nan"), float("inf"), "5", True])
def test_an_interval_is_a_positive_number_of_seconds(interval: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        declare(NAME, interval=interval)
    assert caught.value.field == "interval"


@pytest.mark.parametrize("most", [0, -1, 1.0, "1", True])
def test_a_limit_of_streams_is_a_whole_number(most: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        declare(NAME, max_streams=most)
    assert caught.value.field == "max_streams"


# -- validating ------------------------------------------------------------------------------------------------------


def test_arguments_and_payload_are_refused_by_their_path_and_never_quoted() -> None:
    declared = declare(NAME, arguments={"a": list[int]}, payload={"n": list[int]})
    with pytest.raises(InvalidInput) as of_arguments:
        declared.check_arguments({"a": [1, "swordfish"]})
    with pytest.raises(InvalidEvent) as of_payload:
        declared.check_payload({"n": [1, 2, "swordfish"]})
    assert of_arguments.value.field == "arguments.a.1"
    assert of_payload.value.field == "data.n.2"
    assert "inputSchema" in of_arguments.value.message
    for caught in (of_arguments, of_payload):
        assert "swordfish" not in caught.value.message


# -- slips of the pen --------------------------------------------------------------------------------------------------


def three(ctx: Any, event: Any, arguments: Any) -> bool:
    return True


def with_member(name: str, member: Any, base: Any = object) -> type:
    return type("Ticket", (base,), {name: member, "__module__": __name__, "__annotations__": {"id": str}})


@pytest.mark.parametrize("wrap", [lambda function: function, staticmethod, classmethod], ids=["def", "static", "class"])
@pytest.mark.parametrize(
    ("slip", "meant"),
    [("authorise", "authorize"), ("macth", "match"), ("onSubscribe", "on_subscribe"), ("Check", "check")],
)
def test_a_hook_that_is_spelled_wrong_is_refused_with_the_right_name(slip: str, meant: str, wrap: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        declare(NAME, with_member(slip, wrap(three)))
    assert caught.value.message == f"{NAME}: {slip!r} is no hook; did you mean {meant!r}?"


def test_a_hook_that_is_spelled_wrong_is_found_in_a_base_and_in_a_model() -> None:
    base = type("Base", (), {"authorise": staticmethod(three), "__module__": __name__})
    for target in (with_member("x", 1, base), with_member("authorise", staticmethod(three), BaseModel)):
        with pytest.raises(InvalidInput, match="did you mean 'authorize'"):
            declare(NAME, target)


def test_a_function_that_resembles_no_hook_is_refused_with_all_of_them_unless_it_is_private() -> None:
    with pytest.raises(InvalidInput, match="'shorten' is no hook; hooks are match, transform"):
        declare(NAME, with_member("shorten", staticmethod(three)))
    assert declare(NAME, with_member("_shorten", staticmethod(three))).hooks == declare(NAME).hooks


def test_classes_that_hold_data_may_have_methods() -> None:
    class WithMethods(BaseModel):
        id: str

        @field_validator("id")
        @classmethod
        def check_it(cls, value: str) -> str:
            return value

        @computed_field  # type: ignore[prop-decorator]
        @property
        def short(self) -> str:
            return self.id[:3]

        def total(self) -> int:
            return 1

    @dataclass
    class Counted:
        id: str
        match: bool = False

        def total(self) -> int:
            return 1

    for target in (WithMethods, Counted):
        declared = declare(NAME, target)
        assert declared.check is declared.hooks.match is None
        assert "id" in declared.descriptor.payload_schema["required"]


def test_an_inner_class_with_nearly_the_right_name_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'Argument' is not read; did you mean 'Arguments'"):
        declare(NAME, with_member("Argument", Plain))


@pytest.mark.parametrize(
    "target",
    [
        lambda context, args, cur: ([], "c"),
        lambda a, b, c=None: ([], "c"),
    ],
    ids=["renamed", "with a default"],
)
def test_a_check_with_parameters_of_other_names_declares_nothing(target: Any) -> None:
    with pytest.raises(InvalidInput, match="parameters are named ctx, arguments, cursor; a declaration annotates"):
        declare(NAME, target)


def test_three_parameters_that_say_something_are_a_declaration() -> None:
    def annotated(a: str, b, c):  # type: ignore[no-untyped-def]
        raise AssertionError("never called")

    def returning(a, b, c) -> Total:  # type: ignore[no-untyped-def]
        raise AssertionError("never called")

    for target in (annotated, returning):
        assert declare(NAME, target).descriptor.input_schema["required"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("hook", "parameters"),
    [
        ("match", "(ctx, event, arguments)"),
        ("transform", "(ctx, event, arguments)"),
        ("authorize", "(principal, event, arguments)"),
        ("on_subscribe", "(ctx, arguments, subscription_id)"),
        ("on_unsubscribe", "(ctx, arguments, subscription_id)"),
        ("check", "(ctx, arguments, cursor)"),
    ],
)
def test_a_hook_that_cannot_be_called_as_it_will_be_is_refused_with_its_parameters(hook: str, parameters: str) -> None:
    for wrong in (lambda: True, lambda a, b: True, lambda a, b, c, d: True, lambda *, ctx: True):
        with pytest.raises(InvalidInput) as caught:
            declare(NAME, with_member(hook, staticmethod(wrong)))
        assert caught.value.message.startswith(f"{NAME}: {hook} takes {parameters}")
    with pytest.raises(InvalidInput, match=f"{hook} must be a function, not str"):
        declare(NAME, with_member(hook, "three"))
    for right in (
        three,
        lambda *arguments: True,
        functools.partial(lambda a, b, c, d: True, 1),
        lambda a, b, c, d=1: 1,
    ):
        declare(NAME, with_member(hook, staticmethod(right)))


def test_what_does_not_tell_its_parameters_passes() -> None:
    assert declare(NAME, hooks={"match": max}).hooks.match is max


def test_the_parameters_of_an_option_are_looked_at_too() -> None:
    with pytest.raises(InvalidInput, match="match takes"):
        declare(NAME, hooks={"match": lambda event: True})


def test_what_is_a_check_functions_alone_is_refused_of_a_type_that_is_emitted_to() -> None:
    for options in ({"interval": 5}, {"shared": True}):
        for target in (None, Plain):
            with pytest.raises(InvalidInput, match="is a check function's, and this type is emitted to"):
                declare(NAME, target, **options)
        assert declare(NAME, checking, **options).check is checking
        assert declare(NAME, checking).changed(options, {}).check is checking
        with pytest.raises(InvalidInput, match="emitted to"):
            declare(NAME).changed(options, {})


@pytest.mark.parametrize("name", [7, None, three, Plain])
def test_a_name_that_is_no_text_is_answered_with_how_it_is_written(name: Any) -> None:
    with pytest.raises(InvalidInput, match=r'@events\.event\("ticket\.updated"\)'):
        declare(name)


@pytest.mark.parametrize("name", ["", "ticket updated", "a..b", "x" * 65])
def test_a_name_that_breaks_a_rule_is_called_an_event_type_name(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"^the event type name '") as caught:
        declare(name)
    assert caught.value.field == "name"
    assert "topic" not in caught.value.message


def test_one_mode_without_its_list_is_answered_with_the_list() -> None:
    with pytest.raises(InvalidInput, match=r'give a list, \["push"\]'):
        declare(NAME, delivery="push")


def test_a_schema_that_cannot_be_names_the_type_and_the_member() -> None:
    class Broken(TypedDict):
        id: str
        lock: NotImplementedError

    for shape, says in (
        ({"id": str, "lock": NotImplementedError}, f"{NAME} payload: lock cannot be written"),
        (Broken, f"{NAME} payload: Broken.lock cannot be written"),
    ):
        with pytest.raises(InvalidSchema) as caught:
            declare(NAME, payload=shape)
        assert caught.value.message.startswith(says)
    with pytest.raises(InvalidSchema, match=f"^{NAME}: payload.properties.a"):
        declare(NAME, payload={"type": "object", "properties": {"a": {"type": "text"}}})


def test_a_plain_class_is_a_shape_wherever_one_is_taken() -> None:
    class Ticket:
        id: str
        by: str | None = None

        class Arguments:
            status: Literal["open", "closed"]
            limit: int = 5

    def listed(status: str) -> Plain:
        raise AssertionError("never called")

    declared = declare(NAME, Ticket)
    arguments, payload = declared.descriptor.input_schema, declared.descriptor.payload_schema
    assert (arguments["required"], arguments["properties"]["limit"]["default"]) == (["status"], 5)
    assert payload["required"] == ["id"]
    assert fits(payload, {"id": "1"})
    assert declare(NAME, arguments=Ticket.Arguments).descriptor.input_schema == arguments
    assert declare(NAME, listed).descriptor.payload_schema["required"] == ["id"]


def test_no_schema_has_a_title_that_nobody_wrote() -> None:
    def updated(status: str) -> None: ...

    for shape in ({"id": str}, Plain):
        assert "title" not in document_of(shape, "x")
    assert "title" not in declare(NAME, updated).descriptor.input_schema
    assert document_of(Model, "x")["title"] == "Model"


def test_one_of_several_types_is_named_with_all_of_them() -> None:
    members = {"by": str | None, "n": int | str | None, "kind": Literal["a"] | None}
    declared = declare(NAME, arguments=members)
    for arguments, says in (
        ({"by": 7}, "arguments.by does not fit the event's inputSchema: must be a string or null"),
        ({"by": None, "n": []}, "arguments.n does not fit the event's inputSchema: must be an integer or a string or"),
    ):
        with pytest.raises(InvalidInput) as caught:
            declared.check_arguments(arguments)
        assert caught.value.message.startswith(says)
    with pytest.raises(InvalidInput) as of_enum:
        declared.check_arguments({"by": None, "n": 1, "kind": "swordfish"})
    assert "must be" not in of_enum.value.message
    assert "swordfish" not in of_enum.value.message
