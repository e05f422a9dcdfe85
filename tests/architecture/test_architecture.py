"""The import table of ARCHITECTURE.md, and the rules that no linter knows."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "src"
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted(ROOT.rglob("*.py"))
}

# The pure layer from the bottom up: a module may import those before it, and the libraries named.
PURE = [
    "errors", "logs", "completion", "encoding", "model", "clock", "ids", "topics", "filters", "retry",
    "schema_cost", "schemas", "catalog_topics", "catalog",
]  # fmt: skip
LIBRARIES = {"encoding": {"orjson"}, "ids": {"ulid"}, "schemas": {"jsonschema_rs"}, "logs": {"orjson", "structlog"}}

# Layer: (its modules, what it may import beside itself and the pure layer). A trailing dot stands for all below.
LAYERS: dict[str, tuple[list[str], list[str]]] = {
    "settings": (["settings"], []),
    "ports": (["stores.protocols"], []),
    "backends": (["stores."], ["stores.protocols"]),
    "auth": (["auth."], ["stores.protocols"]),
    "gate": (["gate"], ["stores.protocols"]),
    "hub": (["hub."], ["stores.protocols", "gate"]),
    "sources": (["sources."], ["stores.protocols", "hub."]),
    "shared by wires": (["wires.sse", "wires.protocol"], ["hub."]),
    "events wire": (["wires.mcp_events."], ["hub.", "wires.sse"]),
    "wires": (["wires."], ["hub.", "wires.sse", "wires.protocol"]),
    "library front": (["events."], ["stores.protocols", "gate", "hub.", "sources.", "wires.mcp_events.",
                                    "wires.sse", "composition"]),
    "client": (["client."], []),
    "local": (["local"], []),
    "composition": (["composition"], ["settings", "stores.", "gate", "hub."]),
    "api": (["api."], ["auth.", "hub.", "sources.", "settings", "stores.protocols"]),
    "server": (["app", "catalog_offer", "http1", "server"],
               ["settings", "stores.", "auth.", "gate", "hub.", "sources.", "wires.",
                            "local", "composition", "api."]),
    "cli": (["cli.", "demo", "__main__"], ["app", "server", "client.", "composition", "local", "settings", "auth.keys",
                                   "stores.protocols", "hub.", "sources."]),
    "testing": (["testing."], ["*"]),
    "packages": (["", "stores"], []),
}  # fmt: skip


def fits(module: str, patterns: list[str]) -> bool:
    return any(
        module == pattern.rstrip(".") or (pattern.endswith(".") and module.startswith(pattern)) or pattern == "*"
        for pattern in patterns
    )


def layer_of(module: str) -> str:
    """The layer of a module, named without the package; the first that fits."""
    if module in PURE:
        return "pure"
    layers = [layer for layer, (members, _) in LAYERS.items() if fits(module, members)]
    assert layers, f"{module} has no layer: give it one in LAYERS, and in ARCHITECTURE.md"
    return layers[0]


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def imports_of(module: str) -> Iterator[str]:
    """Every module that `module` imports, wherever in it, under its absolute name."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            assert node.module is not None
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else node.module


def own_imports(module: str) -> set[str]:
    """The modules of this package that `module` imports, without the package's name."""
    found = {name for name in imports_of(module) if name.partition(".")[0] == "clarion"}
    return {name.removeprefix("clarion").removeprefix(".") for name in found}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_what_its_layer_may(module: str) -> None:
    name = module.removeprefix("clarion").removeprefix(".")
    layer = layer_of(name)
    if layer == "pure":
        forbidden = own_imports(module) - set(PURE[: PURE.index(name)])
    else:
        members, allowed = LAYERS[layer]
        forbidden = {
            found for found in own_imports(module)
            if found and found not in PURE and not fits(found, [*members, *allowed])
        }  # fmt: skip
    assert not forbidden, f"{name} ({layer}) must not import {sorted(forbidden)}"


