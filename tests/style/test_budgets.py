"""Modules, functions and mocks have budgets; whatever is over one is named here with its reason.

The lists may only shrink: an entry that is no longer needed, or that has grown, fails.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.style import tree

MODULE_LINES = 700
FUNCTION_LINES = 60
MOCKS_PER_THOUSAND = 5.0
BROAD_HANDLERS_PER_THOUSAND = 1.5

PACKAGES = (tree.SERVER, tree.CLIENT)
TESTS = (tree.ROOT / "tests", tree.ROOT / "sdk" / "tests")

#: Dotted name -> (lines it may have, why). Empty is the aim.
ALLOWED: Mapping[str, tuple[int, str]] = {}

BROAD_HANDLER = re.compile(r"^\s*except (?:Base)?Exception\b.*$|^\s*except:.*$", re.MULTILINE)
MOCK = re.compile(r"\bpatch\(|Mock\(|mocker\.|monkeypatch\.")


def sizes(package: Path) -> Iterator[tuple[str, int, int]]:
    """Name, lines and budget of every module and function of the package."""
    for name, path in tree.modules(package).items():
        yield name, path.read_text().count("\n"), MODULE_LINES
        for function, lines in tree.functions(tree.parse(path)):
            yield f"{name}.{function.name}", lines, FUNCTION_LINES


def over_budget(package: Path, allowed: Mapping[str, tuple[int, str]]) -> list[str]:
    """One line for each module or function that is larger than its budget, or than its exception allows."""
    problems = []
    for name, lines, budget in sizes(package):
        limit = allowed.get(name, (budget, ""))[0]
        if lines > limit:
            problems.append(f"{name}: {lines} lines, budget {limit}")
    return problems


def mocks_per_thousand(folders: tuple[Path, ...]) -> float:
    """Uses of mocks for each 1,000 lines of tests."""
    sources = [path.read_text() for folder in folders for path in tree.files(folder, ".py")]
    uses = sum(len(MOCK.findall(source)) for source in sources)
    return 1000 * uses / max(1, sum(source.count("\n") for source in sources))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: str(package.name))
def test_modules_and_functions_stay_within_their_budget(package: Path) -> None:
    assert over_budget(package, ALLOWED) == []


def test_every_exception_to_the_budget_is_still_needed() -> None:
    needed = {name for package in PACKAGES for name, lines, budget in sizes(package) if lines > budget}
    assert set(ALLOWED) - needed == set()


def test_guest_sources_stay_within_the_module_budget() -> None:
    lines = {path.name: path.read_text().count("\n") for path in tree.files(tree.ROOT / "guest" / "src", ".rs")}
    assert lines
    assert {name: count for name, count in lines.items() if count > MODULE_LINES} == {}


def test_half_of_the_server_modules_are_shorter_than_300_lines() -> None:
    lines = sorted(path.read_text().count("\n") for path in tree.modules(tree.SERVER).values())
    assert lines[len(lines) // 2] < 300


def test_tests_use_the_real_parts_and_hardly_any_mocks() -> None:
    assert mocks_per_thousand(TESTS) <= MOCKS_PER_THOUSAND


def test_handlers_that_catch_everything_are_rare() -> None:
    sources = [path.read_text() for package in PACKAGES for path in tree.modules(package).values()]
    lines = sum(source.count("\n") for source in sources)
    # One that undoes and raises again swallows nothing: it is named BaseException and is not counted.
    broad = [match for source in sources for match in BROAD_HANDLER.findall(source) if "BaseException" not in match]
    assert 1000 * len(broad) / lines <= BROAD_HANDLERS_PER_THOUSAND, broad


def test_a_function_over_its_budget_is_named(tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text("def f():\n" + "    x = 1\n" * FUNCTION_LINES)
    assert over_budget(tmp_path, {}) == [f"{tmp_path.name}.long.f: 61 lines, budget 60"]


def test_an_exception_to_the_budget_does_not_let_the_module_grow(tmp_path: Path) -> None:
    (tmp_path / "long.py").write_text("x = 1\n" * 800)
    name = f"{tmp_path.name}.long"
    assert over_budget(tmp_path, {name: (800, "a table")}) == []
    assert over_budget(tmp_path, {name: (799, "a table")}) == [f"{name}: 800 lines, budget 799"]
