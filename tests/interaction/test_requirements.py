"""The manifest and the tests name each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from interaction.events_requirements import MANIFEST as REQUIREMENTS
from interaction.requirements import Requirement

ROOT = Path(__file__).parents[2]
ACCEPTANCE_ROWS = 24
ROWS_OF_THIS_ISSUE = {*range(1, 13), 15}


@cache
def names_in(path: Path) -> frozenset[str]:
    """Tests and test classes that a file defines."""
    if not path.is_file():
        return frozenset()
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    names = (node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds))
    return frozenset(name for name in names if name.startswith(("test_", "Test")))


def marks() -> Iterator[tuple[str, str]]:
    """Each id that a decorator `requirement(...)` names, and the function under it."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "requirement":
                    yield from ((ast.literal_eval(argument), node.name) for argument in decorator.args)


def test_ids_are_unique() -> None:
    ids = [entry.id for entry in REQUIREMENTS]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("entry", REQUIREMENTS, ids=lambda entry: entry.id)
def test_each_entry_has_a_proof_or_a_reason(entry: Requirement) -> None:
    marked = [test for id, test in marks_found() if id == entry.id]
    assert all(test.startswith("test_") for test in marked)
    proved = bool(marked or entry.proved_by)
    assert proved is (entry.deferred is None), f"{entry.id} needs either a test or a reason for being deferred"
    assert entry.source
    assert entry.behaviour.endswith(".")


@pytest.mark.parametrize(
    "node", sorted({node for entry in REQUIREMENTS for node in entry.proved_by}), ids=lambda node: node.split("::")[1]
)
def test_each_named_proof_exists(node: str) -> None:
    path, _, name = node.partition("::")
    assert name in names_in(ROOT / path), f"{path} has no {name}"


def test_each_mark_names_an_entry() -> None:
    assert {id for id, _ in marks_found()} <= {entry.id for entry in REQUIREMENTS}


def test_the_acceptance_rows_are_all_there_and_those_of_this_issue_are_not_deferred() -> None:
    rows = {entry.id: entry for entry in REQUIREMENTS if entry.id.startswith("row-")}
    assert set(rows) == {f"row-{number}" for number in range(1, ACCEPTANCE_ROWS + 1)}
    held = {number for number in range(1, ACCEPTANCE_ROWS + 1) if rows[f"row-{number}"].deferred is None}
    assert held >= ROWS_OF_THIS_ISSUE


@cache
def marks_found() -> tuple[tuple[str, str], ...]:
    found = tuple(marks())
    assert found, "no test is marked: the search is broken"
    return found