def test_a_wire_imports_no_sibling() -> None:
    for module in MODULES:
        name = module.removeprefix("clarion").removeprefix(".")
        if layer_of(name) == "wires":
            package = ".".join(name.split(".")[:2])
            found = {one for one in own_imports(module) if one.startswith("wires.")}
            assert all(one.startswith(package) or one in ("wires.sse", "wires.protocol") for one in found), (
                name,
                found,
            )


def test_backends_share_only_what_belongs_to_none() -> None:
    for module in MODULES:
        parts = module.split(".")
        if parts[1:2] == ["stores"] and len(parts) > 2:
            found = {name.split(".")[1] for name in own_imports(module) if name.startswith("stores.")}
            assert found <= {"protocols", "identity", "tally", "window", parts[2]}, (module, found)


@pytest.mark.parametrize("name", PURE)
def test_the_pure_layer_needs_nothing_but_the_standard_library_and_its_one_library(name: str) -> None:
    found = {one.partition(".")[0] for one in imports_of(f"clarion.{name}")}
    assert found - set(sys.stdlib_module_names) - {"clarion"} <= LIBRARIES.get(name, set())


def test_backends_are_named_in_the_composition_only() -> None:
    for module in MODULES:
        named = {name for name in own_imports(module) if name.startswith(("stores.memory", "stores.sqlite"))}
        if named and not module.startswith("clarion.stores.sqlite"):
            assert module == "clarion.composition" or module.startswith("clarion.testing"), (module, named)


def test_nothing_in_production_imports_the_testing_package() -> None:
    for module in MODULES:
        if not module.startswith("clarion.testing"):
            assert not any(name.startswith("testing") for name in own_imports(module)), module


def test_there_are_no_import_cycles() -> None:
    graph = {
        module: {f"clarion.{name}" for name in own_imports(module) if f"clarion.{name}" in MODULES} - {module}
        for module in MODULES
    }
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for imported in sorted(graph[module]):
                visit(imported, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


MAX_LINES = 500


def test_modules_stay_small() -> None:
    for module, file in MODULES.items():
        if module != "clarion.catalog_topics":  # data
            assert len(file.read_text().splitlines()) <= MAX_LINES, module


BANNED = {
    "time.sleep": ("clarion.cli.serving", "clarion.cli.target"),  # before there is an event loop
    "time.time": ("clarion.clock",),
    "time.time_ns": ("clarion.clock",),
    "datetime.now": ("clarion.clock",),
    "datetime.utcnow": (),
    "datetime.today": (),
    "date.today": (),
}


@pytest.mark.parametrize("module", [name for name in MODULES if not name.startswith("clarion.testing")])
def test_production_code_has_no_asserts_and_asks_the_injected_clock(module: str) -> None:
    for node in ast.walk(tree(module)):
        assert not isinstance(node, ast.Assert), f"{module}:{node.lineno}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name | ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
            allowed = BANNED.get(f"{owner}.{node.attr}", (module,))
            assert module in allowed, f"{module}:{node.lineno} uses {owner}.{node.attr}"
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            assert module == "clarion.clock", f"{module}:{node.lineno} imports from time"


@pytest.mark.parametrize("module", MODULES)
def test_public_names_are_listed(module: str) -> None:
    """A module with public functions or classes lists them in `__all__`, and lists nothing that is not there."""
    body = tree(module).body
    defined = {node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)}
    public = {name for name in defined if not name.startswith("_")}
    listed: set[str] | None = None
    names = set(defined)
    for node in body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
            if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in targets):
                listed = set(ast.literal_eval(node.value))
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    if public:
        assert listed is not None, f"{module} has no __all__"
    assert listed is None or listed <= names, f"{module} lists {listed - names}"


def test_the_table_is_not_vacuous() -> None:
    layers = {layer_of(module.removeprefix("clarion").removeprefix(".")) for module in MODULES}
    assert {"pure", "ports", "backends", "hub", "wires", "sources", "api", "server", "composition"} <= layers
    assert not fits("hubris", ["hub."])
    assert fits("hub", ["hub."])
