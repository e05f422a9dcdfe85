"""Help texts as they should read: arguments as a person writes them, nothing cut at 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import typer
from typer.core import TyperArgument, TyperCommand

from clarion.cli.exits import USAGE

__all__ = ["Command", "help_unless_called", "one_of"]

T = TypeVar("T", str | None, list[str] | None)


class Command(TyperCommand):
    """A command whose usage and list of arguments show each argument's metavar as it is, without braces or a type."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [found.display_name_raw for found in self.params if isinstance(found, TyperArgument)]
        return ["[OPTIONS]", *arguments]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            if isinstance(parameter, TyperArgument):
                sections["Arguments"].append((parameter.display_name_raw, record[1]))
            else:
                sections["Options"].append(record)
        for title, rows in sections.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def help_unless_called(context: typer.Context) -> None:
    """What a group does without a subcommand: its help, and the exit code of a wrong command line."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(USAGE)


def one_of(choices: Iterable[str]) -> Callable[[T], T]:
    """A callback that refuses what is not one of `choices`, as a mistake of the command line."""
    known = tuple(choices)

    def check(value: T) -> T:
        given = value if isinstance(value, list) else [] if value is None else [value]
        for one in given:
            if one not in known:
                raise typer.BadParameter(f"{one!r} is not one of {', '.join(known)}.")
        return value

    return check
