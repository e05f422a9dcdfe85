"""Where an author's function stands, for a line in the log that its author can act on."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

__all__ = ["definition", "qualified_name"]


def qualified_name(function: Callable[..., Any]) -> str:
    """Its name as Python gives it, with the class that it is in; of an object that is called, its class's."""
    inner = _innermost(function)
    name: str = getattr(inner, "__qualname__", None) or type(inner).__qualname__
    return name


def definition(function: Callable[..., Any]) -> str:
    """Where it is defined, as `file:line`; "unknown" of what was not written in Python."""
    inner = _innermost(function)
    code = getattr(inner, "__code__", None) or getattr(getattr(type(inner), "__call__", None), "__code__", None)  # noqa: B004
    return "unknown" if code is None else f"{code.co_filename}:{code.co_firstlineno}"


def _innermost(function: Any) -> Any:
    """What a partial, a bound method or a decorator stands for."""
    while True:
        if isinstance(function, partial):
            function = function.func
        elif inspect.ismethod(function):
            function = function.__func__
        elif hasattr(function, "__wrapped__"):
            return inspect.unwrap(function)
        else:
            return function
