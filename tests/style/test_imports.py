"""Imports go one way (ARCHITECTURE.md, layers), never in a circle, and are not hidden in functions."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.style import tree

CAPABILITIES = frozenset({"devboxes", "images", "identity", "storage", "network", "bench", "changes", "pipelines"})

#: Layer -> layers that it may import. `daemon` and `commands` are where everything is put together.
LAW: Mapping[str, frozenset[str]] = {
    "core": frozenset(),
    "runtime": frozenset({"core"}),
    "http": frozenset({"core"}),
    **{name: frozenset({"core", "runtime", "http"}) | (CAPABILITIES - {name}) for name in CAPABILITIES},
    "api": frozenset({"core", "http"}) | CAPABILITIES,
    "web": frozenset({"core", "http"}) | CAPABILITIES,
    "daemon": frozenset({"core", "runtime", "http", "api", "web"}) | CAPABILITIES,
    "commands": frozenset({"core", "runtime", "http", "api", "web", "daemon"}) | CAPABILITIES,
}

#: What one capability may import of another.
OPEN = frozenset({"service", "model"})


def broken_law(package: Path) -> Iterator[str]:
    """One line for each import that the law does not allow."""
    for name, targets in tree.graph(package).items():
        layer = [*name.split("."), ""][1]
        if layer and layer not in LAW:
            yield f"{name}: {layer} is not a layer of ARCHITECTURE.md"
            continue
        for target in sorted(targets):
            parts = target.split(".")
            if layer in ("", parts[1]):
                continue
            if parts[1] not in LAW[layer]:
                yield f"{name} must not import {target}: {layer} may use {sorted(LAW[layer])}"
            elif layer in CAPABILITIES and parts[1] in CAPABILITIES and not OPEN.intersection(parts[2:3] or OPEN):
                yield f"{name} must not import {target}: of {parts[1]} it may use {sorted(OPEN)}"


def cycles(package: Path) -> Iterator[str]:
    """One line for each group of modules that import each other."""
    reach = {name: set(targets) for name, targets in tree.graph(package).items()}
    changed = True
    while changed:
        changed = False
        for name, seen in reach.items():
            more = set().union(*(reach[target] for target in seen)) - seen
            changed |= bool(more)
            reach[name] = seen | more
    groups = {tuple(sorted(o for o in seen if name in reach[o])) for name, seen in reach.items() if name in seen}
    yield from (f"import cycle: {', '.join(group)}" for group in sorted(groups))


def lazy_imports(package: Path) -> Iterator[str]:
    """One line for each import of our own code inside a function."""
    for name, path in tree.modules(package).items():
        for function, _ in tree.functions(tree.parse(path)):
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package.name:
                    yield f"{name}.{function.name} imports {node.module} when it is called"


def closure(module: str, graph: Mapping[str, set[str]]) -> set[str]:
    """The module and everything of its package that it imports, directly or not; their packages too."""
    found: set[str] = set()
    waiting = {module}
    while waiting:
        name = waiting.pop()
        found.add(name)
        parents = {name.rsplit(".", count)[0] for count in range(1, name.count("."))}
        waiting |= (graph.get(name, set()) | parents) - found
    return found


def make_package(root: Path, sources: Mapping[str, str]) -> Path:
    """A package on disk, for the tests of the checks themselves."""
    package = root / "pkg"
    for name, source in {"__init__.py": "", **sources}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return package


def test_server_modules_import_only_what_their_layer_may() -> None:
    assert list(broken_law(tree.SERVER)) == []


def test_no_server_modules_import_each_other_in_a_circle() -> None:
    assert list(cycles(tree.SERVER)) == []


def test_no_client_modules_import_each_other_in_a_circle() -> None:
    assert list(cycles(tree.CLIENT)) == []


def test_no_import_is_hidden_in_a_function_to_dodge_the_law() -> None:
    assert [*lazy_imports(tree.SERVER), *lazy_imports(tree.CLIENT)] == []


def test_client_and_server_import_nothing_of_each_other() -> None:
    mixed = [
        f"{name} imports {target}"
        for package, other in ((tree.SERVER, "corral_sdk"), (tree.CLIENT, "corral"))
        for name, path in tree.modules(package).items()
        for target in sorted(tree.imported(name, path))
        if target.split(".")[0] == other
    ]
    assert mixed == []


def test_the_launcher_loads_nothing_but_the_standard_library() -> None:
    known = tree.modules(tree.SERVER)
    loaded = closure("corral.runtime.oci.launcher", tree.graph(tree.SERVER))
    outside = {
        target
        for name in loaded
        for target in tree.imported(name, known[name])
        if target.split(".")[0] not in sys.stdlib_module_names | {"corral"}
    }
    assert outside == set()


def test_the_law_names_an_import_that_goes_the_wrong_way(tmp_path: Path) -> None:
    package = make_package(tmp_path, {"core/a.py": "import pkg.api.b", "api/b.py": ""})
    assert list(broken_law(package)) == ["pkg.core.a must not import pkg.api.b: core may use []"]


def test_the_law_names_a_capability_that_reaches_into_another(tmp_path: Path) -> None:
    sources = {"images/a.py": "from pkg.devboxes import tables", "devboxes/tables.py": "", "devboxes/service.py": ""}
    problems = list(broken_law(make_package(tmp_path, sources)))
    assert problems == [
        "pkg.images.a must not import pkg.devboxes.tables: of devboxes it may use ['model', 'service']"
    ]


def test_the_law_allows_the_service_of_another_capability(tmp_path: Path) -> None:
    sources = {
        "images/a.py": "from pkg.devboxes import service",
        "devboxes/service.py": "",
        "devboxes/__init__.py": "",
    }
    assert list(broken_law(make_package(tmp_path, sources))) == []


def test_a_circle_of_three_is_found(tmp_path: Path) -> None:
    sources = {"core/a.py": "import pkg.core.b", "core/b.py": "import pkg.core.c", "core/c.py": "import pkg.core.a"}
    assert list(cycles(make_package(tmp_path, sources))) == ["import cycle: pkg.core.a, pkg.core.b, pkg.core.c"]


def test_an_import_inside_a_function_is_found(tmp_path: Path) -> None:
    package = make_package(tmp_path, {"core/a.py": "def f():\n    from pkg.api import b\n"})
    assert list(lazy_imports(package)) == ["pkg.core.a.f imports pkg.api when it is called"]
