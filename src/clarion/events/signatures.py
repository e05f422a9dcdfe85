"""What the code that an author gives must look like: hooks by name and parameters, so that a slip of the pen is an
error where it stands, and not a rule that nobody applies."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, NoReturn, TypeAlias, get_type_hints

from clarion.errors import InvalidInput
from clarion.events.hooks import PARAMETERS, Hook, Hooks
from clarion.events.shapes import Shape, has_members, is_record, parameters_of

__all__ = ["HOOKS", "Code", "check_callable", "hooks_of_class", "signature_of", "to_come"]

Code: TypeAlias = Callable[..., Any]

HOOKS = tuple(each.name for each in dataclasses.fields(Hooks))
"""The hooks that an option or a class may give; a class may also give `check`."""

_ARGUMENTS = "Arguments"


def check_callable(name: str, hook: str, function: Any) -> None:
    """Raises InvalidInput when `function` cannot be called as the hook `hook` of the event type `name` is.

    What does not tell its parameters, such as a function written in C, passes.
    """
    if not callable(function):
        raise InvalidInput(f"{name}: {hook} must be a function, not {type(function).__name__}", field=hook, rule="kind")
    wanted = PARAMETERS[Hook(hook)]
    try:
        inspect.signature(function).bind(*wanted)
    except ValueError:
        return  # it does not tell
    except TypeError:
        raise InvalidInput(
            f"{name}: {hook} takes ({', '.join(wanted)}); in a class it is a static method",
            field=hook,
            rule="parameters",
        ) from None


def hooks_of_class(name: str, target: type[Any]) -> dict[str, Any]:
    """The hooks that a class declares, `check` among them.

    Raises InvalidInput for a public function that is none: it would never be called, and nobody would notice. Classes
    that hold data, such as dataclasses, have methods; there it is refused when its name is nearly a hook's.
    """
    names = (*HOOKS, Hook.CHECK.value)
    for found, value in _public_functions(target):
        near = get_close_matches(found.lower(), names, n=1)
        if found in names or (is_record(target) and not near and not isinstance(value, staticmethod)):
            continue
        hint = f"did you mean {near[0]!r}?" if near else f"hooks are {', '.join(names)}; give it a name that begins _"
        raise InvalidInput(f"{name}: {found!r} is no hook; {hint}", field=found, rule="unknown")
    for found, value in vars(target).items():
        if inspect.isclass(value) and found != _ARGUMENTS and get_close_matches(found.lower(), ["arguments"]):
            raise InvalidInput(
                f"{name}: the class {found!r} is not read; did you mean {_ARGUMENTS!r}?", field=found, rule="unknown"
            )
    members = {member for each in target.__mro__ for member in inspect.get_annotations(each)}
    return {each: None if each in members else getattr(target, each, None) for each in names}


def _public_functions(target: type[Any]) -> Iterator[tuple[str, Any]]:
    """Those of a class and of the author's own classes that it is made of."""
    decorated = _decorated(target)
    for each in target.__mro__:
        if each.__module__.partition(".")[0] in ("builtins", "pydantic", "typing", "typing_extensions"):
            continue
        for found, value in vars(each).items():
            if found.startswith("_") or found in decorated:
                continue
            if inspect.isfunction(value) or isinstance(value, staticmethod | classmethod):
                yield found, value


def _decorated(target: type[Any]) -> set[str]:
    """The functions that pydantic calls itself: validators and the like."""
    decorators = getattr(target, "__pydantic_decorators__", None)
    found = vars(type(decorators)).get("__dataclass_fields__", {}) if decorators is not None else {}
    return {name for kind in found for name in getattr(decorators, kind)}


def signature_of(name: str, function: Any) -> tuple[Code | None, Shape, Shape]:
    """The check function that it is, or None, and what its type hints say of arguments and payload.

    Raises InvalidInput, InvalidSchema.
    """
    if not callable(function):
        raise InvalidInput(f"{name}: an event type is declared by a class or a function", field="target", rule="kind")
    parameters = inspect.signature(function).parameters
    names = {each.lstrip("_") for each in parameters}  # those that are not used may be marked
    if names & {"ctx", "cursor"}:
        if len(parameters) != 3 or "cursor" not in names:
            raise InvalidInput(
                f"{name}: a check function takes three parameters: ctx, arguments and cursor",
                field="check",
                rule="parameters",
            )
        shape = _hints_of_check(function).get("arguments")
        return function, shape if has_members(shape) else None, None
    if len(parameters) == len(PARAMETERS[Hook.CHECK]) and not _declares(function, parameters):
        raise InvalidInput(
            f"{name}: a check function's parameters are named ctx, arguments, cursor; a declaration annotates its "
            "parameters",
            field="target",
            rule="parameters",
        )
    shape, returned = parameters_of(function)
    return None, shape, returned if has_members(returned) else None


def _declares(function: Code, parameters: Mapping[str, inspect.Parameter]) -> bool:
    """Whether it says anything of its types, as a check function with other names would not."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return any(
        each.kind not in positional or each.annotation is not each.empty for each in parameters.values()
    ) or has_members(_hints_of_check(function).get("return"))


def _hints_of_check(function: Any) -> Mapping[str, Any]:
    """None of a partial, or of names that are there for type checkers alone: they say nothing that must be known."""
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, TypeError):
        return {}


def to_come(ctx: object, arguments: object, cursor: object) -> NoReturn:
    """Stands for the check function that is about to be decorated, while the options are looked at."""
    raise NotImplementedError
